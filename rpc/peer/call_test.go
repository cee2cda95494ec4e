package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/peer/peerpb"
)

// fakeLog and fakeMembership are functions; one that is not set may not be called.
type fakeLog struct {
	forwarded func(ctx context.Context, commands [][]byte) ([][]byte, uint64, error)
	readIndex func(ctx context.Context) (uint64, error)
	mark      func(ctx context.Context, index uint64) (uint64, error)
	backup    func(ctx context.Context, w io.Writer) error
	term      func() (uint64, error)
}

func (f fakeLog) Forwarded(ctx context.Context, commands [][]byte) ([][]byte, uint64, error) {
	return f.forwarded(ctx, commands)
}
func (f fakeLog) LeaderReadIndex(ctx context.Context) (uint64, error)    { return f.readIndex(ctx) }
func (f fakeLog) Mark(ctx context.Context, index uint64) (uint64, error) { return f.mark(ctx, index) }

func (f fakeLog) Backup(ctx context.Context, w io.Writer) error { return f.backup(ctx, w) }
func (f fakeLog) CurrentTerm() (uint64, error)                  { return f.term() }

type fakeMembership struct {
	promise func(attempt string) (string, node.Cluster, error)
	adopt   func(attempt string, c node.Cluster) error
	join    func(ctx context.Context, n node.Info, forwarded bool) (string, error)
	self    func() node.Info
}

func (f fakeMembership) Promise(attempt string) (string, node.Cluster, error) {
	return f.promise(attempt)
}
func (f fakeMembership) Adopt(attempt string, c node.Cluster) error { return f.adopt(attempt, c) }
func (f fakeMembership) Join(ctx context.Context, n node.Info, forwarded bool) (string, error) {
	return f.join(ctx, n, forwarded)
}
func (f fakeMembership) Self() node.Info { return f.self() }

// callPair is node a, which calls, and node b, which answers.
func callPair(t testing.TB, l Log, m Membership) (n *simnet.Net, a, b *Calls) {
	t.Helper()
	n = simnet.New(time.Millisecond)
	var all [2]*Calls
	for i, id := range []string{"a", "b"} {
		x := NewTunnels(options(id, n.Dialer(id)))
		host := grpc.NewServer()
		x.Register(host)
		lis := n.Listen(id)
		go func() { _ = host.Serve(lis) }()
		c := NewCalls(x)
		all[i] = c
		t.Cleanup(func() {
			if err := errors.Join(c.Stop(), x.Close()); err != nil {
				t.Error(err)
			}
			host.GracefulStop()
		})
		c.Serve(l, m)
	}
	return n, all[0], all[1]
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestCalls_RoundTrip: each call carries what it is given, and its answer, without a change.
func TestCalls_RoundTrip(t *testing.T) {
	info := node.Info{ID: "n", Address: "n:1", Instance: "i", ClusterID: "c", Formed: true, Expect: 3, Level: 2, Applied: 7}
	cluster := node.Cluster{ID: "c", Servers: []node.Info{info, {ID: "m", Address: "m:1"}}}
	same := func(got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		_, a, _ := callPair(t, fakeLog{
			forwarded: func(_ context.Context, commands [][]byte) ([][]byte, uint64, error) {
				same(commands, [][]byte{[]byte("one"), {}, []byte("three")})
				return [][]byte{[]byte("r1"), []byte("r2"), {}}, 42, nil
			},
			readIndex: func(context.Context) (uint64, error) { return 43, nil },
			mark:      func(_ context.Context, index uint64) (uint64, error) { return index | 1<<63, nil },
			term:      func() (uint64, error) { return 44, nil },
		}, fakeMembership{
			promise: func(attempt string) (string, node.Cluster, error) { return attempt + "!", cluster, nil },
			adopt: func(attempt string, c node.Cluster) error {
				same(attempt, "000000000001.n")
				same(c, cluster)
				return nil
			},
			join: func(_ context.Context, n node.Info, forwarded bool) (string, error) {
				same(n, info)
				same(forwarded, true)
				return "c", nil
			},
			self: func() node.Info { return info },
		})
		ctx := within(t, time.Second)
		results, index, err := a.Forward(ctx, "b", "b", [][]byte{[]byte("one"), {}, []byte("three")})
		same([]any{results, index, err}, []any{[][]byte{[]byte("r1"), []byte("r2"), {}}, uint64(42), nil})
		index, err = a.ReadIndex(ctx, "b", "b")
		same([]any{index, err}, []any{uint64(43), nil})
		hash, err := a.Mark(ctx, "b", "b", 44)
		same([]any{hash, err}, []any{uint64(44 | 1<<63), nil})
		term, err := a.CurrentTerm(ctx, "b", "b")
		same([]any{term, err}, []any{uint64(44), nil})
		highest, in, err := a.Promise(ctx, "b", "b", "x")
		same([]any{highest, in, err}, []any{"x!", cluster, nil})
		same(a.Adopt(ctx, "b", "b", "000000000001.n", cluster), nil)
		id, err := a.Join(ctx, "b", "b", info, true)
		same([]any{id, err}, []any{"c", nil})
		got, err := a.Probe(ctx, "b", "b")
		same([]any{got, err}, []any{info, nil})
	})
}

