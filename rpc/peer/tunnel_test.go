package peer

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/nettest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/peer/peerpb"
)

// options are those of a node in cluster "c" of the name "x".
func options(id string, dial func(context.Context, string) (net.Conn, error)) Options {
	return Options{
		ID: id, Cluster: "x", ClusterID: func() string { return "c" },
		Secret: bytes.Repeat([]byte("s"), 32), Dial: dial, Logger: zap.NewNop(),
	}
}

// pair starts node b with a server of default options, and node a that dials it.
func pair(t testing.TB, spoil func(a, b *Options), server ...grpc.ServerOption) (n *simnet.Net, a, b *Tunnels, accepted chan *Conn) {
	n = simnet.New(0)
	ao, bo := options("a", n.Dialer("a")), options("b", n.Dialer("b"))
	if spoil != nil {
		spoil(&ao, &bo)
	}
	a, b = NewTunnels(ao), NewTunnels(bo)
	accepted = make(chan *Conn, 16)
	for _, p := range []Purpose{RaftControl, RaftBulk, GossipStream, GossipPackets, Call} {
		a.Handle(p, func(*Conn) {})
		b.Handle(p, func(c *Conn) { accepted <- c })
	}
	host := grpc.NewServer(server...)
	b.Register(host)
	lis := n.Listen("b")
	go func() { _ = host.Serve(lis) }()
	t.Cleanup(func() {
		for _, x := range []*Tunnels{a, b} {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		host.GracefulStop() // returns, because Close has ended the tunnels
	})
	return n, a, b, accepted
}

func dial(t testing.TB, a *Tunnels, p Purpose, node, addr string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return a.Dial(ctx, p, node, addr)
}

// TestConn_Conformance runs package nettest's test for any net.Conn, in real time.
func TestConn_Conformance(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		_, a, b, accepted := pair(t, nil)
		c, err := dial(t, a, RaftControl, "b", "b")
		if err != nil {
			return nil, nil, nil, err
		}
		return c, <-accepted, func() { _, _ = a.Close(), b.Close() }, nil
	})
}

// TestConn_FullFrames: what is written goes out in frames that fit, with their heads, into a buffer of 32 KiB.
func TestConn_FullFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, sent, end := scripted()
		defer end()
		want := make([]byte, 100<<10)
		for i := range want {
			want[i] = byte(i / 7)
		}
		if n, err := c.Write(want); n != len(want) || err != nil {
			t.Fatalf("wrote %d bytes: %v", n, err)
		}
		synctest.Wait()
		var got []byte
		for len(sent) > 0 {
			frame := <-sent
			got = append(got, frame...)
			if size := proto.Size(&peerpb.TunnelRequest{Data: frame}); size > 32<<10 {
				t.Errorf("a frame of %d bytes", size)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes arrived that differ from the %d that were written", len(got), len(want))
		}
	})
}

// staged tells of what is done with a stream before it was bound to its connection.
type staged struct {
	*script
	bound, early atomic.Bool
}

func (s *staged) context() context.Context { s.bound.Store(true); return s.script.context() }
func (s *staged) send(b []byte) error      { s.look(); return s.script.send(b) }
func (s *staged) receive() ([]byte, error) { s.look(); return s.script.receive() }
func (s *staged) look() {
	if !s.bound.Load() {
		s.early.Store(true)
	}
}

// TestConn_Bound: a stream is bound to its connection before anybody sends or receives.
func TestConn_Bound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			s := &staged{script: &script{ctx: ctx, in: [][]byte{{1}}, sent: make(chan []byte, 1)}}
			_, err := newConn(s, func() {}, cancel).Write([]byte{2})
			synctest.Wait()
			if cancel(); err != nil || s.early.Load() {
				t.Fatalf("it was not: %v", err)
			}
		}
	})
}

// TestDial_Breaking opens tunnels while their connection breaks. Each is opened, or there is an error. Streams that were
// not bound to their connection made time stand still here, in nine of twelve runs.
func TestDial_Breaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, _ := pair(t, func(a, _ *Options) {
			reach := a.Dial
			a.Dial = func(ctx context.Context, to string) (net.Conn, error) {
				time.Sleep(time.Millisecond) // a new connection takes its time
				return reach(ctx, to)
			}
		})
		b.Handle(RaftControl, func(*Conn) {})
		for range 300 {
			if _, err := dial(t, a, RaftControl, "b", "b"); err != nil {
				t.Fatal(err)
			}
			var opened sync.WaitGroup
			for range 8 {
				opened.Go(func() { _, _ = dial(t, a, RaftControl, "b", "b") })
			}
			n.Reset("a", "b")
			opened.Wait()
			synctest.Wait() // everybody has seen it
		}
	})
}

