package replica

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestLull: followers have what is committed within some milliseconds, whenever it comes, also who had it long
// before it was; no entry waits for a message that is held, and while nothing happens few messages are sent.
func TestLull(t *testing.T) {
	t.Run("three", func(t *testing.T) { lullOf(t, 3, 2, 0) })
	t.Run("five, of which three are slow", func(t *testing.T) { lullOf(t, 5, 1, 15*time.Millisecond) })
}

func lullOf(t *testing.T, machines, quick int, slow time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, machines, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		l := startLoad(s, 0)
		leader, r := s.leader(), rand.New(rand.NewPCG(1, 2))
		for _, m := range s.machines {
			m.disk.slow.Store(int64(700 * time.Microsecond))
		}
		for _, m := range s.followers()[quick:] {
			m.disk.slow.Store(int64(slow))
		}
		var sending, telling time.Duration
		for range 500 {
			time.Sleep(time.Duration(r.IntN(60_000)) * time.Microsecond)
			start := time.Now()
			if _, err := l.sendAt(leader, "x"); err != nil {
				t.Fatal(err)
			}
			sending = max(sending, time.Since(start))
			start = time.Now()
			for _, m := range s.followers()[:quick] {
				for m.up().replica.Applied() < leader.up().replica.Applied() {
					time.Sleep(100 * time.Microsecond)
				}
			}
			telling = max(telling, time.Since(start))
		}
		if sending > 5*time.Millisecond+slow || telling > 7*time.Millisecond {
			t.Errorf("a send took %v, and the followers had it %v later", sending, telling)
		}
		time.Sleep(time.Second)
		before := leader.up().transport.Load().appends.Load()
		time.Sleep(time.Minute)
		if n := leader.up().transport.Load().appends.Load() - before; n > int64(machines-1)*60*50 { // heartbeats included
			t.Errorf("%d messages in a minute in which nothing happened", n)
		} else {
			t.Logf("a send took up to %v, the followers had it up to %v later; %d messages in a quiet minute", sending, telling, n)
		}
	})
}
