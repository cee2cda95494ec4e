package client

import (
	"sync"
	"time"
)

// watch ends a stream that has said nothing for silence. A frame costs it a look at the clock, and no
// timer.
type watch struct {
	cut func() // ends the stream

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	heard time.Time
	held  bool // the caller is waited for: the time that takes is not the node's
}

func newWatch(cut func()) *watch {
	w := &watch{cut: cut, heard: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(silence, w.look)
	return w
}

// look is called when the time may be up.
func (w *watch) look() {
	w.mu.Lock()
	left := silence - time.Since(w.heard)
	if w.held {
		left = silence
	}
	if left > 0 {
		w.timer.Reset(left)
	}
	w.mu.Unlock()
	if left <= 0 {
		w.cut()
	}
}

// doubt ends the stream if it has said nothing for as long as patience.
func (w *watch) doubt() {
	w.mu.Lock()
	quiet := !w.held && time.Since(w.heard) >= patience
	w.mu.Unlock()
	if quiet {
		w.cut()
	}
}

// hear notes that there was a frame.
func (w *watch) hear() {
	now := time.Now()
	w.mu.Lock()
	w.heard = now
	w.mu.Unlock()
}

// hold stops the watch, or lets it go on from now.
func (w *watch) hold(on bool) {
	now := time.Now()
	w.mu.Lock()
	w.held, w.heard = on, now
	w.mu.Unlock()
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}
