// Package chat puts a fault-tolerant chat into a program that has a grpc.Server: accounts, direct
// messages, rooms, history and live events, replicated by raft over three or five copies of the
// program, which find each other by gossip. It needs no database, no broker and no port of its own:
// clients, raft and gossip all come through the host's server.
//
// # A node
//
// The order of calls is
//
//	node, err := chat.New(chat.Options{...}) // opens the data directory
//	node.Register(server)                    // before Serve
//	go server.Serve(listener)
//	err = node.Start(ctx)                    // begins to look for the others
//	err = node.Ready(ctx)                    // waits until the node can serve
//	...
//	node.Drain(ctx)                          // before GracefulStop, which waits for streams
//	server.GracefulStop()
//	err = node.Close()
//
// GracefulStop, and Stop, also wait for connections that have said nothing yet: two minutes, unless the server was
// made with a grpc.ConnectionTimeout, such as of three seconds.
//
// Of Options a first node needs NodeID, DataDir, Advertise, where the others reach the host's server, and
// BootstrapExpect: 1. Three of them have BootstrapExpect: 3, the same Seeds, which are the addresses of all, and
// the same ClusterSecret. Options are the same at every start: a node with data goes on with it, and never forms
// a second cluster. One that is to join an existing cluster has Seeds and no BootstrapExpect. New says all that is
// wrong at once.
//
// Ready's error says what a node waits for, and Status the same at any time. A node whose disk fails ends by itself
// and leaves the host's process alone: Done is closed then, Err says why, and clients go to other nodes. One whose
// state is not that of the others serves nothing until it has theirs. Health is for load balancers.
//
// # Users
//
// Users register with name and password, unless Options.Authenticator says who calls: then they are the host's
// own, and prove it with what they always have. The host writes to them with the Client of a node, which is the
// client of package example.com/chat/rpc/client without a network. Other programs dial any of the nodes with that
// package, which links no raft and no store.
//
// An interceptor of the host that asks every caller for a token has to let other nodes pass: IsPeerMethod tells
// which calls are theirs. They prove that they belong to the cluster by ClusterSecret or by their certificates.
//
// # Operations
//
// Backup takes a backup of a running cluster, Verify reads a backup or a stopped node's directory for damage,
// Restore makes a new cluster of a backup, Recover goes on with one node when the quorum is lost for good, and
// Replay tries an upgrade. The program examples/standalone has a subcommand for each.
//
// A host's tests get clusters from package example.com/chat/rpc/chattest.
package chat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/fanout"
	"example.com/chat/internal/node"
	"example.com/chat/internal/replica"
	"example.com/chat/internal/zaplog"
	"example.com/chat/membership"
	"example.com/chat/rpc"
	"example.com/chat/rpc/client"
	"example.com/chat/rpc/peer"
)

// What New, Start and Ready fail with, to be tested with errors.Is.
var (
	// ErrDataDirInUse: another process, or another node in this one, has the data directory open.
	ErrDataDirInUse = chaterr.ErrDataDirInUse
	// ErrOtherNode: the data directory belongs to a node with another id.
	ErrOtherNode = chaterr.ErrOtherNode
	// ErrOtherCluster: the data directory belongs to another cluster.
	ErrOtherCluster = chaterr.ErrOtherCluster
	// ErrUpgradeNeeded: a newer version wrote the log or the data directory. Run that version.
	ErrUpgradeNeeded = chaterr.ErrUpgradeNeeded
	// ErrCorrupt: data on disk is damaged; the error names the file.
	ErrCorrupt = chaterr.ErrCorrupt
	// ErrQuorumAlive: Recover has found that another voter answers.
	ErrQuorumAlive = chaterr.ErrQuorumAlive
	// ErrFault: the node has failed, and serves nothing until the program makes a new one.
	ErrFault = chaterr.ErrFault
	// ErrDiverged: the node's state differs from that of most nodes. It serves nothing until it has
	// replaced it by that of another node, which it does by itself; it comes with ErrFault.
	ErrDiverged = chaterr.ErrDiverged
	// ErrClosed: the node was closed.
	ErrClosed = chaterr.ErrClosed
)

// Status is how a node sees itself and its cluster.
type Status = rpc.Status

