package rpc

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/cursor"
	"example.com/chat/rpc/chatpb"
)

// caller is one end of a stream of Connect.
type talker struct {
	grpc.BidiStreamingClient[chatpb.ConnectRequest, chatpb.ConnectResponse]
	t *testing.T
}

// connect opens a stream and takes its first frame.
func (h *host) connect(t *testing.T, u user) *talker {
	t.Helper()
	c, err := h.dial(t.Context(), t, u)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *host) dial(ctx context.Context, t *testing.T, u user) (*talker, error) {
	before := h.Applied()
	s, err := chatpb.NewEventServiceClient(h.cc).Connect(u.as(ctx))
	if err != nil {
		return nil, err
	}
	first, err := s.Recv()
	if err == nil && (first.MaxInFlight != maxInFlight || first.Index < before || first.Index > h.Applied()) {
		t.Errorf("the first frame is %v", first)
	}
	return &talker{s, t}, err
}

func newOp() string { return ulid.Make().String() }

// to is a request to send to a room.
func to(room uint64, text string) *chatpb.SendRequest {
	return &chatpb.SendRequest{OperationId: newOp(), Target: &chatpb.Target{To: &chatpb.Target_RoomId{RoomId: roomID(room)}}, Text: text}
}

func (c *talker) say(sends ...*chatpb.SendRequest) {
	c.t.Helper()
	if err := c.Send(&chatpb.ConnectRequest{Sends: sends}); err != nil && err != io.EOF {
		c.t.Fatal(err)
	}
}

// hear takes frames until it has n answers or the stream ends.
func (c *talker) hear(n int) (answers map[uint64]*chatpb.SendOutcome, err error) {
	answers = map[uint64]*chatpb.SendOutcome{}
	for len(answers) < n {
		f, err := c.Recv()
		if err != nil {
			return answers, err
		}
		for _, o := range f.Outcomes {
			if answers[o.Number] != nil {
				c.t.Errorf("send %d has two answers", o.Number)
			}
			answers[o.Number] = o
		}
	}
	return answers, nil
}

// mustHear is hear of exactly the sends from one number to another.
func (c *talker) mustHear(from, to int) map[uint64]*chatpb.SendOutcome {
	c.t.Helper()
	answers, err := c.hear(to - from + 1)
	for i := from; i <= to; i++ {
		if answers[uint64(i)] == nil {
			c.t.Fatalf("no answer to send %d: %v", i, err)
		}
	}
	return answers
}

// reasons counts answers by reason; receipts have none.
func reasons(answers map[uint64]*chatpb.SendOutcome) map[string]int {
	m := map[string]int{}
	for _, o := range answers {
		m[o.GetFailure().GetReason()]++
	}
	return m
}

