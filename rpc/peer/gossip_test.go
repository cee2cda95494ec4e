package peer

import (
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/grpc"

	"example.com/chat/internal/simnet"
)

// gossiper is one memberlist over tunnels, on a host's server of default options.
type gossiper struct {
	id      string
	tunnels *Tunnels
	gossip  *Gossip
	list    *memberlist.Memberlist // nil in tests of the transport alone
	told    chan string            // packets and messages
	state   string                 // what push/pull gives to others

	mu    sync.Mutex // guards what follows
	heard map[string]bool
}

func (g *gossiper) NodeMeta(int) []byte             { return []byte("meta of " + g.id) }
func (g *gossiper) NotifyMsg(b []byte)              { g.told <- string(b) }
func (g *gossiper) GetBroadcasts(_, _ int) [][]byte { return nil }
func (g *gossiper) LocalState(bool) []byte          { return []byte(g.state) }
func (g *gossiper) MergeRemoteState(b []byte, _ bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard[string(b)] = true
}

func (g *gossiper) has(state string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.heard[state]
}

// newGossiper starts a node whose address is its id; it is gone when the test is over.
func newGossiper(t testing.TB, n *simnet.Net, id string, lists bool) *gossiper {
	t.Helper()
	g := &gossiper{id: id, told: make(chan string, 100), state: "state of " + id, heard: map[string]bool{}}
	g.tunnels = NewTunnels(options(id, n.Dialer(id)))
	host := grpc.NewServer()
	g.tunnels.Register(host)
	lis := n.Listen(id)
	go func() { _ = host.Serve(lis) }()
	g.gossip = NewGossip(g.tunnels, func(node string) (addr string, ok bool) {
		if strings.HasPrefix(node, "nobody") {
			return "nobody", true
		}
		return node, node != "unknown"
	})
	t.Cleanup(func() {
		if err := g.gossip.Shutdown(); err != nil { // for the second time, when memberlist did it
			t.Error(err)
		}
		if err := g.tunnels.Close(); err != nil {
			t.Error(err)
		}
		host.GracefulStop()
		time.Sleep(time.Minute) // memberlist's probes wait for a timer
	})
	if !lists {
		return g
	}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.RequireNodeNames, c.Transport, c.Delegate = id, "x", true, g.gossip, g
	c.Logger = log.New(io.Discard, "", 0)
	var err error
	if g.list, err = memberlist.Create(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.list.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// until waits for a condition, for two minutes at most.
func until(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > 2*time.Minute {
			t.Fatalf("waited two minutes until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

func (g *gossiper) sees(ids ...string) bool {
	seen := map[string]bool{}
	for _, m := range g.list.Members() {
		seen[m.Name] = string(m.Meta) == "meta of "+m.Name
	}
	for _, id := range ids {
		if !seen[id] {
			return false
		}
	}
	return len(seen) == len(ids)
}

// TestGossip_Memberlist: two nodes find each other by the address alone, exchange their states over
// streams, and messages over packets and streams; one that is cut off is thought dead, and comes back.
func TestGossip_Memberlist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(time.Millisecond)
		a, b := newGossiper(t, n, "a", true), newGossiper(t, n, "b", true)
		if joined, err := a.list.Join([]string{Seed("b")}); joined != 1 || err != nil {
			t.Fatalf("joined %d, %v", joined, err)
		}
		until(t, "they see each other", func() bool { return a.sees("a", "b") && b.sees("a", "b") })
		if !a.has("state of b") || !b.has("state of a") {
			t.Errorf("they have not exchanged their states: %v, %v", a.heard, b.heard)
		}
		for _, m := range a.list.Members() {
			if m.Name != "b" {
				continue
			}
			if err := a.list.SendBestEffort(m, []byte("by packet")); err != nil {
				t.Error(err)
			}
			if got := <-b.told; got != "by packet" {
				t.Errorf("got %q", got)
			}
			if err := a.list.SendReliable(m, make([]byte, 1<<20)); err != nil {
				t.Error(err)
			}
			if got := <-b.told; len(got) != 1<<20 {
				t.Errorf("got %d bytes", len(got))
			}
		}
		n.Cut("a", "b")
		took := until(t, "each thinks the other dead", func() bool { return a.sees("a") && b.sees("b") })
		if took > 30*time.Second {
			t.Errorf("it took %v until the cut was seen", took)
		}
		time.Sleep(time.Minute)
		n.Heal("a", "b")
		until(t, "they see each other again", func() bool {
			_, _ = a.list.Join([]string{Seed("b")}) // tried again
			return a.sees("a", "b") && b.sees("a", "b")
		})
	})
}

// TestGossip_Stays: nodes that live are not thought dead because two of them cannot reach each other.
func TestGossip_Stays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(time.Millisecond)
		a, b, c := newGossiper(t, n, "a", true), newGossiper(t, n, "b", true), newGossiper(t, n, "c", true)
		for _, addr := range []string{"b", "c"} {
			if _, err := a.list.Join([]string{Seed(addr)}); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "they see each other", func() bool { return a.sees("a", "b", "c") && b.sees("a", "b", "c") && c.sees("a", "b", "c") })
		n.Cut("b", "c") // each is seen through a
		for range 5 * 60 {
			time.Sleep(time.Second)
			if !a.sees("a", "b", "c") || !b.sees("a", "b", "c") || !c.sees("a", "b", "c") {
				t.Fatal("a node that lives is thought dead")
			}
		}
	})
}

