package chat_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat"
	"example.com/chat/rpc/chatpb"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// alone makes the nodes of chattest clusters of one.
func alone(_ int, o *chat.Options) { o.Seeds = nil }

// stubs are the raw services of one node, for requests that the Go client would not send.
type stubs struct {
	cc       *grpc.ClientConn
	accounts chatpb.AccountServiceClient
	rooms    chatpb.RoomServiceClient
	messages chatpb.MessageServiceClient
	events   chatpb.EventServiceClient
	cluster  chatpb.ClusterServiceClient
}

// dialRaw connects to a node. The connection ends with the test.
func dialRaw(t *testing.T, c *chattest.Cluster, n *chattest.Node) *stubs {
	t.Helper()
	dial := c.Dialer("raw")
	cc, err := grpc.NewClient("passthrough:///"+n.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, addr) }),
		grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cc.Close(); err != nil {
			t.Error(err)
		}
	})
	return &stubs{
		cc: cc, accounts: chatpb.NewAccountServiceClient(cc), rooms: chatpb.NewRoomServiceClient(cc),
		messages: chatpb.NewMessageServiceClient(cc), events: chatpb.NewEventServiceClient(cc), cluster: chatpb.NewClusterServiceClient(cc),
	}
}

// with adds metadata to a call.
func with(ctx context.Context, kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

func bearer(ctx context.Context, token string) context.Context {
	return with(ctx, "authorization", "Bearer "+token)
}

// second leaves out the answer of a call.
func second[T any](_ T, err error) error { return err }

// first is the error that a sequence begins with, if it does.
func first[T any](seq func(func(T, error) bool)) (err error) {
	for _, err = range seq {
		break
	}
	return err
}

// opAt makes an operation id as of a time.
func opAt(at time.Time) string { return ulid.MustNew(ulid.Timestamp(at), rand.Reader).String() }

// world is everything that a user can see of a cluster.
func world(t *testing.T, who *client.Client) string {
	t.Helper()
	var b strings.Builder
	ctx := client.WithConsistency(t.Context(), client.Linearizable)
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	for a, err := range who.Users(ctx, "") {
		check(err)
		fmt.Fprintln(&b, a.Name, a.CreateTime, a.LoginTime)
	}
	for r, err := range who.SearchRooms(ctx, "") {
		check(err)
		fmt.Fprintln(&b, r)
	}
	for r, err := range who.Rooms(ctx) {
		check(err)
		fmt.Fprintln(&b, r)
		for m, err := range who.Members(ctx, r.ID) {
			check(err)
			fmt.Fprintln(&b, m)
		}
		for m, err := range who.History(ctx, client.ToRoom(r.ID), client.Query{}) {
			check(err)
			fmt.Fprintln(&b, m)
		}
	}
	return b.String()
}

// TestInput_Refused: whatever is wrong with a call, it is refused with the code and the reason that the
// schema names, the Go client has a variable for it, and nothing of it is stored: the users see what
// they saw before, and no event comes.
func TestInput_Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := chattest.Start(t, 1, chattest.WithOptions(alone))
		other.WaitStable()
		strange := other.Client("alice")
		strangeSub, err := strange.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := strange.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "note"}); err != nil {
			t.Fatal(err)
		}
		strangeEvent, err := strangeSub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}

		c := chattest.New(t, 3)
		n := c.Others(c.Leader())[0] // a follower: what has to be refused is refused on the way, too
		raw := dialRaw(t, c, n)
		alice, bob, gone := c.Client("alice", n), c.Client("bob", n), c.Client("carol", n)
		revoked := gone.Token()
		if err := gone.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		receipt, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "before"})
		if err != nil {
			t.Fatal(err)
		}
		lobby, err := bob.CreateRoom(t.Context(), "lobby")
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := bob.OpenDirect(t.Context(), "carol")
		if err != nil {
			t.Fatal(err)
		}
		events, err := alice.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		as := bearer(ctx, alice.Token())

		register := func(name, password string) [2]func() error {
			return [2]func() error{
				func() error {
					return second(raw.accounts.Register(ctx, &chatpb.RegisterRequest{Name: name, Password: password}))
				},
				func() error { return second(alice.Register(ctx, name, password)) },
			}
		}
		name := func(n string) [2]func() error { return register(n, chattest.Password) }
		toUser := func(name string) *chatpb.Target { return &chatpb.Target{To: &chatpb.Target_User{User: name}} }
		toRoom := func(id string) *chatpb.Target { return &chatpb.Target{To: &chatpb.Target_RoomId{RoomId: id}} }
		send := func(to *chatpb.Target, text, op string) [2]func() error {
			target := client.ToRoom(to.GetRoomId())
			if to.GetUser() != "" {
				target = client.ToUser(to.GetUser())
			}
			return [2]func() error{
				func() error {
					return second(raw.messages.Send(as, &chatpb.SendRequest{OperationId: op, Target: to, Text: text}))
				},
				func() error { return second(alice.Send(ctx, target, client.Draft{Text: text, OperationID: op})) },
			}
		}
		// Only with raw stubs: the Go client has no way to say that.
		rawly := func(f func() error) [2]func() error { return [2]func() error{f, nil} }
		rooms := func(ctx context.Context) [2]func() error {
			return rawly(func() error { return second(raw.rooms.ListRooms(ctx, &chatpb.ListRoomsRequest{})) })
		}
		subscribe := func(cursor string) [2]func() error {
			return [2]func() error{
				func() error {
					s, err := raw.events.Subscribe(as, &chatpb.SubscribeRequest{Cursor: cursor})
					if err == nil {
						_, err = s.Recv()
					}
					return err
				},
				func() error {
					return second(alice.Subscribe(ctx, client.SubscribeOptions{Cursor: cursor}))
				},
			}
		}
		page := func(size int32, token string) [2]func() error {
			return rawly(func() error {
				return second(raw.accounts.ListAccounts(as, &chatpb.ListAccountsRequest{PageSize: size, PageToken: token}))
			})
		}
		hide := func(room string, seqs ...uint64) [2]func() error {
			return [2]func() error{
				func() error {
					return second(raw.messages.HideMessages(as, &chatpb.HideMessagesRequest{RoomId: room, Seqs: seqs}))
				},
				func() error { return alice.Hide(ctx, room, seqs...) },
			}
		}
		used := receipt.OperationID
		long := strings.Repeat("x", 16385)

		before := world(t, alice) + world(t, bob)
		type row struct {
			call   [2]func() error // raw, and with the Go client if it can say that
			code   codes.Code
			reason string
			err    error
		}
		invalid := func(call [2]func() error) row { return row{call, codes.InvalidArgument, "INVALID", client.ErrInvalid} }
		taken := func(call [2]func() error) row {
			return row{call, codes.AlreadyExists, "NAME_TAKEN", client.ErrNameTaken}
		}
		noRoom := func(call [2]func() error) row { return row{call, codes.NotFound, "NO_SUCH_ROOM", client.ErrNoSuchRoom} }
		noUser := func(call [2]func() error) row { return row{call, codes.NotFound, "NO_SUCH_USER", client.ErrNoSuchUser} }
		unauthenticated := func(call [2]func() error) row {
			return row{call, codes.Unauthenticated, "UNAUTHENTICATED", client.ErrUnauthenticated}
		}
		for what, tt := range map[string]row{
			"name: empty":              invalid(name("")),
			"name: 65 bytes":           invalid(name(strings.Repeat("a", 65))),
			"name: 257 bytes":          invalid(name(strings.Repeat("a", 257))),
			"name: a control":          invalid(name("al\x07ice")),
			"name: a line feed":        invalid(name("dave\n")),
			"name: a space":            invalid(name("dave smith")),
			"name: a no-break space":   invalid(name("dave\u00a0smith")),
			"name: bidi override":      invalid(name("\u202eevad")),
			"name: a zero-width space": invalid(name("da\u200bve")),
			"name: a zero-width join":  invalid(name("da\u200dve")),
			"name: an emoji":           invalid(name("dave😀")),
			"name: reserved":           invalid(name("Admin")),
			"name: the same":           taken(name("alice")),
			"name: a capital":          taken(name("Alice")),
			"name: capitals":           taken(name("ALICE")),
			"name: full-width":         taken(name("ａｌｉｃｅ")),
			"room name: reserved": invalid([2]func() error{
				func() error { return second(raw.rooms.CreateRoom(as, &chatpb.CreateRoomRequest{Name: "everyone"})) },
				func() error { return second(alice.CreateRoom(ctx, "everyone")) },
			}),
			"room name: taken": taken([2]func() error{
				func() error { return second(raw.rooms.CreateRoom(as, &chatpb.CreateRoomRequest{Name: "LOBBY"})) },
				func() error { return second(alice.CreateRoom(ctx, "LOBBY")) },
			}),

			"password: 7 bytes":     invalid(register("dave", "1234567")),
			"password: empty":       invalid(register("dave", "")),
			"password: 1,025 bytes": invalid(register("dave", strings.Repeat("x", 1025))),
			"password: the new one is short": invalid([2]func() error{
				func() error {
					return second(raw.accounts.ChangePassword(as, &chatpb.ChangePasswordRequest{OldPassword: chattest.Password, NewPassword: "short"}))
				},
				func() error { return alice.ChangePassword(ctx, chattest.Password, "short") },
			}),
			"password: the old one is wrong": {[2]func() error{
				func() error {
					return second(raw.accounts.ChangePassword(as, &chatpb.ChangePasswordRequest{OldPassword: "wrong", NewPassword: "long enough"}))
				},
				func() error { return alice.ChangePassword(ctx, "wrong", "long enough") },
			}, codes.Unauthenticated, "BAD_CREDENTIALS", client.ErrBadCredentials},
			"password: wrong, and the account would be deleted": {[2]func() error{
				func() error {
					return second(raw.accounts.DeleteAccount(as, &chatpb.DeleteAccountRequest{Password: "wrong"}))
				},
				func() error { return alice.DeleteAccount(ctx, "wrong") },
			}, codes.Unauthenticated, "BAD_CREDENTIALS", client.ErrBadCredentials},

			"text: empty":             invalid(send(toUser("bob"), "", "")),
			"text: 16,385 bytes":      invalid(send(toUser("bob"), long, "")),
			"text: a control":         invalid(send(toUser("bob"), "\x1b[2J", "")),
			"text: a carriage return": invalid(send(toUser("bob"), "a\r\n", "")),
			// gRPC itself refuses what is no message, before we see it.
			"text: not UTF-8": {rawly(func() error { return invoke(as, raw.cc, "/chat.v1.MessageService/Send", []byte{3<<3 | 2, 1, 0xff}) }), codes.Internal, "", nil},
			"no message":      {rawly(func() error { return invoke(as, raw.cc, "/chat.v1.MessageService/Send", []byte{0xff}) }), codes.Internal, "", nil},
			"5 MiB":           {rawly(send(toUser("bob"), strings.Repeat("x", 5<<20), "")[0]), codes.ResourceExhausted, "", nil},

			"to nobody":                    noUser(send(toUser("nobody"), "hello", "")),
			"to a bad name":                invalid(send(toUser("no body"), "hello", "")),
			"to no room":                   noRoom(send(toRoom("r999"), "hello", "")),
			"to no id":                     noRoom(send(toRoom("lobby"), "hello", "")),
			"to another one's":             noRoom(send(toRoom(theirs.ID), "hello", "")), // as if there were none
			"to a room that she is not in": {send(toRoom(lobby.ID), "hello", ""), codes.PermissionDenied, "NOT_MEMBER", client.ErrNotMember},
			"no target":                    invalid(rawly(func() error { return second(raw.messages.Send(as, &chatpb.SendRequest{Text: "hello"})) })),
			"no target's to": invalid(rawly(func() error {
				return second(raw.messages.Send(as, &chatpb.SendRequest{Text: "hello", Target: &chatpb.Target{}}))
			})),
			"history of nobody": noUser([2]func() error{
				func() error {
					return second(raw.messages.ListMessages(as, &chatpb.ListMessagesRequest{Target: toUser("nobody")}))
				},
				func() error { return first(alice.History(ctx, client.ToUser("nobody"), client.Query{})) },
			}),
			"history of another one's": noRoom([2]func() error{
				func() error {
					return second(raw.messages.ListMessages(as, &chatpb.ListMessagesRequest{Target: toRoom(theirs.ID)}))
				},
				func() error { return first(alice.History(ctx, client.ToRoom(theirs.ID), client.Query{})) },
			}),
			"members of a room that she is not in": {[2]func() error{
				func() error { return second(raw.rooms.ListMembers(as, &chatpb.ListMembersRequest{RoomId: lobby.ID})) },
				func() error { return first(alice.Members(ctx, lobby.ID)) },
			}, codes.PermissionDenied, "NOT_MEMBER", client.ErrNotMember},
			"to leave a direct room": {[2]func() error{
				func() error { return second(raw.rooms.LeaveRoom(as, &chatpb.LeaveRoomRequest{RoomId: receipt.RoomID})) },
				func() error { return alice.LeaveRoom(ctx, receipt.RoomID) },
			}, codes.FailedPrecondition, "DIRECT_ROOM", client.ErrDirectRoom},
			"to join another one's": noRoom(rawly(func() error {
				return second(raw.rooms.JoinRoom(as, &chatpb.JoinRoomRequest{Room: &chatpb.JoinRoomRequest_RoomId{RoomId: theirs.ID}}))
			})),
			"to join nothing":                       invalid(rawly(func() error { return second(raw.rooms.JoinRoom(as, &chatpb.JoinRoomRequest{})) })),
			"hide nothing":                          invalid(hide(receipt.RoomID)),
			"hide 101":                              invalid(hide(receipt.RoomID, make([]uint64, 101)...)),
			"hide number 0":                         {hide(receipt.RoomID, 0), codes.NotFound, "NO_SUCH_MESSAGE", client.ErrNoSuchMessage},
			"hide what is not there, after what is": {hide(receipt.RoomID, 1, 2), codes.NotFound, "NO_SUCH_MESSAGE", client.ErrNoSuchMessage},
			"read what is not there": {[2]func() error{
				func() error {
					return second(raw.messages.MarkRead(as, &chatpb.MarkReadRequest{RoomId: receipt.RoomID, Seq: 2}))
				},
				func() error { return alice.MarkRead(ctx, receipt.RoomID, 2) },
			}, codes.NotFound, "NO_SUCH_MESSAGE", client.ErrNoSuchMessage},

			"token: none":               unauthenticated(rooms(ctx)),
			"token: malformed":          unauthenticated(rooms(bearer(ctx, "nonsense"))),
			"token: a megabyte":         unauthenticated(rooms(bearer(ctx, "chs_"+strings.Repeat("x", 1<<20)))),
			"token: two":                unauthenticated(rooms(bearer(as, alice.Token()))),
			"token: revoked":            unauthenticated(rooms(bearer(ctx, revoked))),
			"token: of another cluster": unauthenticated(rooms(bearer(ctx, strange.Token()))),
			"token: cut":                unauthenticated(rooms(bearer(ctx, alice.Token()[:len(alice.Token())-1]))),
			"token: in small letters":   unauthenticated(rooms(bearer(ctx, strings.ToLower(alice.Token())))),
			"token: without a scheme":   unauthenticated(rooms(with(ctx, "authorization", alice.Token()))),
			"basic authorization":       unauthenticated(rooms(with(ctx, "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("alice:"+chattest.Password))))),

			"operation: no ULID":        invalid(send(toUser("bob"), "hello", "nonsense")),
			"operation: out of range":   invalid(send(toUser("bob"), "hello", "8"+strings.Repeat("0", 25))),
			"operation: of tomorrow":    {send(toUser("bob"), "hello", opAt(time.Now().Add(24*time.Hour))), codes.FailedPrecondition, "OPERATION_FROM_FUTURE", client.ErrOperationFromFuture},
			"operation: of yesterday":   {send(toUser("bob"), "hello", opAt(time.Now().Add(-24*time.Hour-time.Minute))), codes.FailedPrecondition, "OPERATION_TOO_OLD", client.ErrOperationTooOld},
			"operation: of long ago":    {send(toUser("bob"), "hello", strings.Repeat("0", 26)), codes.FailedPrecondition, "OPERATION_TOO_OLD", client.ErrOperationTooOld},
			"operation: another text":   {send(toUser("bob"), "after", used), codes.AlreadyExists, "OPERATION_MISMATCH", client.ErrOperationMismatch},
			"operation: another target": {send(toUser("carol"), "before", used), codes.AlreadyExists, "OPERATION_MISMATCH", client.ErrOperationMismatch},
			"operation: another kind": {rawly(func() error {
				return second(raw.rooms.CreateRoom(as, &chatpb.CreateRoomRequest{OperationId: used, Name: "den"}))
			}), codes.AlreadyExists, "OPERATION_MISMATCH", client.ErrOperationMismatch},

			"page: less than none":     invalid(page(-1, "")),
			"page: no token":           invalid(page(0, "!")),
			"page: a megabyte":         invalid(page(0, strings.Repeat("x", 1<<20))),
			"page: of another listing": invalid(rawly(func() error { return second(raw.rooms.ListRooms(as, &chatpb.ListRoomsRequest{PageToken: "YWxpY2U"})) })),
			"pattern: 257 bytes": invalid([2]func() error{
				func() error {
					return second(raw.accounts.ListAccounts(as, &chatpb.ListAccountsRequest{Pattern: strings.Repeat("*", 257)}))
				},
				func() error { return first(alice.Users(ctx, strings.Repeat("*", 257))) },
			}),
			"order: unknown": invalid(rawly(func() error {
				return second(raw.messages.ListMessages(as, &chatpb.ListMessagesRequest{Target: toUser("bob"), Order: 7}))
			})),

			"cursor: nonsense":           {subscribe("nonsense"), codes.InvalidArgument, "BAD_CURSOR", client.ErrBadCursor},
			"cursor: of another cluster": {subscribe(strangeEvent.Cursor), codes.FailedPrecondition, "OTHER_CLUSTER", client.ErrOtherCluster},

			"consistency: unknown": invalid(rooms(with(as, "chat-consistency", "eventual"))),
			"index: no number":     invalid(rooms(with(as, "chat-index", "new"))),
			// It may be that this node lags: another one may have it.
			"index: far in the future": {rooms(with(as, "chat-index", "1000000000")), codes.Unavailable, "NO_LEADER", client.ErrNoLeader},

			"peers: a tunnel, as nobody":      {rawly(func() error { return tunnel(ctx, raw.cc) }), codes.Unauthenticated, "", nil},
			"peers: a tunnel, with a session": {rawly(func() error { return tunnel(as, raw.cc) }), codes.Unauthenticated, "", nil},
			"peers: a call":                   {rawly(func() error { return invoke(as, raw.cc, "/chat.peer.v1.PeerService/Forward", nil) }), codes.Unimplemented, "", nil},
			"an unknown method":               {rawly(func() error { return invoke(as, raw.cc, "/chat.v1.AccountService/Promote", nil) }), codes.Unimplemented, "", nil},
			"an unknown service":              {rawly(func() error { return invoke(as, raw.cc, "/chat.v1.AdminService/Promote", nil) }), codes.Unimplemented, "", nil},
		} {
			start := time.Now()
			err := tt.call[0]()
			if status.Code(err) != tt.code || client.Reason(err) != tt.reason && tt.reason != "" {
				t.Errorf("%s: got %v %q (%v), want %v %q", what, status.Code(err), client.Reason(err), err, tt.code, tt.reason)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
			}
			if tt.call[1] != nil {
				if err := tt.call[1](); !errors.Is(err, tt.err) || errors.Is(err, client.ErrUnknownOutcome) {
					t.Errorf("%s, with the Go client: got %v, want %v", what, err, tt.err)
				}
			}
			if took := time.Since(start); took > 11*time.Second {
				t.Errorf("%s: took %v", what, took)
			}
		}
		for what, d := range map[string]client.Draft{"not UTF-8": {Text: "a\xff"}, "5 MiB": {Text: strings.Repeat("x", 5<<20)}} {
			if _, err := alice.Send(ctx, client.ToUser("bob"), d); !errors.Is(err, client.ErrInvalid) {
				t.Errorf("text: %s, with the Go client: got %v", what, err)
			}
		}

		if after := world(t, alice) + world(t, bob); after != before {
			t.Errorf("something was stored; before:\n%s\nafter:\n%s", before, after)
		}
		next, err := bob.Send(ctx, client.ToUser("alice"), client.Draft{Text: "still here?"})
		if err != nil || next.Seq != receipt.Seq+1 {
			t.Errorf("the next message: %v, %v", next, err)
		}
		if e, err := events.Next(ctx); err != nil || e.Message.Text != "still here?" {
			t.Errorf("the next event is %+v, %v", e, err)
		}
		c.WaitStable()
	})
}

