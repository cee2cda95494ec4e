// Package rpc is what clients call: the handlers of chat.v1. A handler checks what it was given,
// looks whether the caller may, proposes a command or reads the state, and converts. Whatever is
// true of every call stands in this file: who calls, how new the state must be that answers, and
// how errors leave.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/fanout"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

// Metadata of every call; see AccountService in chat.v1.
const (
	authorizationKey = "authorization"
	indexKey         = "chat-index"
	consistencyKey   = "chat-consistency"
)

// catchUpTimeout bounds how long a call waits for this node to be as new as the caller has seen.
const catchUpTimeout = 10 * time.Second

// Replica is the replicated state as the handlers use it.
type Replica interface {
	// Propose has a command carried out and applied here.
	Propose(ctx context.Context, c *state.Command) (*state.Result, error)
	// Submit is Propose for several commands and does not wait. It takes as many as there is room
	// for, and calls done once for each of them.
	Submit(commands []*state.Command, done func(i int, r *state.Result, err error)) (taken int, err error)
	// Linearizable waits until this node has all that was acknowledged before the call.
	Linearizable(ctx context.Context) error
	WaitApplied(ctx context.Context, index uint64) error
	Applied() uint64
	View() (*state.View, error)
}

// Options are what a Service needs. None may be left out but the Authenticator.
type Options struct {
	Replica   Replica
	Hub       *fanout.Hub
	Passwords *auth.Passwords
	// Authenticator, which may be nil, is the host's word on who calls, instead of tokens.
	Authenticator func(ctx context.Context) (user string, err error)
	// Failed is closed when the node has failed for good. All streams end then.
	Failed <-chan struct{}
	// Status is how the node sees itself and the cluster. It must not wait.
	Status func() Status
	Logger *zap.Logger
}

// Service has the handlers. It is safe for concurrent use.
type Service struct {
	o   Options
	log *zap.Logger

	drained chan struct{} // closed by Drain
	once    sync.Once
	vouched vouched

	mu       sync.Mutex          // guards what follows
	streams  map[state.Actor]int // of Subscribe
	connects map[state.Actor]int // of Connect
	calls    int                 // at work, streams included
	idle     chan struct{}       // closed when there are none after Drain; nil before somebody waits
}

// New makes a Service.
func New(o Options) *Service {
	return &Service{
		o: o, log: o.Logger.Named("rpc"), drained: make(chan struct{}),
		streams: map[state.Actor]int{}, connects: map[state.Actor]int{}, vouched: vouched{users: map[string]*vouchedUser{}},
	}
}

// Register adds the services to a host's server. Each method is wrapped, so that no interceptor of
// the host is needed and none can be forgotten; the host's own run first. A frame of events that a stream
// interceptor sees is sent to others too, and is not to be changed.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	w := wrapper{r, s}
	chatpb.RegisterAccountServiceServer(w, accounts{Service: s})
	chatpb.RegisterRoomServiceServer(w, rooms{Service: s})
	chatpb.RegisterMessageServiceServer(w, messages{Service: s})
	chatpb.RegisterEventServiceServer(w, events{Service: s})
	chatpb.RegisterClusterServiceServer(w, cluster{Service: s})
}

