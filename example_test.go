package chat_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// A program that has a grpc.Server puts chat on it: here a cluster of one node, and alice, who writes to
// bob. More nodes need no more than their addresses in Seeds.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "chat-")
	must(err)
	defer os.RemoveAll(dir)

	// What the program has anyway.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	addr := listener.Addr().String()
	server := grpc.NewServer()

	// Chat beside it.
	node, err := chat.New(chat.Options{NodeID: "node-1", DataDir: dir, Advertise: addr, BootstrapExpect: 1})
	must(err)
	node.Register(server)
	go server.Serve(listener)
	must(node.Start(ctx))
	must(node.Ready(ctx))

	// Two users.
	alice, bob := login(ctx, addr, "alice"), login(ctx, addr, "bob")
	events, err := bob.Subscribe(ctx, client.SubscribeOptions{})
	must(err)
	receipt, err := alice.Send(ctx, client.ToUser("bob"), client.Draft{Text: "Hello!"})
	must(err)
	fmt.Printf("message %d is on the disks of a majority\n", receipt.Seq)
	for event, err := range events.All(ctx) {
		must(err)
		if event.Kind == client.MessageSent {
			fmt.Printf("%s: %s\n", event.Message.Sender, event.Message.Text)
			break
		}
	}

	// The end, in this order: GracefulStop waits for streams, and Drain ends them.
	must(alice.Close())
	must(bob.Close())
	must(node.Drain(ctx))
	server.GracefulStop()
	must(node.Close())

	// Output:
	// message 1 is on the disks of a majority
	// alice: Hello!
}

// The program's own users chat, without a second password: an Authenticator says who calls, here by a token in
// the metadata, and Node.Client writes to them from within the process.
func Example_ownUsers() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "chat-")
	must(err)
	defer os.RemoveAll(dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	addr := listener.Addr().String()
	server := grpc.NewServer()

	tokens := map[string]string{"Bearer token-of-alice": "alice"} // the program's
	node, err := chat.New(chat.Options{
		NodeID: "node-1", DataDir: dir, Advertise: addr, BootstrapExpect: 1,
		Authenticator: func(ctx context.Context) (string, error) {
			for _, token := range metadata.ValueFromIncomingContext(ctx, "authorization") {
				if user, ok := tokens[token]; ok {
					return user, nil
				}
			}
			return "", errors.New("show a token of this program")
		},
	})
	must(err)
	node.Register(server)
	go server.Serve(listener)
	must(node.Start(ctx))
	must(node.Ready(ctx))

	alice, err := client.Dial(ctx, []string{addr}, client.WithToken("token-of-alice"))
	must(err)
	events, err := alice.Subscribe(ctx, client.SubscribeOptions{})
	must(err)
	orders, err := node.Client(ctx, "orders")
	must(err)
	_, err = orders.Send(ctx, client.ToUser("alice"), client.Draft{Text: "your order is on its way"})
	must(err)
	for event, err := range events.All(ctx) {
		must(err)
		if event.Kind == client.MessageSent {
			fmt.Printf("%s: %s\n", event.Message.Sender, event.Message.Text)
			break
		}
	}
	stranger, err := client.Dial(ctx, []string{addr})
	must(err)
	_, err = stranger.Login(ctx, "alice", "a guess")
	fmt.Println(errors.Is(err, client.ErrHostAccounts))

	must(errors.Join(stranger.Close(), orders.Close(), alice.Close()))
	must(node.Drain(ctx))
	server.GracefulStop()
	must(node.Close())

	// Output:
	// orders: your order is on its way
	// true
}

// login makes an account and a client that uses it.
func login(ctx context.Context, addr, name string) *client.Client {
	c, err := client.Dial(ctx, []string{addr})
	must(err)
	_, err = c.Register(ctx, name, "correct horse battery staple")
	must(err)
	_, err = c.Login(ctx, name, "correct horse battery staple")
	must(err)
	return c
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
