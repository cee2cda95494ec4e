package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/peer/peerpb"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// issue makes a certificate, for servers and clients, that is valid for some names.
func (a *authority) issue(t testing.TB, names ...string) []tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
}

// near makes every connection that is accepted look like one from this machine.
type near struct{ net.Listener }

func (l near) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return nearConn{c}, err
}

type nearConn struct{ net.Conn }

func (nearConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// TestIdentity_TLS: without a secret, who has a certificate for his node id is believed, by either side,
// and nobody else. The certificate of the server is for its address, "host", and its node id, "b".
func TestIdentity_TLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	forA, forB := ours.issue(t, "a"), ours.issue(t, "host", "b")
	for name, tt := range map[string]struct {
		change  func(a, b *Options, host *tls.Config)
		node    string
		purpose Purpose
		refused bool   // by b; otherwise it is a that does not go on
		want    string // empty for a tunnel that opens
	}{
		"right":          {nil, "b", RaftControl, false, ""},
		"a call":         {nil, "b", Call, false, ""},
		"whoever":        {nil, "", GossipStream, false, ""},
		"a seed":         {func(a, _ *Options, _ *tls.Config) { a.ClusterID = func() string { return "" } }, "", GossipStream, false, ""},
		"one of several": {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = ours.issue(t, "x", "a") }, "b", RaftBulk, false, ""},
		"another node's": {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = ours.issue(t, "c") }, "b", RaftControl, true, `the certificate is not one of node "a"`},
		"a user's":       {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = ours.issue(t, "alice@example.com") }, "b", Call, true, `the certificate is not one of node "a"`},
		"that of no one": {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = ours.issue(t) }, "b", Call, true, `the certificate is not one of node "a"`},
		"none":           {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = nil }, "b", Call, true, `node "a" has shown no certificate`},
		"none, gossip":   {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = nil }, "", GossipStream, true, `node "a" has shown no certificate`},
		"nobody looked": {func(a, _ *Options, host *tls.Config) {
			a.TLS.Certificates, host.ClientAuth = other.issue(t, "a"), tls.RequireAnyClientCert
		}, "b", Call, true, `node "a" has shown no certificate that TLS could verify`},
		"a stranger's": {func(a, _ *Options, _ *tls.Config) { a.TLS.Certificates = other.issue(t, "a") }, "b", Call, false, "code = Unavailable"},
		"the host is another node": {func(_, _ *Options, host *tls.Config) { host.Certificates = ours.issue(t, "host", "c") },
			"b", Call, false, `the certificate is not one of node "b"`},
		"the seed is another node": {func(_, _ *Options, host *tls.Config) { host.Certificates = ours.issue(t, "host", "c") },
			"", GossipStream, false, `the certificate is not one of node "b"`},
		"the host is a stranger":    {func(_, _ *Options, host *tls.Config) { host.Certificates = other.issue(t, "host", "b") }, "b", Call, false, "x509: "},
		"nobody looked at the host": {func(a, _ *Options, _ *tls.Config) { a.TLS.InsecureSkipVerify = true }, "b", Call, false, `node "b" has shown no certificate that TLS could verify`},
		"another cluster":           {func(a, _ *Options, _ *tls.Config) { a.ClusterID = func() string { return "other" } }, "b", Call, true, `belongs to cluster "c"`},
		"a secret on one side":      {func(a, _ *Options, _ *tls.Config) { a.Secret = options("a", nil).Secret }, "b", Call, true, "secrets differ"},
		"a secret and any": {func(a, b *Options, _ *tls.Config) {
			a.Secret, b.Secret = options("a", nil).Secret, options("b", nil).Secret
			a.TLS.Certificates = nil
		}, "b", RaftBulk, false, ""},
		"another secret, but a right": {func(a, b *Options, _ *tls.Config) { a.Secret, b.Secret = []byte("one"), []byte("other") }, "b", RaftBulk, true, "secrets differ"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := &tls.Config{Certificates: forB, ClientCAs: ours.pool, ClientAuth: tls.VerifyClientCertIfGiven}
				at, bt := options("a", nil), options("b", nil)
				at.Secret, bt.Secret = nil, nil
				at.TLS = &tls.Config{RootCAs: ours.pool, Certificates: forA, ServerName: "host"}
				bt.TLS = &tls.Config{RootCAs: ours.pool, Certificates: forB}
				if tt.change != nil {
					tt.change(&at, &bt, host)
				}
				_, a, b, accepted := pair(t, func(a, b *Options) {
					at.Dial, bt.Dial = a.Dial, b.Dial
					*a, *b = at, bt
				}, grpc.Creds(credentials.NewTLS(host)))
				b.Handle(tt.purpose, func(c *Conn) { accepted <- c })
				c, err := dial(t, a, tt.purpose, tt.node, "b")
				synctest.Wait()
				if tt.want == "" {
					if err != nil {
						t.Fatal(err)
					}
					if got := c.RemoteAddr(); got != (Addr{"b", tt.purpose}) {
						t.Errorf("the other end is %v", got)
					}
					if got := (<-accepted).RemoteAddr(); got != (Addr{"a", tt.purpose}) {
						t.Errorf("the other end is %v", got)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, chaterr.ErrPeerRefused) != tt.refused {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if len(accepted) != 0 {
					t.Error("the tunnel was opened")
				}
			})
		})
	}
}

