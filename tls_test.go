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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/chat"
	"example.com/chat/internal/clustertest"
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
// cluster and serve clients; a client without TLS does not get through. Whose certificate is believed
// off loopback is in package peer's TestBelieve.
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
			if _, err := alice.Register(ctx, "alice", clustertest.Password); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.Login(ctx, "alice", clustertest.Password); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.Send(ctx, client.ToUser("alice"), client.Draft{Text: "to myself"}); err != nil {
				t.Error(err)
			}
			short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
			defer stop()
			if _, err := client.Dial(short, addrs); err == nil {
				t.Error("a client without TLS got through")
			}
		})
	}
}
