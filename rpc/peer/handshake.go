package peer

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat/rpc/peer/peerpb"
)

const (
	protocol         = 1
	handshakeTimeout = 2 * time.Second
	nonceSize        = 16
	// maxHello is more than a hello can have, and little to authenticate for a stranger.
	maxHello = 1 << 10
)

// The handshake is three frames: the dialling side's hello, the accepting side's nonce with its
// proof and its id, and the dialling side's proof for that nonce, without which a recorded hello
// could be played again. The last one costs no round trip. It proves who opened the tunnel; that
// nobody else writes into it later is the business of TLS.

// handshakeKey is the key for this one use of the cluster secret (RFC 5869).
func handshakeKey(secret []byte) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "chat tunnel handshake 1", sha256.Size)
	if err != nil {
		panic(err) // only for a length that SHA-256 cannot give
	}
	return key
}

// greet is the dialling side.
func (t *Tunnels) greet(c *Conn) error {
	text, err := proto.Marshal(&peerpb.Hello{
		Protocol: protocol, Name: t.o.Cluster, ClusterId: t.o.ClusterID(),
		From: t.o.ID, To: c.remote.Node, Purpose: string(c.local.Purpose), Nonce: nonce(),
	})
	if err != nil {
		return err
	}
	_, werr := c.Write(append(t.mac("hello", text), text...)) // MAC first: nothing is decoded before it is checked
	answer, err := c.ReadFrame()                              // even after a failed Write: a refusal says why
	switch {
	case err != nil:
		return err
	case werr != nil:
		return werr
	}
	n, rest := cut(answer, nonceSize)
	proof, id := cut(rest, sha256.Size)
	switch {
	case !hmac.Equal(proof, t.mac("accept", text, n, id)):
		return errors.New("the other side does not know the cluster secret")
	case len(id) == 0 || c.remote.Node != "" && c.remote.Node != string(id):
		return fmt.Errorf("node %q has answered", id)
	}
	if err := t.believe(c.life, string(id)); err != nil {
		return err
	}
	c.remote.Node = string(id)
	_, err = c.Write(t.mac("confirm", text, n))
	return err
}

// cut divides a frame; the first part is short when the frame is.
func cut(frame []byte, at int) (first, rest []byte) {
	at = min(at, len(frame))
	return frame[:at], frame[at:]
}

// answer is the accepting side; its errors are for the wire. The Conn has a read deadline.
func (t *Tunnels) answer(c *Conn) error {
	frame, err := c.ReadFrame()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, "no handshake")
	} else if c.life.Err() != nil {
		return status.FromContextError(c.life.Err()).Err()
	} else if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if len(frame) > maxHello {
		return status.Errorf(codes.InvalidArgument, "a hello of %d bytes", len(frame))
	}
	proof, text := cut(frame, sha256.Size)
	if !hmac.Equal(proof, t.mac("hello", text)) {
		return status.Error(codes.Unauthenticated, "the cluster secrets differ")
	}
	var h peerpb.Hello
	if err := proto.Unmarshal(text, &h); err != nil {
		return status.Error(codes.InvalidArgument, "malformed hello")
	}
	if err := t.believe(c.life, h.From); err != nil {
		return err // before check, which tells of this node
	}
	if err := t.check(&h); err != nil {
		return err
	}
	n, id := nonce(), []byte(t.o.ID)
	if _, err := c.Write(slices.Concat(n, t.mac("accept", text, n, id), id)); err != nil {
		return err
	}
	if proof, err := c.ReadFrame(); err != nil || !hmac.Equal(proof, t.mac("confirm", text, n)) {
		return status.Error(codes.Unauthenticated, "no proof for this nonce")
	}
	p := Purpose(h.Purpose)
	c.local, c.remote = Addr{t.o.ID, p}, Addr{h.From, p}
	return nil
}

// check refuses who means another node, or comes from another cluster. Raft speaks only inside one
// cluster that has an id: a node without one would obey anybody.
func (t *Tunnels) check(h *peerpb.Hello) error {
	mine := t.o.ClusterID()
	isRaft := h.Purpose == string(RaftControl) || h.Purpose == string(RaftBulk)
	switch {
	case h.Protocol != protocol:
		return status.Errorf(codes.FailedPrecondition, "node %q speaks protocol %d, not %d", t.o.ID, protocol, h.Protocol)
	case h.Name != t.o.Cluster:
		return status.Errorf(codes.FailedPrecondition, "node %q is in the cluster named %q, not %q", t.o.ID, t.o.Cluster, h.Name)
	case h.From == "" || h.From == t.o.ID:
		return status.Errorf(codes.FailedPrecondition, "node %q is called by %q", t.o.ID, h.From)
	case h.To != t.o.ID && (h.To != "" || h.Purpose != string(GossipStream) && h.Purpose != string(Call)):
		return status.Errorf(codes.FailedPrecondition, "this is node %q, not %q", t.o.ID, h.To)
	case mine != h.ClusterId && mine != "" && h.ClusterId != "":
		return status.Errorf(codes.FailedPrecondition, "node %q belongs to cluster %q, not %q", t.o.ID, mine, h.ClusterId)
	case isRaft && (mine == "" || h.ClusterId == ""):
		return status.Errorf(codes.FailedPrecondition, "node %q and node %q are not both in a cluster", t.o.ID, h.From)
	}
	return nil
}

// believe decides, where there is no secret, whether the other end of a stream is the node that it
// says it is. With TLS a loopback address is no proof: whatever ends TLS on this machine and passes
// streams on would be one.
func (t *Tunnels) believe(ctx context.Context, node string) error {
	if len(t.o.Secret) > 0 {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return status.Errorf(codes.PermissionDenied, "node %q has no cluster secret, and "+format, append([]any{t.o.ID}, args...)...)
	}
	var info credentials.TLSInfo
	p, ok := peer.FromContext(ctx)
	if ok {
		info, _ = p.AuthInfo.(credentials.TLSInfo)
	}
	switch {
	case len(info.State.VerifiedChains) > 0:
		if err := info.State.PeerCertificates[0].VerifyHostname(node); err != nil {
			return refuse("the certificate is not one of node %q: %v", node, err)
		}
		return nil
	case t.o.TLS != nil:
		return refuse("node %q has shown no certificate that TLS could verify", node)
	case ok && isLoopback(p.Addr):
		return nil
	default:
		return refuse("no TLS, so peers must come from a loopback address")
	}
}

func isLoopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return false
	}
}

// remoteAddr is who is at the other end of a server's stream, for the log.
func remoteAddr(ctx context.Context) net.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr
	}
	return Addr{}
}

func nonce() []byte {
	n := make([]byte, nonceSize)
	_, _ = rand.Read(n) // never fails since Go 1.24
	return n
}

// mac authenticates what a frame means and says.
func (t *Tunnels) mac(meaning string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, t.key)
	_, _ = fmt.Fprintf(m, "%s\x00", meaning) // a hash never fails
	for _, p := range parts {
		_, _ = fmt.Fprintf(m, "%d\x00", len(p))
		m.Write(p)
	}
	return m.Sum(nil)
}