// TestCalls_Backup: a long stream arrives as it was written, at the reader's pace; one that breaks is no whole
// one, and one whose reader gives up ends at the writer too.
func TestCalls_Backup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
		var fails error
		more := 1
		ended := make(chan error, 1)
		_, a, _ := callPair(t, fakeLog{backup: func(ctx context.Context, w io.Writer) error {
			var err error
			for i := 0; i < more && err == nil; i++ {
				_, err = w.Write(data)
			}
			ended <- err
			return errors.Join(err, fails)
		}}, fakeMembership{})
		var got bytes.Buffer
		if err := a.Backup(within(t, time.Minute), "b", "b", &got); err != nil || !bytes.Equal(got.Bytes(), data) || <-ended != nil {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		fails = chaterr.ErrFault
		if err := a.Backup(within(t, time.Minute), "b", "b", io.Discard); !errors.Is(err, chaterr.ErrFault) {
			t.Errorf("got %v", err)
		}
		<-ended
		full := errors.New("disk full")
		more = 1_000_000
		if err := a.Backup(within(t, time.Minute), "b", "b", writer(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the writer has not heard of it")
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestCalls_Errors: a sentinel stays one on the way, with its text; what is none says nothing of what was
// inside.
func TestCalls_Errors(t *testing.T) {
	secret := errors.New("open /var/lib/secret: no such file")
	for _, want := range []error{
		chaterr.ErrNoLeader, chaterr.ErrDraining, chaterr.ErrOverloaded, chaterr.ErrFault, chaterr.ErrClosed, chaterr.ErrUnknownOutcome,
		chaterr.ErrInvalid, chaterr.ErrLimit, chaterr.ErrOtherCluster, chaterr.ErrUpgradeNeeded, chaterr.ErrNodeIDTaken, secret,
	} {
		synctest.Test(t, func(t *testing.T) {
			failure := errors.Join(want, errors.New("and more"))
			_, a, _ := callPair(t,
				fakeLog{
					forwarded: func(context.Context, [][]byte) ([][]byte, uint64, error) { return nil, 0, failure },
					readIndex: func(context.Context) (uint64, error) { return 0, failure },
					term:      func() (uint64, error) { return 0, failure },
				},
				fakeMembership{
					promise: func(string) (string, node.Cluster, error) { return "", node.Cluster{}, failure },
					adopt:   func(string, node.Cluster) error { return failure },
					join:    func(context.Context, node.Info, bool) (string, error) { return "", failure },
				})
			ctx := within(t, time.Second)
			_, _, forward := a.Forward(ctx, "b", "b", nil)
			_, readIndex := a.ReadIndex(ctx, "b", "b")
			_, term := a.CurrentTerm(ctx, "b", "b")
			_, _, promise := a.Promise(ctx, "b", "b", "x")
			adopt := a.Adopt(ctx, "b", "b", "x", node.Cluster{})
			_, join := a.Join(ctx, "b", "b", node.Info{}, false)
			for name, got := range map[string]error{"forward": forward, "read index": readIndex, "current term": term, "promise": promise, "adopt": adopt, "join": join} {
				if want == secret {
					if got == nil || strings.Contains(got.Error(), "secret") || errors.Is(got, chaterr.ErrUnknownOutcome) {
						t.Errorf("%s: got %v", name, got)
					}
				} else if !errors.Is(got, want) || !strings.Contains(got.Error(), "and more") {
					t.Errorf("%s: got %v, want %v", name, got, want)
				}
			}
		})
	}
}

// TestCalls_Unanswered: a call that gets no answer says that its outcome is unknown if it was sent, and
// that it was not done if not, at its deadline and not later.
func TestCalls_Unanswered(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(n *simnet.Net, b *Calls)
		known bool // there was a call before
		took  time.Duration
		want  error
	}{
		"a handler that hangs":           {func(*simnet.Net, *Calls) {}, true, time.Second, chaterr.ErrUnknownOutcome},
		"a link that is cut":             {func(n *simnet.Net, _ *Calls) { n.Cut("a", "b") }, true, time.Second, chaterr.ErrUnknownOutcome},
		"a link that was cut before":     {func(n *simnet.Net, _ *Calls) { n.Cut("a", "b") }, false, time.Second, chaterr.ErrNoLeader},
		"a link that breaks":             {func(n *simnet.Net, _ *Calls) { time.AfterFunc(time.Second/2, func() { n.Reset("a", "b") }) }, true, time.Second / 2, chaterr.ErrUnknownOutcome},
		"a node that is not up":          {func(n *simnet.Net, _ *Calls) { n.Refuse("a", "b") }, false, 0, chaterr.ErrNoLeader},
		"a node that has gone":           {func(n *simnet.Net, _ *Calls) { n.Refuse("a", "b"); n.Reset("a", "b"); time.Sleep(time.Second) }, true, 0, chaterr.ErrNoLeader},
		"a node that stops":              {func(_ *simnet.Net, b *Calls) { time.AfterFunc(time.Second/2, func() { _ = b.Stop() }) }, true, time.Second / 2, chaterr.ErrUnknownOutcome},
		"a node that has stopped before": {func(_ *simnet.Net, b *Calls) { _ = b.Stop() }, false, 0, chaterr.ErrNoLeader},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				given := make(chan time.Duration, 1)
				n, a, b := callPair(t, fakeLog{forwarded: func(ctx context.Context, _ [][]byte) ([][]byte, uint64, error) {
					by, _ := ctx.Deadline()
					given <- time.Until(by)
					<-ctx.Done()
					return nil, 0, ctx.Err()
				}}, fakeMembership{self: func() node.Info { return node.Info{ID: "b"} }})
				if tt.known {
					if _, err := a.Probe(within(t, time.Second), "b", "b"); err != nil {
						t.Fatal(err)
					}
				}
				tt.spoil(n, b)
				start := time.Now()
				_, _, err := a.Forward(within(t, time.Second), "b", "b", nil)
				took := time.Since(start)
				if !errors.Is(err, tt.want) || took < tt.took || took > tt.took+20*time.Millisecond {
					t.Errorf("got %v after %v", err, took)
				}
				if tt.want == chaterr.ErrNoLeader && (len(given) > 0 || errors.Is(err, chaterr.ErrUnknownOutcome)) {
					t.Errorf("the node has the call: got %v", err)
				}
				select {
				case d := <-given:
					if d <= 900*time.Millisecond || d > time.Second {
						t.Errorf("the handler was given %v", d)
					}
				default:
				}
			})
		})
	}
}

