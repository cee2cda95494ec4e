package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/cursor"
	"example.com/chat/rpc/chatpb"
)

// feeds is what nodes say of one log of messages, to streams from a cursor or from now.
type feeds struct {
	mu     sync.Mutex // guards what follows
	last   int
	more   chan struct{} // closed when there is more
	open   int           // streams
	opened int
	broken chan struct{} // closed to end all streams
}

func newFeeds() *feeds { return &feeds{more: make(chan struct{}), broken: make(chan struct{})} }

func (f *feeds) say(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last += n
	close(f.more)
	f.more = make(chan struct{})
}

// fail ends all streams.
func (f *feeds) fail() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.broken)
	f.broken = make(chan struct{})
}

func (f *feeds) streams() (open, opened int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open, f.opened
}

func (f *feeds) subscribe(_ int, r *chatpb.SubscribeRequest, s serverStream) error {
	f.mu.Lock()
	sent, broken := f.last, f.broken
	f.open++
	f.opened++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	if r.Cursor != "" {
		c, err := cursor.Parse(r.Cursor)
		if err != nil {
			return over(err)
		}
		sent = int(c.Index)
	}
	for first := true; ; first = false {
		f.mu.Lock()
		last, more := f.last, f.more
		f.mu.Unlock()
		for first || sent < last {
			to := min(last, sent+100)
			if err := s.Send(frame(sent+1, to)); err != nil {
				return err
			}
			sent, first = to, false
		}
		select {
		case <-more:
		case <-time.After(5 * time.Second):
			if err := s.Send(frame(sent+1, sent)); err != nil {
				return err
			}
		case <-broken:
			return over(chaterr.ErrDraining)
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// sharing is a client of one node, and n subscriptions.
func sharing(t *testing.T, n int) (*feeds, *Client, []*Subscription) {
	t.Helper()
	c, f := newCluster(t), newFeeds()
	node := c.node("n1:1")
	node.subscribe = f.subscribe
	cl := c.client(node)
	var subs []*Subscription
	for range n {
		s, err := cl.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	synctest.Wait()
	return f, cl, subs
}

// wantStreams checks how many streams the node has.
func (f *feeds) wantStreams(t *testing.T, what string, open, opened int) {
	t.Helper()
	synctest.Wait()
	if o, all := f.streams(); o != open || all != opened {
		t.Errorf("%s: %d streams of %d are open, want %d of %d", what, o, all, open, opened)
	}
}

// TestShare_OneStream: subscriptions that are at one place need one stream, whoever of them has it; one
// that is closed, and a node that breaks off, cost the others nothing but a stream.
func TestShare_OneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, subs := sharing(t, 5)
		f.wantStreams(t, "at the beginning", 1, 5)
		next := 1
		all := func(what string, subs []*Subscription) {
			f.say(2)
			for i, s := range subs {
				if got := take(t, s, 2); !slices.Equal(got, []uint64{uint64(next), uint64(next + 1)}) {
					t.Errorf("%s: subscription %d got %v, want from %d", what, i, got, next)
				}
			}
			next += 2
		}
		all("all", subs)
		_ = subs[0].Close() // the first one has the stream
		f.say(1)            // while nobody has
		time.Sleep(time.Second)
		for _, s := range subs[1:] {
			take(t, s, 1)
		}
		next++
		f.wantStreams(t, "after the first was closed", 1, 6)
		all("after the first was closed", subs[1:])
		_ = subs[1].Close()
		_ = subs[4].Close()
		time.Sleep(time.Second)
		all("after two more were closed", subs[2:4])
		f.fail()
		f.say(1)
		for _, s := range subs[2:4] {
			take(t, s, 1)
		}
		next++
		all("after the stream broke", subs[2:4])
		if open, _ := f.streams(); open != 1 {
			t.Errorf("%d streams are open, want 1", open)
		}
	})
}

// TestShare_Slow: a subscription whose caller does not take what comes holds up no other, whether it has
// the stream or not, and loses nothing.
func TestShare_Slow(t *testing.T) {
	for slow := range 3 {
		t.Run(fmt.Sprint(slow), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const count = 40 * buffered
				f, _, subs := sharing(t, 3)
				for n := 0; n < count; n += 64 {
					f.say(64)
					for i, s := range subs {
						if i == slow {
							continue
						}
						if d := took(func() { take(t, s, 64) }); d > time.Second {
							t.Fatalf("subscription %d had to wait for %v", i, d)
						}
					}
				}
				for i, seq := range take(t, subs[slow], count) {
					if seq != uint64(i)+1 {
						t.Fatalf("the slow one got %d, want %d", seq, i+1)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if open, _ := f.streams(); open != 1 {
					t.Errorf("%d streams are open after all have caught up, want 1", open)
				}
			})
		})
	}
}

