package rpc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	gstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/fanout"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/internal/simnet"
)

// replica is a real state behind a log that always has its majority.
type replica struct {
	t    testing.TB
	db   *pebble.DB
	hub  *fanout.Hub
	s    *state.State
	log  chan struct{}  // one slot: whoever has it may apply. A mutex would not let fake time pass.
	work sync.WaitGroup // of Submit
	gap  time.Duration  // between the commit of an entry and the word of it, and before a view is read

	mu      sync.Mutex // guards what follows
	index   uint64
	ahead   time.Duration // of the log's clock
	hold    chan struct{} // proposals wait until it is closed; nil for no wait
	accepts int           // how many commands Submit takes; 0 for all
	stuck   bool          // reads at a level wait for ever
	fault   error         // what everything fails with
}

var _ Replica = (*replica)(nil)

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func newReplica(t testing.TB) *replica {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, db: db, hub: fanout.NewHub(), log: make(chan struct{}, 1)}
	t.Cleanup(func() {
		r.work.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if r.s, err = state.Open(db); err != nil {
		t.Fatal(err)
	}
	r.must(state.Actor{}, &state.FormCluster{ClusterId: "c"})
	return r
}

func (r *replica) Propose(ctx context.Context, c *state.Command) (*state.Result, error) {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, context.Cause(ctx))
		}
	}
	r.log <- struct{}{}
	defer func() { <-r.log }()
	results, events, err := r.apply(c)
	if err != nil {
		return nil, err
	}
	time.Sleep(r.gap)
	r.hub.Publish(events)
	return results[0], nil
}

// Submit is Propose for each, one after the other and in the background.
func (r *replica) Submit(commands []*state.Command, done func(int, *state.Result, error)) (int, error) {
	r.mu.Lock()
	accepts, fault := r.accepts, r.fault
	r.mu.Unlock()
	if fault != nil {
		return 0, fault
	}
	n := len(commands)
	if accepts > 0 {
		n = min(n, accepts)
	}
	r.work.Go(func() {
		for i, c := range commands[:n] {
			res, err := r.Propose(r.t.Context(), c)
			done(i, res, err)
		}
	})
	if n < len(commands) {
		return n, chaterr.ErrOverloaded
	}
	return n, nil
}

// apply is one entry of one command.
func (r *replica) apply(c *state.Command) ([]*state.Result, []state.Event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return nil, nil, r.fault
	}
	data, err := state.EncodeEntry(time.Now().Add(r.ahead).UnixMilli(), []*state.Command{c})
	if err != nil {
		return nil, nil, err
	}
	b := r.s.NewBatch()
	results, err := b.Apply(r.index+1, 1, data)
	if err != nil {
		return nil, nil, err
	}
	events, err := b.Commit()
	r.index++
	return results, events, err
}

func (r *replica) Linearizable(ctx context.Context) error { return r.read(ctx, 0) }

func (r *replica) WaitApplied(ctx context.Context, index uint64) error { return r.read(ctx, index) }

func (r *replica) read(ctx context.Context, index uint64) error {
	r.mu.Lock()
	stuck, fault := r.stuck || index > r.index, r.fault
	r.mu.Unlock()
	if fault != nil {
		return fault
	}
	if stuck {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

func (r *replica) Applied() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index
}

// View gives out what was true a gap ago.
func (r *replica) View() (*state.View, error) {
	v, err := state.NewView(r.db, func() {})
	time.Sleep(r.gap)
	return v, err
}

// set changes what is guarded by mu.
func (r *replica) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// must has a command carried out.
func (r *replica) must(a state.Actor, payload proto.Message) *state.Result {
	r.t.Helper()
	c, err := state.NewCommand(a, nil, payload)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.Propose(r.t.Context(), c)
	if err == nil {
		err = state.Err(res)
	}
	if err != nil {
		r.t.Fatalf("%T: %v", payload, err)
	}
	return res
}

// user is somebody who is logged in.
type user struct {
	state.Actor
	token string
}

// user makes an account, whose password cannot be checked, and a session.
func (r *replica) user(name string) user {
	r.t.Helper()
	account := r.must(state.Actor{}, &state.RegisterAccount{Name: name, PasswordHash: "none"}).Account
	token := auth.NewToken()
	hash := sha256.Sum256([]byte(token))
	s := r.must(state.Actor{}, &state.CreateSession{Account: account, TokenHash: hash[:], PasswordVersion: 1})
	return user{state.Actor{Account: account, Session: s.Session}, token}
}

// host is a server of a host program, with the services on it.
type host struct {
	*replica
	*Service
	cc     *grpc.ClientConn
	server *grpc.Server
	failed chan struct{} // closed by a test for a node that has failed
}

// newHost starts one. It ends with the test.
func newHost(t testing.TB, log *zap.Logger, opts ...grpc.ServerOption) *host {
	t.Helper()
	r := newReplica(t)
	h := &host{replica: r, server: grpc.NewServer(opts...), failed: make(chan struct{})}
	h.Service = New(Options{
		Replica: r, Hub: r.hub, Passwords: auth.NewPasswords(), Logger: log, Failed: h.failed,
		Status: func() Status { return Status{NodeID: "n1", Role: Leader, Servers: []Server{{ID: "n1"}}} },
	})
	h.Service.Register(h.server)
	n := simnet.New(0)
	lis := n.Listen("host")
	go func() { _ = h.server.Serve(lis) }() // ends with Stop
	dial := n.Dialer("client")
	var err error
	h.cc, err = grpc.NewClient("passthrough:///host", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return dial(ctx, to) }),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.cc.Close(); err != nil {
			t.Error(err)
		}
		h.server.Stop()
	})
	return h
}

// as is the context of a call by somebody.
func (u user) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, authorizationKey, "Bearer "+u.token)
}

// wantStatus checks the code and the reason of an error.
func wantStatus(t testing.TB, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if gstatus.Code(err) != code || grpcerr.Reason(err) != reason {
		t.Errorf("%s: got %v %q (%v), want %v %q", what, gstatus.Code(err), grpcerr.Reason(err), err, code, reason)
	}
}
