// Package fanout hands committed events to those who listen. It never waits for a listener: one that
// is slow is told so, and reads from the state what it missed.
package fanout

import (
	"errors"
	"slices"
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
	mu       sync.Mutex // guards what follows, and rooms, due and changed of every Subscription
	accounts map[uint64]map[*Subscription]struct{}
	rooms    map[uint64]map[*Subscription]struct{}
	watches  map[state.Actor]map[*Watch]struct{}
	closed   bool
	woken    []*Subscription // by the events that are being published
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
	due     bool                // it is among those that Publish will wake
	changed map[uint64]struct{} // whose membership changed before Follow; nil after it

	taken []*Batch // by the last Next, which alone uses it

	mu    sync.Mutex // guards what follows
	queue []*Batch
	count int // events in the queue
	bytes int // of text in them
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
		s.end(ErrClosed)
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

// Publish hands events on, in the order of the log. It does not wait. Whoever gets something is woken
// when all of it is there, so that it goes out together.
func (h *Hub) Publish(events []state.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(events) > 0 {
		n := together(events)
		h.publish(events[:n])
		events = events[n:]
	}
	for i, s := range h.woken {
		s.due, h.woken[i] = false, nil
		s.Wake()
	}
	h.woken = h.woken[:0]
}

// together is how many of the first events go the same ways: messages in one room, or one event.
func together(events []state.Event) int {
	n := 1
	for events[0].Kind == state.MessageSent && n < len(events) && events[n].Kind == state.MessageSent && events[n].Room == events[0].Room {
		n++
	}
	return n
}

func (h *Hub) publish(events []state.Event) {
	e := &events[0]
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
		h.put(h.accounts[e.Account], events)
		return
	case e.Kind == state.MemberJoined:
		for s := range h.accounts[e.Account] {
			s.note(e.Room)
			s.follow(e.Room)
		}
	}
	h.put(h.rooms[e.Room], events)
	if e.Kind == state.MemberLeft {
		for s := range h.accounts[e.Account] {
			s.note(e.Room)
			s.unfollow(e.Room)
		}
	}
}

// put gives events to some. What it gives them is a copy: they may keep it, and what was committed
// beside it is not theirs to keep.
func (h *Hub) put(to map[*Subscription]struct{}, events []state.Event) {
	if len(to) == 0 {
		return
	}
	b := &Batch{Events: slices.Clone(events)}
	for i := range events {
		b.bytes += len(events[i].Text)
	}
	for s := range to {
		s.put(b)
		if !s.due {
			s.due = true
			h.woken = append(h.woken, s)
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

func (s *Subscription) put(b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return
	}
	if s.count+len(b.Events) > maxQueued || s.bytes+b.bytes > maxQueuedBytes {
		s.queue, s.over = nil, ErrLagged
		return
	}
	s.queue = append(s.queue, b)
	s.count += len(b.Events)
	s.bytes += b.bytes
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	if s.over == nil {
		s.over = err
	}
	s.mu.Unlock()
	s.Wake()
}

// Wake has Next return, though nothing may have come.
func (s *Subscription) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for events, or for Wake, and returns what has come, in order. It is the caller's until
// the next call. The error is ErrLagged, ErrEnded or ErrClosed when there will be no more. One
// goroutine calls it.
func (s *Subscription) Next() ([]*Batch, error) {
	clear(s.taken) // what is sent is not kept
	<-s.wake
	return s.take()
}

func (s *Subscription) take() ([]*Batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return nil, s.over
	}
	s.queue, s.taken = s.taken[:0], s.queue
	s.count, s.bytes = 0, 0
	return s.taken, nil
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
