package chat_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
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

// A send keeps its operation id: whatever became of the first attempt, the second one does not send again. The
// program may have crashed in between, if it has kept the draft.
func Example_once() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	addr, stop := start(ctx)
	defer stop()
	alice := login(ctx, addr, "alice")
	defer alice.Close()

	draft := client.Draft{Text: "one pizza", OperationID: alice.NewOperationID()}
	for range 2 {
		receipt, err := alice.Send(ctx, client.ToUser("alice"), draft)
		switch {
		case errors.Is(err, client.ErrUnknownOutcome), errors.Is(err, client.ErrNoLeader):
			continue // now or later, with the same draft
		case err != nil:
			log.Fatal(err) // refused: it would be refused again
		}
		fmt.Printf("message %d, sent before: %v\n", receipt.Seq, receipt.Duplicate)
	}

	// Output:
	// message 1, sent before: false
	// message 1, sent before: true
}

// A subscription goes on where an earlier one was, on any node and after a restart of the program, if that has
// kept the cursor of the last event that it has dealt with.
func Example_resume() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	addr, stop := start(ctx)
	defer stop()
	alice, bob := login(ctx, addr, "alice"), login(ctx, addr, "bob")
	defer alice.Close()
	defer bob.Close()
	write := func(text string) {
		_, err := alice.Send(ctx, client.ToUser("bob"), client.Draft{Text: text})
		must(err)
	}
	cursor := "" // from now on
	read := func(events *client.Subscription) {
		for event, err := range events.All(ctx) {
			must(err)
			cursor = event.Cursor
			if event.Kind == client.MessageSent {
				fmt.Println(event.Message.Text)
				break
			}
		}
		must(events.Close())
	}

	events, err := bob.Subscribe(ctx, client.SubscribeOptions{Cursor: cursor})
	must(err)
	write("one")
	read(events)
	write("two") // nobody listens
	events, err = bob.Subscribe(ctx, client.SubscribeOptions{Cursor: cursor})
	must(err)
	read(events)

	// Output:
	// one
	// two
}

// A backup is taken of a running cluster, from any node, and is whole or refused. Restored, it is a new cluster
// of one node, which others join; the users have their accounts and messages, and log in again.
func ExampleBackup() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	addr, stop := start(ctx)
	defer stop()
	must(login(ctx, addr, "alice").Close())
	dir, err := os.MkdirTemp("", "chat-")
	must(err)
	defer os.RemoveAll(dir)

	file, err := os.Create(filepath.Join(dir, "monday.backup"))
	must(err)
	must(chat.Backup(ctx, chat.BackupOptions{Address: addr}, file))
	must(errors.Join(file.Sync(), file.Close()))
	backup, err := chat.Verify(file.Name())
	must(err)

	file, err = os.Open(file.Name())
	must(err)
	defer file.Close()
	data := filepath.Join(dir, "node-2")
	must(chat.Restore(file, chat.RestoreOptions{NodeID: "node-2", DataDir: data, Advertise: "127.0.0.1:8443"}))
	node, err := chat.Verify(data) // a directory, or a backup
	must(err)
	fmt.Println(node.NodeID, "is sound, of a cluster of its own:", node.ClusterID != backup.ClusterID)

	// Output:
	// node-2 is sound, of a cluster of its own: true
}

// When the quorum is lost for good, one node goes on alone, as a new cluster that others join with empty
// directories. What it will do is said first: returning an error leaves everything as it is.
func ExampleRecover() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	parent := stopped(ctx)
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "data")

	_, err := chat.Recover(ctx, dir, func(r chat.Recovery) error {
		fmt.Printf("%s goes on alone; %d others are given up\n", r.NodeID, len(r.Lost))
		return nil // an operator has agreed
	})
	must(err)
	found, err := chat.Verify(dir)
	must(err)
	fmt.Println("the directory of", found.NodeID, "is sound")

	// Output:
	// node-1 goes on alone; 0 others are given up
	// the directory of node-1 is sound
}

// An upgrade is tried on copies of a stopped node's directory: the old version and the new one must find the
// same hash.
func ExampleReplay() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	parent := stopped(ctx)
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "data")
	var hashes []uint64
	for _, version := range []string{"old", "new"} { // two programs, in truth
		replayed := filepath.Join(parent, version)
		must(os.CopyFS(replayed, os.DirFS(dir)))
		must(os.Chmod(replayed, 0o700))
		r, err := chat.Replay(replayed)
		must(err)
		hashes = append(hashes, r.Hash)
	}
	fmt.Println("the same:", hashes[0] == hashes[1])

	// Output:
	// the same: true
}

// start runs a cluster of one node, until stop.
func start(ctx context.Context) (addr string, stop func()) {
	dir, err := os.MkdirTemp("", "chat-")
	must(err)
	addr, end := startIn(ctx, dir)
	return addr, func() {
		end()
		must(os.RemoveAll(dir))
	}
}

func startIn(ctx context.Context, dir string) (addr string, stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	addr = listener.Addr().String()
	server := grpc.NewServer()
	node, err := chat.New(chat.Options{NodeID: "node-1", DataDir: dir, Advertise: addr, BootstrapExpect: 1})
	must(err)
	node.Register(server)
	go server.Serve(listener)
	must(node.Start(ctx))
	must(node.Ready(ctx))
	return addr, func() {
		must(node.Drain(ctx))
		server.GracefulStop()
		must(node.Close())
	}
}

// stopped is a directory in which the data of a node are that has ended.
func stopped(ctx context.Context) string {
	dir, err := os.MkdirTemp("", "chat-")
	must(err)
	addr, stop := startIn(ctx, filepath.Join(dir, "data"))
	must(login(ctx, addr, "alice").Close())
	stop()
	return dir
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