// Node is one member of a cluster. It is safe for concurrent use. Between Start and Close it has
// goroutines, those of its parts, which are gone when Close returns.
type Node struct {
	o          Options
	dir        *replica.Dir
	fsm        *fsm.FSM
	hub        *fanout.Hub
	tunnels    *peer.Tunnels
	calls      *peer.Calls
	replica    *replica.Replica
	membership *membership.Membership
	service    *rpc.Service
	running    atomic.Pointer[replica.Replica] // the same, once Start was called
	wasReady   atomic.Bool

	mu      sync.Mutex // guards what follows
	started bool
	closed  bool
	local   *rpc.Local // nil before the first Client
}

// New checks the options, all at once, opens the data directory and locks it. It does not use the
// network, and starts nothing that would outlive a Close.
func New(options Options) (*Node, error) {
	o := options.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	n := &Node{o: o, hub: fanout.NewHub()}
	var err error
	if n.dir, err = o.openDir(); err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	n.fsm, err = fsm.Open(fsm.Options{
		Dir: n.dir.StateDir(), FS: n.dir.FS(), Logger: o.Logger.Named("fsm"),
		Publish: n.hub.Publish, Skipped: n.hub.Skipped, Fault: n.fail,
	})
	if err == nil {
		err = n.sameCluster()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("chat: %w", err), n.closeStorage())
	}
	n.wire()
	return n, nil
}

// sameCluster compares what the state says with what stands beside it.
func (n *Node) sameCluster() error {
	if in, is := n.dir.Cluster().ID, n.fsm.ClusterID(); is != "" && is != in {
		return fmt.Errorf("%s: the state is of cluster %q and the directory of %q: %w", n.o.DataDir, is, in, chaterr.ErrOtherCluster)
	}
	return nil
}

// wire makes the parts and gives each what it needs of the others.
func (n *Node) wire() {
	o := n.o
	n.tunnels = peer.NewTunnels(peer.Options{
		ID: o.NodeID, Cluster: o.ClusterName, ClusterID: func() string { return n.dir.Cluster().ID },
		Secret: o.ClusterSecret, TLS: o.PeerTLS, Dial: o.Dial, Logger: o.Logger.Named("peer"),
	})
	n.calls = peer.NewCalls(n.tunnels)
	book := membership.NewBook()
	n.replica = replica.New(replica.Options{
		NodeID: o.NodeID, Dir: n.dir, FSM: n.fsm, Peers: n.calls, Logger: o.Logger,
		Transport: func() replica.Transport {
			return peer.NewRaft(n.tunnels, o.Advertise, book.Addr, o.Heartbeat, zaplog.NewHC(o.Logger.Named("raft")))
		},
		Heartbeat: o.Heartbeat, ProposeTimeout: o.ProposeTimeout, MaxPending: o.MaxPending, MaxPendingBytes: o.MaxPendingBytes,
		DiskTimeout: o.DiskTimeout,
		// A store that has failed may try again without a pause, until it is closed.
		Failed: func() { _ = n.fsm.Close() },
	})
	n.membership = membership.New(membership.Options{
		Self: node.Info{ID: o.NodeID, Address: o.Advertise, Instance: n.dir.Instance(), Expect: o.BootstrapExpect, Level: state.CurrentLevel},
		Name: o.ClusterName, Seeds: o.others(), Raft: n.replica, Peers: n.calls, Ledger: n.dir,
		Book: book, Transport: peer.NewGossip(n.tunnels, book.Addr), SeedName: peer.Seed,
		Logger: o.Logger, GossipLogger: zaplog.NewStd(o.Logger.Named("gossip")),
		MaxVoters: o.MaxVoters, StableFor: o.StableFor,
	})
	n.service = rpc.New(rpc.Options{
		Replica: n.replica, Hub: n.hub, Passwords: auth.NewPasswords(), Authenticator: o.Authenticator,
		Failed: n.replica.Done(), Status: n.Status, Logger: o.Logger,
	})
}

// fail is told by the state that it cannot go on. Until the replica starts, it asks itself.
func (n *Node) fail(err error) {
	if r := n.running.Load(); r != nil {
		r.Fault(err)
	}
}

