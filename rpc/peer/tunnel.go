// Package peer is what the nodes of a cluster say to each other. Everything goes through tunnels:
// a tunnel is a net.Conn over one bidirectional stream of the gRPC server that the host program
// has anyway, so a node needs one address and no option of that server matters. In tunnels run
// raft, gossip, and the calls of PeerService. DESIGN.md says why it is done like this.
package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/peer/peerpb"
)

// Purpose says what a tunnel is for.
type Purpose string

const (
	RaftControl   Purpose = "raft-control" // votes and heartbeats
	RaftBulk      Purpose = "raft-bulk"    // entries and snapshots
	GossipPackets Purpose = "gossip-packets"
	GossipStream  Purpose = "gossip-stream"
	Call          Purpose = "call" // PeerService
)

// ServiceName is the one service that Register adds to the host's server.
const ServiceName = "chat.peer.v1.TunnelService"

// Options say who a node is to its peers.
type Options struct {
	// ID is the node's id.
	ID string
	// Cluster is the name of the cluster in its options. Nodes with different names refuse each other.
	Cluster string
	// ClusterID returns the id that the cluster has given itself, empty while this node has none. It
	// must not wait.
	ClusterID func() string
	// Secret is the cluster secret. When it is empty a peer is believed when its certificate, verified
	// by TLS, is valid for its node id as a DNS name; or, without TLS, on a loopback address.
	Secret []byte
	// TLS is how other nodes are dialled; nil is without TLS.
	TLS *tls.Config
	// Dial opens a network connection to an address; nil dials TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Logger is told who was refused, at most once a second.
	Logger *zap.Logger
}

// Tunnels makes and accepts the tunnels of one node. It is safe for concurrent use. A tunnel has
// two goroutines, which end with it.
type Tunnels struct {
	peerpb.UnsafeTunnelServiceServer
	o         Options
	key       []byte // of the handshake
	strangers strangers
	refusals  rate.Sometimes

	mu       sync.Mutex // guards what follows
	closed   bool
	handlers map[Purpose]func(*Conn)
	conns    map[*Conn]struct{}
	links    map[linkKey]*link
}

var _ peerpb.TunnelServiceServer = (*Tunnels)(nil)

// NewTunnels makes tunnels for a node; it opens none.
func NewTunnels(o Options) *Tunnels {
	return &Tunnels{
		o: o, key: handshakeKey(o.Secret), refusals: rate.Sometimes{Interval: time.Second},
		handlers: map[Purpose]func(*Conn){}, conns: map[*Conn]struct{}{}, links: map[linkKey]*link{},
	}
}

// Register adds the service to the host's server.
func (t *Tunnels) Register(r grpc.ServiceRegistrar) { peerpb.RegisterTunnelServiceServer(r, t) }

