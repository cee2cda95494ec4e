// Package chattest runs clusters of whole chat nodes inside a test: real raft, gossip and gRPC, on a
// network and disks in memory. A host tests its own program with it, against leaders that die:
//
//	func TestOrders(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			c := chattest.New(t, 3)
//			alice := c.Client("alice")
//			c.Leader().Kill()
//			receipt, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "hello"})
//			...
//		})
//	}
//
// Inside a bubble of testing/synctest time is fake: an election takes no time, and a test with several of
// them ends in well under a second. Outside one everything works as well, and takes its time.
//
// # Faults
//
// Kill ends a node as a power cut does, Stop in good order, and Restart starts it again with what is on its disk.
// Cut and Isolate lose what nodes send to each other until Heal. Leader, WaitStable and Until wait, so that no test
// has to sleep:
//
//	old := c.Leader()
//	c.Isolate(old)
//	c.Leader(old) // another one
//	c.Heal()
//	c.WaitStable()
//
// # Disks
//
// A node's disk is in memory, where an fsync costs nothing: a cluster is there in a fraction of a second, and Kill
// loses what was not synced. OnDisk has all nodes write files, for a test that looks at them. A node whose DataDir
// the test has set does so, too.
//
// # The host's own program
//
// WithOptions changes the nodes' options, WithServer has the host make their servers, with its credentials,
// interceptors and services, and WithLogin and WithClient say how its users get in. A node has the methods of
// chat.Node, so that the host's code can be given one. TestHost checks the whole of what chat promises to a host
// in such a wiring, in one line.
//
// # The end
//
// The cluster ends with the test. What it leaves running fails the test: in a bubble, testing/synctest
// sees to that; outside, chattest names the goroutines.
package chattest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/internal/memdisk"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/client"
)

// Password is that of every user that Client makes.
const Password = "correct horse"

// patience is how long Until waits.
const patience = 5 * time.Minute

// Cluster is nodes on one network. Its methods are for the test's goroutine: they end the test when
// something fails.
type Cluster struct {
	// Nodes are those of New and Add, stopped ones too.
	Nodes []*Node

	t       testing.TB
	o       options
	dir     string   // of the nodes' files, if they have some
	seeds   []string // of New's nodes
	net     *simnet.Net
	started time.Time
	grace   time.Duration // that goroutines have to end, of real time
}

// Node is a chat node on a gRPC server. Its embedded Node is nil while it does not run.
type Node struct {
	*chat.Node
	// Name is its node id, n1 for the first, and Addr its address on the network.
	Name, Addr string
	// Options are those that it was started with, and will be started with the next time.
	Options chat.Options

	c      *Cluster
	disk   *memdisk.Disk // nil for a node with files
	server *grpc.Server
}

// Option changes a cluster.
type Option func(*options)

type options struct {
	change []func(i int, o *chat.Options)
	server func(*chat.Node) *grpc.Server
	login  func(user string) client.Option
	client []client.Option
	logs   bool
	onDisk bool
}

// WithOptions has f change the options of each node that New makes, before it starts; i counts from 0.
func WithOptions(f func(i int, o *chat.Options)) Option {
	return func(o *options) { o.change = append(o.change, f) }
}

// WithServer has f make the server of each node, each time that it starts: with the host's interceptors, limits
// and services. chat is registered on it afterwards. The default is grpc.NewServer without options.
func WithServer(f func(*chat.Node) *grpc.Server) Option {
	return func(o *options) { o.server = f }
}

// WithLogin is for a host with users of its own (see chat.Options.Authenticator): the clients of Client show
// with f's option who they are, and neither register nor log in.
func WithLogin(f func(user string) client.Option) Option {
	return func(o *options) { o.login = f }
}

// WithClient has clients use options, such as client.WithTLS for servers with TLS.
func WithClient(opts ...client.Option) Option {
	return func(o *options) { o.client = append(o.client, opts...) }
}

// OnDisk has the nodes keep everything in files, in directories of t.TempDir, instead of in memory. Kill
// leaves what was written then, synced or not.
func OnDisk() Option { return func(o *options) { o.onDisk = true } }