// TestConn_Ahead: some frames are received before anybody reads, no more, and all of them in order.
func TestConn_Ahead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frames [][]byte
		for i := range byte(3 * ahead) {
			frames = append(frames, []byte{i})
		}
		c, _, end := scripted(frames...)
		defer end()
		synctest.Wait()
		if left := len(c.frames.(*script).in); left != len(frames)-ahead-1 { // and one in its hand
			t.Errorf("%d of %d frames are left", left, len(frames))
		}
		for _, want := range frames {
			if got, err := c.ReadFrame(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %v, %v, want %v", got, err, want)
			}
		}
	})
}

// TestConn_Behind: some frames are written before any is sent, no more, and all of them are sent after Close, in order,
// before this side ends.
func TestConn_Behind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		frames := &script{ctx: ctx, sent: make(chan []byte)}
		ended := make(chan struct{})
		c := newConn(frames, func() { close(ended) }, cancel)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // never fails, as below
		n := byte(0)
		for ; ; n++ {
			if _, err := c.Write([]byte{n}); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if want := byte(ahead + 1); n != want { // and one in push's hand
			t.Errorf("%d frames were written, want %d", n, want)
		}
		_ = c.Close()
		for want := range n {
			select {
			case got := <-frames.sent:
				if !bytes.Equal(got, []byte{want}) {
					t.Fatalf("sent is %v, want %v", got, want)
				}
			case <-ended:
				t.Fatalf("it ended after %d frames of %d", want, n)
			}
		}
		<-ended
	})
}

func TestTunnel_Refuses(t *testing.T) {
	other := func() string { return "other" }
	none := func() string { return "" }
	for name, tt := range map[string]struct {
		spoil   func(a, b *Options)
		purpose Purpose
		node    string
		want    string // empty for a tunnel that opens
	}{
		"nothing":                     {nil, RaftControl, "b", ""},
		"another secret":              {func(a, _ *Options) { a.Secret = bytes.Repeat([]byte("t"), 32) }, GossipStream, "b", "secrets differ"},
		"no secret":                   {func(a, _ *Options) { a.Secret = nil }, GossipStream, "b", "secrets differ"},
		"another name":                {func(a, _ *Options) { a.Cluster = "y" }, GossipStream, "b", `cluster named "x", not "y"`},
		"another cluster":             {func(a, _ *Options) { a.ClusterID = other }, GossipStream, "b", `belongs to cluster "c", not "other"`},
		"another node":                {nil, RaftControl, "z", `this is node "b", not "z"`},
		"raft with whoever is there":  {nil, RaftControl, "", `this is node "b", not ""`},
		"calls to whoever is there":   {nil, Call, "", ""},
		"gossip with whoever":         {nil, GossipStream, "", ""},
		"raft from outside":           {func(a, _ *Options) { a.ClusterID = none }, RaftBulk, "b", "not both in a cluster"},
		"raft to outside":             {func(_, b *Options) { b.ClusterID = none }, RaftBulk, "b", "not both in a cluster"},
		"raft between nodes outside":  {func(a, b *Options) { a.ClusterID, b.ClusterID = none, none }, RaftControl, "b", "not both in a cluster"},
		"gossip from outside":         {func(a, _ *Options) { a.ClusterID = none }, GossipPackets, "b", ""},
		"calls from outside":          {func(a, _ *Options) { a.ClusterID = none }, Call, "b", ""},
		"itself":                      {func(a, _ *Options) { a.ID = "b" }, Call, "b", `node "b" is called by "b"`},
		"no secret and a far address": {func(a, b *Options) { a.Secret, b.Secret = nil, nil }, Call, "b", "has no cluster secret"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, _, _ := pair(t, tt.spoil)
				_, err := dial(t, a, tt.purpose, tt.node, "b")
				if tt.want == "" && err != nil {
					t.Errorf("got %v", err)
				}
				if tt.want != "" && (!errors.Is(err, chaterr.ErrPeerRefused) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			})
		})
	}
}