// Handle sets who gets the tunnels of a purpose that others open. f must take the Conn over or
// close it, and may block.
func (t *Tunnels) Handle(p Purpose, f func(*Conn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handlers[p] = f
}

// Tunnel serves one tunnel; its return is what ends the stream on this side. It is called by gRPC.
func (t *Tunnels) Tunnel(s grpc.BidiStreamingServer[peerpb.TunnelRequest, peerpb.TunnelResponse]) error {
	over := make(chan error, 1)
	end := func(err error) func() {
		return func() {
			select {
			case over <- err:
			default: // it is ending already
			}
		}
	}
	c := newConn(serverFrames{s, receivedRequest()}, end(nil), end(status.Error(codes.Aborted, "tunnel aborted")))
	err := t.admit(c)
	switch code := status.Code(err); {
	case code == codes.Canceled || code == codes.DeadlineExceeded || errors.Is(err, errNoMore):
		return err // whoever it was has gone, or this node goes
	case err != nil:
		t.refusals.Do(func() {
			t.o.Logger.Warn("refused a tunnel", zap.Stringer("from", remoteAddr(s.Context())), zap.Error(err))
		})
		return err
	}
	handle, ok := t.remember(c)
	if !ok {
		return status.Errorf(codes.Unavailable, "node %q takes no %s", t.o.ID, c.local.Purpose)
	}
	t.redial()
	go handle(c)
	select {
	case err := <-over:
		return err
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// admit has the other end of a stream prove who it is, within handshakeTimeout.
func (t *Tunnels) admit(c *Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(handshakeTimeout)) // never fails, as below
	x, err := t.strangers.enter(hostOf(remoteAddr(c.life)), c)
	if err != nil {
		return err
	}
	err = t.strangers.leave(x, t.answer(c))
	_ = c.SetReadDeadline(time.Time{})
	return err
}

// Dial opens a tunnel and returns when the other side has proved who it is. An empty node means
// whoever is at the address. ctx bounds the opening alone. The error wraps chaterr.ErrPeerRefused
// when the other side does not want this node.
func (t *Tunnels) Dial(ctx context.Context, p Purpose, node, addr string) (*Conn, error) {
	k := linkKey{addr, p}
	l, err := t.link(k)
	if err != nil {
		return nil, err
	}
	// The stream lives as long as the tunnel, not as long as ctx.
	life, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	c, err := t.open(life, cancel, l.cc, p, node)
	late := !stop()
	t.report(k, l, late || errors.Is(err, errSilent))
	if err == nil && late {
		err = context.Cause(ctx)
	}
	if err == nil {
		if _, ok := t.remember(c); !ok {
			err = net.ErrClosed
		}
	}
	if err != nil {
		cancel()
		t.release(l)
		return nil, fmt.Errorf("open a tunnel for %s to node %q at %s: %w", p, node, addr, err)
	}
	context.AfterFunc(c.life, func() {
		cancel()
		t.release(l)
	})
	return c, nil
}

func (t *Tunnels) open(life context.Context, cancel func(), cc *grpc.ClientConn, p Purpose, node string) (*Conn, error) {
	s, err := peerpb.NewTunnelServiceClient(cc).Tunnel(life)
	if err != nil {
		return nil, err
	}
	c := newConn(clientFrames{s, receivedResponse()}, func() { _ = s.CloseSend() }, cancel)
	c.local, c.remote = Addr{t.o.ID, p}, Addr{node, p}
	if err := t.greet(c); err != nil {
		switch status.Code(errors.Unwrap(err)) {
		case codes.Unauthenticated, codes.PermissionDenied, codes.FailedPrecondition:
			err = fmt.Errorf("%w: %w", chaterr.ErrPeerRefused, err)
		}
		return nil, err
	}
	return c, nil
}

// remember registers a tunnel for Cut, as long as its stream lives, and returns who takes it.
func (t *Tunnels) remember(c *Conn) (handle func(*Conn), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	handle = t.handlers[c.local.Purpose]
	if t.closed || handle == nil {
		return nil, false
	}
	t.conns[c] = struct{}{}
	context.AfterFunc(c.life, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.conns, c)
	})
	return handle, true
}

// Cut ends all tunnels of some purposes at once, and neither accepts nor opens any from now on.
func (t *Tunnels) Cut(purposes ...Purpose) {
	t.mu.Lock()
	var cut []*Conn
	for _, p := range purposes {
		delete(t.handlers, p)
		for c := range t.conns {
			if c.local.Purpose == p {
				cut = append(cut, c)
			}
		}
	}
	t.mu.Unlock()
	for _, c := range cut {
		c.abort()
	}
}

// Close cuts everything, handshakes included. The host's GracefulStop need not wait for tunnels afterwards.
func (t *Tunnels) Close() error {
	t.mu.Lock()
	t.closed = true
	links := t.links
	t.links = nil
	t.mu.Unlock()
	t.strangers.close()
	t.Cut(RaftControl, RaftBulk, GossipPackets, GossipStream, Call)
	var err error
	for _, l := range links {
		err = errors.Join(err, l.cc.Close())
	}
	return err
}
