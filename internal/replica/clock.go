package replica

import (
	"sync"
	"time"
)

// maxStep is how far the wall clock may step away from where the monotonic clock says it should be.
const maxStep = 5 * time.Minute

// clock stamps entries. Log time drives what expires, and never goes back, so a leader whose wall
// clock jumps to 2036 would end every session for good: a jump is not believed until a restart.
type clock struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	start time.Time  // with its monotonic reading
	skew  time.Duration
}

func newClock(now func() time.Time) *clock { return &clock{now: now, start: now()} }

// stampMS is the time for an entry, in milliseconds since 1970.
func (c *clock) stampMS() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	steady := c.start.Round(0).Add(now.Sub(c.start)) // by the monotonic clock
	wall := now.Round(0)
	if c.skew = wall.Sub(steady); c.skew.Abs() > maxStep {
		return steady.UnixMilli()
	}
	return wall.UnixMilli()
}

// stepped is how far the wall clock has jumped, 0 when it is believed.
func (c *clock) stepped() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.skew.Abs() > maxStep {
		return c.skew
	}
	return 0
}