// TestTunnel_Replay: whoever has recorded a tunnel can play it again from its first frame to its last,
// but has no answer to the new nonce.
func TestTunnel_Replay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _, accepted := pair(t, nil)
		var recorded [][]byte
		c := tap(t, a, RaftControl, &recorded, nil)
		if _, err := c.Write([]byte("what raft would say")); err != nil {
			t.Fatal(err)
		}
		if f, err := (<-accepted).ReadFrame(); err != nil || string(f) != "what raft would say" {
			t.Fatalf("got %q, %v", f, err)
		}
		if len(recorded) != 3 {
			t.Fatalf("recorded %d frames", len(recorded))
		}
		stream := strangersStream(t, n)
		for _, frame := range recorded {
			_ = stream.Send(&peerpb.TunnelRequest{Data: frame}) // Recv says why it failed
		}
		_, _ = stream.Recv() // the nonce
		if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v", err)
		}
		if len(accepted) != 0 {
			t.Error("the tunnel was opened")
		}
	})
}

// tap opens a tunnel from a to node b as Dial does, and keeps the frames that go each way.
func tap(t *testing.T, a *Tunnels, p Purpose, sent, received *[][]byte) *Conn {
	t.Helper()
	l, err := a.link(linkKey{"b", p})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := peerpb.NewTunnelServiceClient(l.cc).Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(tapped{clientFrames{s, receivedResponse()}, sent, received}, func() { _ = s.CloseSend() }, cancel)
	c.local, c.remote = Addr{a.o.ID, p}, Addr{"b", p}
	if err := a.greet(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// tapped keeps what goes through it; nil keeps nothing.
type tapped struct {
	frames
	sent, received *[][]byte
}

func (f tapped) send(b []byte) error {
	if f.sent != nil {
		*f.sent = append(*f.sent, bytes.Clone(b))
	}
	return f.frames.send(b)
}

func (f tapped) receive() ([]byte, error) {
	b, err := f.frames.receive()
	if err == nil && f.received != nil {
		*f.received = append(*f.received, bytes.Clone(b))
	}
	return b, err
}

// strangersStream is a tunnel as anybody may open it who reaches the port.
func strangersStream(t *testing.T, n *simnet.Net) grpc.BidiStreamingClient[peerpb.TunnelRequest, peerpb.TunnelResponse] {
	t.Helper()
	return openStream(t, strangersLink(t, n, "stranger"))
}

// strangersLink is a connection to b's server from some host.
func strangersLink(t *testing.T, n *simnet.Net, from string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///b", grpc.WithContextDialer(n.Dialer(from)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func openStream(t *testing.T, cc *grpc.ClientConn) grpc.BidiStreamingClient[peerpb.TunnelRequest, peerpb.TunnelResponse] {
	t.Helper()
	s, err := peerpb.NewTunnelServiceClient(cc).Tunnel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTunnel_Stranger: whatever somebody sends who does not know the secret, he gets no tunnel, and an
// answer at once, or when the time for the handshake is over.
func TestTunnel_Stranger(t *testing.T) {
	for name, tt := range map[string]struct {
		frames [][]byte
		want   codes.Code
	}{
		"says nothing":       {nil, codes.DeadlineExceeded},
		"empty frames":       {[][]byte{{}, {}, {}}, codes.DeadlineExceeded},
		"one byte":           {[][]byte{{0}}, codes.Unauthenticated},
		"garbage":            {[][]byte{bytes.Repeat([]byte("x"), 1000)}, codes.Unauthenticated},
		"the longest hello":  {[][]byte{make([]byte, maxHello)}, codes.Unauthenticated},
		"a hello too long":   {[][]byte{make([]byte, maxHello+1)}, codes.InvalidArgument},
		"a frame too large":  {[][]byte{make([]byte, maxFrame+1)}, codes.InvalidArgument},
		"raft without hello": {[][]byte{{0, 1, 2, 3}, make([]byte, maxFrame)}, codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _, b, accepted := pair(t, nil)
				stream := strangersStream(t, n)
				start := time.Now()
				for _, f := range tt.frames {
					_ = stream.Send(&peerpb.TunnelRequest{Data: f}) // Recv says why it failed
				}
				_, err := stream.Recv()
				if got := status.Code(err); got != tt.want {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if took := time.Since(start); took != 0 && (tt.want != codes.DeadlineExceeded || took != handshakeTimeout) {
					t.Errorf("took %v", took)
				}
				if len(accepted) != 0 || waiting(b) != 0 {
					t.Errorf("%d tunnels were opened, %d handshakes go on", len(accepted), waiting(b))
				}
			})
		})
	}
}

// TestTunnel_Dripping: the time for the handshake is for all of it, not for each frame.
func TestTunnel_Dripping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _, accepted := pair(t, nil)
		var recorded [][]byte
		_ = tap(t, a, Call, &recorded, nil).Close() // never fails
		<-accepted
		stream := strangersStream(t, n)
		start := time.Now()
		go func() {
			time.Sleep(handshakeTimeout - time.Millisecond)
			_ = stream.Send(&peerpb.TunnelRequest{Data: recorded[0]}) // Recv says why it failed
		}()
		_, err := stream.Recv() // the nonce
		if err == nil {
			_, err = stream.Recv()
		}
		if took := time.Since(start); err == nil || took != handshakeTimeout {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// TestTunnel_NobodyTakesIt: the handshake is right, but the other side has closed that door.
func TestTunnel_NobodyTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, _ := pair(t, nil)
		b.Cut(RaftControl)
		c, err := dial(t, a, RaftControl, "b", "b")
		if err == nil {
			_, err = c.ReadFrame()
		}
		if err == nil || !strings.Contains(err.Error(), `node "b" takes no raft-control`) {
			t.Errorf("got %v", err)
		}
	})
}

