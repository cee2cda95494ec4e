package client

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

type serverStream = grpc.ServerStreamingServer[chatpb.SubscribeResponse]

// script sends frames, and then ends with an error, or when the caller goes.
func script(end error, frames ...*chatpb.SubscribeResponse) func(int, *chatpb.SubscribeRequest, serverStream) error {
	return func(_ int, _ *chatpb.SubscribeRequest, s serverStream) error {
		for _, f := range frames {
			if err := s.Send(f); err != nil {
				return err
			}
		}
		if end != nil {
			return over(end)
		}
		return freeze(s.Context())
	}
}

// take waits for some events and lists their numbers.
func take(t *testing.T, s *Subscription, n int) (seqs []uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range n {
		e, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", seqs, err)
		}
		seqs = append(seqs, e.Message.Seq)
	}
	return seqs
}

// TestSubscribe_Resumes: whatever ends a stream, the subscription goes on at another node where it was:
// it asks for what comes after the last event that it has, and passes over what it has seen.
func TestSubscribe_Resumes(t *testing.T) {
	for name, tt := range map[string]struct {
		first func(n *node, s serverStream) error // after three events
		took  time.Duration
	}{
		"the node dies":   {func(n *node, s serverStream) error { n.die(); return freeze(s.Context()) }, 20 * time.Millisecond},
		"it drains":       {func(*node, serverStream) error { return over(chaterr.ErrDraining) }, 20 * time.Millisecond},
		"it ends quietly": {func(*node, serverStream) error { return nil }, 20 * time.Millisecond},
		"it is silent":    {func(_ *node, s serverStream) error { return freeze(s.Context()) }, silence + 20*time.Millisecond},
		"it is cut off":   {func(n *node, s serverStream) error { n.c.net.Cut("client", n.addr); return freeze(s.Context()) }, silence + 20*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.subscribe = func(_ int, _ *chatpb.SubscribeRequest, s serverStream) error {
					if err := errors.Join(s.Send(frame(1, 0)), s.Send(frame(1, 3))); err != nil {
						return err
					}
					time.Sleep(time.Second) // until they have arrived
					return tt.first(n1, s)
				}
				n2.subscribe = script(nil, frame(2, 4), frame(4, 5), frame(1, 5), frame(6, 6)) // some of it again
				cl := c.client(n1, n2)
				s, err := cl.Subscribe(t.Context(), SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				take(t, s, 3)
				time.Sleep(time.Second)
				var got []uint64
				if d := took(func() { got = take(t, s, 3) }); d > tt.took || !slices.Equal(got, []uint64{4, 5, 6}) {
					t.Errorf("got %v after %v, want 4 to 6 within %v", got, d, tt.took)
				}
				n2.mu.Lock()
				defer n2.mu.Unlock()
				if !slices.Equal(n2.cursors, []string{at(3)}) {
					t.Errorf("the second node was asked for %q, want %q", n2.cursors, at(3))
				}
			})
		})
	}
}

// TestSubscribe_FrozenNode: a node that takes the stream and never says a word is left as well.
func TestSubscribe_FrozenNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1, n2 := c.node("n1:1"), c.node("n2:1")
		n1.subscribe, n2.subscribe = script(nil), script(nil, frame(1, 0), frame(1, 1))
		cl := c.client(n1, n2)
		var s *Subscription
		var err error
		if d := took(func() { s, err = cl.Subscribe(t.Context(), SubscribeOptions{}) }); err != nil || d > silence+20*time.Millisecond {
			t.Fatalf("got %v after %v", err, d)
		}
		take(t, s, 1)
	})
}

// TestSubscribe_Doubted: when a send shows that a node does not answer, the subscriptions there go on at another one, and
// do not wait for its heartbeats to be missed. A stream that speaks, and a send of a caller with less time, change nothing.
func TestSubscribe_Doubted(t *testing.T) {
	for name, tt := range map[string]struct {
		says  time.Duration // how often the first node says something on the stream
		limit time.Duration // of the send
		moves bool
	}{
		"frozen":        {time.Hour, time.Minute, true},
		"speaks":        {time.Second, time.Minute, false},
		"short of time": {time.Hour, patience / 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *cluster) {
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.send = func(ctx context.Context, _ *chatpb.SendRequest) (*chatpb.SendResponse, error) {
					return nil, freeze(ctx)
				}
				n1.subscribe = func(_ int, _ *chatpb.SubscribeRequest, s serverStream) error {
					for s.Context().Err() == nil {
						if err := s.Send(frame(1, 0)); err != nil {
							return err
						}
						select {
						case <-time.After(tt.says):
						case <-s.Context().Done():
						}
					}
					return nil
				}
				n2.subscribe = script(nil, frame(1, 0), frame(1, 1))
				cl := c.client(n1, n2)
				s, err := cl.Subscribe(t.Context(), SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(patience)
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				if _, err := cl.Send(ctx, ToRoom("r1"), Draft{Text: "x"}); (err == nil) != (tt.limit > patience) {
					t.Errorf("sent: %v", err)
				}
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := s.Next(ctx); (err == nil) != tt.moves {
					t.Errorf("an event of the other node: %v, want one: %v", err, tt.moves)
				}
			})
		})
	}
}

