package chat_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// hostUsers is a host's Authenticator: its tokens are "token of NAME".
func hostUsers(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token := strings.Join(md.Get("authorization"), "")
	switch user, ok := strings.CutPrefix(token, "Bearer token of "); {
	case !ok:
		return "", errors.New("no token of the shop")
	case user == "mallory":
		return "", status.Error(codes.PermissionDenied, "banned from the shop")
	case user == "crash":
		panic("the host's defect")
	default:
		return user, nil
	}
}

func hostToken(user string) client.Option { return client.WithToken("token of " + user) }

func hostCluster(t *testing.T, n int) *chattest.Cluster {
	return chattest.New(t, n, chattest.WithOptions(func(_ int, o *chat.Options) { o.Authenticator = hostUsers }), chattest.WithLogin(hostToken))
}

// TestAuthenticator: the host's users are the chat's, without registering, on every node and over the death of
// a leader, and a stranger is nobody.
func TestAuthenticator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hostCluster(t, 3)
		alice, bob := c.Client("Alice", c.Nodes[0]), c.Client("bob", c.Nodes[1])
		if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "too early"}); !errors.Is(err, client.ErrNoSuchUser) {
			t.Fatalf("a message to a user who never called: %v", err)
		}
		events, err := bob.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		id := alice.NewOperationID()
		first, err := alice.Send(t.Context(), client.ToUser("BOB"), client.Draft{Text: "hello", OperationID: id})
		if err != nil {
			t.Fatal(err)
		}
		c.Leader().Kill()
		// The same operation at other nodes, in another session, is the same.
		again, err := c.Client("alice").Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "hello", OperationID: id})
		if err != nil || again.Seq != first.Seq || !again.Duplicate {
			t.Errorf("the second time %+v, %v; the first time %+v", again, err, first)
		}
		if _, err := c.Client("alice").Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "bye"}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e, err := range events.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == client.MessageSent {
				got = append(got, fmt.Sprintf("%d %s: %s", e.Message.Seq, e.Message.Sender, e.Message.Text))
			}
			if len(got) == 2 {
				break
			}
		}
		if want := "[1 alice: hello 2 alice: bye]"; fmt.Sprint(got) != want {
			t.Errorf("bob got %v, want %v", got, want)
		}
	})
}

// TestAuthenticator_Refuses: whom the host does not vouch for gets the host's answer, and nobody registers or
// logs in beside the host.
func TestAuthenticator_Refuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hostCluster(t, 1)
		rooms := func(cl *client.Client) error { return first(cl.Rooms(t.Context())) }
		for _, tt := range []struct {
			name string
			err  error
			is   error
			code codes.Code
			text string
		}{
			{"no token", rooms(c.Dial()), client.ErrUnauthenticated, codes.Unauthenticated, "no token of the shop"},
			{"the host's own status", rooms(c.Client("mallory")), nil, codes.PermissionDenied, "banned"},
			{"nobody", rooms(c.Client("")), client.ErrUnauthenticated, codes.Unauthenticated, ""},
			{"a panic", rooms(c.Client("crash")), nil, codes.Internal, "internal"},
			{"no name", rooms(c.Client("a b")), client.ErrInvalid, codes.InvalidArgument, "user has characters"},
			{"a name too long", rooms(c.Client(strings.Repeat("x", 65))), client.ErrInvalid, codes.InvalidArgument, "at most 64"},
			{"register", second(c.Dial().Register(t.Context(), "alice", chattest.Password)), client.ErrHostAccounts, codes.Unimplemented, "host"},
			{"log in", second(c.Dial().Login(t.Context(), "alice", chattest.Password)), client.ErrHostAccounts, codes.Unimplemented, "host"},
			{"a new password", c.Client("alice").ChangePassword(t.Context(), "!", chattest.Password), client.ErrBadCredentials, codes.Unauthenticated, ""},
			{"delete without a password", c.Client("alice").DeleteAccount(t.Context(), "!"), client.ErrBadCredentials, codes.Unauthenticated, ""},
		} {
			if tt.is != nil && !errors.Is(tt.err, tt.is) || status.Code(tt.err) != tt.code || tt.err != nil && !strings.Contains(tt.err.Error(), tt.text) {
				t.Errorf("%s: %v (%v), want %v with %v and %q", tt.name, tt.err, status.Code(tt.err), tt.is, tt.code, tt.text)
			}
		}
		if s, err := c.Dial().Status(t.Context()); err != nil || len(s.Servers) != 0 {
			t.Errorf("a stranger is told of the servers %v, %v", s.Servers, err)
		}
		if s, err := c.Client("alice").Status(t.Context()); err != nil || len(s.Servers) != 1 {
			t.Errorf("a user is told of the servers %v, %v", s.Servers, err)
		}
	})
}

