package files

import (
	"fmt"
	"sync"
	"time"
)

// Calls are the calls of a disk that are under way. It is safe for concurrent use; its zero value is
// none.
type Calls struct {
	mu    sync.Mutex // guards what follows
	under map[*Call]bool
}

// Call is one of them.
type Call struct {
	what, of string
	start    time.Time
}

// Begin notes a call: what it does, and of which file, if it is not always the same.
func (c *Calls) Begin(what, of string) *Call {
	call := &Call{what, of, time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under == nil {
		c.under = map[*Call]bool{}
	}
	c.under[call] = true
	return call
}

// End forgets a call.
func (c *Calls) End(call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.under, call)
}

// oldest is the call that has been under way for longest, nil when there is none.
func (c *Calls) oldest() (oldest *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for call := range c.under {
		if oldest == nil || call.start.Before(oldest.start) {
			oldest = call
		}
	}
	return oldest
}

// Watch returns an error that names the first call that has been under way for as long as limit, or
// nil when stop is closed.
func (c *Calls) Watch(limit time.Duration, stop <-chan struct{}) error {
	tick := time.NewTicker(max(limit/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if o := c.oldest(); o != nil && time.Since(o.start) >= limit {
				return fmt.Errorf("%s has waited for the disk for %v", o, time.Since(o.start).Round(time.Millisecond))
			}
		case <-stop:
			return nil
		}
	}
}

// String is what the call does.
func (c *Call) String() string {
	if c.of == "" {
		return c.what
	}
	return c.what + " " + c.of
}
