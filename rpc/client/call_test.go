package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

// over is an error as it comes over the wire.
func over(err error) error { return grpcerr.ToStatus(err) }

// TestCall_OneOperation: whatever goes wrong at the first node, the call goes on at the second one with
// the same operation id, and its caller does not see it.
func TestCall_OneOperation(t *testing.T) {
	for name, tt := range map[string]struct {
		first func(n *node, ctx context.Context) error
		took  time.Duration
	}{
		"it dies before it answers": {func(n *node, ctx context.Context) error { n.die(); return freeze(ctx) }, 0},
		"it does not answer":        {func(_ *node, ctx context.Context) error { return freeze(ctx) }, patience},
		"it knows no leader":        {func(*node, context.Context) error { return over(chaterr.ErrNoLeader) }, 0},
		"it drains":                 {func(*node, context.Context) error { return over(chaterr.ErrDraining) }, 0},
		"it is closed":              {func(*node, context.Context) error { return over(chaterr.ErrClosed) }, 0},
		"it has failed":             {func(*node, context.Context) error { return over(chaterr.ErrFault) }, 0},
		"it does not know":          {func(*node, context.Context) error { return over(chaterr.ErrUnknownOutcome) }, 0},
		"a proxy gives up":          {func(*node, context.Context) error { return status.Error(codes.DeadlineExceeded, "upstream timeout") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *cluster) {
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.send = func(ctx context.Context, _ *chatpb.SendRequest) (*chatpb.SendResponse, error) {
					return nil, tt.first(n1, ctx)
				}
				cl := c.client(n1, n2)
				var r Receipt
				var err error
				if d := took(func() { r, err = cl.Send(t.Context(), ToUser("bob"), Draft{Text: "hello"}) }); err != nil || d != tt.took {
					t.Errorf("got %v, %v after %v, want it after %v", r, err, d, tt.took)
				}
				first, _ := n1.heard()
				second, _ := n2.heard()
				if want := []string{r.OperationID}; len(r.OperationID) != 26 || !slices.Equal(first, want) || !slices.Equal(second, want) {
					t.Errorf("the nodes were asked for %q and %q, the receipt has %q", first, second, r.OperationID)
				}
				if d := took(func() { _, err = cl.Send(t.Context(), ToUser("bob"), Draft{Text: "again"}) }); err != nil || d != 0 {
					t.Errorf("the next call: %v after %v", err, d)
				}
				if again, _ := n2.heard(); len(again) != 2 || again[1] == again[0] {
					t.Errorf("the next call was not another one for the second node: %q", again)
				}
			})
		})
	}
}

// TestCall_Refused: what one node refuses, no other one is asked.
func TestCall_Refused(t *testing.T) {
	for _, refusal := range []error{
		ErrInvalid, ErrUnauthenticated, ErrBadCredentials, ErrNameTaken, ErrPasswordChanged, ErrNoSuchUser, ErrNoSuchRoom, ErrNotMember, ErrDirectRoom,
		ErrNoSuchMessage, ErrLimit, ErrOperationMismatch, ErrOperationTooOld, ErrOperationFromFuture, ErrBadCursor, ErrOtherCluster,
		status.Error(codes.PermissionDenied, "an interceptor of the host"), status.Error(codes.Unimplemented, "an older version"),
	} {
		t.Run(refusal.Error(), func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *cluster) {
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.send = func(context.Context, *chatpb.SendRequest) (*chatpb.SendResponse, error) { return nil, over(refusal) }
				_, err := c.client(n1, n2).Send(t.Context(), ToUser("bob"), Draft{Text: "hello"})
				if !errors.Is(err, refusal) && status.Code(err) != status.Code(refusal) || errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("got %v", err)
				}
				first, _ := n1.heard()
				if second, _ := n2.heard(); len(first) != 1 || len(second) != 0 {
					t.Errorf("the nodes were asked %d and %d times", len(first), len(second))
				}
			})
		})
	}
}

