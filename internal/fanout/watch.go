package fanout

import "example.com/chat/fsm/state"

// Watch tells of the end of one session.
type Watch struct {
	// C has something when the session may have ended: look at the state.
	C <-chan struct{}

	h     *Hub
	actor state.Actor
	wake  chan struct{} // one slot; the same as C
}

// Watch begins to watch a session. Who calls it looks at the state afterwards.
func (h *Hub) Watch(a state.Actor) *Watch {
	wake := make(chan struct{}, 1)
	w := &Watch{C: wake, h: h, actor: a, wake: wake}
	h.mu.Lock()
	defer h.mu.Unlock()
	add(h.watches, a, w)
	return w
}

func (w *Watch) notify() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Close stops watching.
func (w *Watch) Close() {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	remove(w.h.watches, w.actor, w)
}