// TestCalls_Panic: a handler that panics is a call that fails; the node lives, and says what it was.
func TestCalls_Panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _ := callPair(t, fakeLog{readIndex: func(context.Context) (uint64, error) { panic("a defect") }},
			fakeMembership{self: func() node.Info { return node.Info{ID: "b"} }})
		if _, err := a.ReadIndex(within(t, time.Second), "b", "b"); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "a defect") {
			t.Errorf("got %v", err)
		}
		if got, err := a.Probe(within(t, time.Second), "b", "b"); err != nil || got.ID != "b" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// TestCalls_DeadTunnel: the connection to a node loses everything for ever, without a sign; new ones
// work. Calls work again in seconds.
func TestCalls_DeadTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := callPair(t, fakeLog{}, fakeMembership{self: func() node.Info { return node.Info{ID: "b"} }})
		if _, err := a.Probe(within(t, time.Second), "b", "b"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		n.Blackhole("a", "b")
		start := time.Now()
		for {
			if _, err := a.Probe(within(t, time.Second), "b", "b"); err == nil {
				break
			}
			if time.Since(start) > time.Minute {
				t.Fatal("no call in a minute")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > silence+8*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestCalls_Moves: a node that comes back under another address is called there, and one that answers
// at an address which is now another's is not taken for it.
func TestCalls_Moves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := callPair(t, fakeLog{}, fakeMembership{self: func() node.Info { return node.Info{ID: "b"} }})
		if _, err := a.Probe(within(t, time.Second), "b", "b"); err != nil {
			t.Fatal(err)
		}
		host := grpc.NewServer()
		b.t.Register(host)
		lis := n.Listen("b2")
		go func() { _ = host.Serve(lis) }()
		defer host.Stop()
		if _, err := a.Probe(within(t, time.Second), "b", "b2"); err != nil {
			t.Error(err)
		}
		if got := len(a.conns); got != 1 {
			t.Errorf("%d connections", got)
		}
		if _, err := a.Probe(within(t, time.Second), "z", "b"); status.Code(err) != codes.Unavailable || !strings.Contains(strings.ReplaceAll(err.Error(), `\`, ""), `this is node "b", not "z"`) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCalls_NotOnTheHost: an ordinary client of the host's server cannot reach PeerService.
func TestCalls_NotOnTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, _ := callPair(t, fakeLog{}, fakeMembership{})
		cc, err := grpc.NewClient("passthrough:///b", grpc.WithContextDialer(n.Dialer("stranger")),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		for _, m := range peerpb.PeerService_ServiceDesc.Methods {
			err := cc.Invoke(t.Context(), "/"+peerpb.PeerService_ServiceDesc.ServiceName+"/"+m.MethodName, &peerpb.ProbeRequest{}, &peerpb.ProbeResponse{})
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("%s: got %v", m.MethodName, err)
			}
		}
	})
}

// TestCalls_Stop: it ends calls on both sides, may come twice, before Serve as well, and what is called
// afterwards was not done.
func TestCalls_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := callPair(t, fakeLog{readIndex: func(ctx context.Context) (uint64, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}, fakeMembership{})
		over := make(chan error, 1)
		go func() {
			_, err := a.ReadIndex(within(t, time.Hour), "b", "b")
			over <- err
		}()
		time.Sleep(time.Second)
		start := time.Now()
		if err := errors.Join(a.Stop(), a.Stop(), b.Stop()); err != nil {
			t.Error(err)
		}
		if err := <-over; !errors.Is(err, chaterr.ErrUnknownOutcome) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		if _, err := a.Probe(within(t, time.Second), "b", "b"); !errors.Is(err, chaterr.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := NewCalls(NewTunnels(options("c", nil))).Stop(); err != nil {
			t.Error(err)
		}
	})
}
