package fanout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/cursor"
)

// log makes events with the positions that a log would give them.
type log struct{ index uint64 }

func (l *log) next(e state.Event) state.Event {
	l.index++
	e.Position = cursor.At(l.index, 0)
	return e
}

func (l *log) message(room uint64, text string) state.Event {
	return l.next(state.Event{Kind: state.MessageSent, Room: room, Text: text})
}

func (l *log) joined(room, account uint64) state.Event {
	return l.next(state.Event{Kind: state.MemberJoined, Room: room, Account: account})
}

func (l *log) left(room, account uint64) state.Event {
	return l.next(state.Event{Kind: state.MemberLeft, Room: room, Account: account})
}

// subscribe listens for a session of an account that is in some rooms. It ends with the test.
func subscribe(t *testing.T, h *Hub, a state.Actor, rooms ...uint64) *Subscription {
	t.Helper()
	s := h.Subscribe(a)
	s.Follow(rooms)
	t.Cleanup(s.Close)
	return s
}

// events are those of some batches.
func events(batches []*Batch, err error) (all []state.Event, _ error) {
	for _, b := range batches {
		all = append(all, b.Events...)
	}
	return all, err
}

// got is what has come so far, as "room text" and so on.
func got(t *testing.T, s *Subscription) (all []string) {
	t.Helper()
	events, err := events(s.take())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[state.Kind]string{
		state.MessageSent: "message", state.MemberJoined: "joined", state.MemberLeft: "left",
		state.MarkerMoved: "marker", state.MessagesHidden: "hidden",
	}
	for _, e := range events {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s", e.Room, kinds[e.Kind], e.Text)))
	}
	return all
}

// TestHub_Concerned: an event reaches every session of those whom it concerns, and nobody else.
func TestHub_Concerned(t *testing.T) {
	h, l := NewHub(), &log{}
	alice, phone := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7), subscribe(t, h, state.Actor{Account: 1, Session: 2}, 7)
	bob := subscribe(t, h, state.Actor{Account: 2, Session: 3}, 7, 8)
	carol := subscribe(t, h, state.Actor{Account: 3, Session: 4}, 8)
	h.Publish([]state.Event{
		l.message(7, "one"),
		l.message(8, "two"),
		l.next(state.Event{Kind: state.MarkerMoved, Account: 1, Room: 7}),
		l.next(state.Event{Kind: state.MessagesHidden, Account: 3, Room: 8}),
		l.message(9, "nobody is in this room"),
	})
	for name, tt := range map[string]struct {
		s    *Subscription
		want []string
	}{
		"alice":          {alice, []string{"7 message one", "7 marker"}},
		"alice, a phone": {phone, []string{"7 message one", "7 marker"}},
		"bob":            {bob, []string{"7 message one", "8 message two"}},
		"carol":          {carol, []string{"8 message two", "8 hidden"}},
	} {
		if got := got(t, tt.s); !slices.Equal(got, tt.want) {
			t.Errorf("%s got %q, want %q", name, got, tt.want)
		}
	}
}

// TestHub_Membership: whoever comes into a room hears that he did and all that follows; whoever leaves
// hears that he did and nothing after it.
func TestHub_Membership(t *testing.T) {
	h, l := NewHub(), &log{}
	alice := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7)
	bob := subscribe(t, h, state.Actor{Account: 2, Session: 2})
	h.Publish([]state.Event{l.message(7, "before"), l.joined(7, 2), l.message(7, "in"), l.left(7, 2), l.message(7, "after")})
	if got, want := got(t, bob), []string{"7 joined", "7 message in", "7 left"}; !slices.Equal(got, want) {
		t.Errorf("bob got %q, want %q", got, want)
	}
	if got, want := got(t, alice), []string{"7 message before", "7 joined", "7 message in", "7 left", "7 message after"}; !slices.Equal(got, want) {
		t.Errorf("alice got %q, want %q", got, want)
	}
}