// TestTunnel_Cut ends the tunnels of one purpose on both sides at once, and no others.
func TestTunnel_Cut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, accepted := pair(t, nil)
		raft, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		<-accepted
		gossip, err := dial(t, a, GossipStream, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		other := <-accepted
		start := time.Now()
		b.Cut(RaftBulk)
		if _, err := raft.ReadFrame(); err == nil {
			t.Error("the tunnel is alive")
		}
		if _, err := gossip.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if f, err := other.ReadFrame(); string(f) != "x" || err != nil {
			t.Errorf("got %q, %v", f, err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

// TestTunnel_StuckPeer: the other side does not read. Write stops at the deadline, Close returns at
// once, and after linger the stream is gone.
func TestTunnel_StuckPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, accepted := pair(t, nil)
		c, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		<-accepted
		start := time.Now()
		_ = c.SetWriteDeadline(start.Add(time.Second))
		n, err := c.Write(make([]byte, 64<<20))
		if took := time.Since(start); err == nil || took != time.Second {
			t.Errorf("wrote %d bytes, error %v after %v", n, err, took)
		}
		_ = c.Close()
		if took := time.Since(start); took != time.Second {
			t.Errorf("Close took %v", took-time.Second)
		}
		time.Sleep(linger + time.Second)
		for _, x := range []*Tunnels{a, b} {
			x.mu.Lock()
			if len(x.conns) != 0 {
				t.Errorf("%d tunnels left", len(x.conns))
			}
			x.mu.Unlock()
		}
	})
}

// TestTunnel_DeadLink: the connection's packets vanish for ever, as after a power cut behind a
// firewall, but a new connection would work. TCP would take a quarter of an hour.
func TestTunnel_DeadLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _, _ := pair(t, nil)
		if _, err := dial(t, a, RaftControl, "b", "b"); err != nil {
			t.Fatal(err)
		}
		n.Blackhole("a", "b")
		start := time.Now()
		for {
			if _, err := dial(t, a, RaftControl, "b", "b"); err == nil {
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatal("no new connection in 10 s")
			}
		}
	})
}

// TestTunnel_Loopback opens tunnels over TCP, without a secret.
func TestTunnel_Loopback(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, a, b, _ := pair(t, func(a, b *Options) {
		a.Secret, b.Secret = nil, nil
		a.Dial, b.Dial = nil, nil
	})
	server := grpc.NewServer()
	b.Register(server)
	go func() { _ = server.Serve(lis) }()
	defer server.Stop()
	if _, err := dial(t, a, Call, "b", lis.Addr().String()); err != nil {
		t.Error(err)
	}
}
