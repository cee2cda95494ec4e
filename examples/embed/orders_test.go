package main

import (
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// TestOrders_LeaderDies: a customer whose orders are placed before and after the chat's leader dies reads of
// each, once.
func TestOrders_LeaderDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := newUsers()
		desks := map[*chat.Node]*desk{}
		defer func() {
			for _, d := range desks {
				if err := d.close(); err != nil {
					t.Error(err)
				}
			}
		}()
		c := chattest.New(t, 3,
			chattest.WithOptions(func(_ int, o *chat.Options) { o.Authenticator = users.caller }),
			chattest.WithLogin(func(user string) client.Option { return client.WithToken(users.token(user)) }),
			chattest.WithServer(func(n *chat.Node) *grpc.Server {
				desks[n] = &desk{node: n}
				return newServer(users, desks[n], n)
			}))
		events, err := c.Client("alice").Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		leader := c.Leader()
		shop, err := grpc.NewClient("passthrough:///"+c.Others(leader)[0].Addr, grpc.WithContextDialer(c.Dialer("shop")),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = shop.Close() }()
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+users.token("alice"))
		order := func(what string) {
			t.Helper()
			if err := shop.Invoke(ctx, "/shop.v1.OrderService/Place", wrapperspb.String(what), new(wrapperspb.StringValue)); err != nil {
				t.Fatal(err)
			}
		}
		order("a book")
		leader.Kill()
		order("a pen")
		var texts []string
		for e, err := range events.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == client.MessageSent {
				texts = append(texts, e.Message.Text)
			}
			if len(texts) == 2 {
				break
			}
		}
		if texts[0] != "a book is on its way" || texts[1] != "a pen is on its way" {
			t.Errorf("she was told %q", texts)
		}
	})
}