// Replayed is what Replay has found. Two nodes of one cluster that hold the same entries have the same Hash
// and Content, under every version.
type Replayed = replica.Replayed

// Replay applies the entries in the log of a data directory that its state lacks, with this version of the
// program, so that an upgrade can be tried before it is rolled out: run it with the old and with the
// new version, each on a copy of its own of a stopped node's directory, and compare. The copy is changed.
// The entries at the end of a log may not have been committed.
//
// It fails with ErrUpgradeNeeded at an entry that this version does not know, with ErrCorrupt at a damaged one,
// and with ErrDataDirInUse for the directory of a running node; the result says how far it came.
func Replay(dir string) (Replayed, error) {
	r, err := replica.Replay(dir, zap.NewNop())
	if err != nil {
		return r, fmt.Errorf("chat: %w", err)
	}
	return r, nil
}

// Register adds the services for clients and for peers to the host's server. It must come before
// the server's Serve, and once: gRPC ends the process otherwise.
func (n *Node) Register(r grpc.ServiceRegistrar) {
	n.RegisterClients(r)
	n.RegisterPeers(r)
}

// RegisterPeers adds what other nodes call, for a host that keeps peers on a listener of their own.
func (n *Node) RegisterPeers(r grpc.ServiceRegistrar) { n.tunnels.Register(r) }

// RegisterClients adds what clients call.
func (n *Node) RegisterClients(r grpc.ServiceRegistrar) { n.service.Register(r) }

// Health answers grpc.health.v1, for a host that has no health service of its own to register:
// SERVING from when Ready has returned until the node is drained, has failed, has lost its cluster or
// replaces a state that has diverged. It may be registered, and asked, before Start.
func (n *Node) Health() healthpb.HealthServer { return n.service.Health() }

// Client is a client within the process that acts as a user, without a password, a network or the host's
// interceptors: the program is trusted. When it returns the user has an account, which it has made if need
// be, so that others can write to the user. Without Options.Authenticator a name is whose it was first: a program
// that has names of its own, such as "orders", makes them here before it serves strangers. It waits for that as any call of a client does. It uses this node
// alone, fails with ErrClosed when the node is closed, and is to be closed by the caller.
func (n *Node) Client(ctx context.Context, user string) (*client.Client, error) {
	local, err := n.inProcess()
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, []string{"in-process:0"}, client.WithoutDiscovery(),
		client.WithDialer(func(ctx context.Context, _ string) (net.Conn, error) { return local.Dial(ctx, user) }))
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	for _, err := range c.Rooms(client.WithConsistency(ctx, client.Local)) { // the first call makes the account
		if err != nil {
			return nil, errors.Join(fmt.Errorf("chat: client for %q: %w", user, err), c.Close())
		}
		break
	}
	return c, nil
}

// inProcess is the server for clients within the process.
func (n *Node) inProcess() (*rpc.Local, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	if n.local == nil {
		n.local = n.service.NewLocal()
	}
	return n.local, nil
}

// IsPeerMethod reports whether a full method name, such as an interceptor sees, is one that other
// nodes call. They prove who they are in the stream itself: let them pass. An interceptor may look at a message
// of such a stream until its RecvMsg returns, and must not keep it: the memory is used again.
func IsPeerMethod(fullMethod string) bool {
	return strings.HasPrefix(fullMethod, "/"+peer.ServiceName+"/")
}

// Start begins to look for the other nodes and to take part in the cluster. It does not wait for
// that: Ready does. ctx is looked at once, before anything is started.
func (n *Node) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case n.closed:
		return ErrClosed
	case n.started:
		return errors.New("chat: started before")
	}
	n.running.Store(n.replica)
	if err := n.fsm.Err(); err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	n.calls.Serve(n.replica, n.membership)
	if err := n.replica.Start(); err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	if err := n.membership.Start(); err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	n.started = true
	return nil
}

// Ready waits until the node is a member of its cluster, knows a leader, and has everything that was
// acknowledged before. Its error, when ctx ends first, says what is missing; when the node has
// failed, it wraps ErrFault.
func (n *Node) Ready(ctx context.Context) error {
	for {
		err := n.missing(ctx)
		if err == nil {
			n.wasReady.Store(true)
			return nil
		}
		select {
		case <-n.replica.Done():
			return err
		default:
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("chat: not ready: %w: %w", err, context.Cause(ctx))
		}
	}
}

