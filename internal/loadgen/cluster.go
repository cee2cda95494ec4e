package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// cluster is nodes in this process, each on a server and a port of its own.
type cluster struct {
	nodes   []*node
	dir     string // to be removed; empty when it is the caller's
	clients int    // made so far
}

type node struct {
	*chat.Node
	addr   string
	server *grpc.Server
}

// startCluster returns when all nodes can serve.
func startCluster(ctx context.Context, dir string, n int) (c *cluster, err error) {
	c = &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if dir == "" {
		if dir, err = os.MkdirTemp("", "loadgen-"); err != nil {
			return nil, err
		}
		c.dir = dir
	}
	var seeds []string
	var listeners []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners, seeds = append(listeners, l), append(seeds, l.Addr().String())
	}
	for i, l := range listeners {
		node, err := startNode(ctx, l, chat.Options{
			NodeID: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(dir, fmt.Sprintf("n%d", i+1)), Advertise: seeds[i],
			Seeds: seeds, BootstrapExpect: n, ClusterSecret: bytes.Repeat([]byte("s"), 32),
		})
		if err != nil {
			return c, err
		}
		c.nodes = append(c.nodes, node)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.Ready(ctx); err != nil {
			return c, err
		}
	}
	return c, nil
}

func startNode(ctx context.Context, l net.Listener, o chat.Options) (*node, error) {
	n := &node{addr: l.Addr().String(), server: grpc.NewServer()}
	var err error
	if n.Node, err = chat.New(o); err != nil {
		return nil, err
	}
	n.Register(n.server)
	go func() { _ = n.server.Serve(l) }() // ends with Stop
	if err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (c *cluster) close() (err error) {
	for _, n := range c.nodes {
		n.server.Stop()
		err = errors.Join(err, n.Close())
	}
	if c.dir != "" {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

// at is where the i-th client is.
func (c *cluster) at(where string, i int) (string, error) {
	leader := 0
	for k, n := range c.nodes {
		if n.Status().Leader == n.Status().NodeID {
			leader = k
		}
	}
	switch where {
	case "leader":
		return c.nodes[leader].addr, nil
	case "follower":
		return c.nodes[(leader+1)%len(c.nodes)].addr, nil
	case "all":
		return c.nodes[i%len(c.nodes)].addr, nil
	default:
		return "", fmt.Errorf("-at %q: want leader, follower or all", where)
	}
}

// user is a client with an account of its own.
type user struct {
	*client.Client
	rooms []string // of this user alone
}

// users makes clients and gives each its part of the rooms.
func (c *cluster) users(ctx context.Context, p params) (users []*user, err error) {
	for i := range p.Clients {
		addr, err := c.at(p.At, i)
		if err != nil {
			return users, err
		}
		u, err := c.user(ctx, addr)
		if err != nil {
			return users, err
		}
		users = append(users, u)
		for k := range (p.Rooms + p.Clients - 1) / p.Clients {
			r, err := u.CreateRoom(ctx, fmt.Sprintf("room-%d-%d", c.clients, k))
			if err != nil {
				return users, err
			}
			u.rooms = append(u.rooms, r.ID)
		}
	}
	return users, nil
}

// user makes a client that asks addr first.
func (c *cluster) user(ctx context.Context, addr string) (*user, error) {
	c.clients++
	name, password := fmt.Sprintf("user-%d", c.clients), "correct horse"
	cl, err := client.Dial(ctx, []string{addr})
	if err != nil {
		return nil, err
	}
	_, err = cl.Register(ctx, name, password)
	if err == nil {
		_, err = cl.Login(ctx, name, password)
	}
	if err == nil {
		err = cl.Prefer(addr)
	}
	if err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	return &user{Client: cl}, nil
}

func closeAll(users []*user) (err error) {
	for _, u := range users {
		err = errors.Join(err, u.Close())
	}
	return err
}
