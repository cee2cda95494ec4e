package chattest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// A test of a host's program: its leader dies, and what was acknowledged before is there afterwards, at every node.
// In a bubble this takes a fraction of a second.
func ExampleNew() {
	var t *testing.T // of TestOrders(t *testing.T)
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		alice := c.Client("alice")
		if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "before"}); err != nil {
			t.Fatal(err)
		}
		dead := c.Leader()
		dead.Kill()
		if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "after"}); err != nil {
			t.Fatal(err)
		}
		dead.Restart()
		c.WaitStable()
		for _, n := range c.Nodes {
			reader := c.Client("alice", n) // who asks this node first
			ctx := client.WithConsistency(t.Context(), client.Linearizable)
			for m, err := range reader.History(ctx, client.ToUser("alice"), client.Query{}) {
				fmt.Println(n.Name, m.Text, err)
			}
		}
	})
}

// A leader that is cut off from the others is followed by one of them, and is one of them again afterwards.
func ExampleCluster_Isolate() {
	var t *testing.T // of the test
	c := chattest.New(t, 3)
	old := c.Leader()
	c.Isolate(old)
	fmt.Println(c.Leader(old).Name, "leads")
	c.Heal()
	c.WaitStable()
}

// The embedding contract, in a host's own wiring: its server, with what it has always had.
func ExampleTestHost() {
	var t *testing.T // of TestChat(t *testing.T)
	passPeers := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !chat.IsPeerMethod(info.FullMethod) {
			fmt.Println("the host's own checks")
		}
		return handle(ctx, request)
	}
	chattest.TestHost(t, chattest.WithServer(func(*chat.Node) *grpc.Server {
		return grpc.NewServer(grpc.UnaryInterceptor(passPeers))
	}))
}
