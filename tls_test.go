package chat_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, a.newKey()
	der := a.sign(template, a.key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert = cert
	a.pool.AddCert(cert)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// node makes a certificate for a node id, and for 127.0.0.1.
func (a *authority) node(id string) tls.Certificate {
	a.t.Helper()
	key := a.newKey()
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{id}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// startTLS runs a node on a host's server with TLS, on loopback, and returns it.
func startTLS(t *testing.T, lis net.Listener, host *tls.Config, o chat.Options) *chat.Node {
	t.Helper()
	n, err := chat.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(host)))
	n.Register(server)
	go func() { _ = server.Serve(lis) }() // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTLS: three nodes on real TLS connections, with a secret or with certificates alone, form a
// cluster and serve clients; a client without TLS does not get through, and is told so.
func TestTLS(t *testing.T) {
	for name, secret := range map[string][]byte{"a secret": []byte(strings.Repeat("s", 32)), "certificates": nil} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t)
			var listeners []net.Listener
			var addrs []string
			for range 3 {
				lis, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				listeners, addrs = append(listeners, lis), append(addrs, lis.Addr().String())
			}
			options := func(i int, cert tls.Certificate) (*tls.Config, chat.Options) {
				host := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.pool, ClientAuth: tls.VerifyClientCertIfGiven}
				return host, chat.Options{
					NodeID: []string{"n1", "n2", "n3"}[i], DataDir: t.TempDir() + "/data", Advertise: addrs[i], Seeds: addrs,
					BootstrapExpect: 3, ClusterSecret: secret, PeerTLS: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: ca.pool},
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var nodes []*chat.Node
			for i := range 3 {
				host, o := options(i, ca.node([]string{"n1", "n2", "n3"}[i]))
				nodes = append(nodes, startTLS(t, listeners[i], host, o))
			}
			for _, n := range nodes {
				if err := n.Ready(ctx); err != nil {
					t.Fatal(err)
				}
			}
			alice, err := client.Dial(ctx, addrs, client.WithTLS(&tls.Config{RootCAs: ca.pool}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = alice.Close() }()
			if _, err := alice.Register(ctx, "alice", chattest.Password); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.Login(ctx, "alice", chattest.Password); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.Send(ctx, client.ToUser("alice"), client.Draft{Text: "to myself"}); err != nil {
				t.Error(err)
			}
			short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
			defer stop()
			if _, err := client.Dial(short, addrs); err == nil || !strings.Contains(err.Error(), "error reading server preface") {
				t.Errorf("a client without TLS got %v", err)
			}
			foreign := &tls.Config{RootCAs: newAuthority(t).pool}
			short, stop = context.WithTimeout(ctx, 300*time.Millisecond)
			defer stop()
			if _, err := client.Dial(short, addrs, client.WithTLS(foreign)); err == nil || !strings.Contains(err.Error(), "unknown authority") {
				t.Errorf("a client that does not trust the servers got %v", err)
			}
		})
	}
}

// TestTLS_Outside: a node whose proof is not the right one is not taken in, on loopback either, says what
// it waits for, and the others log why they refuse it. With the right one it is taken in.
func TestTLS_Outside(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds of real time")
	}
	ca, other := newAuthority(t), newAuthority(t)
	secret, otherSecret := []byte(strings.Repeat("s", 32)), []byte(strings.Repeat("t", 32))
	show := func(c ...tls.Certificate) func(*chat.Options) {
		return func(o *chat.Options) { o.PeerTLS.Certificates = c }
	}
	for name, tt := range map[string]struct {
		secret []byte
		spoil  func(*chat.Options)
		want   string // what the others log; empty when TLS does not let it come so far
		told   string // what the node says of its seed
		in     bool
	}{
		"the secret":                        {secret, func(*chat.Options) {}, "", "", true},
		"the secret, and no certificate":    {secret, show(), "", "", true},
		"another secret":                    {secret, func(o *chat.Options) { o.ClusterSecret = otherSecret }, "the cluster secrets differ", "the cluster secrets differ", false},
		"a certificate, and no secret":      {secret, func(o *chat.Options) { o.ClusterSecret = nil }, "the cluster secrets differ", "the cluster secrets differ", false},
		"the certificate":                   {nil, func(*chat.Options) {}, "", "", true},
		"the certificate of another node":   {nil, show(ca.node("n1")), `the certificate is not one of node "n2"`, `the certificate is not one of node "n2"`, false},
		"no certificate":                    {nil, show(), `node "n2" has shown no certificate`, `node "n2" has shown no certificate`, false},
		"a certificate of another's making": {nil, show(other.node("n2")), "", "(open a tunnel for gossip", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zapcore.WarnLevel)
			start := func(id string, logger *zap.Logger, change func(*chat.Options)) *chat.Node {
				lis, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				cert := ca.node(id)
				o := chat.Options{
					NodeID: id, DataDir: t.TempDir() + "/data", Advertise: lis.Addr().String(), ClusterSecret: tt.secret,
					PeerTLS: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: ca.pool}, Logger: logger,
				}
				change(&o)
				return startTLS(t, lis, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: ca.pool, ClientAuth: tls.VerifyClientCertIfGiven}, o)
			}
			var seed string
			first := start("n1", zap.New(core), func(o *chat.Options) { o.BootstrapExpect, seed = 1, o.Advertise })
			second := start("n2", nil, func(o *chat.Options) {
				o.Seeds = []string{seed}
				tt.spoil(o)
			})
			patience := 2 * time.Second
			if tt.in {
				patience = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := second.Ready(ctx)
			if tt.in {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "no member of a cluster was found; 0 nodes are in sight, seeds are "+seed) || !strings.Contains(err.Error(), tt.told) {
				t.Errorf("Ready: got %v", err)
			}
			if s := second.Status(); s.Role.String() != "outside" || s.Ready || s.ClusterID != "" || !strings.Contains(s.Detail, tt.told) {
				t.Errorf("Status: got %+v", s)
			}
			if s := first.Status(); len(s.Servers) != 1 {
				t.Errorf("it was taken in: %+v", s.Servers)
			}
			said := ""
			for _, e := range logs.FilterMessage("refused a tunnel").All() {
				said, _ = e.ContextMap()["error"].(string)
			}
			if !strings.Contains(said, tt.want) || tt.want == "" && said != "" {
				t.Errorf("the other has logged %q, want %q", said, tt.want)
			}
		})
	}
}