// invoke calls any method with bytes of the caller's choice.
func invoke(ctx context.Context, cc *grpc.ClientConn, method string, request []byte) error {
	return cc.Invoke(ctx, method, request, &[]byte{}, grpc.ForceCodec(rawCodec{}))
}

// rawCodec passes bytes through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = b; return nil }
func (rawCodec) Name() string                    { return "proto" }

// tunnel tries to speak to a node as another node would, without the cluster's secret.
func tunnel(ctx context.Context, cc *grpc.ClientConn) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/chat.peer.v1.TunnelService/Tunnel", grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	hello := append([]byte{1<<3 | 2, 100}, bytes.Repeat([]byte("x"), 100)...)
	if err := s.SendMsg(hello); err != nil {
		return err
	}
	return s.RecvMsg(&[]byte{})
}

// TestInput_Login: who tries passwords cannot tell a wrong one from a name that nobody has: not by the
// status, to the byte.
func TestInput_Login(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 1, chattest.WithOptions(alone))
		c.WaitStable()
		alice := c.Client("alice")
		raw := dialRaw(t, c, c.Nodes[0])
		var want []byte
		for _, tt := range [][2]string{
			{"alice", "wrong horse"}, {"ALICE", "wrong horse"}, {"nobody", chattest.Password}, {"alice", ""}, {"nobody", ""},
			{"no body", chattest.Password}, {"", chattest.Password}, {"admin", chattest.Password}, {strings.Repeat("x", 1000), chattest.Password},
			{"alice", strings.Repeat("x", 2000)}, {"nobody", strings.Repeat("x", 2000)},
		} {
			var header, trailer metadata.MD
			_, err := raw.accounts.Login(t.Context(), &chatpb.LoginRequest{Name: tt[0], Password: tt[1]}, grpc.Header(&header), grpc.Trailer(&trailer))
			got, merr := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
			if merr != nil {
				t.Fatal(merr)
			}
			if want == nil {
				want = got
			}
			if status.Code(err) != codes.Unauthenticated || client.Reason(err) != "BAD_CREDENTIALS" || !bytes.Equal(got, want) {
				t.Errorf("%q: got %v", tt, err)
			}
			if header.Len() > 1 || len(header.Get("chat-index")) > 0 || len(trailer.Get("chat-index")) > 0 {
				t.Errorf("%q: got header %v, trailer %v", tt, header, trailer)
			}
		}
		if _, err := alice.Login(t.Context(), "alice", "wrong horse"); !errors.Is(err, client.ErrBadCredentials) || alice.Token() == "" {
			t.Errorf("got %v; the session that there was is kept: %v", err, alice.Token() != "")
		}
		// Before login a stranger learns how the node is, and not who the others are.
		st, err := raw.cluster.GetStatus(t.Context(), &chatpb.GetStatusRequest{})
		if err != nil || st.NodeId != "n1" || len(st.Servers) != 0 {
			t.Errorf("status: %v, %v", st, err)
		}
	})
}

