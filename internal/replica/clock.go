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
	wall    func() time.Time     // what the machine says
	elapsed func() time.Duration // since the clock was made, by the monotonic clock

	mu    sync.Mutex // guards what follows
	start time.Time  // by the wall clock
	skew  time.Duration
}

func newClock(wall func() time.Time, elapsed func() time.Duration) *clock {
	return &clock{wall: wall, elapsed: elapsed, start: wall()}
}

// machineClock is the clock of this machine.
func machineClock() *clock {
	start := time.Now()
	return newClock(func() time.Time { return time.Now().Round(0) }, func() time.Duration { return time.Since(start) })
}

// stampMS is the time for an entry, in milliseconds since 1970.
func (c *clock) stampMS() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, steady := c.wall(), c.start.Add(c.elapsed())
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
