package replica

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// TestWorkers: a job gets the goroutine of one that is done, never waits for one that is not, and none are left at
// the end.
func TestWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over, spawned, refuse := make(chan struct{}), 0, false
		w := newWorkers(func(f func()) bool {
			if refuse {
				return false
			}
			spawned++
			go f()
			return true
		}, over)
		ran := 0
		for range 3 {
			if !w.do(func() { ran++ }) {
				t.Error("refused")
			}
			synctest.Wait()
		}
		if ran != 3 || spawned != 1 {
			t.Errorf("one after the other: %d ran, on %d goroutines", ran, spawned)
		}
		hold := make(chan struct{})
		for range 3 {
			w.do(func() { <-hold })
			synctest.Wait()
		}
		if spawned != 3 {
			t.Errorf("three at a time: %d goroutines", spawned)
		}
		refuse = true
		if w.do(func() {}) {
			t.Error("a job was taken that nobody does")
		}
		close(hold)
		synctest.Wait()
		if !w.do(runtime.Goexit) { // as a call of a failed disk does
			t.Error("refused, though there are goroutines for it")
		}
		synctest.Wait()
		close(over) // the bubble ends when all have
	})
}