// TestSubscribe_FromCursor: a subscription begins behind the cursor that it is given, and a heartbeat
// moves the place from which it resumes.
func TestSubscribe_FromCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		n.subscribe = func(times int, r *chatpb.SubscribeRequest, s serverStream) error {
			if times == 1 {
				return script(chaterr.ErrDraining, frame(6, 7), frame(10, 9))(times, r, s)
			}
			return script(nil, frame(9, 10))(times, r, s)
		}
		s, err := c.client(n).Subscribe(t.Context(), SubscribeOptions{Cursor: at(5)})
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, s, 3); !slices.Equal(got, []uint64{6, 7, 10}) {
			t.Errorf("got %v, want 6, 7, 10", got)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if want := []string{at(5), at(9)}; !slices.Equal(n.cursors, want) {
			t.Errorf("the node was asked for %q, want %q", n.cursors, want)
		}
	})
}

// TestSubscribe_Heartbeats: a stream that says that it lives is left alone.
func TestSubscribe_Heartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n1, n2 := c.node("n1:1"), c.node("n2:1")
		n1.subscribe = func(_ int, _ *chatpb.SubscribeRequest, s serverStream) error {
			for range 100 {
				if err := s.Send(frame(1, 0)); err != nil {
					return err
				}
				time.Sleep(silence - time.Second)
			}
			_ = s.Send(frame(1, 1))
			return freeze(s.Context())
		}
		n2.subscribe = func(int, *chatpb.SubscribeRequest, serverStream) error { t.Error("another node was asked"); return nil }
		s, err := c.client(n1, n2).Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := s.Next(t.Context()); e.Message.Seq != 1 || err != nil {
			t.Errorf("got %v, %v", e, err)
		}
	})
}

// TestSubscribe_SlowCaller: the time that the caller takes is not the node's: a stream that waits for
// Next is not silent, and nothing is lost.
func TestSubscribe_SlowCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 10 * buffered
		c := newCluster(t)
		n := c.node("n1:1")
		n.subscribe = script(nil, frame(1, count/2), frame(count/2+1, count))
		s, err := c.client(n).Subscribe(t.Context(), SubscribeOptions{Cursor: at(0)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		for i, seq := range take(t, s, count) {
			if seq != uint64(i)+1 {
				t.Fatalf("got %d, want %d", seq, i+1)
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.cursors) != 1 {
			t.Errorf("%d streams were opened", len(n.cursors))
		}
	})
}

// TestSubscribe_Refused: a refusal ends the subscription, at its beginning or later, after what has come
// was delivered.
func TestSubscribe_Refused(t *testing.T) {
	for _, refusal := range []error{ErrUnauthenticated, ErrBadCursor, ErrOtherCluster, ErrLimit} {
		t.Run(refusal.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.subscribe = script(refusal)
				cl := c.client(n1, n2)
				if s, err := cl.Subscribe(t.Context(), SubscribeOptions{}); !errors.Is(err, refusal) || s != nil {
					t.Errorf("got %v, %v", s, err)
				}
				n1.subscribe = script(refusal, frame(1, 2))
				s, err := cl.Subscribe(t.Context(), SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if got := take(t, s, 2); !slices.Equal(got, []uint64{1, 2}) {
					t.Errorf("got %v", got)
				}
				for range 2 {
					if _, err := s.Next(t.Context()); !errors.Is(err, refusal) {
						t.Errorf("got %v", err)
					}
				}
				if d := took(func() { err = s.Close() }); err != nil || d != 0 {
					t.Errorf("Close: %v after %v", err, d)
				}
			})
		})
	}
	c := newCluster(t)
	if _, err := c.client(c.node("n1:1")).Subscribe(t.Context(), SubscribeOptions{Cursor: "nonsense"}); !errors.Is(err, ErrBadCursor) {
		t.Errorf("got %v", err)
	}
}

