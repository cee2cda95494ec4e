package replica

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// beats goes up while a sim's time passes, and sims is how many there are: read from outside of their bubbles.
var beats, sims atomic.Int64

// patience is how long time may stand still in a bubble. It passes by itself as soon as all goroutines there wait for it,
// or for each other; it stands still while one waits for a mutex, or runs round in a circle.
const patience = 3 * time.Minute

// TestMain ends the tests when the time in a sim's bubble stands still, and says whose fault that is. The test's own
// timeout would come much later, and bury it under a thousand goroutines that only wait.
func TestMain(m *testing.M) {
	go func() {
		last, since := int64(0), time.Now()
		for range time.Tick(time.Second) {
			if now := beats.Load(); now != last || sims.Load() == 0 {
				last, since = now, time.Now()
			}
			if time.Since(since) > patience {
				found := movers(stacks())
				fmt.Printf("time stands still in a bubble, for %d goroutines:\n%s\n", len(found), bytes.Join(found, []byte("\n\n")))
				os.Exit(1)
			}
		}
	}()
	os.Exit(m.Run())
}

// stacks are those of all goroutines.
func stacks() []byte {
	for b := make([]byte, 1<<20); ; b = make([]byte, 2*len(b)) {
		if n := runtime.Stack(b, true); n < len(b) {
			return b[:n]
		}
	}
}

// movers are the goroutines of bubbles for which time stands still.
func movers(stacks []byte) (found [][]byte) {
	for g := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		head, _, _ := bytes.Cut(g, []byte("\n"))
		if bytes.Contains(head, []byte("synctest bubble")) && !bytes.Contains(head, []byte("(durable)")) {
			found = append(found, g)
		}
	}
	return found
}

// TestMovers: one that waits for a mutex is found, and one that waits for its time is not.
func TestMovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held sync.Mutex
		held.Lock()
		go held.Lock()
		go time.Sleep(time.Second)
		has := func(what string) bool {
			return slices.ContainsFunc(movers(stacks()), func(g []byte) bool { return bytes.Contains(g, []byte(what)) })
		}
		for !has("[sync.Mutex.Lock,") {
			runtime.Gosched()
		}
		for has("time.Sleep(") {
			runtime.Gosched()
		}
		held.Unlock()
		time.Sleep(time.Minute)
	})
}
