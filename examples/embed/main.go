// Command embed is a program with a gRPC service of its own, orders of a shop, into which chat was
// put: whoever places an order finds a message about it in his chat.
//
//	go run ./examples/embed
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run is the host program: its server, its service, and chat beside it.
func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "embed-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is temporary anyway
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	desk := &desk{}
	server.RegisterService(&orders, desk)
	return withChat(ctx, server, lis, dir, func() error {
		if err := desk.open(ctx, lis.Addr().String()); err != nil {
			return err
		}
		return errors.Join(shop(ctx, lis.Addr().String(), out), desk.chat.Close())
	})
}

// withChat puts chat on a server that the program has anyway, and runs do beside it.
func withChat(ctx context.Context, server *grpc.Server, lis net.Listener, dir string, do func() error) error {
	node, err := chat.New(chat.Options{
		NodeID: "shop1", DataDir: dir, Advertise: lis.Addr().String(), BootstrapExpect: 1,
	})
	if err != nil {
		return err
	}
	node.Register(server)
	go func() { _ = server.Serve(lis) }() // ends with GracefulStop
	if err = node.Start(ctx); err == nil {
		err = node.Ready(ctx)
	}
	if err == nil {
		err = do()
	}
	leaving, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = errors.Join(err, node.Drain(leaving))
	server.GracefulStop()
	return errors.Join(err, node.Close())
}

// desk takes orders, and writes to who has placed one.
type desk struct{ chat *client.Client }

func (d *desk) open(ctx context.Context, addr string) (err error) {
	if d.chat, err = client.Dial(ctx, []string{addr}); err != nil {
		return err
	}
	if _, err = d.chat.Register(ctx, "orders", "a long password"); err == nil {
		_, err = d.chat.Login(ctx, "orders", "a long password")
	}
	return err
}

func (d *desk) place(ctx context.Context, customer string) (*wrapperspb.StringValue, error) {
	_, err := d.chat.Send(ctx, client.ToUser(customer), client.Draft{Text: "your order is on its way"})
	return wrapperspb.String("placed"), err
}

// orders is the host's own service, written out here where a program would generate it.
var orders = grpc.ServiceDesc{
	ServiceName: "shop.v1.OrderService", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Place", Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		customer := new(wrapperspb.StringValue)
		if err := dec(customer); err != nil {
			return nil, err
		}
		return srv.(*desk).place(ctx, customer.Value)
	}}},
}

// shop is a customer: she registers, places an order, and reads what the desk has written.
func shop(ctx context.Context, addr string, out io.Writer) (err error) {
	alice, err := client.Dial(ctx, []string{addr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alice.Close()) }()
	if _, err := alice.Register(ctx, "alice", "correct horse"); err != nil {
		return err
	}
	if _, err := alice.Login(ctx, "alice", "correct horse"); err != nil {
		return err
	}
	events, err := alice.Subscribe(ctx, client.SubscribeOptions{})
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	answer := new(wrapperspb.StringValue)
	if err := conn.Invoke(ctx, "/shop.v1.OrderService/Place", wrapperspb.String("alice"), answer); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "order: %s\n", answer.Value)
	for e, err := range events.All(ctx) {
		if err != nil {
			return err
		}
		if e.Kind == client.MessageSent {
			_, _ = fmt.Fprintf(out, "chat: %s: %s\n", e.Message.Sender, e.Message.Text)
			return nil
		}
	}
	return context.Cause(ctx)
}