// TestAuthenticator_OneSession: many first calls of a user at once make one session, so that none ends another's.
func TestAuthenticator_OneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hostCluster(t, 1)
		alice := c.Client("alice")
		before := c.Nodes[0].Status().Applied
		var work sync.WaitGroup
		for range 100 {
			work.Go(func() {
				for _, err := range alice.Rooms(t.Context()) {
					t.Error(err)
				}
			})
		}
		work.Wait()
		if n := c.Nodes[0].Status().Applied - before; n > 2 {
			t.Errorf("an account and a session took %d entries", n)
		}
	})
}

// TestClient: the process itself acts as its users, whatever they show elsewhere, and takes them away.
func TestClient(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []chattest.Option
	}{
		{"passwords", nil},
		{"the host's users", []chattest.Option{
			chattest.WithOptions(func(_ int, o *chat.Options) { o.Authenticator = hostUsers }), chattest.WithLogin(hostToken),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := chattest.New(t, 3, tt.opts...)
				alice := c.Client("alice", c.Nodes[1])
				orders, err := c.Nodes[0].Client(t.Context(), "orders")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = orders.Close() }()
				events, err := alice.Subscribe(t.Context(), client.SubscribeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := alice.Send(t.Context(), client.ToUser("orders"), client.Draft{Text: "where is it?"}); err != nil {
					t.Fatal(err) // the account is there since Client has returned
				}
				if _, err := orders.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "on its way"}); err != nil {
					t.Fatal(err)
				}
				for e, err := range events.All(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					if e.Kind == client.MessageSent && e.Message.Sender == "orders" {
						break
					}
				}
				if eps := orders.Endpoints(); len(eps) != 1 {
					t.Errorf("it knows the endpoints %v", eps)
				}
				if _, err := orders.Login(t.Context(), "alice", chattest.Password); !errors.Is(err, client.ErrHostAccounts) {
					t.Errorf("log in within the process: %v", err)
				}

				// The host takes alice away: her stream ends, on whatever node.
				her, err := c.Nodes[2].Client(t.Context(), "alice")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = her.Close() }()
				if err := her.DeleteAccount(t.Context(), ""); err != nil {
					t.Fatal(err)
				}
				for _, err := range events.All(t.Context()) {
					if err != nil {
						if !errors.Is(err, client.ErrUnauthenticated) {
							t.Errorf("her stream ends with %v", err)
						}
						break
					}
				}
				if _, err := orders.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "?"}); !errors.Is(err, client.ErrNoSuchUser) {
					t.Errorf("a message to a user who is gone: %v", err)
				}
			})
		})
	}
}

// TestClient_Ends: a client within the process ends with its node, and none is made of what is no user.
func TestClient_Ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 1)
		n := c.Nodes[0]
		if _, err := n.Client(t.Context(), "no name"); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("a user with a space: %v", err)
		}
		orders, err := n.Client(t.Context(), "orders")
		if err != nil {
			t.Fatal(err)
		}
		events, err := orders.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node := n.Node
		n.Stop()
		if _, err := node.Client(t.Context(), "orders"); !errors.Is(err, chat.ErrClosed) {
			t.Errorf("a client of a closed node: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		if _, err := events.Next(ctx); err == nil {
			t.Error("an event came from a closed node")
		}
		if err := orders.Close(); err != nil {
			t.Error(err)
		}
	})
}
