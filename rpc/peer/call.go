package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcdial"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/internal/node"
	"example.com/chat/rpc/peer/peerpb"
)

// Log is what a node does for the nodes that do not lead.
type Log interface {
	// Forwarded carries out commands that another node was given, if this one leads.
	Forwarded(ctx context.Context, commands [][]byte) (results [][]byte, index uint64, err error)
	// LeaderReadIndex is the index that a linearizable read elsewhere has to wait for.
	LeaderReadIndex(ctx context.Context) (uint64, error)
	// Mark is the hash that the node's state has at the mark in an entry.
	Mark(ctx context.Context, index uint64) (hash uint64, err error)
	// Backup writes a snapshot of the node's state.
	Backup(ctx context.Context, w io.Writer) error
	// CurrentTerm is this node's term in raft, read after the call began.
	CurrentTerm() (uint64, error)
}

// Membership is what a node says when the cluster is formed or grows.
type Membership interface {
	Promise(attempt string) (highest string, c node.Cluster, err error)
	Adopt(attempt string, c node.Cluster) error
	Join(ctx context.Context, n node.Info, forwarded bool) (clusterID string, err error)
	Self() node.Info
}

// Calls are the calls of PeerService, both ways. Every one has its deadline from ctx, and returns
// errors of package chaterr. A call that was sent and breaks before it has an answer returns
// chaterr.ErrUnknownOutcome; one that could not be sent, because the other node is not there, does not.
//
// The service does not stand on the host's server but on one of its own, which listens in tunnels:
// who gets as far as calling it has proved to be a node, and no interceptor of the host sees it.
type Calls struct {
	t        *Tunnels
	server   *grpc.Server // nil before Serve
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
	serving  sync.WaitGroup

	mu    sync.Mutex // guards what follows
	conns map[string]*link
}

var _ net.Listener = (*Calls)(nil)

// NewCalls makes calls of others. Nothing is answered before Serve.
func NewCalls(t *Tunnels) *Calls {
	return &Calls{t: t, accepted: make(chan net.Conn), closed: make(chan struct{}), conns: map[string]*link{}}
}

// Serve takes over the tunnels for calls and answers them until Stop. It is called once.
func (c *Calls) Serve(l Log, m Membership) {
	c.server = grpc.NewServer(grpc.UnaryInterceptor(c.t.recovered), grpc.StreamInterceptor(c.t.recoveredStream))
	peerpb.RegisterPeerServiceServer(c.server, &service{log: l, membership: m})
	c.t.Handle(Call, func(conn *Conn) {
		select {
		case c.accepted <- conn:
		case <-c.closed:
			_ = conn.Close() // never fails
		}
	})
	c.serving.Go(func() { _ = c.server.Serve(c) }) // its error is that of Accept after Stop
}

// recovered keeps a panic in a handler from ending the host.
func (t *Tunnels) recovered(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			t.o.Logger.Error("a peer's call panicked", zap.String("method", info.FullMethod), zap.Any("panic", p), zap.Stack("stack"))
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	return handle(ctx, req)
}

func (t *Tunnels) recoveredStream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	_, err := t.recovered(s.Context(), nil, &grpc.UnaryServerInfo{FullMethod: info.FullMethod}, func(context.Context, any) (any, error) {
		return nil, handle(srv, s)
	})
	return err
}

