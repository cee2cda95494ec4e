package client

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/cursor"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/chatpb"
)

// cluster is nodes that say what a test wants them to say.
type cluster struct {
	t     *testing.T
	net   *simnet.Net
	calls bool // the nodes have no Connect
}

// node is one of them. What it was asked is noted; its functions are set before it is asked.
type node struct {
	chatpb.UnimplementedAccountServiceServer
	chatpb.UnimplementedMessageServiceServer
	chatpb.UnimplementedEventServiceServer
	chatpb.UnimplementedClusterServiceServer
	c      *cluster
	addr   string
	server *grpc.Server

	send      func(ctx context.Context, r *chatpb.SendRequest) (*chatpb.SendResponse, error)
	list      func(ctx context.Context, r *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error)
	login     func(ctx context.Context, r *chatpb.LoginRequest) (*chatpb.LoginResponse, error)
	logout    func(ctx context.Context) error
	subscribe func(n int, r *chatpb.SubscribeRequest, s grpc.ServerStreamingServer[chatpb.SubscribeResponse]) error
	connect   func(s talk) error // nil for what send says
	servers   []*chatpb.Server

	mu      sync.Mutex // guards what follows
	ops     []string   // operation ids
	md      metadata.MD
	cursors []string // of subscriptions
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, net: simnet.New(0)}
}

// node starts a node. It ends with the test.
func (c *cluster) node(addr string) *node {
	c.t.Helper()
	n := &node{c: c, addr: addr, server: grpc.NewServer()}
	chatpb.RegisterAccountServiceServer(n.server, n)
	chatpb.RegisterMessageServiceServer(n.server, n)
	chatpb.RegisterEventServiceServer(n.server, n)
	chatpb.RegisterClusterServiceServer(n.server, n)
	lis := c.net.Listen(addr)
	go func() { _ = n.server.Serve(lis) }() // ends with Stop
	c.t.Cleanup(n.server.Stop)
	return n
}

// client makes a client that asks the nodes in order. It ends with the test.
func (c *cluster) client(nodes ...*node) *Client {
	c.t.Helper()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.addr)
	}
	cl, err := Dial(c.t.Context(), addrs, WithDialer(c.net.Dialer("client")), WithToken("chs_token"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Error(err)
		}
	})
	for i := range addrs {
		if err := cl.Prefer(addrs[len(addrs)-1-i]); err != nil {
			c.t.Fatal(err)
		}
	}
	return cl
}

// bothWays runs a test on nodes that have Connect, and on nodes that have not.
func bothWays(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	for way, calls := range map[string]bool{"stream": false, "call": true} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.calls = calls
				f(t, c)
			})
		})
	}
}

type talk = grpc.BidiStreamingServer[chatpb.ConnectRequest, chatpb.ConnectResponse]

// window is how many sends a stream may have under way.
const window = 100

// Connect answers each send with what Send says, when it says it.
func (n *node) Connect(s talk) error {
	if n.c.calls {
		return n.UnimplementedEventServiceServer.Connect(s)
	}
	if n.connect != nil {
		return n.connect(s)
	}
	if err := s.Send(&chatpb.ConnectResponse{MaxInFlight: window}); err != nil {
		return err
	}
	var mu sync.Mutex // guards Send
	for number := uint64(1); ; {
		f, err := s.Recv()
		if err != nil {
			return nil
		}
		for _, r := range f.Sends {
			at := number
			number++
			go func() {
				o := n.outcome(s.Context(), at, r)
				mu.Lock()
				defer mu.Unlock()
				_ = s.Send(&chatpb.ConnectResponse{Outcomes: []*chatpb.SendOutcome{o}}) // the client may have gone
			}()
		}
	}
}