// TestCall_ThreeKinds: a call that nobody serves ends with its deadline and one kind of error. The
// outcome is unknown only when something that changes the cluster may have arrived.
func TestCall_ThreeKinds(t *testing.T) {
	lost := func(n *node, ctx context.Context) error { n.c.net.Reset("client", n.addr); return freeze(ctx) }
	once := func(first, then func(*node, context.Context) error) func(*node, context.Context) error {
		var asked sync.Map // nodes
		return func(n *node, ctx context.Context) error {
			if _, again := asked.LoadOrStore(n, true); !again {
				return first(n, ctx)
			}
			return then(n, ctx)
		}
	}
	says := func(err error) func(*node, context.Context) error {
		return func(*node, context.Context) error { return over(err) }
	}
	frozen := func(_ *node, ctx context.Context) error { return freeze(ctx) }
	for name, tt := range map[string]struct {
		node         func(*node, context.Context) error // nil for a node that is down
		change, read error
	}{
		"down":                            {nil, ErrNoLeader, ErrNoLeader},
		"no leader":                       {says(chaterr.ErrNoLeader), ErrNoLeader, ErrNoLeader},
		"drains":                          {says(chaterr.ErrDraining), ErrNoLeader, ErrNoLeader},
		"closed":                          {says(chaterr.ErrClosed), ErrNoLeader, ErrNoLeader}, // ErrClosed is for the client's own end
		"failed":                          {says(chaterr.ErrFault), ErrNoLeader, ErrNoLeader},
		"overloaded":                      {says(chaterr.ErrOverloaded), ErrOverloaded, ErrOverloaded},
		"breaks":                          {lost, ErrUnknownOutcome, ErrNoLeader},
		"frozen":                          {frozen, ErrUnknownOutcome, ErrNoLeader},
		"breaks once, then no leader":     {once(lost, says(chaterr.ErrNoLeader)), ErrUnknownOutcome, ErrNoLeader},
		"breaks once, then a limit":       {once(lost, says(chaterr.ErrLimit)), ErrLimit, ErrLimit},
		"breaks once, then not logged in": {once(lost, says(chaterr.ErrUnauthenticated)), ErrUnknownOutcome, ErrUnauthenticated},
	} {
		for _, changes := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, changes %v", name, changes), func(t *testing.T) {
				bothWays(t, func(t *testing.T, c *cluster) {
					n := c.node("n1:1")
					n.send = func(ctx context.Context, _ *chatpb.SendRequest) (*chatpb.SendResponse, error) {
						return nil, tt.node(n, ctx)
					}
					n.list = func(ctx context.Context, _ *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
						return nil, tt.node(n, ctx)
					}
					cl := c.client(n)
					if tt.node == nil {
						n.die()
						synctest.Wait()
					}
					var err error
					want := tt.change
					if d := took(func() {
						if changes {
							_, err = cl.Send(t.Context(), ToUser("bob"), Draft{Text: "hello"})
							return
						}
						want = tt.read
						for _, err = range cl.History(t.Context(), ToUser("bob"), Query{}) {
						}
					}); d > defaultTimeout {
						t.Errorf("took %v", d)
					}
					for _, kind := range []error{ErrNoLeader, ErrOverloaded, ErrUnknownOutcome, ErrClosed, ErrLimit, ErrUnauthenticated} {
						if got := errors.Is(err, kind); got != (kind == want) {
							t.Errorf("got %v; it is %q: %v, want %v", err, kind, got, !got)
						}
					}
				})
			})
		}
	}
}

// TestCall_Election: a call that waits for a leader goes on soon after there is one, however long the
// election took.
func TestCall_Election(t *testing.T) {
	for _, election := range []time.Duration{100 * time.Millisecond, 750 * time.Millisecond, 1600 * time.Millisecond, 3 * time.Second} {
		bothWays(t, func(t *testing.T, c *cluster) {
			start := time.Now()
			n := c.node("n1:1")
			n.send = func(context.Context, *chatpb.SendRequest) (*chatpb.SendResponse, error) {
				if time.Since(start) < election {
					return nil, over(chaterr.ErrNoLeader)
				}
				return &chatpb.SendResponse{}, nil
			}
			cl := c.client(n)
			start = time.Now()
			if _, err := cl.Send(t.Context(), ToUser("bob"), Draft{Text: "hello"}); err != nil {
				t.Fatal(err)
			}
			if late := time.Since(start) - election; late > 2*steadyPace {
				t.Errorf("%v after an election of %v", late, election)
			}
		})
	}
}

// TestCall_BackOff: while nobody serves, the nodes are asked again and again, but not busily.
func TestCall_BackOff(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes     int
		down      bool
		says      error
		low, high int // attempts in 30 seconds
	}{
		"three are down":       {3, true, nil, 30, 150},
		"one is down":          {1, true, nil, 10, 50},
		"three know no leader": {3, false, chaterr.ErrNoLeader, 30, 3*steadyTries + 75},
		"one knows no leader":  {1, false, chaterr.ErrNoLeader, 10, steadyTries + 25},
		"three do not know":    {3, false, chaterr.ErrUnknownOutcome, 30, 75},
		"one is overloaded":    {1, false, chaterr.ErrOverloaded, 100, 151},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *cluster) {
				var attempts atomic.Int32
				var nodes []*node
				for i := range tt.nodes {
					n := c.node(fmt.Sprintf("n%d:1", i+1))
					n.send = func(context.Context, *chatpb.SendRequest) (*chatpb.SendResponse, error) {
						attempts.Add(1)
						return nil, over(tt.says)
					}
					nodes = append(nodes, n)
				}
				dial := c.net.Dialer("client")
				cl, err := Dial(t.Context(), []string{"n1:1"}, WithDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					if tt.down {
						attempts.Add(1)
					}
					return dial(ctx, addr)
				}))
				if err != nil {
					t.Fatal(err)
				}
				defer cl.Close()
				for _, n := range nodes {
					if err := cl.Prefer(n.addr); err != nil {
						t.Fatal(err)
					}
					if tt.down {
						n.die()
					}
				}
				synctest.Wait()
				attempts.Store(0)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if d := took(func() { _, err = cl.Send(ctx, ToUser("bob"), Draft{Text: "hello"}) }); err == nil || d != 30*time.Second {
					t.Errorf("got %v after %v", err, d)
				}
				if n := int(attempts.Load()); n < tt.low || n > tt.high {
					t.Errorf("%d attempts in 30 seconds, want %d to %d", n, tt.low, tt.high)
				}
			})
		})
	}
}