// TestHub_FollowIsLate: the rooms that Follow is given were read a while ago. What has changed since
// counts.
func TestHub_FollowIsLate(t *testing.T) {
	for name, tt := range map[string]struct {
		meanwhile func(*log) state.Event
		rooms     []uint64 // as they were read
		want      []string
	}{
		"nothing":            {nil, []uint64{7}, []string{"7 message later"}},
		"left meanwhile":     {func(l *log) state.Event { return l.left(7, 1) }, []uint64{7}, nil},
		"joined meanwhile":   {func(l *log) state.Event { return l.joined(7, 1) }, nil, []string{"7 joined", "7 message later"}},
		"joined, and read":   {func(l *log) state.Event { return l.joined(7, 1) }, []uint64{7}, []string{"7 joined", "7 message later"}},
		"somebody else left": {func(l *log) state.Event { return l.left(7, 2) }, []uint64{7}, []string{"7 message later"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := NewHub(), &log{}
			s := h.Subscribe(state.Actor{Account: 1, Session: 1})
			defer s.Close()
			if tt.meanwhile != nil {
				h.Publish([]state.Event{tt.meanwhile(l)})
			}
			s.Follow(tt.rooms)
			h.Publish([]state.Event{l.message(7, "later")})
			if got := got(t, s); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHub_OnceAndInOrder: while rooms are busy and people come and go, each event reaches each
// subscriber once and in the order of the log.
func TestHub_OnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count, subscribers = 5000, 8
		h, l := NewHub(), &log{}
		var wg sync.WaitGroup
		for i := range subscribers {
			s := subscribe(t, h, state.Actor{Account: uint64(i), Session: uint64(i)}, 7)
			wg.Go(func() {
				next := uint64(1)
				for next <= count {
					events, err := events(s.Next())
					if err != nil {
						t.Errorf("subscriber %d at %d: %v", i, next, err)
						return
					}
					for _, e := range events {
						if e.Index != next {
							t.Errorf("subscriber %d got %d, want %d", i, e.Index, next)
							return
						}
						next++
					}
				}
			})
		}
		wg.Go(func() { // in the way of the publisher
			for range 100 {
				s := h.Subscribe(state.Actor{Account: 99})
				s.Follow([]uint64{7})
				s.Close()
				time.Sleep(time.Millisecond)
			}
		})
		for range count / 100 {
			var batch []state.Event
			for range 100 {
				batch = append(batch, l.message(7, "hello"))
			}
			h.Publish(batch)
			time.Sleep(time.Millisecond) // the subscribers keep up
		}
		wg.Wait()
		if len(h.rooms[7]) != subscribers || len(h.accounts) != subscribers {
			t.Errorf("the hub knows %d subscriptions and %d accounts, want %d", len(h.rooms[7]), len(h.accounts), subscribers)
		}
	})
}

// TestHub_Lagged: whoever does not take events is told so, and costs nobody else anything: not the
// publisher, who does not wait, and not the others, who get all.
func TestHub_Lagged(t *testing.T) {
	for name, tt := range map[string]struct{ count, size int }{
		"too many": {maxQueued + 1, 1},
		"too much": {maxQueuedBytes/state.MaxText + 1, state.MaxText},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := NewHub(), &log{}
			slow := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7)
			quick := subscribe(t, h, state.Actor{Account: 2, Session: 2}, 7)
			text, taken := strings.Repeat("x", tt.size), 0
			for range 2 * tt.count {
				h.Publish([]state.Event{l.message(7, text)})
				events, err := events(quick.take())
				if err != nil {
					t.Fatal(err)
				}
				taken += len(events)
			}
			if want := 2 * tt.count; taken != want {
				t.Errorf("the quick one got %d, want %d", taken, want)
			}
			if events, err := events(slow.Next()); len(events) > 0 || !errors.Is(err, ErrLagged) {
				t.Errorf("the slow one got %d events, %v; want none, and ErrLagged", len(events), err)
			}
			if cap(slow.queue) != 0 {
				t.Errorf("the slow one still holds %d events", cap(slow.queue))
			}
		})
	}
}

// TestHub_Bounded: just as much as is allowed is no lag.
func TestHub_Bounded(t *testing.T) {
	h, l := NewHub(), &log{}
	s := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7)
	for range maxQueued {
		h.Publish([]state.Event{l.message(7, "x")})
	}
	if events, err := events(s.take()); len(events) != maxQueued || err != nil {
		t.Fatalf("got %d, %v, want %d", len(events), err, maxQueued)
	}
	h.Publish([]state.Event{l.message(7, "there is room again")})
	if events, err := events(s.take()); len(events) != 1 || err != nil {
		t.Errorf("got %d, %v, want 1", len(events), err)
	}
}