// Accept gives the server its connections.
func (c *Calls) Accept() (net.Conn, error) {
	select {
	case conn := <-c.accepted:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

// Addr is that of this node.
func (c *Calls) Addr() net.Addr { return Addr{c.t.o.ID, Call} }

// Close is called by the server when it stops.
func (c *Calls) Close() error { return nil }

// Stop ends all calls. It may be called again.
func (c *Calls) Stop() error {
	c.once.Do(func() { close(c.closed) })
	c.t.Cut(Call)
	if c.server != nil {
		c.server.Stop()
		c.serving.Wait()
	}
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	var err error
	for _, l := range conns {
		err = errors.Join(err, l.cc.Close())
	}
	return err
}

// link returns the connection to the node id at addr, to be given back with release. A node that moves
// gets a new one.
func (c *Calls) link(id, addr string) (*link, error) {
	key := id + "@" + addr
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		return nil, chaterr.ErrClosed
	}
	l := c.conns[key]
	if l == nil {
		cc, err := grpcdial.New(key, nil, c.dial, idle) // the tunnel has TLS
		if err != nil {
			return nil, err
		}
		for old, gone := range c.conns {
			if strings.HasPrefix(old, id+"@") || gone.unused() {
				delete(c.conns, old)
				closeLater(gone.cc)
			}
		}
		l = &link{cc: cc}
		c.conns[key] = l
	}
	l.users++
	return l, nil
}

func (c *Calls) release(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.users--
}

func (c *Calls) dial(ctx context.Context, key string) (net.Conn, error) {
	id, addr, _ := strings.Cut(key, "@")
	conn, err := c.t.Dial(ctx, Call, id, addr)
	if err != nil {
		return nil, errors.New(err.Error()) // not the status in it, which gRPC would take for a defect of ours
	}
	return conn, nil
}

// errNotSent: the other node has nothing of the call.
var errNotSent = errors.New("not sent")

// call makes one call; f is a method of the client.
func call[Q, A any](ctx context.Context, c *Calls, id, addr string, f func(peerpb.PeerServiceClient, context.Context, Q, ...grpc.CallOption) (A, error), q Q) (a A, err error) {
	l, err := c.link(id, addr)
	if err != nil {
		return a, err
	}
	defer c.release(l)
	var at peer.Peer // set by gRPC when it has given the call to a connection
	a, err = f(peerpb.NewPeerServiceClient(l.cc), ctx, q, grpc.Peer(&at))
	switch {
	case err == nil || grpcerr.Reason(err) != "":
		return a, grpcerr.FromStatus(err)
	case at.Addr == nil:
		return a, fmt.Errorf("call of node %q: %w: %w", id, errNotSent, err)
	default:
		return a, fmt.Errorf("%w: call of node %q: %w", chaterr.ErrUnknownOutcome, id, err)
	}
}

// ofLeader is the error of a call of a node that should lead: one that cannot be reached does not.
func ofLeader(err error) error {
	if errors.Is(err, errNotSent) {
		return fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err)
	}
	return err
}

// Forward asks the node id, which should lead, to carry out commands. When that cannot be reached the
// error is chaterr.ErrNoLeader, and nothing was done.
func (c *Calls) Forward(ctx context.Context, id, addr string, commands [][]byte) (results [][]byte, index uint64, err error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Forward, &peerpb.ForwardRequest{Commands: commands})
	return a.GetResults(), a.GetIndex(), ofLeader(err)
}

// ReadIndex asks the node id, which should lead, for an index to read at.
func (c *Calls) ReadIndex(ctx context.Context, id, addr string) (uint64, error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.ReadIndex, &peerpb.ReadIndexRequest{})
	return a.GetIndex(), ofLeader(err)
}

// Mark asks a node for the hash of its state at a mark.
func (c *Calls) Mark(ctx context.Context, id, addr string, index uint64) (hash uint64, err error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Mark, &peerpb.MarkRequest{Index: index})
	return a.GetHash(), err
}

// Backup writes a snapshot of a node's state to w. The snapshot is whole when there is no error; it has
// checksums of its own.
func (c *Calls) Backup(ctx context.Context, id, addr string, w io.Writer) error {
	l, err := c.link(id, addr)
	if err != nil {
		return err
	}
	defer c.release(l)
	ctx, cancel := context.WithCancel(ctx) // ends the stream when w fails
	defer cancel()
	stream, err := peerpb.NewPeerServiceClient(l.cc).Backup(ctx, &peerpb.BackupRequest{})
	for err == nil {
		var part *peerpb.BackupResponse
		if part, err = stream.Recv(); err == nil {
			_, err = w.Write(part.Data)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return grpcerr.FromStatus(err)
}

// CurrentTerm asks the node id, which votes, for its term.
func (c *Calls) CurrentTerm(ctx context.Context, id, addr string) (uint64, error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.CurrentTerm, &peerpb.CurrentTermRequest{})
	return a.GetTerm(), err
}

// Promise asks for a promise.
func (c *Calls) Promise(ctx context.Context, id, addr, attempt string) (highest string, in node.Cluster, err error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Promise, &peerpb.PromiseRequest{Attempt: attempt})
	return a.GetHighest(), node.Cluster{ID: a.GetClusterId(), Servers: fromProtos(a.GetServers())}, err
}

// Adopt asks a node to belong to a cluster.
func (c *Calls) Adopt(ctx context.Context, id, addr, attempt string, in node.Cluster) error {
	_, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Adopt, &peerpb.AdoptRequest{
		Attempt: attempt, ClusterId: in.ID, Servers: toProtos(in.Servers),
	})
	return err
}

// Join asks a member to take n in. forwarded says that it was this node that n asked.
func (c *Calls) Join(ctx context.Context, id, addr string, n node.Info, forwarded bool) (clusterID string, err error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Join, &peerpb.JoinRequest{Node: toProto(n), Forwarded: forwarded})
	return a.GetClusterId(), err
}

// Probe asks a node what it is and how far.
func (c *Calls) Probe(ctx context.Context, id, addr string) (node.Info, error) {
	a, err := call(ctx, c, id, addr, peerpb.PeerServiceClient.Probe, &peerpb.ProbeRequest{})
	return fromProto(a.GetNode()), err
}
