package rpc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

// registrar keeps what is registered.
type registrar map[string]*grpc.ServiceDesc

func (r registrar) RegisterService(d *grpc.ServiceDesc, _ any) { r[d.ServiceName] = d }

// TestMethods_Complete: the table of methods has every method of every service of chat.v1, and no
// other, and Register registers all of them.
func TestMethods_Complete(t *testing.T) {
	want := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("chat.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				want["/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if len(want) < 19 {
		t.Fatalf("the schema has %d methods", len(want))
	}
	for m := range want {
		if methods[m] == 0 {
			t.Errorf("%s is not in the table", m)
		}
	}
	for m := range methods {
		if !want[m] {
			t.Errorf("%s is in the table and not in the schema", m)
		}
	}
	have := registrar{}
	New(Options{Logger: zap.NewNop()}).Register(have)
	for service, d := range have {
		for _, m := range d.Methods {
			delete(want, "/"+service+"/"+m.MethodName)
		}
		for _, m := range d.Streams {
			delete(want, "/"+service+"/"+m.StreamName)
		}
	}
	for m := range want {
		t.Errorf("%s is not registered", m)
	}
}

// TestMethods_Refused: every method but three refuses who has no session, before it does or says
// anything. One that is not in the table is refused to everybody.
func TestMethods_Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		before := h.Applied()
		open := []string{
			chatpb.AccountService_Register_FullMethodName, chatpb.AccountService_Login_FullMethodName, chatpb.ClusterService_GetStatus_FullMethodName,
		}
		for m := range methods {
			if slices.Contains(open, m) || m == chatpb.EventService_Subscribe_FullMethodName {
				continue
			}
			err := h.cc.Invoke(t.Context(), m, &chatpb.GetStatusRequest{}, &chatpb.GetStatusResponse{})
			wantStatus(t, m, err, codes.Unauthenticated, "UNAUTHENTICATED")
		}
		stream, err := chatpb.NewEventServiceClient(h.cc).Subscribe(t.Context(), &chatpb.SubscribeRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		wantStatus(t, "Subscribe", err, codes.Unauthenticated, "UNAUTHENTICATED")
		if h.Applied() != before {
			t.Error("something was proposed")
		}
		if _, err := h.enter(metadata.NewIncomingContext(t.Context(), metadata.Pairs(authorizationKey, "Bearer "+alice.token)), "/chat.v1.AccountService/New"); err == nil {
			t.Error("a method that is not in the table is open")
		}
	})
}

// TestGuard_Panic: a panic in a handler becomes INTERNAL, which says nothing of it to the caller and
// all to the operator, and the process lives; the call is not counted for ever.
func TestGuard_Panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.ErrorLevel)
		h := newHost(t, zap.New(core))
		h.Service.o.Status = func() Status { panic("a secret") }
		h.Service.o.Hub = nil // Subscribe will panic too
		alice := h.user("alice")
		_, err := chatpb.NewClusterServiceClient(h.cc).GetStatus(t.Context(), &chatpb.GetStatusRequest{})
		wantStatus(t, "a call", err, codes.Internal, grpcerr.Internal)
		stream, serr := chatpb.NewEventServiceClient(h.cc).Subscribe(alice.as(t.Context()), &chatpb.SubscribeRequest{})
		if serr != nil {
			t.Fatal(serr)
		}
		_, serr = stream.Recv()
		wantStatus(t, "a stream", serr, codes.Internal, grpcerr.Internal)
		if strings.Contains(err.Error(), "secret") || strings.Contains(serr.Error(), "nil pointer") {
			t.Errorf("the caller is told %v, %v", err, serr)
		}
		if l := logs.FilterMessage("a call panicked"); l.Len() != 2 || l.All()[0].ContextMap()["panic"] != "a secret" {
			t.Errorf("the log has %v", logs.All())
		}
		if _, err := chatpb.NewRoomServiceClient(h.cc).ListRooms(alice.as(t.Context()), &chatpb.ListRoomsRequest{}); err != nil {
			t.Errorf("the next call: %v", err)
		}
		if err := h.Service.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestGuard_Internals: what a node has failed with stays with its operator.
func TestGuard_Internals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		broken := errors.New("write /secret/path: no space left on device")
		for name, tt := range map[string]struct {
			err    error
			code   codes.Code
			reason string
		}{
			"a fault":           {errors.Join(chaterr.ErrFault, broken), codes.Internal, "FAULT"},
			"a fault midway":    {errors.Join(chaterr.ErrUnknownOutcome, chaterr.ErrFault, broken), codes.DeadlineExceeded, "UNKNOWN_OUTCOME"},
			"something of ours": {broken, codes.Internal, grpcerr.Internal},
		} {
			h.set(func() { h.fault = tt.err })
			_, err := chatpb.NewMessageServiceClient(h.cc).Send(alice.as(t.Context()), &chatpb.SendRequest{
				Target: &chatpb.Target{To: &chatpb.Target_User{User: "alice"}}, Text: "hello",
			})
			wantStatus(t, name, err, tt.code, tt.reason)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: the caller is told %v", name, err)
			}
		}
		h.Service.o.Status = func() Status { return Status{Role: Faulty, Detail: broken.Error()} }
		st, err := chatpb.NewClusterServiceClient(h.cc).GetStatus(t.Context(), &chatpb.GetStatusRequest{})
		if err != nil || st.Role != chatpb.Role_ROLE_FAULTY || st.Detail != chaterr.ErrFault.Error() {
			t.Errorf("status: got %v, %v", st, err)
		}
	})
}

