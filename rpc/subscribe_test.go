package rpc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/cursor"
	"example.com/chat/rpc/chatpb"
)

type stream = grpc.ServerStreamingClient[chatpb.SubscribeResponse]

// subscribe opens a stream and returns its first frame.
func (h *host) subscribe(ctx context.Context, u user, from string) (stream, *chatpb.SubscribeResponse, error) {
	s, err := chatpb.NewEventServiceClient(h.cc).Subscribe(u.as(ctx), &chatpb.SubscribeRequest{Cursor: from})
	if err != nil {
		return nil, nil, err
	}
	first, err := s.Recv()
	return s, first, err
}

// say sends a message to a room.
func (h *host) say(u user, room uint64, text string) {
	h.t.Helper()
	h.must(u.Actor, &state.SendMessage{Target: state.ToRoom(room), Text: text})
}

// lobby is a room of some users.
func (h *host) lobby(users ...user) (room uint64) {
	h.t.Helper()
	room = h.must(users[0].Actor, &state.CreateRoom{Name: "lobby"}).Room
	for _, u := range users[1:] {
		h.must(u.Actor, &state.JoinRoom{Room: room})
	}
	return room
}

// messages lists the messages of a frame, by number.
func messagesOf(frame *chatpb.SubscribeResponse) (seqs []uint64) {
	for _, e := range frame.GetEvents() {
		if m := e.GetMessage(); m != nil {
			seqs = append(seqs, m.Seq)
		}
	}
	return seqs
}

// TestSubscribe_NoGapNoRepeat: streams that begin in the middle of the traffic, from the start of the log
// or from now, break off and go on from their cursor, get every message once and in order: also those
// that are committed while a stream changes from what is stored to what is live.
func TestSubscribe_NoGapNoRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const senders, each = 4, 60
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		h.gap = 700 * time.Microsecond // views are newer than what the hub has heard of, and older than the log
		var work sync.WaitGroup
		for i := range senders {
			work.Go(func() {
				for j := range each {
					h.say(alice, room, fmt.Sprintf("%d %d", i, j))
					time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
				}
			})
		}
		for i := range 8 {
			work.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				from, next := "", uint64(0)
				if i%2 == 0 {
					from, next = cursor.Cursor{Cluster: "c"}.String(), 1
				}
				for next <= senders*each {
					ctx, cancel := context.WithCancel(t.Context())
					s, frame, err := h.subscribe(ctx, alice, from)
					for n := 0; err == nil; n++ {
						for _, e := range frame.Events {
							if m := e.GetMessage(); m != nil {
								if next != 0 && m.Seq != next {
									t.Errorf("stream %d got message %d, want %d", i, m.Seq, next)
									cancel()
									return
								}
								next = m.Seq + 1
								if n > 5 && rand.IntN(3) == 0 { // in the middle of a frame
									from, n = e.Cursor, 1000
									break
								}
							}
							from = e.Cursor
						}
						if n >= 1000 || next > senders*each {
							break
						}
						if len(frame.Events) == 0 {
							from = frame.Cursor
						}
						frame, err = s.Recv()
					}
					cancel()
					if err != nil {
						t.Errorf("stream %d: %v", i, err)
						return
					}
					time.Sleep(time.Millisecond) // the server has noticed: the place is free again
				}
			})
		}
		work.Wait()
	})
}

// TestSubscribe_Lagged: who does not read for a while loses nothing, though the hub has left out what
// did not fit; and costs the others no time.
func TestSubscribe_Lagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 3000
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		s, _, err := h.subscribe(t.Context(), alice, "")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range count {
			h.say(alice, room, strings.Repeat("x", 200))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the senders have waited %v", took)
		}
		synctest.Wait() // the stream is stuck
		for next := uint64(1); next <= count; {
			frame, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if len(frame.Events) > maxFrame {
				t.Fatalf("a frame has %d events", len(frame.Events))
			}
			for _, seq := range messagesOf(frame) {
				if seq != next {
					t.Fatalf("got message %d, want %d", seq, next)
				}
				next++
			}
		}
	})
}

