package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// log is what a cluster has done, by operation id: each once.
type log struct {
	mu   sync.Mutex // guards what follows
	done map[string]uint64
}

func (l *log) do(op string) (seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = map[string]uint64{}
	}
	if l.done[op] == 0 {
		l.done[op] = uint64(len(l.done)) + 1
	}
	return l.done[op]
}

// sendMany sends n messages at a time, and checks that each has a receipt of its own that the log has.
func sendMany(t *testing.T, cl *Client, l *log, n int) {
	t.Helper()
	var work sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for i := range n {
		work.Go(func() {
			r, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: fmt.Sprint(i)})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r.Seq == 0 || seen[r.Seq] || l.do(r.OperationID) != r.Seq {
				t.Errorf("send %d: got %v, %v", i, r, err)
			}
			seen[r.Seq] = true
		})
	}
	work.Wait()
}

// serve is a Connect that answers from a log. Of the sends, numbered from 1, keep says which have an
// answer; end, if not 0, is after how many the stream breaks.
func (l *log) serve(hello *chatpb.ConnectResponse, s talk, keep func(number uint64) bool, end uint64) error {
	if err := s.Send(hello); err != nil {
		return err
	}
	for number := uint64(0); ; {
		f, err := s.Recv()
		if err != nil {
			return nil
		}
		out := &chatpb.ConnectResponse{}
		for _, r := range f.Sends {
			number++
			seq := l.do(r.OperationId)
			if number == end {
				return status.Error(codes.Unavailable, "a proxy restarts")
			}
			if keep(number) {
				out.Outcomes = append(out.Outcomes, receipt(number, seq))
			}
		}
		for i, j := 0, len(out.Outcomes)-1; i < j; i, j = i+1, j-1 { // in another order
			out.Outcomes[i], out.Outcomes[j] = out.Outcomes[j], out.Outcomes[i]
		}
		if err := s.Send(out); err != nil {
			return err
		}
	}
}

func all(uint64) bool { return true }

// TestConnect_Mishaps: whatever happens to streams, every send has the receipt of its own message, which
// was sent once.
func TestConnect_Mishaps(t *testing.T) {
	hello := &chatpb.ConnectResponse{MaxInFlight: window}
	for name, tt := range map[string]struct {
		first func(n *node, l *log, s talk) error
		took  time.Duration // at most
	}{
		"answers in another order": {func(_ *node, l *log, s talk) error { return l.serve(hello, s, all, 0) }, 0},
		"every third answer is lost": {
			func(_ *node, l *log, s talk) error {
				return l.serve(hello, s, func(n uint64) bool { return n%3 != 0 }, 0)
			}, 3 * patience,
		},
		"no answer at all":       {func(_ *node, l *log, s talk) error { return l.serve(hello, s, func(uint64) bool { return false }, 0) }, 3 * patience},
		"breaks in the middle":   {func(_ *node, l *log, s talk) error { return l.serve(hello, s, all, 70) }, time.Second},
		"breaks at the first":    {func(_ *node, l *log, s talk) error { return l.serve(hello, s, all, 1) }, time.Second},
		"is reset in the middle": {func(n *node, l *log, s talk) error { defer n.die(); return l.serve(hello, s, all, 70) }, time.Second},
		"one at a time": {func(_ *node, l *log, s talk) error {
			return l.serve(&chatpb.ConnectResponse{MaxInFlight: 1}, s, all, 0)
		}, 0},
		"a window of nothing": {func(_ *node, l *log, s talk) error { return l.serve(&chatpb.ConnectResponse{}, s, all, 0) }, 0},
		"an endless window": {func(_ *node, l *log, s talk) error {
			return l.serve(&chatpb.ConnectResponse{MaxInFlight: 1 << 31}, s, all, 0)
		}, 0},
		"does not open":            {func(_ *node, _ *log, s talk) error { return freeze(s.Context()) }, patience},
		"is refused":               {func(*node, *log, talk) error { return status.Error(codes.PermissionDenied, "no streams here") }, 0},
		"is one too many":          {func(*node, *log, talk) error { return over(chaterr.ErrLimit) }, 0},
		"ends before it begins":    {func(*node, *log, talk) error { return nil }, time.Second},
		"drains":                   {func(*node, *log, talk) error { return over(chaterr.ErrDraining) }, 0},
		"drains after some":        {func(_ *node, l *log, s talk) error { _ = l.serve(hello, s, all, 70); return over(chaterr.ErrDraining) }, time.Second},
		"answers what nobody sent": {func(_ *node, l *log, s talk) error { return l.answerTwice(hello, s) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				l := &log{}
				n1.connect = func(s talk) error { return tt.first(n1, l, s) }
				n2.connect = func(s talk) error { return l.serve(hello, s, all, 0) }
				plain := func(_ context.Context, r *chatpb.SendRequest) (*chatpb.SendResponse, error) {
					return &chatpb.SendResponse{Receipt: &chatpb.Receipt{RoomId: "r1", Seq: l.do(r.OperationId)}}, nil
				}
				n1.send, n2.send = plain, plain
				cl := c.client(n1, n2)
				const sends = 300
				if d := took(func() { sendMany(t, cl, l, sends) }); d > tt.took {
					t.Errorf("it took %v, want %v at most", d, tt.took)
				}
				if len(l.done) != sends {
					t.Errorf("%d messages were sent, want %d", len(l.done), sends)
				}
			})
		})
	}
}

