package main

import (
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// TestOrders_LeaderDies: a customer whose order is placed while the chat's leader dies reads of it, once.
func TestOrders_LeaderDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		desk := &desk{}
		c := chattest.New(t, 3, chattest.WithServer(func(*chat.Node) *grpc.Server {
			server := grpc.NewServer()
			server.RegisterService(&orders, desk)
			return server
		}))
		desk.chat = c.Client("orders")
		alice := c.Client("alice")
		events, err := alice.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		leader := c.Leader()
		leader.Kill()
		shop, err := grpc.NewClient("passthrough:///"+c.Others(leader)[0].Addr, grpc.WithContextDialer(c.Dialer("shop")),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = shop.Close() }()
		for range 2 {
			if err := shop.Invoke(t.Context(), "/shop.v1.OrderService/Place", wrapperspb.String("alice"), new(wrapperspb.StringValue)); err != nil {
				t.Fatal(err)
			}
		}
		var seqs []uint64
		for e, err := range events.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == client.MessageSent {
				seqs = append(seqs, e.Message.Seq)
			}
			if len(seqs) == 2 {
				break
			}
		}
		if seqs[0] != 1 || seqs[1] != 2 {
			t.Errorf("she was told of messages %v", seqs)
		}
	})
}