// TestIdentity_Near: a loopback address is a proof only where there is neither secret nor TLS. What
// ends TLS on the same machine and passes streams on comes from a loopback address, too.
func TestIdentity_Near(t *testing.T) {
	ours := newAuthority(t)
	for name, tt := range map[string]struct {
		secret []byte
		tls    *tls.Config
		want   string
	}{
		"no secret, no TLS":      {nil, nil, ""},
		"a secret":               {options("b", nil).Secret, nil, "secrets differ"},
		"no secret, and TLS":     {nil, &tls.Config{RootCAs: ours.pool}, `node "a" has shown no certificate`},
		"no secret, and own TLS": {nil, &tls.Config{RootCAs: ours.pool, Certificates: ours.issue(t, "b")}, `node "a" has shown no certificate`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := simnet.New(0)
				b := NewTunnels(Options{
					ID: "b", Cluster: "x", ClusterID: func() string { return "c" }, Secret: tt.secret, TLS: tt.tls,
					Logger: options("b", nil).Logger,
				})
				b.Handle(Call, func(*Conn) {})
				host := grpc.NewServer()
				b.Register(host)
				lis := near{n.Listen("b")}
				go func() { _ = host.Serve(lis) }()
				defer host.GracefulStop()
				defer b.Close()
				ao := options("a", func(ctx context.Context, addr string) (net.Conn, error) {
					c, err := n.Dialer("a")(ctx, addr)
					return nearConn{c}, err
				})
				ao.Secret = nil
				a := NewTunnels(ao)
				a.Handle(Call, func(*Conn) {})
				defer a.Close()
				_, err := dial(t, a, Call, "b", "b")
				if tt.want == "" && err != nil {
					t.Error(err)
				}
				if tt.want != "" && (!errors.Is(err, chaterr.ErrPeerRefused) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			})
		})
	}
}

// hello is one that a node sends, or somebody who has its secret.
func hello(t testing.TB, x *Tunnels, change func(*peerpb.Hello)) []byte {
	t.Helper()
	h := &peerpb.Hello{
		Protocol: protocol, Name: "x", ClusterId: "c", From: "a", To: "b", Purpose: string(RaftControl), Nonce: nonce(),
	}
	change(h)
	text, err := proto.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return append(x.mac("hello", text), text...)
}

