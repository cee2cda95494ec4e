package peer

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"example.com/chat/internal/node"
)

// TestLink_Unused: an address that nobody asks for any more is not dialled for ever, and forgotten; one
// with a tunnel stays, however quiet it is.
func TestLink_Unused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Int64
		_, a, _, accepted := pair(t, func(a, _ *Options) {
			real := a.Dial
			a.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				if addr == "b" {
					return real(ctx, addr)
				}
				gone.Add(1)
				return nil, syscall.ECONNREFUSED
			}
		})
		c, err := dial(t, a, Call, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		calls := NewCalls(a)
		for i := range 3 {
			id := fmt.Sprintf("gone-%d", i)
			if _, err := dial(t, a, RaftControl, id, id); err == nil {
				t.Error("a tunnel was opened")
			}
			if err := calls.Adopt(within(t, time.Second), id, id, "", node.Cluster{}); err == nil {
				t.Error("a call was answered")
			}
		}
		time.Sleep(2 * idle)
		before := gone.Load()
		time.Sleep(10 * time.Minute)
		if after := gone.Load(); after != before {
			t.Errorf("dialled %d times", after-before)
		}
		if _, err := dial(t, a, RaftControl, "b", "b"); err != nil {
			t.Error(err)
		}
		_ = calls.Adopt(within(t, time.Second), "b", "b", "", node.Cluster{}) // nobody answers it
		for k := range a.links {
			if k.addr != "b" {
				t.Errorf("a connection to %s for %s is left", k.addr, k.purpose)
			}
		}
		if got := len(calls.conns); got != 1 {
			t.Errorf("%d connections for calls, want that to b", got)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if f, err := (<-accepted).ReadFrame(); string(f) != "x" || err != nil {
			t.Errorf("got %q, %v", f, err)
		}
		if err := calls.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestLink_Back: a node that was away is reached as soon as it has said something, and not when its connection would
// have been tried again.
func TestLink_Back(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, _ := pair(t, nil)
		host := grpc.NewServer()
		a.Register(host)
		lis := n.Listen("a")
		go func() { _ = host.Serve(lis) }()
		defer host.Stop()
		n.Refuse("a", "b")
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
			if _, err := dial(t, a, RaftControl, "b", "b"); err == nil {
				t.Fatal("a tunnel was opened")
			}
		}
		n.Heal("a", "b")
		start := time.Now()
		if _, err := dial(t, b, RaftControl, "a", "a"); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := dial(t, a, RaftControl, "b", "b"); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(start); took > 20*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// TestLink_GoAway: a host's server that wants its connections young lets open tunnels live, and nobody
// else ends them either, though new ones need a new connection.
func TestLink_GoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, accepted := pair(t, nil, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: time.Minute}))
		c, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		other := <-accepted
		time.Sleep(time.Hour)
		for _, p := range []Purpose{Call, RaftControl} {
			if _, err := dial(t, a, p, "b", "b"); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if f, err := other.ReadFrame(); string(f) != "x" || err != nil {
			t.Errorf("got %q, %v", f, err)
		}
	})
}