// TestCall_Recovers: a node that was away is asked again soon after it is back.
func TestCall_Recovers(t *testing.T) {
	for name, tt := range map[string]struct {
		away, back func(c *cluster)
	}{
		"a cut":   {func(c *cluster) { c.net.Cut("client", "n1:1") }, func(c *cluster) { c.net.HealAll() }},
		"refused": {func(c *cluster) { c.net.Refuse("client", "n1:1"); c.net.Reset("client", "n1:1") }, func(c *cluster) { c.net.HealAll() }},
		// A connection that leads nowhere is given up, though TCP has not noticed.
		"a dead connection": {func(c *cluster) { c.net.Blackhole("client", "n1:1") }, func(*cluster) {}},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, c *cluster) {
				n1 := c.node("n1:1")
				cl := c.client(n1)
				tt.away(c)
				time.AfterFunc(5*time.Second, func() { tt.back(c) })
				var err error
				if d := took(func() { _, err = cl.Send(t.Context(), ToUser("bob"), Draft{Text: "hello"}) }); err != nil || d > 15*time.Second {
					t.Errorf("got %v after %v", err, d)
				}
			})
		})
	}
}

// TestCall_ShortDeadlines: the caller's own haste is not the node's fault when the caller gives up, and
// the connection with all that is on it stays.
func TestCall_ShortDeadlines(t *testing.T) {
	bothWays(t, func(t *testing.T, c *cluster) {
		n1, n2 := c.node("n1:1"), c.node("n2:1")
		n1.send = func(ctx context.Context, _ *chatpb.SendRequest) (*chatpb.SendResponse, error) {
			return nil, freeze(ctx)
		}
		cl := c.client(n1, n2)
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			if _, err := cl.Send(ctx, ToUser("bob"), Draft{Text: "hello"}); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		if first, _ := n1.heard(); len(first) != 5 {
			t.Errorf("the preferred node was asked %d times, want 5", len(first))
		}
	})
}

// TestCall_Unsendable: what cannot be right is refused before it is sent, and not tried for half a minute.
func TestCall_Unsendable(t *testing.T) {
	for name, text := range map[string]string{
		"no UTF-8":    "a\xff",
		"5 megabytes": strings.Repeat("x", 5<<20),
	} {
		bothWays(t, func(t *testing.T, c *cluster) {
			n := c.node("n1:1")
			cl := c.client(n)
			var err error
			if d := took(func() { _, err = cl.Send(t.Context(), ToUser("bob"), Draft{Text: text}) }); !errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnknownOutcome) || d != 0 {
				t.Errorf("%s: got %v after %v", name, err, d)
			}
			if ops, _ := n.heard(); len(ops) > 0 {
				t.Errorf("%s: the node was asked", name)
			}
		})
	}
}

// TestCall_Levels: what a call tells the node of what its caller has seen, and wants to see.
func TestCall_Levels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		answers := []string{"7", "5", "nonsense", ""}
		n.list = func(ctx context.Context, _ *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
			var answer string
			if answer, answers = answers[0], answers[1:]; answer != "" {
				_ = grpc.SetHeader(ctx, metadata.Pairs("chat-index", answer))
			}
			return &chatpb.ListMessagesResponse{}, nil
		}
		cl := c.client(n)
		for i, tt := range []struct {
			level Level
			want  map[string]string
		}{
			{ReadYourWrites, map[string]string{}},
			{ReadYourWrites, map[string]string{"chat-index": "7"}},
			{Local, map[string]string{"chat-consistency": "local"}},
			{Linearizable, map[string]string{"chat-consistency": "linearizable"}},
		} {
			for _, err := range cl.History(WithConsistency(t.Context(), tt.level), ToRoom("r1"), Query{}) {
				t.Fatal(err)
			}
			_, md := n.heard()
			got := map[string]string{}
			for _, k := range []string{"chat-index", "chat-consistency"} {
				if v := md.Get(k); len(v) > 0 {
					got[k] = v[0]
				}
			}
			if !maps.Equal(got, tt.want) || !slices.Equal(md.Get("authorization"), []string{"Bearer chs_token"}) {
				t.Errorf("call %d came with %v", i, md)
			}
		}
	})
}

