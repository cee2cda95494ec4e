package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"example.com/chat/rpc/client"
)

const (
	// hostAccounts are made at a user's first call, by nodes that take the name in a token of ours.
	hostAccounts = "host"
	// passwordAccounts are made by Register, which hashes.
	passwordAccounts = "passwords"
	// setup is how many calls are under way while accounts and rooms are made.
	setup = 64
)

// tokenPrefix begins the tokens that trusting takes.
const tokenPrefix = "token of "

// trusting is an Authenticator for measurements: a user is who he says. What follows, from the session to the
// checks of each send, is as with passwords; only nothing is hashed when an account is made.
func trusting(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	name, ok := strings.CutPrefix(strings.Join(md.Get("authorization"), ""), "Bearer "+tokenPrefix)
	if !ok {
		return "", errors.New("no token of loadgen's")
	}
	return name, nil
}

// user is a client with an account of its own.
type user struct {
	*client.Client
	name  string
	rooms []string // of this user alone
}

// users makes clients and gives each its part of the rooms.
func (c *cluster) users(ctx context.Context, p params) (users []*user, err error) {
	for i := range p.Clients {
		addr, err := c.at(ctx, p.At, i)
		if err != nil {
			return users, err
		}
		u, err := c.user(ctx, addr)
		if err != nil {
			return users, err
		}
		users = append(users, u)
		u.rooms = make([]string, (p.Rooms-i+p.Clients-1)/p.Clients)
	}
	return users, each(ctx, p.Rooms, func(ctx context.Context, i int) error {
		u := users[i%len(users)]
		r, err := u.CreateRoom(ctx, fmt.Sprintf("%s-room-%d", u.name, i/len(users)))
		u.rooms[i/len(users)] = r.ID
		return err
	})
}

// each calls f for 0 to n-1, several at a time, until one fails.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for first := range min(setup, n) {
		work.Go(func() {
			for i := first; i < n && ctx.Err() == nil; i += setup {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	work.Wait()
	return context.Cause(ctx)
}

// user makes a client that asks addr first.
func (c *cluster) user(ctx context.Context, addr string) (*user, error) {
	c.clients++
	return c.named(ctx, fmt.Sprintf("%s-user-%d", c.prefix, c.clients), addr)
}

// named makes a client with an account of a name.
func (c *cluster) named(ctx context.Context, name, addr string) (*user, error) {
	addrs := append([]string{addr}, c.addrs...)
	if c.accounts == hostAccounts {
		cl, err := client.Dial(ctx, addrs, client.WithToken(tokenPrefix+name))
		if err != nil {
			return nil, err
		}
		return &user{Client: cl, name: name}, cl.Prefer(addr)
	}
	cl, err := client.Dial(ctx, addrs)
	if err != nil {
		return nil, err
	}
	_, err = cl.Register(ctx, name, "correct horse")
	if err == nil {
		_, err = cl.Login(ctx, name, "correct horse")
	}
	if err == nil {
		err = cl.Prefer(addr)
	}
	if err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	return &user{Client: cl, name: name}, nil
}

func closeAll(users []*user) (err error) {
	for _, u := range users {
		err = errors.Join(err, u.Close())
	}
	return err
}

// crowd makes a client that acts for any user whom the context of a call names, so that thousands of users need no
// connection each. It is for plain calls: a stream is that of one user.
func (c *cluster) crowd(ctx context.Context, addr string) (*client.Client, error) {
	return client.Dial(ctx, []string{addr}, client.WithPerRPCCredentials(whoever{}))
}

type actingKey struct{}

// acting makes the calls with this context those of a user.
func acting(ctx context.Context, user string) context.Context {
	return context.WithValue(ctx, actingKey{}, user)
}

type whoever struct{}

var _ credentials.PerRPCCredentials = whoever{}

func (whoever) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	name, ok := ctx.Value(actingKey{}).(string)
	if !ok {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + tokenPrefix + name}, nil
}

func (whoever) RequireTransportSecurity() bool { return false }