// TestSubscribe_Skipped: after a snapshot was installed, the stream goes on from what is stored.
func TestSubscribe_Skipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		s, _, err := h.subscribe(t.Context(), alice, "")
		if err != nil {
			t.Fatal(err)
		}
		h.Service.o.Hub.Skipped()
		h.say(alice, room, "one")
		h.Service.o.Hub.Skipped()
		h.say(alice, room, "two")
		var got []uint64
		for len(got) < 2 {
			frame, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, messagesOf(frame)...)
		}
		if got[0] != 1 || got[1] != 2 {
			t.Errorf("got %v, want 1 and 2", got)
		}
	})
}

// TestSubscribe_Revoked: a stream ends with its session, whatever ended that, and nothing that was
// committed after it is delivered; also not to a reader who is slow, or lags behind.
func TestSubscribe_Revoked(t *testing.T) {
	for name, tt := range map[string]struct {
		before int // messages, unread
		revoke func(h *host, u user)
		ends   bool
	}{
		"logout":              {1, func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{}) }, true},
		"logout of all":       {1, func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{All: true}) }, true},
		"deleted":             {1, func(h *host, u user) { h.must(u.Actor, &state.DeleteAccount{PasswordVersion: 1}) }, true},
		"while slow":          {600, func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{}) }, true},
		"while lagging":       {2500, func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{}) }, true},
		"the password is new": {1, func(h *host, u user) { h.must(u.Actor, &state.ChangePassword{PasswordHash: "y", PasswordVersion: 1}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, zap.NewNop())
				alice, bob := h.user("alice"), h.user("bob")
				room := h.lobby(alice, bob)
				s, _, err := h.subscribe(t.Context(), bob, "")
				if err != nil {
					t.Fatal(err)
				}
				for range tt.before {
					h.say(alice, room, strings.Repeat("x", 200))
				}
				tt.revoke(h, bob)
				h.say(alice, room, "not for bob's ears")
				synctest.Wait()
				secret := uint64(tt.before) + 1
				for {
					frame, err := s.Recv()
					if err != nil {
						wantStatus(t, "the end", err, codes.Unauthenticated, "UNAUTHENTICATED")
						if !tt.ends {
							t.Error("the session that changed the password has ended")
						}
						return
					}
					for _, seq := range messagesOf(frame) {
						if seq == secret {
							if tt.ends {
								t.Error("bob was told what was said after the end of his session")
							}
							return
						}
					}
				}
			})
		})
	}
}

// TestSubscribe_Expired: a session that grows too old while its stream is open ends it within a minute,
// though no entry of the log says so.
func TestSubscribe_Expired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		bob := h.user("bob")
		h.set(func() { h.ahead = state.SessionLifetime / 2 })
		alice := h.user("alice")
		s, _, err := h.subscribe(t.Context(), bob, "")
		if err != nil {
			t.Fatal(err)
		}
		h.set(func() { h.ahead = state.SessionLifetime + time.Second })
		h.lobby(alice) // log time goes on with entries
		start := time.Now()
		for err == nil {
			_, err = s.Recv()
		}
		wantStatus(t, "the end", err, codes.Unauthenticated, "UNAUTHENTICATED")
		if took := time.Since(start); took > aliveEvery+heartbeat {
			t.Errorf("it lived on for %v", took)
		}
	})
}

// TestSubscribe_Left: who has left a room hears that, and nothing of the room after it.
func TestSubscribe_Left(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice, bob := h.user("alice"), h.user("bob")
		room := h.lobby(alice, bob)
		s, first, err := h.subscribe(t.Context(), bob, "")
		if err != nil {
			t.Fatal(err)
		}
		h.must(bob.Actor, &state.LeaveRoom{Room: room})
		h.say(alice, room, "bob is gone")
		h.must(bob.Actor, &state.OpenDirectRoom{Name: "bob"}) // so that there is something to wait for
		again, firstAgain, err := h.subscribe(t.Context(), bob, first.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		for from, frame := range map[stream]*chatpb.SubscribeResponse{s: first, again: firstAgain} {
			var got []string
			for err == nil {
				for _, e := range frame.Events {
					got = append(got, fmt.Sprintf("%T", e.Kind)[len("*chatpb.Event_"):])
				}
				if len(got) >= 2 {
					break
				}
				frame, err = from.Recv()
			}
			if fmt.Sprint(got) != "[MemberLeft MemberJoined]" || err != nil {
				t.Errorf("got %v, %v", got, err)
			}
		}
	})
}

