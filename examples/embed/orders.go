package main

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// desk takes orders, and writes to who has placed one.
type desk struct {
	node *chat.Node

	mu   sync.Mutex // guards chat
	chat *client.Client
}

// place is a call of OrderService.
func (d *desk) place(ctx context.Context, what string) (*wrapperspb.StringValue, error) {
	customer, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	c, err := d.client(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	draft := client.Draft{Text: what + " is on its way"}
	_, err = c.Send(ctx, client.ToUser(customer), draft)
	if errors.Is(err, client.ErrNoSuchUser) { // who has never chatted
		if err = d.introduce(ctx, customer); err == nil {
			_, err = c.Send(ctx, client.ToUser(customer), draft)
		}
	}
	return wrapperspb.String("placed"), err
}

// introduce makes a customer's account.
func (d *desk) introduce(ctx context.Context, customer string) error {
	c, err := d.node.Client(ctx, customer)
	if err != nil {
		return err
	}
	return c.Close()
}

// client writes as "orders", from within the process.
func (d *desk) client(ctx context.Context) (_ *client.Client, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.chat == nil {
		d.chat, err = d.node.Client(ctx, "orders")
	}
	return d.chat, err
}

func (d *desk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.chat == nil {
		return nil
	}
	return d.chat.Close()
}

// orders is the shop's own service, written out here where a program would generate it.
var orders = grpc.ServiceDesc{
	ServiceName: "shop.v1.OrderService", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Place", Handler: func(srv any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		what := new(wrapperspb.StringValue)
		if err := dec(what); err != nil {
			return nil, err
		}
		return intercept(ctx, what, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/shop.v1.OrderService/Place"}, func(ctx context.Context, _ any) (any, error) {
			return srv.(*desk).place(ctx, what.Value)
		})
	}}},
}