// WithLogs has nodes log to the test.
func WithLogs() Option { return func(o *options) { o.logs = true } }

// New starts n nodes that form a cluster, and waits until it is stable; with n = 0 there is none yet, see
// Add. What nodes keep is in memory, unless OnDisk says otherwise.
func New(t testing.TB, n int, opts ...Option) *Cluster {
	t.Helper()
	c := Start(t, n, opts...)
	if n > 0 {
		c.WaitStable()
	}
	return c
}

// Start is New without the wait.
func Start(t testing.TB, n int, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{
		t: t, o: options{server: func(*chat.Node) *grpc.Server { return grpc.NewServer() }}, net: simnet.New(200 * time.Microsecond), dir: t.TempDir(),
		started: time.Now(), grace: 30 * time.Second,
	}
	for _, o := range opts {
		o(&c.o)
	}
	for i := range 3 {
		if i < n || n == 0 {
			c.seeds = append(c.seeds, addr(fmt.Sprintf("n%d", i+1)))
		}
	}
	t.Cleanup(c.stop) // before that of TempDir, in which the test may have put a node; and not at the end of the test: Fatal would leave goroutines, and the bubble would panic
	for i := range n {
		c.Add(func(o *chat.Options) {
			o.BootstrapExpect = n
			for _, f := range c.o.change {
				f(i, o)
			}
		})
	}
	return c
}

// Add starts one more node, which joins the cluster unless change, which may be nil, makes its options say
// something else. It does not wait until it is ready.
func (c *Cluster) Add(change func(*chat.Options)) *Node {
	c.t.Helper()
	name := fmt.Sprintf("n%d", len(c.Nodes)+1)
	n := &Node{Name: name, Addr: addr(name), c: c}
	n.Options = chat.Options{
		NodeID: name, Advertise: n.Addr, Seeds: c.seeds,
		ClusterSecret: bytes.Repeat([]byte("s"), 32), Dial: c.net.Dialer(n.Addr),
	}
	if c.o.onDisk {
		n.Options.DataDir = filepath.Join(c.dir, name)
	}
	if c.o.logs {
		n.Options.Logger = zaptest.NewLogger(c.t).Named(name)
	}
	if change != nil {
		change(&n.Options)
	}
	if n.Options.DataDir == "" {
		n.disk = memdisk.New()
		n.Options.Memory = n.disk
	}
	c.Nodes = append(c.Nodes, n)
	n.Restart()
	return n
}

// Restart starts a node that was stopped or killed, with its disk as it left it. It does not wait until it is ready.
func (n *Node) Restart() {
	n.c.t.Helper()
	n.c.labelled(n.restart)
}

func (n *Node) restart() {
	n.c.t.Helper()
	var err error
	if n.Node, err = chat.New(n.Options); err != nil {
		n.c.t.Fatal(err)
	}
	n.server = n.c.o.server(n.Node)
	n.Register(n.server)
	lis := n.c.net.Listen(n.Addr)
	server := n.server
	go func() { _ = server.Serve(lis) }()
	if err := n.Node.Start(n.c.t.Context()); err != nil {
		n.c.t.Fatal(err)
	}
}

// Stop takes a node out of service as a host should: Drain, GracefulStop, Close.
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

// Kill cuts a node off and ends it. What it had not synced is lost; only that its state is synced at the end,
// as Close does. A node with files keeps what it has written.
func (n *Node) Kill() {
	n.c.t.Helper()
	for _, o := range n.c.Nodes {
		n.c.net.Reset(n.Addr, o.Addr)
	}
	n.server.Stop()
	n.end()
	if n.disk != nil {
		n.disk.Crash()
	}
}

func (n *Node) end() {
	if err := n.Close(); err != nil {
		n.c.t.Errorf("close %s: %v", n.Name, err)
	}
	n.Node = nil
}

