// Package clustertest runs whole nodes on a network in memory, for tests in one testing/synctest
// bubble: real raft, gossip and gRPC, real disks, fake time.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/client"
)

// Password is that of every user that Login makes.
const Password = "correct horse"

// patience is how long Until waits.
const patience = 5 * time.Minute

// Cluster is nodes on one network. Its methods are for the test's goroutine.
type Cluster struct {
	t     testing.TB
	dir   string
	Net   *simnet.Net
	Nodes []*Node
}

// Node is a host with a gRPC server of default options, and a chat node on it.
type Node struct {
	*chat.Node
	Name    string
	Addr    string
	Options chat.Options
	c       *Cluster
	server  *grpc.Server
}

// Quiet makes nodes log nothing; otherwise go test -v shows their logs.
var Quiet = true

// New starts n nodes that form a cluster, and ends them with the test. change, if not nil, is
// called for the options of each node before it starts.
func New(t testing.TB, n int, change func(i int, o *chat.Options)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Net: simnet.New(200 * time.Microsecond), dir: t.TempDir()}
	t.Cleanup(c.stop) // before that of TempDir; and not at the end of the test: Fatal would leave goroutines, and the bubble would panic
	for i := range n {
		c.Add(func(o *chat.Options) {
			o.BootstrapExpect = n
			if change != nil {
				change(i, o)
			}
		})
	}
	return c
}

// Add starts one more node, which joins the cluster unless change makes it do something else.
func (c *Cluster) Add(change func(*chat.Options)) *Node {
	c.t.Helper()
	name := fmt.Sprintf("n%d", len(c.Nodes)+1)
	n := &Node{Name: name, Addr: name + ".sim:8443", c: c}
	n.Options = chat.Options{
		NodeID: name, DataDir: filepath.Join(c.dir, name), Advertise: n.Addr,
		Seeds:         []string{"n1.sim:8443", "n2.sim:8443", "n3.sim:8443"},
		ClusterSecret: bytes.Repeat([]byte("s"), 32), Dial: c.Net.Dialer(n.Addr), Logger: c.logger(name),
	}
	if change != nil {
		change(&n.Options)
	}
	c.Nodes = append(c.Nodes, n)
	n.Start()
	return n
}

func (c *Cluster) logger(name string) *zap.Logger {
	if Quiet {
		return nil
	}
	return zaptest.NewLogger(c.t).Named(name)
}

// Start starts a node that was made or stopped.
func (n *Node) Start() {
	n.c.t.Helper()
	var err error
	if n.Node, err = chat.New(n.Options); err != nil {
		n.c.t.Fatal(err)
	}
	n.server = grpc.NewServer()
	n.Register(n.server)
	lis := n.c.Net.Listen(n.Addr)
	server := n.server
	go func() { _ = server.Serve(lis) }()
	if err := n.Node.Start(n.c.t.Context()); err != nil {
		n.c.t.Fatal(err)
	}
}

// Stop takes a node out of service as a host should.
func (n *Node) Stop() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		n.c.t.Errorf("drain %s: %v", n.Name, err)
	}
	n.server.GracefulStop()
	n.end()
}

// Kill cuts a node off and ends it. The files are those of a process that was killed, but for what a
// Close writes.
func (n *Node) Kill() {
	n.c.t.Helper()
	for _, o := range n.c.Nodes {
		n.c.Net.Reset(n.Addr, o.Addr)
	}
	n.server.Stop()
	n.end()
}

func (n *Node) end() {
	if err := n.Close(); err != nil {
		n.c.t.Errorf("close %s: %v", n.Name, err)
	}
	n.Node = nil
}

// stop ends all nodes.
func (c *Cluster) stop() {
	c.Net.HealAll()
	for _, n := range c.Nodes {
		if n.Node != nil {
			n.server.Stop()
			n.end()
		}
	}
	// Fake time stops when the test function returns: what still waits for a timer, such as a probe
	// of memberlist, must be given its time now.
	time.Sleep(time.Minute)
}

// Ready waits until all nodes are.
func (c *Cluster) Ready() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, n := range c.Nodes {
		if n.Node == nil {
			continue
		}
		if err := n.Ready(ctx); err != nil {
			c.t.Fatalf("node %s: %v", n.Name, err)
		}
	}
}

// Leader waits for a leader that is none of some nodes, and returns it.
func (c *Cluster) Leader(but ...*Node) (leader *Node) {
	c.t.Helper()
	c.Until("there is a leader", func() bool {
	nodes:
		for _, n := range c.Nodes {
			for _, b := range but {
				if n == b {
					continue nodes
				}
			}
			if n.Node != nil && n.Status().Role.String() == "leader" {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// Others are the nodes but one.
func (c *Cluster) Others(but *Node) (others []*Node) {
	for _, n := range c.Nodes {
		if n != but {
			others = append(others, n)
		}
	}
	return others
}

// Until waits for a condition and returns how long it took.
func (c *Cluster) Until(what string, ok func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > patience {
			c.t.Fatalf("waited %v until %s\n%s", patience, what, c)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// String is a line for each node.
func (c *Cluster) String() string {
	var b bytes.Buffer
	for _, n := range c.Nodes {
		if n.Node == nil {
			fmt.Fprintf(&b, "%s down\n", n.Name)
			continue
		}
		s := n.Status()
		fmt.Fprintf(&b, "%s %v term %d leader %q applied %d %s\n", n.Name, s.Role, s.Term, s.Leader, s.Applied, s.Detail)
	}
	return b.String()
}

// Isolate cuts a node off from the others, but not from clients.
func (c *Cluster) Isolate(n *Node) {
	for _, o := range c.Others(n) {
		c.Net.Cut(n.Addr, o.Addr)
	}
}

// Client makes a client that knows some nodes, or all. It ends with the test.
func (c *Cluster) Client(nodes ...*Node) *client.Client {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.Nodes
	}
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.Addr)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	cl, err := client.Dial(ctx, addrs, client.WithDialer(c.Net.Dialer("client")))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return cl
}

// Login makes a client with a new user.
func (c *Cluster) Login(user string, nodes ...*Node) *client.Client {
	c.t.Helper()
	cl := c.Client(nodes...)
	if _, err := cl.Register(c.t.Context(), user, Password); err != nil {
		c.t.Fatalf("register %s: %v", user, err)
	}
	if _, err := cl.Login(c.t.Context(), user, Password); err != nil {
		c.t.Fatalf("log %s in: %v", user, err)
	}
	return cl
}

// Converged waits until all nodes that run have applied the same.
func (c *Cluster) Converged() {
	c.t.Helper()
	c.Until("all nodes have applied the same", func() bool {
		var want uint64
		for i, n := range c.Nodes {
			if n.Node == nil {
				continue
			}
			if got := n.Status().Applied; i == 0 {
				want = got
			} else if got != want {
				return false
			}
		}
		return true
	})
}