// TestShare_Places: a rider that is further than the carrier is not told again what it knows, and the one
// that is least far has the next stream.
func TestShare_Places(t *testing.T) {
	sub := func(index uint64) *Subscription {
		return &Subscription{c: &Client{}, inbox: newInbox(), alone: make(chan struct{}, 1), at: cursor.Cursor{Cluster: "c", Position: cursor.At(index, 0)}}
	}
	first, ahead, behind, other := sub(3), sub(9), sub(5), sub(7)
	sh := &share{riders: map[*Subscription]struct{}{}}
	for i, s := range []*Subscription{first, ahead, behind, other} {
		if rides := sh.join(s, 0); rides != (i > 0) {
			t.Errorf("subscription %d rides: %v", i, rides)
		}
	}
	if late := sub(2); sh.join(late, 0) {
		t.Error("one that is behind the carrier would miss what the carrier had")
	}
	for index := uint64(4); index <= 6; index++ {
		at := cursor.Cursor{Cluster: "c", Position: cursor.At(index, 0)}
		sh.carry(first, []Event{{Message: Message{Seq: index}}}, []cursor.Position{at.Position}, at)
	}
	if len(ahead.inbox.events) != 0 || len(other.inbox.events) != 0 || len(behind.inbox.events) != 1 || behind.inbox.events[0].Message.Seq != 6 {
		t.Errorf("got %v, %v and %v", ahead.inbox.events, other.inbox.events, behind.inbox.events)
	}
	sh.leave(first)
	if sh.carrier != behind || len(behind.alone) != 1 || len(sh.riders) != 2 || sh.live {
		t.Errorf("the carrier is at %v, with %d riders", sh.carrier.at, len(sh.riders))
	}
	if sh.join(first, 0) {
		t.Error("who has no stream carries")
	}
}

// TestShare_NoGapNoRepeat: subscriptions that begin now or at some cursor, are slow at times, are closed, and
// whose streams break, get each message once and in order.
func TestShare_NoGapNoRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 6000
		f, cl, _ := sharing(t, 0)
		var work sync.WaitGroup
		for i := range 24 {
			work.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				next := uint64(0)
				for next <= count {
					var o SubscribeOptions
					if next > 0 && r.IntN(2) == 0 {
						o.Cursor = at(int(next) - 1)
					} else {
						next = 0
					}
					s, err := cl.Subscribe(t.Context(), o)
					if err != nil {
						t.Error(err)
						return
					}
					for n := r.IntN(5000); n > 0 && next <= count; n-- {
						e, err := s.Next(t.Context())
						if err != nil || next != 0 && e.Message.Seq != next {
							t.Errorf("subscription %d got %d, %v, want %d", i, e.Message.Seq, err, next)
							return
						}
						next = e.Message.Seq + 1
						if r.IntN(300) == 0 {
							time.Sleep(time.Duration(r.IntN(int(time.Second))))
						}
					}
					_ = s.Close()
				}
			})
		}
		ended := make(chan struct{})
		go func() { work.Wait(); close(ended) }()
		r := rand.New(rand.NewPCG(2, 2))
		for done := false; !done; {
			f.say(1 + r.IntN(60))
			if r.IntN(50) == 0 {
				f.fail()
			}
			select {
			case <-ended:
				done = true
			case <-time.After(time.Duration(r.IntN(int(20 * time.Millisecond)))):
			}
		}
		cl.mu.Lock()
		defer cl.mu.Unlock()
		if len(cl.shares) != 0 {
			t.Errorf("still known: %v", cl.shares)
		}
	})
}

// TestShare_OnLive: who wants to know about its stream has one, and hears of its end.
func TestShare_OnLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cl, _ := sharing(t, 2)
		var told []bool
		if _, err := cl.Subscribe(t.Context(), SubscribeOptions{OnLive: func(live bool) { told = append(told, live) }}); err != nil {
			t.Fatal(err)
		}
		f.say(3)
		synctest.Wait()
		if open, _ := f.streams(); open != 2 {
			t.Errorf("%d streams, want 2", open)
		}
		f.fail()
		time.Sleep(time.Second)
		if err := cl.Close(); err != nil { // and waits for who tells
			t.Error(err)
		}
		if want := []bool{true, false, true}; !slices.Equal(told, want) {
			t.Errorf("was told %v, want %v", told, want)
		}
	})
}