// stop ends all nodes.
func (c *Cluster) stop() {
	c.net.HealAll()
	for _, n := range c.Nodes {
		if n.Node != nil {
			n.server.Stop()
			n.end()
		}
	}
	if inBubble(c.started) {
		// Fake time stops when the test function returns: what still waits for a timer, such as a probe
		// of memberlist, must be given its time now.
		time.Sleep(time.Minute)
		return
	}
	c.leaks()
}

// inBubble tells by the clock, which testing/synctest starts at the beginning of 2000 in UTC.
func inBubble(now time.Time) bool { return now.Year() == 2000 }

// label marks the goroutines of a cluster: those that they start have it, too.
const label = "chattest"

func (c *Cluster) labelled(f func()) {
	if inBubble(c.started) {
		f()
		return
	}
	pprof.Do(context.Background(), pprof.Labels(label, c.dir), func(context.Context) { f() })
}

// leaks waits until the cluster's goroutines have ended, and names those that do not.
func (c *Cluster) leaks() {
	start := time.Now()
	for {
		var all bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
			c.t.Error(err)
			return
		}
		var left []string
		for g := range strings.SplitSeq(all.String(), "\n\n") {
			if strings.Contains(g, label) && strings.Contains(g, c.dir) {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Since(start) > c.grace {
			c.t.Errorf("chattest: after %v these goroutines of the cluster still run:\n%s", c.grace, strings.Join(left, "\n\n"))
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// WaitStable waits until all nodes that run are ready and have applied the same.
func (c *Cluster) WaitStable() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, n := range c.running() {
		if err := n.Ready(ctx); err != nil {
			c.t.Fatalf("node %s: %v\n%s", n.Name, err, c)
		}
	}
	c.Until("all nodes have applied the same", func() bool {
		for i, n := range c.running() {
			if i > 0 && n.Status().Applied != c.running()[0].Status().Applied {
				return false
			}
		}
		return true
	})
}

func (c *Cluster) running() (nodes []*Node) {
	for _, n := range c.Nodes {
		if n.Node != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
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

// Until waits for a condition, which what describes, and returns how long it took.
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

// Cut loses everything between two nodes, which a and b name, both ways, until Heal. Neither is told. A node that is
// yet to be added may be cut off already.
func (c *Cluster) Cut(a, b string) { c.net.Cut(addr(a), addr(b)) }

func addr(name string) string { return name + ".sim:8443" }

// Isolate cuts a node off from all others, and not from clients.
func (c *Cluster) Isolate(n *Node) {
	for _, o := range c.Others(n) {
		c.Cut(n.Name, o.Name)
	}
}

// Heal takes back all cuts.
func (c *Cluster) Heal() { c.net.HealAll() }

// Dialer dials nodes by their addresses, from a place of its own on the network, which from names.
func (c *Cluster) Dialer(from string) func(ctx context.Context, addr string) (net.Conn, error) {
	return c.net.Dialer(from)
}

// Dial makes a client that knows some nodes, or all, and is not logged in. It ends with the test.
func (c *Cluster) Dial(nodes ...*Node) *client.Client {
	c.t.Helper()
	return c.dial(nodes)
}

func (c *Cluster) dial(nodes []*Node, opts ...client.Option) *client.Client {
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
	var cl *client.Client
	c.labelled(func() {
		var err error
		opts = append(append(opts, client.WithDialer(c.net.Dialer("client"))), c.o.client...)
		if cl, err = client.Dial(ctx, addrs, opts...); err != nil {
			c.t.Fatal(err)
		}
	})
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return cl
}

// Client makes a client of a user, who is registered with Password if need be, and logs in; see WithLogin. It
// knows some nodes, or all, and ends with the test.
func (c *Cluster) Client(user string, nodes ...*Node) *client.Client {
	c.t.Helper()
	if c.o.login != nil {
		return c.dial(nodes, c.o.login(user))
	}
	cl := c.dial(nodes)
	if _, err := cl.Register(c.t.Context(), user, Password); err != nil && !errors.Is(err, client.ErrNameTaken) {
		c.t.Fatalf("register %s: %v", user, err)
	}
	if _, err := cl.Login(c.t.Context(), user, Password); err != nil {
		c.t.Fatalf("log %s in: %v", user, err)
	}
	return cl
}