// TestIdentity_Hello: what a hello claims is compared, each thing of its own, and the answer says
// which it is.
func TestIdentity_Hello(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*peerpb.Hello)
		code   codes.Code
		want   string
	}{
		"right":                 {func(*peerpb.Hello) {}, codes.OK, ""},
		"an older protocol":     {func(h *peerpb.Hello) { h.Protocol = 0 }, codes.FailedPrecondition, `node "b" speaks protocol 1, not 0`},
		"a newer protocol":      {func(h *peerpb.Hello) { h.Protocol = 2 }, codes.FailedPrecondition, `node "b" speaks protocol 1, not 2`},
		"another name":          {func(h *peerpb.Hello) { h.Name = "y" }, codes.FailedPrecondition, `cluster named "x", not "y"`},
		"no name":               {func(h *peerpb.Hello) { h.Name = "" }, codes.FailedPrecondition, `cluster named "x", not ""`},
		"another cluster":       {func(h *peerpb.Hello) { h.ClusterId = "d" }, codes.FailedPrecondition, `belongs to cluster "c", not "d"`},
		"no cluster":            {func(h *peerpb.Hello) { h.ClusterId = "" }, codes.FailedPrecondition, "not both in a cluster"},
		"a re-used address":     {func(h *peerpb.Hello) { h.To = "z" }, codes.FailedPrecondition, `this is node "b", not "z"`},
		"whoever is there":      {func(h *peerpb.Hello) { h.To = "" }, codes.FailedPrecondition, `this is node "b", not ""`},
		"whoever, for packets":  {func(h *peerpb.Hello) { h.To, h.Purpose = "", string(GossipPackets) }, codes.FailedPrecondition, `this is node "b", not ""`},
		"nobody":                {func(h *peerpb.Hello) { h.From = "" }, codes.FailedPrecondition, `node "b" is called by ""`},
		"the node itself":       {func(h *peerpb.Hello) { h.From = "b" }, codes.FailedPrecondition, `node "b" is called by "b"`},
		"for nothing":           {func(h *peerpb.Hello) { h.Purpose = "" }, codes.OK, ""}, // takes no such tunnel: see below
		"for something unknown": {func(h *peerpb.Hello) { h.Purpose = "x" }, codes.OK, ""},
		"text that is no UTF-8": {func(h *peerpb.Hello) { h.ProtoReflect().SetUnknown([]byte("\x12\x01\xff")) }, codes.InvalidArgument, "malformed hello"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, _, accepted := pair(t, nil)
				stream := strangersStream(t, n)
				if err := stream.Send(&peerpb.TunnelRequest{Data: hello(t, a, tt.change)}); err != nil {
					t.Fatal(err)
				}
				_, err := stream.Recv()
				if status.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %v %q", err, tt.code, tt.want)
				}
				if len(accepted) != 0 {
					t.Error("the tunnel was opened")
				}
			})
		})
	}
}

// TestIdentity_UnknownPurpose: a node that proves who it is, and wants something that this one does
// not have, is told so.
func TestIdentity_UnknownPurpose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, _ := pair(t, nil)
		a.Handle("x", func(*Conn) {})
		c, err := dial(t, a, "x", "b", "b")
		if err == nil {
			_, err = c.ReadFrame()
		}
		if err == nil || !strings.Contains(err.Error(), `node "b" takes no x`) {
			t.Errorf("got %v", err)
		}
	})
}

// impostor stands at b's address and answers with what he has.
type impostor struct {
	peerpb.UnimplementedTunnelServiceServer
	answer func(hello []byte) []byte
}

func (i impostor) Tunnel(s grpc.BidiStreamingServer[peerpb.TunnelRequest, peerpb.TunnelResponse]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	if err := s.Send(&peerpb.TunnelResponse{Data: i.answer(m.Data)}); err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}