// texts are the messages of a room, in order.
func (h *host) texts(u user, room uint64) (texts []string) {
	h.t.Helper()
	if err := h.view(func(v *state.View) error {
		of, err := v.Room(u.Account, room)
		if err == nil {
			_, err = v.Messages(u.Account, room, 1, of.LastSeq, false, 1<<20, func(m state.Message) bool {
				texts = append(texts, m.Text)
				return true
			})
		}
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return texts
}

// TestConnect_Sends: every send has its answer: the receipt of its message, or what a unary Send would
// have been refused with, and a refusal changes nothing for the others.
func TestConnect_Sends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		c := h.connect(t, alice)
		same := to(room, "same")
		other := to(room, "other")
		other.OperationId = same.OperationId
		refused := []struct {
			send   *chatpb.SendRequest
			code   codes.Code
			reason string
		}{
			{to(room, ""), codes.InvalidArgument, "INVALID"},
			{to(room, "a\x00"), codes.InvalidArgument, "INVALID"},
			{to(room+100, "x"), codes.NotFound, "NO_SUCH_ROOM"},
			{&chatpb.SendRequest{Text: "to nobody"}, codes.InvalidArgument, "INVALID"},
			{&chatpb.SendRequest{Text: "x", OperationId: "nonsense", Target: same.Target}, codes.InvalidArgument, "INVALID"},
			{other, codes.AlreadyExists, "OPERATION_MISMATCH"},
		}
		var sends []*chatpb.SendRequest
		sends = append(sends, same, same)
		for _, r := range refused {
			sends = append(sends, r.send)
		}
		c.say(sends...)
		want := []string{"same"} // in some order
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			c.say(to(room, fmt.Sprint(i)))
		}
		answers := c.mustHear(1, len(sends)+50)
		for i, r := range refused {
			if f := answers[uint64(i+3)].GetFailure(); codes.Code(f.GetCode()) != r.code || f.GetReason() != r.reason || f.GetMessage() == "" {
				t.Errorf("%v: got %v, want %v %s", r.send, answers[uint64(i+3)], r.code, r.reason)
			}
		}
		first, again := answers[1].GetReceipt(), answers[2].GetReceipt()
		if first.GetDuplicate() || !again.GetDuplicate() || first.GetSeq() != again.GetSeq() || first.GetRoomId() != roomID(room) || first.GetCreateTime() == nil {
			t.Errorf("the same send twice: got %v and %v", first, again)
		}
		unary, err := chatpb.NewMessageServiceClient(h.cc).Send(alice.as(t.Context()), same)
		if err != nil || !unary.Receipt.Duplicate || unary.Receipt.Seq != first.GetSeq() {
			t.Errorf("again by a call: got %v, %v", unary, err)
		}
		got := h.texts(alice, room)
		if len(got) != len(want) {
			t.Errorf("the room has %q", got)
		}
		for i := range 50 {
			if r := answers[uint64(len(sends)+1+i)].GetReceipt(); r.GetSeq() == 0 || r.GetSeq() > uint64(len(got)) || got[r.GetSeq()-1] != fmt.Sprint(i) {
				t.Errorf("the receipt of %d is %v", i, r)
			}
		}
		if err := c.CloseSend(); err != nil {
			t.Error(err)
		}
		if _, err := c.Recv(); err != io.EOF {
			t.Errorf("after the end: got %v", err)
		}
	})
}

// TestConnect_Window: what is too much at a time is refused at once, by the stream or by the node, while
// the rest goes on; and answers make room.
func TestConnect_Window(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		c := h.connect(t, alice)
		hold := make(chan struct{})
		h.set(func() { h.hold = hold })
		var sends []*chatpb.SendRequest
		for range maxInFlight + 10 {
			sends = append(sends, to(room, "x"))
		}
		c.say(sends...)
		start := time.Now()
		if got := reasons(c.mustHear(maxInFlight+1, maxInFlight+10)); got["OVERLOADED"] != 10 || time.Since(start) != 0 {
			t.Errorf("got %v after %v", got, time.Since(start))
		}
		close(hold)
		if got := reasons(c.mustHear(1, maxInFlight)); got[""] != maxInFlight {
			t.Errorf("got %v", got)
		}
		h.set(func() { h.accepts = 3 })
		c.say(sends[:5]...)
		if got := reasons(c.mustHear(maxInFlight+11, maxInFlight+15)); got["OVERLOADED"] != 2 || got[""] != 3 {
			t.Errorf("of a node with room for three: got %v", got)
		}
		if n := len(h.texts(alice, room)); n != maxInFlight {
			t.Errorf("the room has %d messages", n)
		}
	})
}

// TestConnect_NoReader: who sends on and on and does not read is cut off, and costs nobody else anything.
func TestConnect_NoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		c := h.connect(t, alice)
		over := make(chan struct{})
		go func() {
			defer close(over)
			sends := []*chatpb.SendRequest{to(room, "x")}
			for range maxInFlight {
				sends = append(sends, &chatpb.SendRequest{})
			}
			for c.Send(&chatpb.ConnectRequest{Sends: sends}) == nil {
				time.Sleep(time.Millisecond)
			}
		}()
		other := h.connect(t, alice)
		other.say(to(room, "mine"))
		if got := reasons(other.mustHear(1, 1)); got[""] != 1 {
			t.Errorf("the other stream: got %v", got)
		}
		time.Sleep(10 * time.Second) // until both directions are full
		h.Service.mu.Lock()
		if n := h.connects[alice.Actor]; n != 1 {
			t.Errorf("the node still has %d streams", n)
		}
		h.Service.mu.Unlock()
		_, err := c.hear(1 << 30)
		<-over
		wantStatus(t, "the end", err, codes.ResourceExhausted, "OVERLOADED")
	})
}

