package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"go.uber.org/zap"
)

// TestBelieve: without a secret, only loopback and certificates that TLS has verified, and that are
// valid for the node's id, prove who is there.
func TestBelieve(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"n1"}}
	verified := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}}
	unverified := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}
	far := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}
	near := &net.TCPAddr{IP: net.IPv6loopback}
	for name, tt := range map[string]struct {
		secret string
		addr   net.Addr
		auth   credentials.AuthInfo
		node   string
		want   bool
	}{
		"a secret proves it already":        {"secret", far, nil, "n1", true},
		"loopback":                          {"", near, nil, "n1", true},
		"a socket of this machine":          {"", &net.UnixAddr{Name: "@x"}, nil, "n1", true},
		"nothing":                           {"", far, nil, "n1", false},
		"a certificate":                     {"", far, verified, "n1", true},
		"the certificate of another node":   {"", far, verified, "n2", false},
		"a certificate that nobody checked": {"", far, unverified, "n1", false},
		"TLS without a certificate":         {"", far, credentials.TLSInfo{}, "n1", false},
		"a certificate, and no node named":  {"", far, verified, "", false},
		"an address of another kind":        {"", Addr{}, nil, "n1", false},
	} {
		tunnels := NewTunnels(Options{ID: "me", Secret: []byte(tt.secret), Logger: zap.NewNop()})
		err := tunnels.believe(peer.NewContext(context.Background(), &peer.Peer{Addr: tt.addr, AuthInfo: tt.auth}), tt.node)
		if (err == nil) != tt.want || err != nil && status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := NewTunnels(Options{ID: "me", Logger: zap.NewNop()}).believe(context.Background(), "n1"); err == nil {
		t.Error("nobody is known to be there, and was believed")
	}
}
