package peer

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/chat/rpc/peer/peerpb"
)

// TestStrangers_Flood: a host opens a thousand streams and says nothing. There are never more than
// maxStrangers handshakes, the rest is refused at once, and nodes get their tunnels in no time, all the
// while and afterwards.
func TestStrangers_Flood(t *testing.T) {
	for name, hosts := range map[string]int{"one host": 1, "a thousand hosts": 1000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b, accepted := pair(t, nil)
				links := make([]*grpc.ClientConn, min(hosts, 100))
				for i := range links {
					links[i] = strangersLink(t, n, fmt.Sprintf("stranger-%d", i))
				}
				start := time.Now()
				ends := make(chan error, 1000)
				for i := range 1000 {
					s := openStream(t, links[i%len(links)])
					go func() {
						_, err := s.Recv()
						ends <- err
					}()
					if i%100 != 99 {
						continue
					}
					synctest.Wait()
					if got := waiting(b); got > maxStrangers {
						t.Fatalf("%d handshakes at once", got)
					}
					c, err := dial(t, a, RaftControl, "b", "b")
					if err != nil {
						t.Fatalf("a node is kept out: %v", err)
					}
					_ = c.Close() // never fails
					<-accepted
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("the nodes have waited %v", took)
				}
				got := map[codes.Code]int{}
				for range 1000 {
					got[status.Code(<-ends)]++
				}
				if got[codes.ResourceExhausted] < 1000-maxStrangers || got[codes.ResourceExhausted]+got[codes.DeadlineExceeded] != 1000 {
					t.Errorf("got %v", got)
				}
				if took := time.Since(start); took != handshakeTimeout {
					t.Errorf("the last was sent away after %v", took)
				}
				synctest.Wait()
				if got := waiting(b); got != 0 {
					t.Errorf("%d handshakes are left", got)
				}
			})
		})
	}
}

func waiting(b *Tunnels) int {
	b.strangers.mu.Lock()
	defer b.strangers.mu.Unlock()
	return len(b.strangers.all)
}

// TestStrangers_WhoGoes: it is the oldest of the host that has most, not one of those that have few.
func TestStrangers_WhoGoes(t *testing.T) {
	var s strangers
	enter := func(host string) *stranger {
		t.Helper()
		x, err := s.enter(host, &Conn{readBy: newDeadline()})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	node, first := enter("node"), enter("crowd")
	for len(s.all) < maxStrangers {
		enter("crowd")
	}
	second := s.all[2]
	enter("crowd")
	if node.sent || !first.sent || second.sent {
		t.Errorf("sent away: node %v, first %v, second %v", node.sent, first.sent, second.sent)
	}
	enter("another node")
	if node.sent || !second.sent {
		t.Errorf("sent away: node %v, second %v", node.sent, second.sent)
	}
	if err := s.leave(first, nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	if err := s.leave(node, nil); err != nil || len(s.all) != maxStrangers-1 {
		t.Errorf("got %v, %d left", err, len(s.all))
	}
}

// TestStrangers_Host: an IPv6 host has a /64 to itself, and is one host nevertheless.
func TestStrangers_Host(t *testing.T) {
	for _, tt := range []struct {
		a, b net.Addr
		same bool
	}{
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2}, true},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}, false},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1")}, &net.TCPAddr{IP: net.ParseIP("2001:db8::ffff:1:2")}, true},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1")}, &net.TCPAddr{IP: net.ParseIP("2001:db8:0:1::1")}, false},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1"), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2}, true},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, &net.TCPAddr{IP: net.ParseIP("fe80::2"), Zone: "eth1"}, true},
		{&net.UnixAddr{Name: "a"}, &net.UnixAddr{Name: "b"}, false},
	} {
		if got := hostOf(tt.a) == hostOf(tt.b); got != tt.same {
			t.Errorf("%v and %v are one host: %v", tt.a, tt.b, got)
		}
	}
}

// TestStrangers_Close: Close does not wait for those who say nothing, and lets nobody in afterwards.
func TestStrangers_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, b, _ := pair(t, nil)
		cc := strangersLink(t, n, "stranger")
		s := openStream(t, cc)
		synctest.Wait()
		start := time.Now()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		for _, s := range []grpc.BidiStreamingClient[peerpb.TunnelRequest, peerpb.TunnelResponse]{s, openStream(t, cc)} {
			if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