// TestGossip_NeverWaits: packets to a node that does not take them are lost, and hold nobody up; those
// to others arrive, from where they come.
func TestGossip_NeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(time.Millisecond)
		a, b := newGossiper(t, n, "a", false), newGossiper(t, n, "b", false)
		n.Cut("a", "silent")
		start := time.Now()
		for i := range 10_000 {
			for _, to := range []string{"silent", "unknown", fmt.Sprintf("nobody-%d", i)} {
				if _, err := a.gossip.WriteToAddress([]byte("lost"), memberlist.Address{Name: to}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		a.gossip.mu.Lock()
		if got := len(a.gossip.queues); got > maxQueues {
			t.Errorf("%d queues", got)
		}
		clear(a.gossip.queues) // as when they have been idle
		a.gossip.mu.Unlock()
		packet := []byte("x")
		if _, err := a.gossip.WriteToAddress(packet, memberlist.Address{Name: "b"}); err != nil {
			t.Fatal(err)
		}
		packet[0] = 'y' // it is the caller's
		p := <-b.gossip.PacketCh()
		if string(p.Buf) != "x" || p.From.String() != fmt.Sprintf("%s:%d", nodeIP("a"), gossipPort) {
			t.Errorf("got %q from %v", p.Buf, p.From)
		}
	})
}

// TestGossip_Names: without a name nobody is reached, and a name whose address is not known is an error
// that says so.
func TestGossip_Names(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(0)
		a, b := newGossiper(t, n, "a", false), newGossiper(t, n, "b", false)
		if _, err := a.gossip.WriteTo([]byte("x"), "10.0.0.1:1"); err != errNoName {
			t.Errorf("got %v", err)
		}
		if _, err := a.gossip.DialTimeout("10.0.0.1:1", time.Second); err != errNoName {
			t.Errorf("got %v", err)
		}
		if _, err := a.gossip.WriteToAddress([]byte("x"), memberlist.Address{Addr: "10.0.0.1:1"}); err != errNoName {
			t.Errorf("got %v", err)
		}
		for name, want := range map[string]string{
			"": errNoName.Error(), "unknown": `gossip with node "unknown", whose address is not known`,
		} {
			if c, err := a.gossip.DialAddressTimeout(memberlist.Address{Name: name}, time.Second); c != nil || err == nil || err.Error() != want {
				t.Errorf("%q: got %v, %v", name, c, err)
			}
		}
		for _, name := range []string{"b", "@b"} {
			c, err := a.gossip.DialAddressTimeout(memberlist.Address{Name: name}, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.RemoteAddr().String(); got != "b" {
				t.Errorf("%q: got %s", name, got)
			}
			if got := (<-b.gossip.StreamCh()).RemoteAddr().String(); got != "a" {
				t.Errorf("%q: got %s", name, got)
			}
		}
		ip, port, err := a.gossip.FinalAdvertiseAddr("", 0)
		if !ip.Equal(nodeIP("a")) || port != gossipPort || err != nil || nodeIP("a").Equal(nodeIP("b")) {
			t.Errorf("got %v:%d, %v", ip, port, err)
		}
	})
}

// TestGossip_Shutdown: it ends tunnels and senders, may come twice, and what memberlist sends meanwhile
// and afterwards starts nothing.
func TestGossip_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(0)
		a, b := newGossiper(t, n, "a", false), newGossiper(t, n, "b", false)
		c, err := a.gossip.DialAddressTimeout(memberlist.Address{Name: "b"}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		<-b.gossip.StreamCh()
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for i := range 4 {
			writers.Go(func() {
				for j := 0; ; j++ {
					_, _ = a.gossip.WriteToAddress([]byte("x"), memberlist.Address{Name: fmt.Sprintf("nobody-%d-%d", i, j%300)}) // may be lost
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		if err := a.gossip.Shutdown(); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the stream lives")
		}
		close(stop)
		writers.Wait()
		if err := a.gossip.Shutdown(); err != nil {
			t.Error(err)
		}
		if _, err := a.gossip.DialAddressTimeout(memberlist.Address{Name: "b"}, time.Second); err == nil {
			t.Error("a stream was opened")
		}
		synctest.Wait()
		a.gossip.mu.Lock()
		defer a.gossip.mu.Unlock()
		if got := len(a.gossip.queues); got != 0 {
			t.Errorf("%d queues are left", got)
		}
	})
}