// TestSubscribe_KeepsItsSession: a subscription stays that of the session that it was made with, also
// when it has to find a node again after somebody else has logged in.
func TestSubscribe_KeepsItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		again := make(chan struct{})
		n.subscribe = func(times int, r *chatpb.SubscribeRequest, s serverStream) error {
			if times == 1 {
				_ = s.Send(frame(1, 0))
				<-again
				return over(chaterr.ErrNoLeader)
			}
			return script(nil, frame(1, 1))(times, r, s)
		}
		cl := c.client(n)
		s, err := cl.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cl.Login(t.Context(), "bob", "correct horse"); err != nil || cl.Token() != "chs_bob" {
			t.Fatalf("token %q, %v", cl.Token(), err)
		}
		close(again)
		take(t, s, 1)
		if _, md := n.heard(); !slices.Equal(md.Get("authorization"), []string{"Bearer chs_token"}) {
			t.Errorf("it came back as %q", md.Get("authorization"))
		}
	})
}

// TestSubscribe_OnLive: the caller hears once that a node has the subscription, once that it is lost, and once
// that another has it; the end of the subscription is not told.
func TestSubscribe_OnLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		lost, back := make(chan struct{}), make(chan struct{})
		n.subscribe = func(times int, r *chatpb.SubscribeRequest, s serverStream) error {
			select {
			case <-back:
				return script(nil, frame(1, 1), frame(2, 2))(times, r, s)
			case <-lost: // it fails several times
			default:
				if err := errors.Join(s.Send(frame(1, 0)), s.Send(frame(1, 0))); err != nil {
					return err
				}
				<-lost
			}
			return over(chaterr.ErrNoLeader)
		}
		var told []bool // by the subscription's goroutine, read while that waits
		s, err := c.client(n).Subscribe(t.Context(), SubscribeOptions{OnLive: func(live bool) { told = append(told, live) }})
		if err != nil {
			t.Fatal(err)
		}
		is := func(want ...bool) {
			t.Helper()
			if synctest.Wait(); !slices.Equal(told, want) {
				t.Errorf("told %v, want %v", told, want)
			}
		}
		is(true)
		close(lost)
		time.Sleep(time.Second)
		is(true, false)
		close(back)
		if got := take(t, s, 2); !slices.Equal(got, []uint64{1, 2}) {
			t.Errorf("got %v", got)
		}
		is(true, false, true)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		is(true, false, true)
	})
}

// TestSubscribe_BackOff: a subscription that no node takes asks again, but not busily, and its caller
// may give up.
func TestSubscribe_BackOff(t *testing.T) {
	for name, end := range map[string]error{"no leader": chaterr.ErrNoLeader, "ends at once": nil, "overloaded": chaterr.ErrOverloaded} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n := c.node("n1:1")
				n.subscribe = func(int, *chatpb.SubscribeRequest, serverStream) error { return over(end) }
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				cl := c.client(n)
				var err error
				if d := took(func() { _, err = cl.Subscribe(ctx, SubscribeOptions{}) }); !errors.Is(err, context.DeadlineExceeded) || d != 30*time.Second {
					t.Errorf("got %v after %v", err, d)
				}
				n.mu.Lock()
				defer n.mu.Unlock()
				if times := len(n.cursors); times < 10 || times > steadyTries+25 {
					t.Errorf("%d attempts in 30 seconds", times)
				}
			})
		})
	}
}

// TestSubscription_All: the sequence ends without an error when the caller's context does, and with one
// when the subscription does; a new sequence goes on where the last one was left.
func TestSubscription_All(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		n.subscribe = script(nil, frame(1, 4))
		s, err := c.client(n).Subscribe(t.Context(), SubscribeOptions{Cursor: at(0)})
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range s.All(t.Context()) {
			if e.Message.Seq != 1 || err != nil {
				t.Errorf("got %v, %v", e, err)
			}
			break
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		want := uint64(2)
		for e, err := range s.All(ctx) {
			if e.Message.Seq != want || err != nil {
				t.Errorf("got %v, %v, want %d", e, err, want)
			}
			want++
		}
		if want != 5 {
			t.Errorf("the sequence ended before %d", want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		ended := false
		for _, err := range s.All(t.Context()) {
			ended = errors.Is(err, ErrClosed)
		}
		if !ended {
			t.Error("the sequence of a subscription that was closed does not say so")
		}
	})
}
