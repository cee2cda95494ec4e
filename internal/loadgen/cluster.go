package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// cluster is what is measured: nodes in this process, each on a server and a port of its own, nodes in
// processes of their own, or nodes that run elsewhere.
type cluster struct {
	addrs    []string
	nodes    []*node    // in this process
	procs    []*process // in processes
	clients  int        // made so far
	accounts string
	prefix   string           // of all names, so that one cluster can be measured again and again
	dir      string           // of the nodes' data
	temp     bool             // to be removed
	asks     []*client.Client // one for each address
	show     io.Writer
	filled   *history // what load has sent
}

// open finds the cluster that is to be measured, or starts it.
func open(ctx context.Context, f flags, show io.Writer) (c *cluster, err error) {
	c = &cluster{accounts: f.Accounts, prefix: fmt.Sprintf("%x", time.Now().UnixNano()&0xffffff), dir: f.dir, show: show, filled: &history{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.addrs = f.servers; len(c.addrs) == 0 {
		if c.dir == "" {
			if c.dir, err = os.MkdirTemp("", "loadgen-"); err != nil {
				return c, err
			}
			c.temp = true
		}
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			return c, err
		}
		// Its nodes would look for each other where they were then.
		old := filepath.Join(c.dir, nodeID(0))
		if _, err := os.Stat(old); err == nil {
			return c, fmt.Errorf("%s is of an earlier run: remove it, or name another -dir", old)
		}
		c.say("%d nodes start", f.Nodes)
		start := c.start
		if f.Processes {
			start = c.startProcesses
		}
		if err := start(ctx, f.Nodes); err != nil {
			return c, err
		}
	}
	for _, addr := range c.addrs {
		a, err := client.Dial(ctx, []string{addr}, client.WithoutDiscovery())
		if err != nil {
			return c, err
		}
		c.asks = append(c.asks, a)
	}
	return c, nil
}

// say shows what is being done, in one line that the next one replaces.
func (c *cluster) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.show, "\r\x1b[K"+format, args...) // for people, who see whether it works
}

// node is one in this process.
type node struct {
	*chat.Node
	server *grpc.Server
}

// start returns when all nodes can serve.
func (c *cluster) start(ctx context.Context, n int) error {
	var listeners []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		listeners, c.addrs = append(listeners, l), append(c.addrs, l.Addr().String())
	}
	for i, l := range listeners {
		n, err := startNode(ctx, l, nodeOptions(i, c.addrs, filepath.Join(c.dir, nodeID(i)), c.accounts))
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startNode does not wait until the node can serve.
func startNode(ctx context.Context, l net.Listener, o chat.Options) (*node, error) {
	n := &node{server: grpc.NewServer()}
	var err error
	if n.Node, err = chat.New(o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	n.Register(n.server)
	go func() { _ = n.server.Serve(l) }() // ends with Stop
	if err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, n.end())
	}
	return n, nil
}

// end is Stop of the server and Close of the node.
func (n *node) end() error {
	n.server.Stop()
	return n.Close()
}

func (c *cluster) close() (err error) {
	err = closeAll(c.filled.users)
	for _, a := range c.asks {
		err = errors.Join(err, a.Close())
	}
	for _, n := range c.nodes {
		err = errors.Join(err, n.end())
	}
	for _, p := range c.procs {
		p.kill()
	}
	if c.temp {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

// status asks one node.
func (c *cluster) status(ctx context.Context, i int) (client.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return c.asks[i].Status(ctx)
}

// leader waits for a node that says it leads, in the newest term of those that say so.
func (c *cluster) leader(ctx context.Context) (leader int, term uint64, err error) {
	for {
		leader = -1
		for i := range c.addrs {
			if len(c.procs) > 0 && !c.procs[i].alive() {
				continue
			}
			s, err := c.status(ctx, i)
			if err == nil && s.Role == "leader" && s.Term > term {
				leader, term = i, s.Term
			}
		}
		if leader >= 0 {
			return leader, term, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return 0, 0, fmt.Errorf("no node leads: %w", err)
		}
	}
}

// pause waits a little; its error is that of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// places are where clients may be.
var places = []string{"leader", "follower", "all"}

// at is where the i-th client is.
func (c *cluster) at(ctx context.Context, where string, i int) (string, error) {
	if where == "all" {
		return c.addrs[i%len(c.addrs)], nil
	}
	leader, _, err := c.leader(ctx)
	if where == "follower" {
		leader++
	}
	return c.addrs[leader%len(c.addrs)], err
}