// Drain refuses calls from now on and ends all streams, with a code that sends clients elsewhere,
// and waits until the calls that are at work are done. The error is that of ctx.
func (s *Service) Drain(ctx context.Context) error {
	s.once.Do(func() { close(s.drained) })
	s.mu.Lock()
	if s.idle == nil {
		s.idle = make(chan struct{})
		if s.calls == 0 {
			close(s.idle)
		}
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// count counts a call, or one less. It reports false when calls are refused.
func (s *Service) count(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.drained:
		if n > 0 {
			return false
		}
	default:
	}
	s.calls += n
	if s.calls == 0 && s.idle != nil {
		close(s.idle)
	}
	return true
}

// wrapper registers services whose methods go through enter.
type wrapper struct {
	to grpc.ServiceRegistrar
	s  *Service
}

func (w wrapper) RegisterService(d *grpc.ServiceDesc, impl any) {
	wrapped := *d
	wrapped.Methods, wrapped.Streams = nil, nil
	for _, m := range d.Methods {
		wrapped.Methods = append(wrapped.Methods, w.s.unary(m))
	}
	for _, m := range d.Streams {
		wrapped.Streams = append(wrapped.Streams, w.s.stream(d.ServiceName, m))
	}
	w.to.RegisterService(&wrapped, impl)
}

func (s *Service) unary(m grpc.MethodDesc) grpc.MethodDesc {
	ours := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
		err = s.guard(info.FullMethod, func() error {
			ctx, err := s.enter(ctx, info.FullMethod)
			if err != nil {
				return err
			}
			if resp, err = handle(ctx, req); err != nil {
				return err
			}
			return grpc.SetHeader(ctx, metadata.Pairs(indexKey, strconv.FormatUint(s.o.Replica.Applied(), 10)))
		})
		return resp, err
	}
	return grpc.MethodDesc{MethodName: m.MethodName, Handler: func(srv any, ctx context.Context, dec func(any) error, hosts grpc.UnaryServerInterceptor) (any, error) {
		chain := ours
		if hosts != nil {
			chain = func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				return hosts(ctx, req, info, func(ctx context.Context, req any) (any, error) { return ours(ctx, req, info, handle) })
			}
		}
		return m.Handler(srv, ctx, dec, chain)
	}}
}

func (s *Service) stream(service string, m grpc.StreamDesc) grpc.StreamDesc {
	method := fmt.Sprintf("/%s/%s", service, m.StreamName)
	handle := m.Handler
	m.Handler = func(srv any, stream grpc.ServerStream) error {
		return s.guard(method, func() error {
			ctx, err := s.enter(stream.Context(), method)
			if err != nil {
				return err
			}
			return handle(srv, serverStream{stream, ctx})
		})
	}
	return m
}

// serverStream is a stream with another context.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// guard counts a call, refuses it when the node drains, and turns errors into statuses, and a panic
// into one too: the process is the host's.
func (s *Service) guard(method string, f func() error) (err error) {
	if methods[method] != status {
		if !s.count(1) {
			return grpcerr.ToStatus(chaterr.ErrDraining)
		}
		defer s.count(-1)
	}
	if err := s.recovered(method, f); err != nil {
		return s.status(method, err)
	}
	return nil
}

// errPanic: a panic, which was logged.
var errPanic = errors.New("panic")

// recovered turns a panic into errPanic.
func (s *Service) recovered(method string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a call panicked", zap.String("method", method), zap.Any("panic", p), zap.Stack("stack"))
			err = errPanic
		}
	}()
	return f()
}

// status is an error as it goes over the wire.
func (s *Service) status(method string, err error) error {
	over := grpcerr.ToStatus(public(err))
	if grpcerr.Reason(over) == grpcerr.Internal && !errors.Is(err, errPanic) {
		s.log.Error("a call failed", zap.String("method", method), zap.Error(err))
	}
	return over
}

// public is what callers are told of an error: what a node has failed with names its files, and is for
// its operator, who finds it in the log.
func public(err error) error {
	for _, e := range []error{chaterr.ErrUnknownOutcome, chaterr.ErrFault} {
		if errors.Is(err, chaterr.ErrFault) && errors.Is(err, e) {
			return e
		}
	}
	return err
}

// callerKey is where enter puts the caller's state.Actor into the context.
type callerKey struct{}

// caller is who calls; the zero Actor when the method is open to everybody.
func caller(ctx context.Context) state.Actor {
	a, _ := ctx.Value(callerKey{}).(state.Actor)
	return a
}

// knownKey is where enter puts whether the caller of a status method is a user.
type knownKey struct{}

// callerKnown reports whether the caller of a status method is a user.
func callerKnown(ctx context.Context) bool {
	k, _ := ctx.Value(knownKey{}).(bool)
	return k
}

// knows reports whether a call is a user's. When it cannot be found out it is nobody's: a broken node
// answers too.
func (s *Service) knows(ctx context.Context, method string) (is bool) {
	err := s.recovered(method, func() error {
		_, hosted, err := s.identity(ctx)
		if is = hosted; hosted || err != nil {
			return err
		}
		hash, err := bearer(ctx)
		if err == nil {
			_, is, err = s.session(hash)
		}
		return err
	})
	return is && err == nil
}