// TestHub_Ends: what ends a subscription, with which error, and whom it leaves alone. What was queued
// for a session that has ended is not delivered.
func TestHub_Ends(t *testing.T) {
	for name, tt := range map[string]struct {
		end         func(*Hub, *log)
		want, other error // of session 1 of account 1, and of session 2
	}{
		"its session": {func(h *Hub, l *log) {
			h.Publish([]state.Event{l.next(state.Event{Kind: state.SessionEnded, Account: 1, Session: 1})})
		}, ErrEnded, nil},
		"the other one": {func(h *Hub, l *log) {
			h.Publish([]state.Event{l.next(state.Event{Kind: state.SessionEnded, Account: 1, Session: 2})})
		}, nil, ErrEnded},
		"somebody else's": {func(h *Hub, l *log) {
			h.Publish([]state.Event{l.next(state.Event{Kind: state.SessionEnded, Account: 2, Session: 1})})
		}, nil, nil},
		"a snapshot":       {func(h *Hub, _ *log) { h.Skipped() }, ErrLagged, ErrLagged},
		"the end of hub":   {func(h *Hub, _ *log) { h.Close() }, ErrClosed, ErrClosed},
		"both, one by one": {func(h *Hub, _ *log) { h.Skipped(); h.Close() }, ErrLagged, ErrLagged},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := NewHub(), &log{}
			s := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7)
			other := subscribe(t, h, state.Actor{Account: 1, Session: 2}, 7)
			h.Publish([]state.Event{l.message(7, "queued")})
			tt.end(h, l)
			h.Publish([]state.Event{l.message(7, "too late")})
			for who, x := range map[*Subscription]error{s: tt.want, other: tt.other} {
				events, err := events(who.Next())
				if !errors.Is(err, x) || x != nil && len(events) > 0 || x == nil && len(events) != 2 {
					t.Errorf("session %d: %d events, %v; want %v", who.actor.Session, len(events), err, x)
				}
			}
		})
	}
}

// TestHub_Closed: who comes after Close is told so, and is not kept.
func TestHub_Closed(t *testing.T) {
	h := NewHub()
	h.Close()
	s := h.Subscribe(state.Actor{Account: 1})
	s.Follow([]uint64{7})
	if _, err := s.Next(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	s.Close()
	if len(h.accounts) != 0 || len(h.rooms) != 0 {
		t.Errorf("the hub still knows %d accounts and %d rooms", len(h.accounts), len(h.rooms))
	}
}

// TestSubscription_NextWaits: Next sleeps until there is something, or until it is woken; the next call
// goes on.
func TestSubscription_NextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, l := NewHub(), &log{}
		s := subscribe(t, h, state.Actor{Account: 1}, 7)
		time.AfterFunc(time.Second, s.Wake)
		time.AfterFunc(time.Minute, func() { h.Publish([]state.Event{l.message(7, "at last")}) })
		start := time.Now()
		for i, at := range []time.Duration{time.Second, time.Minute} {
			if events, err := events(s.Next()); len(events) != i || err != nil || time.Since(start) != at {
				t.Errorf("got %d events, %v after %v, want %d after %v", len(events), err, time.Since(start), i, at)
			}
		}
	})
}

// TestHub_Together: what goes the same ways is one batch, which all who get it share; it is there whole
// when the first of them wakes.
func TestHub_Together(t *testing.T) {
	h, l := NewHub(), &log{}
	alice := subscribe(t, h, state.Actor{Account: 1, Session: 1}, 7, 8)
	bob := subscribe(t, h, state.Actor{Account: 2, Session: 2}, 8)
	published := []state.Event{l.message(7, "a"), l.message(7, "b"), l.message(8, "c"), l.joined(8, 2), l.message(8, "d"), l.message(8, "e")}
	h.Publish(published)
	hers, err1 := alice.Next()
	his, err2 := bob.Next()
	if len(hers) != 4 || len(his) != 3 || err1 != nil || err2 != nil {
		t.Fatalf("got %d and %d batches, %v, %v; want 4 and 3", len(hers), len(his), err1, err2)
	}
	if len(hers[0].Events) != 2 || len(hers[3].Events) != 2 || hers[1] != his[0] || hers[3] != his[2] {
		t.Errorf("got %v and %v", hers, his)
	}
	published[0].Text = "changed by the publisher"
	made := 0
	for range 3 {
		first := func(e []state.Event) any { made++; return e[0].Text }
		if got := hers[0].Once(first); got != "a" || made != 1 {
			t.Errorf("got %v, made %d times", got, made)
		}
	}
}

// BenchmarkPublish: one message to n subscribers, who take it.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h, l := NewHub(), &log{}
			var subs []*Subscription
			for i := range n {
				s := h.Subscribe(state.Actor{Account: uint64(i)})
				s.Follow([]uint64{7})
				subs = append(subs, s)
			}
			b.ReportAllocs()
			for b.Loop() {
				h.Publish([]state.Event{l.message(7, "hello")})
				for _, s := range subs {
					if batches, err := s.Next(); len(batches) != 1 || err != nil {
						b.Fatal(len(batches), err)
					}
				}
			}
		})
	}
}