// TestLogout: the end of a session, as sure as it can be known. That a session is over says that Logout
// has what it wants; that an account is deleted, or that other sessions have ended, it says only
// after an attempt that may have done it.
func TestLogout(t *testing.T) {
	logout := (*Client).Logout
	all := (*Client).LogoutAll
	deletes := func(c *Client, ctx context.Context) error { return c.DeleteAccount(ctx, "correct horse") }
	for name, tt := range map[string]struct {
		do    func(*Client, context.Context) error
		lost  bool // the first answer
		says  error
		want  error
		token string
	}{
		"logout":                              {logout, false, nil, nil, ""},
		"logout, over already":                {logout, false, ErrUnauthenticated, nil, ""},
		"logout, answer lost":                 {logout, true, ErrUnauthenticated, nil, ""},
		"logout, refused":                     {logout, false, ErrInvalid, ErrInvalid, "chs_token"},
		"logout of all":                       {all, false, nil, nil, ""},
		"logout of all, over already":         {all, false, ErrUnauthenticated, ErrUnauthenticated, "chs_token"},
		"logout of all, answer lost":          {all, true, ErrUnauthenticated, nil, ""},
		"delete the account":                  {deletes, false, nil, nil, ""},
		"delete the account, over already":    {deletes, false, ErrUnauthenticated, ErrUnauthenticated, "chs_token"},
		"delete the account, answer lost":     {deletes, true, ErrUnauthenticated, nil, ""},
		"delete the account, wrong password":  {deletes, false, ErrBadCredentials, ErrBadCredentials, "chs_token"},
		"delete the account, lost, and wrong": {deletes, true, ErrBadCredentials, ErrBadCredentials, "chs_token"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n1, n2 := c.node("n1:1"), c.node("n2:1")
				n1.logout = func(ctx context.Context) error {
					if tt.lost {
						n1.die()
						return freeze(ctx)
					}
					return over(tt.says)
				}
				n2.logout = func(context.Context) error { return over(tt.says) }
				cl := c.client(n1, n2)
				if err := tt.do(cl, t.Context()); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if got := cl.Token(); got != tt.token {
					t.Errorf("the token is %q, want %q", got, tt.token)
				}
			})
		})
	}
}

// TestClient_Closed: Close ends what waits, and says so to whoever still calls. A change that was under
// way may have been done.
func TestClient_Closed(t *testing.T) {
	bothWays(t, func(t *testing.T, c *cluster) {
		n := c.node("n1:1")
		n.send = func(ctx context.Context, _ *chatpb.SendRequest) (*chatpb.SendResponse, error) {
			return nil, freeze(ctx)
		}
		n.list = func(ctx context.Context, _ *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
			return nil, freeze(ctx)
		}
		n.subscribe = func(_ int, _ *chatpb.SubscribeRequest, s grpc.ServerStreamingServer[chatpb.SubscribeResponse]) error {
			_ = s.Send(frame(1, 0))
			return freeze(s.Context())
		}
		cl := c.client(n)
		sub, err := cl.Subscribe(t.Context(), SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]func() error{
			"change": func() error { _, err := cl.Send(t.Context(), ToUser("bob"), Draft{Text: "x"}); return err },
			"read": func() (last error) {
				for _, last = range cl.History(t.Context(), ToUser("bob"), Query{}) {
				}
				return last
			},
			"next": func() error { _, err := sub.Next(t.Context()); return err },
		}
		type end struct {
			name string
			err  error
		}
		ends := make(chan end, len(calls))
		for name, f := range calls {
			go func() { ends <- end{name, f()} }()
		}
		synctest.Wait()
		if d := took(func() { err = errors.Join(cl.Close(), cl.Close()) }); err != nil || d != 0 {
			t.Errorf("Close: %v after %v", err, d)
		}
		for range calls {
			e := <-ends
			want := ErrClosed
			if e.name == "change" {
				want = ErrUnknownOutcome
			}
			if !errors.Is(e.err, want) {
				t.Errorf("%s under way: got %v, want %v", e.name, e.err, want)
			}
		}
		calls["subscribe"] = func() error { _, err := cl.Subscribe(t.Context(), SubscribeOptions{}); return err }
		calls["login"] = func() error { _, err := cl.Login(t.Context(), "alice", "correct horse"); return err }
		calls["prefer"] = func() error { return cl.Prefer("n9:1") }
		for name, f := range calls {
			if err := f(); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("%s after Close: got %v", name, err)
			}
		}
	})
}
