// Package fanout hands committed events to those who listen. It never waits for a listener: one that
// is slow is told so, and reads from the state what it missed.
package fanout

import (
	"context"
	"errors"
	"sync"

	"example.com/chat/fsm/state"
)

// A subscription holds at most so many events, and bytes of text in them.
const (
	maxQueued      = 1024
	maxQueuedBytes = 1 << 20
)

// ErrLagged: events were left out, because the subscription's queue was full or a snapshot was
// installed. Subscribe anew, and read what was missed from the state.
var ErrLagged = errors.New("events were left out")

// ErrEnded: the session that the subscription belongs to is over.
var ErrEnded = errors.New("the session has ended")

// ErrClosed: the hub was closed.
var ErrClosed = errors.New("closed")

// Hub knows who listens to what. It is safe for concurrent use.
type Hub struct {
	mu       sync.Mutex // guards what follows, and the following of every Subscription
	accounts map[uint64]map[*Subscription]struct{}
	rooms    map[uint64]map[*Subscription]struct{}
	watches  map[state.Actor]map[*Watch]struct{}
	closed   bool
}

// NewHub makes a hub without listeners.
func NewHub() *Hub {
	return &Hub{
		accounts: map[uint64]map[*Subscription]struct{}{}, rooms: map[uint64]map[*Subscription]struct{}{},
		watches: map[state.Actor]map[*Watch]struct{}{},
	}
}

// Subscription gets the events of one account, for one session.
type Subscription struct {
	h     *Hub
	actor state.Actor
	wake  chan struct{} // one slot: something came

	rooms   map[uint64]struct{} // that it listens to
	changed map[uint64]struct{} // whose membership changed before Follow; nil after it

	mu    sync.Mutex // guards what follows
	queue []state.Event
	bytes int
	over  error
}

// Subscribe begins to listen to an account's private events and to changes of its memberships. The
// caller then reads from the state which rooms the account is in, and calls Follow with them. What
// was committed before Follow returned, the caller reads from the state too: what comes from Next
// overlaps with that, and has no gap to it.
func (h *Hub) Subscribe(a state.Actor) *Subscription {
	s := &Subscription{h: h, actor: a, wake: make(chan struct{}, 1), rooms: map[uint64]struct{}{}, changed: map[uint64]struct{}{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.over = ErrClosed
		return s
	}
	add(h.accounts, a.Account, s)
	return s
}

// Follow adds the rooms that the account was in at some time after Subscribe. A room whose
// membership has changed since Subscribe is left as the change has left it.
func (s *Subscription) Follow(rooms []uint64) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for _, r := range rooms {
		if _, ok := s.changed[r]; !ok {
			s.follow(r)
		}
	}
	s.changed = nil
}

// follow and unfollow are called with h.mu held.
func (s *Subscription) follow(room uint64) {
	s.rooms[room] = struct{}{}
	add(s.h.rooms, room, s)
}

func (s *Subscription) unfollow(room uint64) {
	delete(s.rooms, room)
	remove(s.h.rooms, room, s)
}

func add[K, L comparable](m map[K]map[L]struct{}, id K, s L) {
	if m[id] == nil {
		m[id] = map[L]struct{}{}
	}
	m[id][s] = struct{}{}
}

func remove[K, L comparable](m map[K]map[L]struct{}, id K, s L) {
	delete(m[id], s)
	if len(m[id]) == 0 {
		delete(m, id)
	}
}

// Publish hands events on, in the order of the log. It does not wait.
func (h *Hub) Publish(events []state.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range events {
		h.publish(&events[i])
	}
}

func (h *Hub) publish(e *state.Event) {
	switch {
	case e.Kind == state.SessionEnded:
		for s := range h.accounts[e.Account] {
			if s.actor.Session == e.Session {
				s.end(ErrEnded)
			}
		}
		for w := range h.watches[state.Actor{Account: e.Account, Session: e.Session}] {
			w.notify()
		}
		return
	case e.Kind.Private():
		for s := range h.accounts[e.Account] {
			s.put(e)
		}
		return
	case e.Kind == state.MemberJoined:
		for s := range h.accounts[e.Account] {
			s.note(e.Room)
			s.follow(e.Room)
		}
	}
	for s := range h.rooms[e.Room] {
		s.put(e)
	}
	if e.Kind == state.MemberLeft {
		for s := range h.accounts[e.Account] {
			s.note(e.Room)
			s.unfollow(e.Room)
		}
	}
}

func (s *Subscription) note(room uint64) {
	if s.changed != nil {
		s.changed[room] = struct{}{}
	}
}

// Skipped tells everybody that events were left out.
func (h *Hub) Skipped() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, watches := range h.watches {
		for w := range watches {
			w.notify()
		}
	}
	for _, subs := range h.accounts {
		for s := range subs {
			s.end(ErrLagged)
		}
	}
}

// Close ends all subscriptions, and those that are made later.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, subs := range h.accounts {
		for s := range subs {
			s.end(ErrClosed)
		}
	}
}

func (s *Subscription) put(e *state.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return
	}
	if len(s.queue) == maxQueued || s.bytes+len(e.Text) > maxQueuedBytes {
		s.queue, s.over = nil, ErrLagged
	} else {
		s.queue = append(s.queue, *e)
		s.bytes += len(e.Text)
	}
	s.notify()
}

// notify is called with mu held.
func (s *Subscription) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = err
	}
	s.notify()
}

// Next returns the events that have come, at least one, in order. It fails with ErrLagged, ErrEnded
// or ErrClosed when there will be no more, or with the error of ctx. One goroutine calls it.
func (s *Subscription) Next(ctx context.Context) ([]state.Event, error) {
	for {
		events, err := s.take()
		if len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Subscription) take() ([]state.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return nil, s.over
	}
	events := s.queue
	s.queue, s.bytes = nil, 0
	return events, nil
}

// Close stops listening.
func (s *Subscription) Close() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	remove(s.h.accounts, s.actor.Account, s)
	for r := range s.rooms {
		remove(s.h.rooms, r, s)
	}
}