// TestConnect_SessionEnds: a stream ends with its session, whatever ended that; what was under way is
// answered, and nothing is done or told afterwards.
func TestConnect_SessionEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(h *host, u user)
		took time.Duration
	}{
		"logout":        {func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{}) }, 0},
		"logout of all": {func(h *host, u user) { h.must(u.Actor, &state.RevokeSession{All: true}) }, 0},
		"expired": {func(h *host, u user) {
			h.set(func() { h.ahead = state.SessionLifetime + time.Second })
			h.user("carol") // log time goes on with entries
		}, aliveEvery},
		"a snapshot says so": {func(h *host, u user) {
			c, err := state.NewCommand(u.Actor, nil, &state.RevokeSession{})
			if err == nil {
				_, _, err = h.apply(c)
			}
			if err != nil {
				h.t.Error(err)
			}
			h.hub.Skipped()
		}, 0},
	} {
		for _, listens := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, listens %v", name, listens), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHost(t, zap.NewNop())
					bob := h.user("bob")
					room := h.lobby(bob)
					h.set(func() { h.ahead = state.SessionLifetime / 2 })
					alice := h.user("alice")
					h.must(alice.Actor, &state.JoinRoom{Room: room})
					c := h.connect(t, bob)
					if listens {
						if err := c.Send(&chatpb.ConnectRequest{Subscribe: &chatpb.SubscribeRequest{}}); err != nil {
							t.Fatal(err)
						}
					}
					say := func(text string) { // without an operation id, whose time would not be the log's
						r := to(room, text)
						r.OperationId = ""
						c.say(r)
					}
					say("before")
					c.mustHear(1, 1)
					hold := make(chan struct{})
					h.set(func() { h.hold = hold })
					say("under way")
					synctest.Wait()
					h.set(func() { h.hold = nil })
					start := time.Now()
					tt.end(h, bob)
					h.say(alice, room, "not for bob's ears")
					synctest.Wait()
					time.AfterFunc(tt.took+time.Second, func() { close(hold) })
					say("after")
					var answers []*chatpb.SendOutcome
					var err error
					for {
						var f *chatpb.ConnectResponse
						if f, err = c.Recv(); err != nil {
							break
						}
						answers = append(answers, f.Outcomes...)
						for _, e := range f.GetEvents().GetEvents() {
							if e.GetMessage().GetText() == "not for bob's ears" && tt.took == 0 {
								t.Error("bob was told what was said after the end of his session")
							}
						}
					}
					wantStatus(t, "the end", err, codes.Unauthenticated, "UNAUTHENTICATED")
					if took := time.Since(start); took > tt.took+time.Second {
						t.Errorf("it took %v", took)
					}
					if len(answers) != 2 || answers[0].GetFailure().GetReason() != "UNAUTHENTICATED" || answers[1].GetFailure().GetReason() != "UNAUTHENTICATED" {
						t.Errorf("answers %v", answers)
					}
					if got := h.texts(alice, room); strings.Join(got, ", ") != "before, not for bob's ears" {
						t.Errorf("the room has %q", got)
					}
					_, err = h.dial(t.Context(), t, bob)
					wantStatus(t, "another stream", err, codes.Unauthenticated, "UNAUTHENTICATED")
				})
			})
		}
	}
}

