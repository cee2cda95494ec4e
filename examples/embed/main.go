// Command embed is a program into which chat was put: a shop with users, a gRPC server with TLS and
// interceptors, and a service of its own, orders. Its users are the chat's, without a second password, and
// whoever places an order finds a message about it in his chat.
//
//	go run ./examples/embed
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// greetTime is how long a new connection may say nothing.
const greetTime = 3 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run is the program: it serves, and alice buys something.
func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "embed-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is temporary anyway
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cert, roots, err := certificate()
	if err != nil {
		return err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	users := newUsers()
	node, err := chat.New(chat.Options{
		NodeID: "shop1", DataDir: dir, Advertise: lis.Addr().String(), BootstrapExpect: 1,
		ClusterSecret: secret, PeerTLS: &tls.Config{RootCAs: roots}, Authenticator: users.caller,
	})
	if err != nil {
		return err
	}
	desk := &desk{node: node}
	server := newServer(users, desk, node, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	node.Register(server)
	go func() { _ = server.Serve(lis) }() // ends with GracefulStop
	defer func() { err = errors.Join(err, leave(node, desk, server)) }()
	if err := node.Start(ctx); err != nil {
		return err
	}
	if err := node.Ready(ctx); err != nil {
		return err
	}
	return buy(ctx, lis.Addr().String(), users.token("alice"), roots, out)
}

// newServer is the shop's server as it was before chat, but for one line: it asks who calls, has the shop's own
// service, and health.
func newServer(users *users, desk *desk, node *chat.Node, opts ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(append(opts, grpc.UnaryInterceptor(users.unary), grpc.StreamInterceptor(users.stream),
		// Stop and GracefulStop wait for connections that have not said yet what they are, and gRPC gives each two
		// minutes: a port scanner, or a load balancer's probe, would hold the program's end up for so long.
		grpc.ConnectionTimeout(greetTime))...)
	server.RegisterService(&orders, desk)
	healthpb.RegisterHealthServer(server, node.Health())
	return server
}

// leave ends without a gap for others: streams end with a code that sends clients to another node, and calls
// that are at work are answered.
func leave(node *chat.Node, desk *desk, server *grpc.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := errors.Join(desk.close(), node.Drain(ctx))
	stop := context.AfterFunc(ctx, server.Stop) // a client that reads nothing would hold GracefulStop up
	server.GracefulStop()
	stop()
	return errors.Join(err, node.Close())
}

// buy is a customer with the shop's token: she places an order, and reads in her chat what came of it.
func buy(ctx context.Context, addr, token string, roots *x509.CertPool, out io.Writer) (err error) {
	conf := &tls.Config{RootCAs: roots}
	alice, err := client.Dial(ctx, []string{addr}, client.WithTLS(conf), client.WithToken(token))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alice.Close()) }()
	events, err := alice.Subscribe(ctx, client.SubscribeOptions{})
	if err != nil {
		return err
	}
	shop, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)), grpc.WithPerRPCCredentials(bearer(token)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.Close()) }()
	answer := new(wrapperspb.StringValue)
	if err := shop.Invoke(ctx, "/shop.v1.OrderService/Place", wrapperspb.String("a book"), answer); err != nil {
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