// TestSubscribe_Heartbeats: the first frame comes at once with a cursor, and then one every five seconds
// of silence, with the time.
func TestSubscribe_Heartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		start := time.Now()
		s, first, err := h.subscribe(t.Context(), alice, "")
		if err != nil || time.Since(start) != 0 || first.Cursor == "" || len(first.Events) > 0 {
			t.Fatalf("the first frame is %v, %v after %v", first, err, time.Since(start))
		}
		for i := range 3 {
			frame, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(start), time.Duration(i+1)*heartbeat; got != want || len(frame.Events) > 0 || frame.Cursor != first.Cursor {
				t.Errorf("heartbeat %d after %v with %v, want %v", i, got, frame, want)
			}
			if !frame.ServerTime.AsTime().Equal(time.Now().Truncate(time.Millisecond)) {
				t.Errorf("heartbeat %d says it is %v", i, frame.ServerTime.AsTime())
			}
		}
		time.Sleep(heartbeat / 2)
		h.say(alice, room, "hello")
		if frame, err := s.Recv(); err != nil || len(frame.Events) != 1 || frame.Cursor == first.Cursor || frame.Cursor != frame.Events[0].Cursor {
			t.Errorf("got %v, %v", frame, err)
		}
		start = time.Now()
		if frame, err := s.Recv(); err != nil || time.Since(start) != heartbeat {
			t.Errorf("after a message came %v, %v after %v", frame, err, time.Since(start))
		}
	})
}

// TestSubscribe_Cursors: what a cursor may say, and how soon one that is no good is refused.
func TestSubscribe_Cursors(t *testing.T) {
	for name, tt := range map[string]struct {
		from   string
		took   time.Duration
		code   codes.Code
		reason string
	}{
		"none":                     {"", 0, codes.OK, ""},
		"the beginning":            {"c.0.0", 0, codes.OK, ""},
		"now":                      {"c.3.4294967295", 0, codes.OK, ""},
		"later than this node":     {"c.9.0", catchUpTimeout, codes.Unavailable, "NO_LEADER"},
		"another cluster":          {"d.1.0", 0, codes.FailedPrecondition, "OTHER_CLUSTER"},
		"another cluster, later":   {"d.99999.0", 0, codes.FailedPrecondition, "OTHER_CLUSTER"},
		"no cluster":               {".1.0", 0, codes.InvalidArgument, "BAD_CURSOR"},
		"no number":                {"c.1", 0, codes.InvalidArgument, "BAD_CURSOR"},
		"a number that is too big": {"c.1.4294967296", 0, codes.InvalidArgument, "BAD_CURSOR"},
		"a minus":                  {"c.-1.0", 0, codes.InvalidArgument, "BAD_CURSOR"},
		"nonsense":                 {"nonsense", 0, codes.InvalidArgument, "BAD_CURSOR"},
		"a megabyte":               {strings.Repeat("c", 1<<20) + ".1.0", 0, codes.InvalidArgument, "BAD_CURSOR"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, zap.NewNop())
				alice := h.user("alice")
				start := time.Now()
				_, _, err := h.subscribe(t.Context(), alice, tt.from)
				wantStatus(t, "Subscribe", err, tt.code, tt.reason)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

// TestSubscribe_Limit: a session has at most 32 streams; one that ends makes room for another.
func TestSubscribe_Limit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice, bob := h.user("alice"), h.user("bob")
		ctx, cancel := context.WithCancel(t.Context())
		for i := range maxStreams {
			from := t.Context()
			if i == 3 {
				from = ctx
			}
			if _, _, err := h.subscribe(from, alice, ""); err != nil {
				t.Fatalf("stream %d: %v", i+1, err)
			}
		}
		_, _, err := h.subscribe(t.Context(), alice, "")
		wantStatus(t, "one more", err, codes.ResourceExhausted, "LIMIT")
		if _, _, err := h.subscribe(t.Context(), bob, ""); err != nil {
			t.Errorf("of somebody else: %v", err)
		}
		cancel()
		synctest.Wait()
		if _, _, err := h.subscribe(t.Context(), alice, ""); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		h.server.Stop()
		synctest.Wait()
		h.Service.mu.Lock()
		defer h.Service.mu.Unlock()
		if len(h.streams) != 0 || h.calls != 0 {
			t.Errorf("still counted: %v, %d calls", h.streams, h.calls)
		}
	})
}