// enter waits until this node is new enough for the caller, and finds out who that is.
func (s *Service) enter(ctx context.Context, method string) (context.Context, error) {
	access, ok := methods[method]
	if !ok {
		return nil, fmt.Errorf("%s is not in the table of methods", method)
	}
	if access == status {
		return context.WithValue(ctx, knownKey{}, s.knows(ctx, method)), nil
	}
	if access == anybody && s.hosted(ctx) {
		return nil, chaterr.ErrHostAccounts
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	if access == anybody {
		return ctx, nil
	}
	a, err := s.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, a), nil
}

// catchUp waits for what the caller has seen already, or for more if it asks for more.
func (s *Service) catchUp(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	switch level := first(md, consistencyKey); level {
	case "local":
		return nil
	case "linearizable":
		return s.linearizable(ctx)
	case "":
	default:
		return grpcerr.Invalid(consistencyKey, "is neither linearizable nor local")
	}
	text := first(md, indexKey)
	if text == "" {
		return nil
	}
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return grpcerr.Invalid(indexKey, "is not a number")
	}
	return s.waitApplied(ctx, index)
}

// waitApplied waits until this node is as new as index, but not for ever.
func (s *Service) waitApplied(ctx context.Context, index uint64) error {
	return bounded(ctx, func(ctx context.Context) error { return s.o.Replica.WaitApplied(ctx, index) })
}

// linearizable waits until this node has all that was acknowledged before, but not for ever.
func (s *Service) linearizable(ctx context.Context) error {
	return bounded(ctx, s.o.Replica.Linearizable)
}

// bounded gives a node catchUpTimeout to be as new as it has to be. A caller who has set no deadline
// would wait as long as the node lags; it is better off at another one.
func bounded(ctx context.Context, wait func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	err := wait(limited)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w: this node lags behind", chaterr.ErrNoLeader)
	}
	return err
}

func first(md metadata.MD, key string) string {
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// bearer is the hash of the token that came with a call.
func bearer(ctx context.Context) (hash []byte, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(authorizationKey)
	if len(values) == 0 {
		return nil, chaterr.ErrUnauthenticated
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	hash, ok := auth.HashToken(token)
	if len(values) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") {
		return nil, fmt.Errorf("%w: malformed token", chaterr.ErrUnauthenticated)
	}
	return hash, nil
}

// authenticate finds the session of the user for whom the host vouches, or else of a token. A session that
// this node does not know may be newer than the node, so before it says no it looks at the newest state.
func (s *Service) authenticate(ctx context.Context) (state.Actor, error) {
	if user, hosted, err := s.identity(ctx); err != nil {
		return state.Actor{}, err
	} else if hosted {
		return s.vouch(ctx, user)
	}
	hash, err := bearer(ctx)
	if err != nil {
		return state.Actor{}, err
	}
	a, ok, err := s.session(hash)
	if err == nil && !ok {
		if err = s.linearizable(ctx); err == nil {
			a, ok, err = s.session(hash)
		}
	}
	if err == nil && !ok {
		err = chaterr.ErrUnauthenticated
	}
	return a, err
}

func (s *Service) session(hash []byte) (a state.Actor, ok bool, err error) {
	err = s.view(func(v *state.View) error {
		a, ok, err = v.Session(hash)
		return err
	})
	return a, ok, err
}

// view reads the state as it is now.
func (s *Service) view(f func(*state.View) error) error {
	v, err := s.o.Replica.View()
	if err != nil {
		return err
	}
	return errors.Join(f(v), v.Close())
}

// propose has a command carried out for the caller.
func (s *Service) propose(ctx context.Context, operationID string, payload proto.Message) (*state.Result, error) {
	c, err := newCommand(caller(ctx), operationID, payload)
	if err != nil {
		return nil, err
	}
	r, err := s.o.Replica.Propose(ctx, c)
	if err != nil {
		return nil, err
	}
	return r, state.Err(r)
}

// newCommand makes a command for somebody.
func newCommand(who state.Actor, operationID string, payload proto.Message) (*state.Command, error) {
	id, err := parseOperationID(operationID)
	if err != nil {
		return nil, err
	}
	return state.NewCommand(who, id, payload)
}
