package fsm

import (
	"io"
	"time"
)

// leastPause is the shortest time that is worth sleeping.
const leastPause = 10 * time.Millisecond

// paced writes at most some bytes a second. What a slow receiver did not take is not made up for.
type paced struct {
	w    io.Writer
	rate float64
	due  time.Time // when the next write may come
}

// Write writes, and waits afterwards.
func (p *paced) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	now := time.Now()
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	if pause := p.due.Sub(now); pause > leastPause && err == nil {
		time.Sleep(pause)
	}
	return n, err
}
