package client

import (
	"context"
	"slices"
	"sync"
)

// inbox has the events of a subscription that its caller has not taken yet: buffered of them, and one
// frame.
type inbox struct {
	ready chan struct{} // one slot: there is something for next
	room  chan struct{} // one slot: put may go on

	mu     sync.Mutex // guards what follows
	events []Event
	full   bool  // an offer was refused
	over   error // why there will be no more
}

func newInbox() inbox { return inbox{ready: make(chan struct{}, 1), room: make(chan struct{}, 1)} }

// offer adds the events of a frame, which may be those of other inboxes too; it reports false when the
// caller has not taken enough of what is there.
func (b *inbox) offer(events []Event) bool {
	if len(events) == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full = len(b.events) >= buffered; b.full {
		return false
	}
	if len(b.events) == 0 {
		b.events = events
	} else {
		b.events = append(b.events[:len(b.events):len(b.events)], events...)
	}
	signal(b.ready)
	return true
}

// put is offer that waits for the caller.
func (b *inbox) put(ctx context.Context, events []Event) error {
	for !b.offer(events) {
		select {
		case <-b.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// next takes an event; ok is false when there is none. What comes before the end is delivered before
// the error.
func (b *inbox) next() (e Event, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok = len(b.events) > 0; ok {
		e = b.events[0]
		e.Seqs = slices.Clone(e.Seqs) // the rest of an event cannot be changed
		b.events = b.events[1:]
	} else if b.over != nil {
		err = b.over
	}
	if len(b.events) == 0 {
		b.events = nil
	}
	if len(b.events) > 0 || b.over != nil { // for who else may wait
		signal(b.ready)
	}
	if b.full && len(b.events) < buffered {
		b.full = false
		signal(b.room)
	}
	return e, ok, err
}

// end has next fail when all is taken.
func (b *inbox) end(err error) {
	b.mu.Lock()
	b.over = err
	b.mu.Unlock()
	signal(b.ready)
}

// signal fills a channel of one slot.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
