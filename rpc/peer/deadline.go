package peer

import (
	"sync"
	"time"
)

// deadline is a channel that is closed when the time has come; set may move it at any time.
type deadline struct {
	mu     sync.Mutex // guards what follows
	passed chan struct{}
	timer  *time.Timer
	turn   int // counts calls of set, so that a late timer does no harm
}

func newDeadline() *deadline { return &deadline{passed: make(chan struct{})} }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn++
	if d.timer != nil {
		d.timer.Stop()
	}
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	switch wait, turn := time.Until(t), d.turn; {
	case t.IsZero():
	case wait <= 0:
		close(d.passed)
	default:
		d.timer = time.AfterFunc(wait, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if turn == d.turn {
				close(d.passed)
			}
		})
	}
}