// TestInterceptors: those of the host run before ours, see the errors that the caller gets, and can
// refuse a call or change its context.
func TestInterceptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []string
		note := func(method string, err error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, method[strings.LastIndex(method, "/")+1:]+" "+grpcerr.Reason(err))
		}
		h := newHost(t, zap.NewNop(),
			grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
				md, _ := metadata.FromIncomingContext(ctx)
				if len(md.Get("barred")) > 0 {
					return nil, grpcerr.ToStatus(chaterr.ErrOverloaded)
				}
				if token := md.Get("cookie"); len(token) > 0 { // the host's own way to carry the token
					ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(authorizationKey, "Bearer "+token[0]))
				}
				resp, err := handle(ctx, req)
				note(info.FullMethod, err)
				return resp, err
			}),
			grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
				err := handle(srv, stream)
				note(info.FullMethod, err)
				return err
			}))
		alice := h.user("alice")
		rooms := chatpb.NewRoomServiceClient(h.cc)
		_, err := rooms.ListRooms(t.Context(), &chatpb.ListRoomsRequest{})
		wantStatus(t, "without a session", err, codes.Unauthenticated, "UNAUTHENTICATED")
		_, err = rooms.ListRooms(metadata.AppendToOutgoingContext(t.Context(), "cookie", alice.token), &chatpb.ListRoomsRequest{})
		wantStatus(t, "with a cookie", err, codes.OK, "")
		_, err = rooms.ListRooms(alice.as(metadata.AppendToOutgoingContext(t.Context(), "barred", "yes")), &chatpb.ListRoomsRequest{})
		wantStatus(t, "barred", err, codes.ResourceExhausted, "OVERLOADED")
		stream, err := chatpb.NewEventServiceClient(h.cc).Subscribe(t.Context(), &chatpb.SubscribeRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		wantStatus(t, "a stream", err, codes.Unauthenticated, "UNAUTHENTICATED")
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got, want := strings.Join(seen, ", "), "ListRooms UNAUTHENTICATED, ListRooms , Subscribe UNAUTHENTICATED"; got != want {
			t.Errorf("the host has seen %q, want %q", got, want)
		}
	})
}

// TestDrain: calls at work are waited for, new ones and streams are sent elsewhere, and the status can
// be asked for to the end.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		rooms, hold := chatpb.NewRoomServiceClient(h.cc), make(chan struct{})
		stream, err := chatpb.NewEventServiceClient(h.cc).Subscribe(alice.as(t.Context()), &chatpb.SubscribeRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		h.set(func() { h.hold = hold })
		atWork := make(chan error, 1)
		go func() {
			_, err := rooms.CreateRoom(alice.as(t.Context()), &chatpb.CreateRoomRequest{Name: "lobby"})
			atWork <- err
		}()
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- h.Service.Drain(t.Context()) }()
		synctest.Wait()

		_, err = stream.Recv()
		wantStatus(t, "the stream", err, codes.Unavailable, "DRAINING")
		_, err = rooms.ListRooms(alice.as(t.Context()), &chatpb.ListRoomsRequest{})
		wantStatus(t, "a new call", err, codes.Unavailable, "DRAINING")
		if stream, err = chatpb.NewEventServiceClient(h.cc).Subscribe(alice.as(t.Context()), &chatpb.SubscribeRequest{}); err == nil {
			_, err = stream.Recv()
		}
		wantStatus(t, "a new stream", err, codes.Unavailable, "DRAINING")
		if _, err := chatpb.NewClusterServiceClient(h.cc).GetStatus(t.Context(), &chatpb.GetStatusRequest{}); err != nil {
			t.Errorf("status: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Service.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain has not waited for the call at work: %v", err)
		}
		select {
		case err := <-drained:
			t.Errorf("Drain has not waited: %v", err)
		default:
		}
		close(hold)
		if err := <-atWork; err != nil {
			t.Errorf("the call at work: %v", err)
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if err := h.Service.Drain(t.Context()); err != nil {
			t.Errorf("a second time: %v", err)
		}
		h.server.GracefulStop() // returns
	})
}