func (n *node) outcome(ctx context.Context, at uint64, r *chatpb.SendRequest) *chatpb.SendOutcome {
	a, err := n.Send(ctx, r)
	if err == nil {
		return receipt(at, a.Receipt.GetSeq())
	}
	f := &chatpb.Failure{Code: int32(status.Code(err)), Reason: grpcerr.Reason(err), Message: err.Error()}
	return &chatpb.SendOutcome{Number: at, Outcome: &chatpb.SendOutcome_Failure{Failure: f}}
}

func receipt(number, seq uint64) *chatpb.SendOutcome {
	return &chatpb.SendOutcome{Number: number, Outcome: &chatpb.SendOutcome_Receipt{Receipt: &chatpb.Receipt{RoomId: "r1", Seq: seq}}}
}

// asked notes a call.
func (n *node) asked(ctx context.Context, op string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ops = append(n.ops, op)
	n.md, _ = metadata.FromIncomingContext(ctx)
}

// heard is what was noted: operation ids, and the metadata that came last.
func (n *node) heard() ([]string, metadata.MD) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.ops...), n.md
}

func (n *node) Send(ctx context.Context, r *chatpb.SendRequest) (*chatpb.SendResponse, error) {
	n.asked(ctx, r.OperationId)
	if n.send != nil {
		return n.send(ctx, r)
	}
	return &chatpb.SendResponse{Receipt: &chatpb.Receipt{RoomId: "r1", Seq: 1}}, nil
}

func (n *node) ListMessages(ctx context.Context, r *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
	n.asked(ctx, "")
	if n.list != nil {
		return n.list(ctx, r)
	}
	return &chatpb.ListMessagesResponse{}, nil
}

func (n *node) Login(ctx context.Context, r *chatpb.LoginRequest) (*chatpb.LoginResponse, error) {
	n.asked(ctx, "")
	if n.login != nil {
		return n.login(ctx, r)
	}
	return &chatpb.LoginResponse{Token: "chs_" + r.Name, Account: &chatpb.Account{Name: r.Name}}, nil
}

func (n *node) Logout(ctx context.Context, r *chatpb.LogoutRequest) (*chatpb.LogoutResponse, error) {
	n.asked(ctx, r.OperationId)
	return &chatpb.LogoutResponse{}, n.logout(ctx)
}

func (n *node) DeleteAccount(ctx context.Context, r *chatpb.DeleteAccountRequest) (*chatpb.DeleteAccountResponse, error) {
	n.asked(ctx, r.OperationId)
	return &chatpb.DeleteAccountResponse{}, n.logout(ctx)
}

func (n *node) GetStatus(context.Context, *chatpb.GetStatusRequest) (*chatpb.GetStatusResponse, error) {
	return &chatpb.GetStatusResponse{NodeId: n.addr, Servers: n.servers}, nil
}

func (n *node) Subscribe(r *chatpb.SubscribeRequest, s grpc.ServerStreamingServer[chatpb.SubscribeResponse]) error {
	n.mu.Lock()
	n.md, _ = metadata.FromIncomingContext(s.Context())
	n.cursors = append(n.cursors, r.Cursor)
	times := len(n.cursors)
	n.mu.Unlock()
	return n.subscribe(times, r, s)
}

// at is the cursor behind the event of a number.
func at(i int) string {
	return cursor.Cursor{Cluster: "c", Position: cursor.At(uint64(i), 0)}.String()
}

// frame has the messages from one number to another; none for a heartbeat.
func frame(from, to int) *chatpb.SubscribeResponse {
	f := &chatpb.SubscribeResponse{Cursor: at(to)}
	for i := from; i <= to; i++ {
		f.Events = append(f.Events, &chatpb.Event{Cursor: at(i), Kind: &chatpb.Event_Message{Message: &chatpb.Message{Seq: uint64(i)}}})
	}
	return f
}

// die cuts a node off and ends it: the calls at work have no answer.
func (n *node) die() {
	n.c.net.Reset("client", n.addr)
	go n.server.Stop() // it waits for handlers, and one of them calls
}

// freeze never answers, until the caller goes.
func freeze(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// took is how long something takes.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