// TestIdentity_Impostor: who has taken b's address over and does not know the secret cannot answer for
// b, whatever he has recorded, or throws back; and the hello that he was sent opens him no tunnel to
// the node that has sent it.
func TestIdentity_Impostor(t *testing.T) {
	recorded := func(t *testing.T) (answer []byte) {
		_, a, _, _ := pair(t, nil)
		var received [][]byte
		_ = tap(t, a, RaftControl, nil, &received).Close() // never fails
		return received[0]
	}
	for name, answer := range map[string]func(t *testing.T, hello []byte) []byte{
		"nothing":       func(*testing.T, []byte) []byte { return []byte{1} },
		"garbage":       func(*testing.T, []byte) []byte { return bytes.Repeat([]byte("x"), 1000) },
		"its own hello": func(_ *testing.T, hello []byte) []byte { return hello },
		"a recording":   func(t *testing.T, _ []byte) []byte { return recorded(t) },
		"its own proof": func(_ *testing.T, hello []byte) []byte {
			return append(bytes.Repeat([]byte("n"), nonceSize), append(hello[:32:32], 'b')...)
		},
		"the answer of a third node": func(_ *testing.T, hello []byte) []byte {
			c := NewTunnels(options("c", nil))
			n, id := nonce(), []byte("c")
			return append(n, append(c.mac("accept", hello[32:], n, id), id...)...)
		},
		"an answer for no node": func(_ *testing.T, hello []byte) []byte {
			n := nonce()
			return append(n, NewTunnels(options("c", nil)).mac("accept", hello[32:], n, nil)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := simnet.New(0)
				a := NewTunnels(options("a", n.Dialer("a")))
				a.Handle(RaftControl, func(*Conn) { t.Error("the reflected tunnel was opened") })
				defer a.Close()
				var sent []byte
				for addr, s := range map[string]peerpb.TunnelServiceServer{
					"a": a, "b": impostor{answer: func(hello []byte) []byte { sent = hello; return answer(t, hello) }},
				} {
					host := grpc.NewServer()
					peerpb.RegisterTunnelServiceServer(host, s)
					lis := n.Listen(addr)
					go func() { _ = host.Serve(lis) }()
					defer host.Stop()
				}
				c, err := dial(t, a, RaftControl, "b", "b")
				if err == nil {
					t.Fatalf("a tunnel to %v was opened", c.RemoteAddr())
				}
				if want := "does not know the cluster secret"; !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "has answered") {
					t.Errorf("got %v, want %q", err, want)
				}
				l, err := a.link(linkKey{"a", RaftControl}) // any connection will do
				if err != nil {
					t.Fatal(err)
				}
				s := openStream(t, l.cc)
				if err := s.Send(&peerpb.TunnelRequest{Data: sent}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Recv(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `node "a" is called by "a"`) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestIdentity_Key: the key of the handshake is neither the secret nor the same for another one, and
// a frame that means one thing cannot be taken for one that means another.
func TestIdentity_Key(t *testing.T) {
	a, z := NewTunnels(options("a", nil)), NewTunnels(Options{Secret: []byte("z")})
	if bytes.Contains(a.key, a.o.Secret[:8]) || bytes.Equal(a.key, z.key) {
		t.Error("the key is the secret, or that of another")
	}
	seen := map[string]string{}
	for name, mac := range map[string][]byte{
		"hello":         a.mac("hello", []byte("text")),
		"accept":        a.mac("accept", []byte("text"), []byte("n"), []byte("id")),
		"other borders": a.mac("accept", []byte("text"), []byte("ni"), []byte("d")),
		"confirm":       a.mac("confirm", []byte("text"), []byte("n"), []byte("id")),
		"other text":    a.mac("hello", []byte("texts")),
		"other key":     z.mac("hello", []byte("text")),
	} {
		if other, ok := seen[string(mac)]; ok {
			t.Errorf("%s is %s", name, other)
		}
		seen[string(mac)] = name
	}
}

// TestIdentity_Address: the address is dialled as it stands, whatever is in it, for a tunnel and for a
// call.
func TestIdentity_Address(t *testing.T) {
	for _, addr := range []string{"b", "10.0.0.1:8443", "[2001:db8::1]:8443", "[fe80::1%eth0]:8443", "b.example.com:8443"} {
		for name, try := range map[string]func(*testing.T, *Tunnels) error{
			"tunnel": func(t *testing.T, a *Tunnels) error {
				_, err := dial(t, a, RaftBulk, "b", addr)
				return err
			},
			"call": func(t *testing.T, a *Tunnels) error {
				calls := NewCalls(a)
				defer calls.Stop()
				_, err := calls.Probe(within(t, time.Second), "b", addr)
				return err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				dialled := make(chan string, 100)
				a := NewTunnels(options("a", func(_ context.Context, addr string) (net.Conn, error) {
					dialled <- addr
					return nil, errors.New("nobody is there")
				}))
				defer a.Close()
				if err := try(t, a); err == nil || !strings.Contains(err.Error(), "nobody is there") {
					t.Errorf("%s to %s: got %v", name, addr, err)
				}
				select {
				case got := <-dialled:
					if got != addr {
						t.Errorf("%s: got %q, want %q", name, got, addr)
					}
				default:
					t.Errorf("%s: nothing was dialled for %s", name, addr)
				}
			})
		}
	}
}