// TestFault: when the node fails, streams end at once, with a reason that sends clients to another node; also those
// with a send whose answer does not come. The host's server need not wait for them.
func TestFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		alice := h.user("alice")
		room := h.lobby(alice)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		events, _, err := h.subscribe(ctx, alice, "")
		if err != nil {
			t.Fatal(err)
		}
		var streams [3]*talker
		for i := range streams {
			if streams[i], err = h.dial(ctx, t, alice); err != nil {
				t.Fatal(err)
			}
		}
		idle, both, busy := streams[0], streams[1], streams[2]
		if err := both.Send(&chatpb.ConnectRequest{Subscribe: &chatpb.SubscribeRequest{}}); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); err != nil {
			t.Fatal(err)
		}
		hold := make(chan struct{})
		defer close(hold)
		h.set(func() { h.hold = hold })
		busy.say(to(room, "never answered"))
		synctest.Wait()
		start := time.Now()
		close(h.failed)
		_, err = events.Recv()
		wantStatus(t, "Subscribe", err, codes.Internal, "FAULT")
		for what, c := range map[string]*talker{"Connect": idle, "Connect with events": both, "Connect with a send": busy} {
			_, err := c.Recv()
			wantStatus(t, what, err, codes.Internal, "FAULT")
		}
		h.server.GracefulStop()
		if took := time.Since(start); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// TestLevels: how new the state must be. A node that lags sends the caller elsewhere after a while,
// also one who has set no deadline; who takes what there is gets it at once.
func TestLevels(t *testing.T) {
	for name, tt := range map[string]struct {
		md   []string
		took time.Duration
		code codes.Code
		want string
	}{
		"seen before":      {[]string{indexKey, "3"}, 0, codes.OK, ""},
		"not yet here":     {[]string{indexKey, "4"}, catchUpTimeout, codes.Unavailable, "NO_LEADER"},
		"never":            {[]string{indexKey, "18446744073709551615"}, catchUpTimeout, codes.Unavailable, "NO_LEADER"},
		"no number":        {[]string{indexKey, "-1"}, 0, codes.InvalidArgument, "INVALID"},
		"linearizable":     {[]string{consistencyKey, "linearizable"}, catchUpTimeout, codes.Unavailable, "NO_LEADER"},
		"local":            {[]string{consistencyKey, "local", indexKey, "4"}, 0, codes.OK, ""},
		"another word":     {[]string{consistencyKey, "Local"}, 0, codes.InvalidArgument, "INVALID"},
		"no such session":  {[]string{authorizationKey, "Bearer " + auth.NewToken()}, catchUpTimeout, codes.Unavailable, "NO_LEADER"},
		"nothing is asked": {nil, 0, codes.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, zap.NewNop())
				alice := h.user("alice")
				if h.Applied() != 3 {
					t.Fatalf("applied %d", h.Applied())
				}
				h.set(func() { h.stuck = name == "linearizable" || name == "no such session" })
				ctx := metadata.AppendToOutgoingContext(t.Context(), tt.md...)
				if name != "no such session" {
					ctx = alice.as(ctx)
				}
				start := time.Now()
				var header metadata.MD
				_, err := chatpb.NewRoomServiceClient(h.cc).ListRooms(ctx, &chatpb.ListRoomsRequest{}, grpc.Header(&header))
				wantStatus(t, "ListRooms", err, tt.code, tt.want)
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if v := header.Get(indexKey); err == nil && (len(v) != 1 || v[0] != "3") {
					t.Errorf("the answer has %s %q, want 3", indexKey, v)
				}
				// Whatever is wrong with the node and the caller, it says how it is, at once.
				start = time.Now()
				st, err := chatpb.NewClusterServiceClient(h.cc).GetStatus(ctx, &chatpb.GetStatusRequest{})
				if known := name != "no such session"; err != nil || time.Since(start) != 0 || (len(st.Servers) > 0) != known {
					t.Errorf("status %v, %v after %v", st, err, time.Since(start))
				}
			})
		})
	}
}

// TestAuthenticate_NewerSession: a session that this node does not know yet is looked for in the newest
// state before it is refused.
func TestAuthenticate_NewerSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, zap.NewNop())
		token := auth.NewToken()
		account := h.must(state.Actor{}, &state.RegisterAccount{Name: "alice", PasswordHash: "none"}).Account
		late := lateReplica{h.replica, func() {
			hash, _ := auth.HashToken(token)
			h.must(state.Actor{}, &state.CreateSession{Account: account, TokenHash: hash, PasswordVersion: 1})
		}}
		h.Service.o.Replica = late
		if _, err := chatpb.NewRoomServiceClient(h.cc).ListRooms(user{token: token}.as(t.Context()), &chatpb.ListRoomsRequest{}); err != nil {
			t.Error(err)
		}
	})
}

// lateReplica catches up when a linearizable read asks it to.
type lateReplica struct {
	*replica
	catchUp func()
}

func (r lateReplica) Linearizable(context.Context) error { r.catchUp(); return nil }
