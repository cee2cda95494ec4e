package peer

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestTunnel_Flood: a host opens a thousand streams and says nothing. Few of them are handshakes, the
// rest is refused at once, and nodes get their tunnels in no time, all the while and afterwards.
func TestTunnel_Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, accepted := pair(t, nil)
		link := strangersLink(t, n, "stranger")
		start := time.Now()
		ends := make(chan error, 1000)
		for i := range 1000 {
			s := openStream(t, link)
			go func() {
				_, err := s.Recv()
				ends <- err
			}()
			if i%100 != 99 {
				continue
			}
			synctest.Wait()
			if got := waiting(b); got > maxFromOne {
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
			t.Errorf("the node has waited %v", took)
		}
		got := map[codes.Code]int{}
		for range 1000 {
			got[status.Code(<-ends)]++
		}
		if got[codes.ResourceExhausted] != 1000-maxFromOne || got[codes.DeadlineExceeded] != maxFromOne {
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
}

// waiting is how many handshakes go on.
func waiting(b *Tunnels) int {
	b.strangers.mu.Lock()
	defer b.strangers.mu.Unlock()
	return b.strangers.all
}