// answerTwice answers every send twice, and some that were never sent.
func (l *log) answerTwice(hello *chatpb.ConnectResponse, s talk) error {
	if err := s.Send(hello); err != nil {
		return err
	}
	for number := uint64(0); ; {
		f, err := s.Recv()
		if err != nil {
			return nil
		}
		out := &chatpb.ConnectResponse{Outcomes: []*chatpb.SendOutcome{receipt(0, 99), receipt(1<<40, 99), {}}}
		for _, r := range f.Sends {
			number++
			o := receipt(number, l.do(r.OperationId))
			out.Outcomes = append(out.Outcomes, o, o)
		}
		if err := s.Send(out); err != nil {
			return err
		}
	}
}

// TestConnect_OneStream: sends share a stream as long as it is used, and a session has its own. It carries
// the session's token and asks for no state in particular.
func TestConnect_OneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		var l log
		var open, opened atomic.Int32
		var token atomic.Value
		n.connect = func(s talk) error {
			opened.Add(1)
			open.Add(1)
			defer open.Add(-1)
			md, _ := metadata.FromIncomingContext(s.Context())
			token.Store(fmt.Sprint(md.Get("authorization"), md.Get("chat-consistency"), md.Get("chat-index")))
			return l.serve(&chatpb.ConnectResponse{MaxInFlight: window, Index: 7}, s, all, 0)
		}
		cl := c.client(n)
		for range 5 {
			sendMany(t, cl, &l, 50)
			time.Sleep(laneIdle / 2)
		}
		if opened.Load() != 1 || token.Load() != "[Bearer chs_token] [local] []" || cl.index.Load() != 7 {
			t.Errorf("%d streams were opened, the last with %s; index %d", opened.Load(), token.Load(), cl.index.Load())
		}
		if _, err := cl.Login(t.Context(), "bob", "correct horse"); err != nil {
			t.Fatal(err)
		}
		sendMany(t, cl, &l, 50)
		synctest.Wait()
		if opened.Load() != 2 || open.Load() != 1 || token.Load() != "[Bearer chs_bob] [local] []" {
			t.Errorf("%d streams were opened, %d are open, the last with %s", opened.Load(), open.Load(), token.Load())
		}
		time.Sleep(2*laneIdle + time.Second)
		if open.Load() != 0 {
			t.Error("a stream that nobody uses is still open")
		}
		sendMany(t, cl, &l, 50)
		if opened.Load() != 3 {
			t.Errorf("%d streams were opened", opened.Load())
		}
	})
}