// TestInput_Limits: what one account may have at once. The 33rd session ends the oldest; the 33rd
// subscription of a session is refused, and the others go on.
func TestInput_Limits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 1, chattest.WithOptions(alone))
		c.WaitStable()
		alice := c.Client("alice")
		tokens := []string{alice.Token()}
		var subs []*client.Subscription
		for range 32 {
			s, err := alice.Subscribe(t.Context(), client.SubscribeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			subs = append(subs, s)
		}
		if s, err := alice.Subscribe(t.Context(), client.SubscribeOptions{}); !errors.Is(err, client.ErrLimit) {
			t.Errorf("the 33rd subscription: %v, %v", s, err)
		}
		if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "note"}); err != nil {
			t.Fatal(err)
		}
		for i, s := range subs {
			e, err := s.Next(t.Context())
			for err == nil && e.Kind != client.MessageSent {
				e, err = s.Next(t.Context())
			}
			if err != nil {
				t.Errorf("subscription %d: %v", i+1, err)
			}
		}
		raw := dialRaw(t, c, c.Nodes[0])
		alive := func() (n []int) {
			for i, token := range tokens {
				if _, err := raw.rooms.ListRooms(bearer(t.Context(), token), &chatpb.ListRoomsRequest{}); err == nil {
					n = append(n, i+1)
				} else if status.Code(err) != codes.Unauthenticated {
					t.Fatal(err)
				}
			}
			return n
		}
		for len(tokens) < 32 {
			a, err := raw.accounts.Login(t.Context(), &chatpb.LoginRequest{Name: "alice", Password: chattest.Password})
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, a.Token)
		}
		if got := alive(); len(got) != 32 {
			t.Errorf("of 32 sessions %v are alive", got)
		}
		a, err := raw.accounts.Login(t.Context(), &chatpb.LoginRequest{Name: "alice", Password: chattest.Password})
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, a.Token)
		if got := alive(); len(got) != 32 || slices.Contains(got, 1) {
			t.Errorf("of 33 sessions %v are alive, want all but the first", got)
		}
		for i, s := range subs {
			if _, err := s.Next(t.Context()); !errors.Is(err, client.ErrUnauthenticated) {
				t.Errorf("subscription %d of the oldest session: %v", i+1, err)
			}
		}
	})
}