// missing says what keeps the node from being ready.
func (n *Node) missing(ctx context.Context) error {
	if err := n.obstacle(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ProposeTimeout)
	defer cancel()
	return n.replica.Linearizable(ctx)
}

// obstacle is missing as far as the node itself can tell.
func (n *Node) obstacle() error {
	switch err := n.replica.Err(); {
	case err != nil:
		return err
	case n.membership.Problem() != "":
		return errors.New(n.membership.Problem())
	case !n.replica.Formed():
		return errors.New("the node has not heard yet that the cluster was formed")
	case n.replica.Leader() == "":
		return chaterr.ErrNoLeader
	default:
		return nil
	}
}

// Status says how the node sees itself and its cluster. It does not wait.
func (n *Node) Status() Status {
	s := Status{
		NodeID: n.o.NodeID, ClusterID: n.dir.Cluster().ID, Role: rpc.Follower, Term: n.replica.Term(),
		Leader: n.replica.Leader(), Applied: n.replica.Applied(),
	}
	a := n.replica.Audit()
	s.Level, s.Verified, s.Quarantined = a.Level, a.Verified, a.Quarantined
	s.Alarm = n.alarm(a)
	alive := map[string]bool{}
	for _, i := range n.membership.Alive() {
		alive[i.ID] = true
	}
	servers, _, _ := n.replica.Servers() // none when raft is shut down, and then the role says so
	for _, v := range servers {
		s.Servers = append(s.Servers, rpc.Server{ID: v.ID, Address: v.Address, Voter: v.Voter, Alive: alive[v.ID]})
	}
	err := n.obstacle()
	switch {
	case n.replica.Err() != nil:
		s.Role = rpc.Faulty
	case n.membership.Problem() != "":
		s.Role = rpc.Outside
	case n.replica.Leading():
		s.Role = rpc.Leader
	case n.replica.Candidate():
		s.Role = rpc.Candidate
	}
	if err != nil {
		s.Detail = err.Error()
	}
	s.Ready = err == nil && n.wasReady.Load()
	return s
}

// alarm says what an operator should look at though the node serves.
func (n *Node) alarm(a state.Audit) string {
	switch at := n.replica.Disputed(); {
	case at > 0:
		return fmt.Sprintf("the voters' states differ at entry %d, and no state is that of most voters", at)
	case a.Quarantined > 0:
		return fmt.Sprintf("%d commands panicked and were left out, the last one in entry %d; the log of that time has the cause", a.Quarantined, a.QuarantinedAt)
	default:
		return ""
	}
}

// Done is closed when the node has failed and serves nothing any more. The process lives, and may
// close the node and make a new one.
func (n *Node) Done() <-chan struct{} { return n.replica.Done() }

// Err is why the node has failed, wrapped in ErrFault; nil while it has not. It wraps ErrDiverged, and
// Done is not closed, while the node replaces its state by that of another node; then it is nil again.
func (n *Node) Err() error { return n.replica.Err() }

// Drain takes the node out of service without a gap: it refuses new calls and ends streams with a
// code that sends clients to other nodes, waits for the calls that are at work, hands leadership
// over, and ends all connections with peers. Afterwards the host's GracefulStop returns at once.
// The node stays a member of its cluster. What cannot be done before ctx ends is left undone, and
// the error says so.
func (n *Node) Drain(ctx context.Context) error {
	err := n.service.Drain(ctx)
	err = errors.Join(err, n.replica.HandOver(ctx))
	return errors.Join(err, n.leave())
}

// leave ends everything that goes on between nodes.
func (n *Node) leave() error {
	n.hub.Close()
	err := errors.Join(n.membership.Close(), n.replica.Close(), n.calls.Stop())
	return errors.Join(err, n.tunnels.Close())
}

// Close ends the node and waits for its goroutines. It may be called at any time, and again. The
// node stays a member of its cluster, and what was not drained is cut off.
func (n *Node) Close() error {
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.service.Drain(ctx) // refuses calls, and does not wait for them
	if n.local != nil {      // nobody makes one any more
		n.local.Close()
	}
	return errors.Join(n.leave(), n.closeStorage())
}

