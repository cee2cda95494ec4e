package fsm

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestProgress_Waiters: each wakes at its own index and not before, in whatever order they came, and
// who gives up is forgotten at once.
func TestProgress_Waiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 500
		var p progress
		var mu sync.Mutex
		woken, gaveUp := map[uint64]int{}, 0
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		r := rand.New(rand.NewPCG(3, 3))
		want := map[uint64]int{}
		for range n {
			index, patient := 1+r.Uint64N(n/2), r.IntN(4) > 0
			with := ctx
			if patient {
				with = t.Context()
				want[index]++
			}
			go func() {
				err := p.wait(with, index, nil, nil)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && p.get() < index:
					t.Errorf("woken at %d for %d", p.get(), index)
				case err == nil:
					woken[index]++
				case err == gone && !patient:
					gaveUp++
				default:
					t.Errorf("got %v", err)
				}
			}()
		}
		synctest.Wait()
		if len(p.waiters) != n {
			t.Fatalf("%d wait, want %d", len(p.waiters), n)
		}
		cancel(gone)
		synctest.Wait()
		patient := 0
		for _, k := range want {
			patient += k
		}
		if gaveUp != n-patient || len(p.waiters) != patient {
			t.Fatalf("%d gave up and %d wait, want %d and %d", gaveUp, len(p.waiters), n-patient, patient)
		}
		for index := uint64(0); index <= n/2; {
			index += r.Uint64N(20)
			p.advance(index)
			p.advance(index / 2) // it never goes back
			synctest.Wait()
			if p.get() != index {
				t.Fatalf("at %d, want %d", p.get(), index)
			}
			for at, k := range want {
				if got := woken[at]; at <= index && got != k || at > index && got != 0 {
					t.Errorf("at %d: %d of %d were woken for %d", index, got, k, at)
				}
			}
		}
		if len(p.waiters) != 0 || len(slices.DeleteFunc(p.waiters[:cap(p.waiters)], func(w *waiter) bool { return w == nil })) != 0 {
			t.Error("some are left in the heap")
		}
		if err := p.wait(ctx, p.get(), nil, nil); err != nil {
			t.Errorf("what is there already: got %v", err)
		}
	})
}

// TestProgress_Stop: a fault wakes all who wait.
func TestProgress_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p progress
		sick := errors.New("sick")
		stop, got := make(chan struct{}), make(chan error, 100)
		for i := range cap(got) {
			go func() { got <- p.wait(t.Context(), uint64(1+i%7), stop, func() error { return sick }) }()
		}
		synctest.Wait()
		close(stop)
		for range cap(got) {
			if err := <-got; err != sick {
				t.Errorf("got %v, want %v", err, sick)
			}
		}
		if len(p.waiters) != 0 {
			t.Errorf("%d are left waiting", len(p.waiters))
		}
	})
}