// TestConnect_Drain: what was taken is answered, the rest is sent elsewhere, and the stream ends; also
// when the answers do not come, or are not read.
func TestConnect_Drain(t *testing.T) {
	for name, tt := range map[string]struct {
		release, reads bool
		took           time.Duration
	}{
		"answered": {true, true, time.Second},
		"stuck":    {false, true, grace},
		"unread":   {true, false, grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, zap.NewNop())
				alice := h.user("alice")
				room := h.lobby(alice)
				c := h.connect(t, alice)
				hold := make(chan struct{})
				h.set(func() { h.hold = hold })
				c.say(to(room, "taken"))
				if !tt.reads { // more answers than the stream takes
					for range 5 * maxInFlight / 2 {
						c.say(&chatpb.SendRequest{})
					}
				}
				synctest.Wait()
				if tt.release {
					time.AfterFunc(time.Second, func() { close(hold) })
				} else {
					defer close(hold)
				}
				start := time.Now()
				drained := make(chan error, 1)
				go func() { drained <- h.Service.Drain(t.Context()) }()
				synctest.Wait()
				if tt.reads {
					c.say(to(room, "late"))
					if got := c.mustHear(2, 2)[2].GetFailure(); got.GetReason() != "DRAINING" {
						t.Errorf("a late send: got %v", got)
					}
					answers, err := c.hear(2)
					wantStatus(t, "the end", err, codes.Unavailable, "DRAINING")
					if len(answers) == 1 != tt.release || tt.release && answers[1].GetReceipt() == nil {
						t.Errorf("got %v", answers)
					}
				}
				if err := <-drained; err != nil || time.Since(start) != tt.took {
					t.Errorf("Drain: %v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// TestConnect_Events: receipts and events come on one stream, each once and in order, however slow the
// reader is; and a cursor goes on where another stream has ended.
func TestConnect_Events(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3000
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		from := cursor.Cursor{Cluster: "c"}.String()
		next, answered, sent := uint64(1), 0, 0
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			c, err := h.dial(ctx, t, alice)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Send(&chatpb.ConnectRequest{Subscribe: &chatpb.SubscribeRequest{Cursor: from}}); err != nil {
				t.Fatal(err)
			}
			for range n / 10 {
				var sends []*chatpb.SendRequest
				for range 10 {
					sends = append(sends, to(room, strings.Repeat("x", 200)))
				}
				c.say(sends[:3]...)
				for _, s := range sends[3:] {
					h.say(alice, room, s.Text) // somebody else, too fast for the reader
				}
				sent += 3
				time.Sleep(time.Microsecond)
			}
			for want := next + n; next < want || answered < sent; {
				f, err := c.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if f.Index < h.Applied() && len(f.Outcomes) > 0 && f.Index == 0 {
					t.Errorf("a frame with outcomes says index %d", f.Index)
				}
				answered += len(f.Outcomes)
				for _, e := range f.GetEvents().GetEvents() {
					if m := e.GetMessage(); m != nil {
						if m.Seq != next {
							t.Fatalf("got message %d, want %d", m.Seq, next)
						}
						next++
					}
					from = e.Cursor
				}
			}
			cancel()
			synctest.Wait()
		}
		c := h.connect(t, alice)
		for range 2 {
			if err := c.Send(&chatpb.ConnectRequest{Subscribe: &chatpb.SubscribeRequest{}}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.hear(1)
		wantStatus(t, "two subscriptions", err, codes.InvalidArgument, "INVALID")
		c = h.connect(t, alice)
		if err := c.Send(&chatpb.ConnectRequest{Subscribe: &chatpb.SubscribeRequest{Cursor: "nonsense"}}); err != nil {
			t.Fatal(err)
		}
		_, err = c.hear(1)
		wantStatus(t, "a bad cursor", err, codes.InvalidArgument, "BAD_CURSOR")
	})
}

// TestConnect_Limit: a session has at most eight of these streams, and nothing is left of them.
func TestConnect_Limit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice, bob := h.user("alice"), h.user("bob")
		ctx, cancel := context.WithCancel(t.Context())
		for range maxConnects {
			if _, err := h.dial(ctx, t, alice); err != nil {
				t.Fatal(err)
			}
		}
		_, err := h.dial(t.Context(), t, alice)
		wantStatus(t, "one more", err, codes.ResourceExhausted, "LIMIT")
		if _, _, err := h.subscribe(ctx, alice, ""); err != nil {
			t.Errorf("a subscription beside them: %v", err)
		}
		if _, err := h.dial(ctx, t, bob); err != nil {
			t.Errorf("of somebody else: %v", err)
		}
		cancel()
		synctest.Wait()
		if _, err := h.dial(t.Context(), t, alice); err != nil {
			t.Errorf("after they have ended: %v", err)
		}
		h.server.Stop()
		synctest.Wait()
		h.Service.mu.Lock()
		defer h.Service.mu.Unlock()
		if len(h.connects) != 0 || h.calls != 0 {
			t.Errorf("still counted: %v, %d calls", h.connects, h.calls)
		}
	})
}

// broken panics when it is asked for anything.
type broken struct{ Replica }

func (broken) Submit([]*state.Command, func(int, *state.Result, error)) (int, error) {
	panic("a secret")
}

// TestConnect_Panic: a panic ends the stream, and not the host.
func TestConnect_Panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		c := h.connect(t, alice)
		h.Service.o.Replica = broken{h.Service.o.Replica}
		c.say(to(room, "x"))
		_, err := c.hear(1)
		wantStatus(t, "the end", err, codes.Internal, "INTERNAL")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	})
}