func (n *Node) closeStorage() error {
	var err error
	if n.fsm != nil {
		err = n.fsm.Close()
	}
	return errors.Join(err, n.dir.Close())
}

// Backup writes a backup of everything that was acknowledged before, in one stream with checksums, at the
// pace of w; while no leader is reached, of what this node has applied. The node works on meanwhile. The
// backup is whole when there is no error. Two can be made at once; one more is refused.
func (n *Node) Backup(ctx context.Context, w io.Writer) error { return n.replica.Backup(ctx, w) }

// Backup has a running node send a backup, as Node.Backup writes it.
func Backup(ctx context.Context, o BackupOptions, w io.Writer) error {
	t := peer.NewTunnels(peer.Options{
		ID: cmp.Or(o.Name, "backup"), Cluster: cmp.Or(o.ClusterName, defaultClusterName), ClusterID: func() string { return "" },
		Secret: o.ClusterSecret, TLS: o.PeerTLS, Dial: o.Dial, Logger: zap.NewNop(),
	})
	t.Handle(peer.Call, func(c *peer.Conn) { _ = c.Close() }) // nobody calls back; never fails
	calls := peer.NewCalls(t)
	err := calls.Backup(ctx, "", o.Address, w)
	if err = errors.Join(err, calls.Stop(), t.Close()); err != nil {
		return fmt.Errorf("chat: back up from %s: %w", o.Address, err)
	}
	return nil
}

// Verified is what Verify has seen.
type Verified = replica.Verified

// Verify reads everything in the data directory of a stopped node, or in a backup, and changes nothing; for a
// backup it needs as much space again, beside it, for the time. Its error joins all problems that it has
// found, each with the file that it is in; what is damaged wraps ErrCorrupt. A running node's directory is
// ErrDataDirInUse.
//
// A node with a damaged directory is mended by taking it away and starting the node with an empty one:
// the others bring it what it lacks. That is safe for a minority of the voters, one after the other.
func Verify(path string) (Verified, error) {
	v, err := replica.Verify(path, zap.NewNop())
	if err != nil {
		return v, fmt.Errorf("chat: %w", err)
	}
	return v, nil
}

// Restore makes the data directory of a node that is the whole of a new cluster, which begins with what a
// backup holds. Other nodes join it with empty directories. The directory must be empty or not there; it is
// complete when Restore returns without an error, and not there otherwise.
//
// The cluster has a new id: cursors of the old one are refused, and nodes of the two never mix. Accounts,
// rooms, messages and what retries are recognised by are as they were in the backup. All sessions have
// ended, since one that was ended after the backup was made would live again.
func Restore(backup io.Reader, o RestoreOptions) error {
	if o.NodeID == "" || o.DataDir == "" || o.Advertise == "" {
		return fmt.Errorf("chat: restore: %w: NodeID, DataDir and Advertise are needed", chaterr.ErrInvalid)
	}
	if err := replica.Restore(backup, o.DataDir, o.NodeID, o.Advertise, zap.NewNop()); err != nil {
		return fmt.Errorf("chat: restore: %w", err)
	}
	return nil
}

// Recovery is what Recover is about to do.
type Recovery = replica.Recovery

// Recover makes a stopped node the whole of a new cluster, when the other voters are lost for good and
// there is no quorum any more. It fails with ErrQuorumAlive while the address of another voter answers.
//
// confirm is told what will be done; an error of it is returned, and nothing was changed. What was acknowledged and
// had not reached this node is lost. What has reached it is kept, also what was never acknowledged. Sessions
// go on, cursors do not, as the cluster has a new id: a node of the old one that comes back after all cannot
// disturb it, and joins when its data directory is taken away. The directory of before is kept aside.
func Recover(ctx context.Context, dataDir string, confirm func(Recovery) error) (Recovery, error) {
	r, err := replica.Recover(ctx, dataDir, zap.NewNop(), confirm)
	if err != nil {
		return r, fmt.Errorf("chat: recover: %w", err)
	}
	return r, nil
}