// TestConnect_Plain: a node without streams is asked for one now and then, and not for each send; and
// what a stream is refused for says nothing about a send.
func TestConnect_Plain(t *testing.T) {
	for name, tt := range map[string]struct {
		says        error
		first, then int32 // streams asked for, in a minute and in an hour of a send a minute
	}{
		"an older version": {status.Error(codes.Unimplemented, "unknown method"), 1, 12},
		"too many":         {over(chaterr.ErrLimit), 1, 12},
		"a host's rule":    {status.Error(codes.PermissionDenied, "no"), 1, 12},
		"no session":       {over(chaterr.ErrUnauthenticated), 60, 59},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n := c.node("n1:1")
				var asked atomic.Int32
				n.connect = func(talk) error {
					asked.Add(1)
					return tt.says
				}
				cl := c.client(n)
				send := func(every time.Duration, times int) {
					for range times {
						if _, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: "x"}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(every)
					}
				}
				send(time.Second, 60)
				if got := asked.Swap(0); got != tt.first {
					t.Errorf("asked for %d streams in a minute, want %d", got, tt.first)
				}
				send(time.Minute, 59)
				if got := asked.Load(); got < tt.then-1 || got > tt.then {
					t.Errorf("asked for %d streams in an hour, want %d", got, tt.then)
				}
			})
		})
	}
}

// TestConnect_SessionOver: what was under way when the session ended may have been done.
func TestConnect_SessionOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		var times atomic.Int32
		n.connect = func(s talk) error {
			if times.Add(1) == 1 {
				_ = s.Send(&chatpb.ConnectResponse{MaxInFlight: window})
				_, _ = s.Recv()
			}
			return over(chaterr.ErrUnauthenticated)
		}
		n.send = func(context.Context, *chatpb.SendRequest) (*chatpb.SendResponse, error) {
			return nil, over(chaterr.ErrUnauthenticated)
		}
		cl := c.client(n)
		if _, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: "x"}); !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrUnauthenticated) {
			t.Errorf("under way: got %v", err)
		}
		if _, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: "x"}); !errors.Is(err, ErrUnauthenticated) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("afterwards: got %v", err)
		}
	})
}

// TestConnect_Full: who waits for room on a stream waits as long as the caller lets him, is not sent when
// that is over, and the node is not blamed.
func TestConnect_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n, other := c.node("n1:1"), c.node("n2:1")
		release := make(chan struct{})
		var got atomic.Int32
		n.connect = func(s talk) error {
			if err := s.Send(&chatpb.ConnectResponse{MaxInFlight: 1}); err != nil {
				return err
			}
			for number := uint64(1); ; number++ {
				if _, err := s.Recv(); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				got.Add(1)
				select {
				case <-release:
				case <-s.Context().Done():
					return nil
				}
				if err := s.Send(&chatpb.ConnectResponse{Outcomes: []*chatpb.SendOutcome{receipt(number, number)}}); err != nil {
					return err
				}
			}
		}
		cl := c.client(n, other)
		first := make(chan error, 1)
		go func() {
			_, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: "x"})
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(patience/4, cancel)
		if _, err := cl.Send(ctx, ToRoom("r1"), Draft{Text: "y"}); errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
			t.Errorf("of a send that had no room: got %v", err)
		}
		time.AfterFunc(patience/4, func() { close(release) })
		if _, err := cl.Send(t.Context(), ToRoom("r1"), Draft{Text: "z"}); err != nil {
			t.Error(err)
		}
		if err := <-first; err != nil || got.Load() != 2 {
			t.Errorf("%v; the node has %d sends, want 2", err, got.Load())
		}
		if ops, _ := other.heard(); len(ops) != 0 {
			t.Errorf("another node was asked for %q", ops)
		}
	})
}
