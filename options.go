package chat

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/memdisk"
	"example.com/chat/internal/node"
	"example.com/chat/internal/replica"
)

// Options say who a node is and how it finds the others. New copies them. The zero value of a
// field means what its comment says; the comments also say what all nodes of a cluster must agree
// on, and what may be changed when a node is restarted.
type Options struct {
	// NodeID names the node in its cluster: 1 to 64 of the characters a-z, A-Z, 0-9, dot, dash and
	// underscore. Required. Unique in the cluster; stays with DataDir for ever.
	NodeID string

	// DataDir is the directory in which the node keeps everything: log, state, snapshots. Required.
	// It is made with mode 0700 when it is not there, and refused when others may read it, when
	// another node is at work in it, or when it belongs to another one. May be moved at a restart.
	DataDir string

	// Advertise is the address, host:port, at which the other nodes reach this node's gRPC server.
	// Required. At most 128 bytes; an IP address or a name. May change at a restart, and for all nodes at
	// once if their Seeds have the new ones.
	Advertise string

	// Seeds are addresses of nodes through which this node finds the others; its own may be among
	// them. Empty is for a cluster of one, or for the node that others are told to join. A seed that
	// does not answer is tried for ever. May change at a restart.
	Seeds []string

	// BootstrapExpect is how many nodes form the cluster, once: they wait until all of them see each
	// other, and agree. 0 means that this node never forms a cluster, but joins one through Seeds. 1
	// is a cluster of one, which others may join, and goes with no Seeds but the node's own address.
	// The nodes that form a cluster must agree on it. It is without effect on a node that belongs to
	// a cluster, so the same options do for every start.
	BootstrapExpect int

	// ClusterName keeps clusters apart that can reach each other: nodes with different names refuse
	// each other. Empty means "chat". At most 64 bytes. All nodes must agree; for ever.
	ClusterName string

	// ClusterSecret proves to the others that this node belongs to them: 32 bytes or more, random. When
	// it is empty, peers must show a certificate that TLS has verified and that is valid for their node
	// id as a DNS name, if PeerTLS is set, on loopback too; without PeerTLS they must come from
	// loopback addresses, and Advertise must be one. All nodes must agree.
	//
	// The secret keeps strangers out. It does not hide what nodes say to each other, nor stop somebody
	// who can change packets on the way: off one machine, use TLS.
	ClusterSecret []byte

	// PeerTLS is how this node dials the others, whose servers are the hosts' own; nil dials without
	// TLS. It is not changed. All nodes must agree with all servers.
	PeerTLS *tls.Config

	// Dial opens the network connection to another node; nil dials TCP. With PeerTLS, TLS is spoken on
	// what it returns.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	// Authenticator says which user calls, from what the host's interceptors or the caller have put into ctx
	// (metadata, TLS), and makes the host's users the chat's: nobody registers or logs in, an account is made
	// at a user's first call. It is asked at each call and at the beginning of each stream, by many
	// goroutines, and must be quick. An error refuses the call: with its code if it is a gRPC status,
	// otherwise as UNAUTHENTICATED, with its text. nil has users register and log in with passwords. All
	// nodes must agree; may change at a restart.
	//
	// A user is a name as Register takes it, of 1 to 64 bytes, and folded as there: Alice and alice are one
	// user. A host whose names differ in case alone returns something else, such as ids.
	//
	// A user has one session at each node then, with at most 32 streams of events. A host ends them, on all
	// nodes, with LogoutAll or DeleteAccount of Node.Client(ctx, user).
	Authenticator func(ctx context.Context) (user string, err error)

	// Logger is told what an operator may want to act on; nil is silent. Nothing is ever printed.
	Logger *zap.Logger

	// Heartbeat is how long the others go without a word from the leader before they elect another
	// one; an election takes as long again. 0 means 300 ms; at least 50 ms. Slow disks do not count:
	// heartbeats do not wait for them. All nodes should agree; may change at a restart.
	Heartbeat time.Duration

	// DiskTimeout is how long one call of the disk may take, for the log, the state, a snapshot or
	// node.json, before the node is given up, so that the others can go on; see Node.Done. A leader that
	// commits nothing for as long, though entries wait, steps down. 0 means 10 s; at least 100 ms. May
	// differ between nodes.
	DiskTimeout time.Duration

	// LogStore is what keeps raft's entries; empty for what a DataDir has, and LogStorePebble in a new one.
	// It is refused when the DataDir has the other: MoveLog moves them while the node is stopped. May
	// differ between nodes.
	LogStore LogStore

	// ProposeTimeout bounds how long a change waits to be committed, within the caller's deadline; 0
	// means 10 s. What takes longer is answered with ErrUnknownOutcome. May differ between nodes.
	ProposeTimeout time.Duration

	// MaxPending is how many changes may wait or be under way at this node, and MaxPendingBytes how
	// large they may be together; 0 means 4,096 and 8 MiB. More are refused at once with
	// ErrOverloaded. May differ between nodes.
	MaxPending, MaxPendingBytes int

	// MaxVoters is how many nodes vote; further ones follow, and serve reads and events. 0 means 5; an
	// odd number. All nodes must agree.
	MaxVoters int

	// StableFor is how long a newcomer must have kept up before it votes; 0 means 2 s. All nodes should
	// agree.
	StableFor time.Duration

	// Memory is for package rpc/chattest alone, whose clusters are in memory: the node keeps everything there,
	// and DataDir is not used. Nothing of it outlives the process. nil, as everywhere else, is for DataDir.
	Memory *memdisk.Disk
}

// LogStore is what keeps raft's entries in a data directory. raft-boltdb keeps the term and the vote in
// either case.
type LogStore = replica.LogStore

const (
	// LogStorePebble appends to segments: one fsync for all that is written together.
	LogStorePebble = replica.LogStorePebble
	// LogStoreBolt is raft-boltdb: one file, and two fsyncs.
	LogStoreBolt = replica.LogStoreBolt
)

// MoveLog moves raft's entries in the data directory of a stopped node to another store. Whenever it is
// interrupted, the directory is whole, and it can be called again. A running node's directory is
// ErrDataDirInUse. It waits for the disk.
func MoveLog(dataDir string, to LogStore) error {
	if err := replica.MoveLog(dataDir, to); err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	return nil
}

// BackupOptions say whom Backup asks. Address and, if the nodes have one, ClusterSecret are needed.
type BackupOptions struct {
	// Address is that of a node, the leader or not.
	Address string
	// ClusterName, ClusterSecret, PeerTLS and Dial are as in Options.
	ClusterName   string
	ClusterSecret []byte
	PeerTLS       *tls.Config
	Dial          func(ctx context.Context, addr string) (net.Conn, error)
	// Name is what the nodes' logs call the caller; empty for "backup". Without a secret, PeerTLS must have
	// a certificate for it.
	Name string
}

// RestoreOptions say what Restore makes of a backup. All are needed, and as in Options.
type RestoreOptions struct{ NodeID, DataDir, Advertise string }

// minSecret is how long a cluster secret must be, in bytes.
const minSecret = 32

// defaultClusterName is that of a cluster whose options name none.
const defaultClusterName = "chat"

// maxClusterName is how long a cluster's name may be, in bytes.
const maxClusterName = 64

var nodeIDs = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// withDefaults returns a copy in which every zero value is what it means.
func (o Options) withDefaults() Options {
	defaultTo(&o.ClusterName, defaultClusterName)
	defaultTo(&o.Heartbeat, 300*time.Millisecond)
	defaultTo(&o.DiskTimeout, 10*time.Second)
	defaultTo(&o.ProposeTimeout, 10*time.Second)
	defaultTo(&o.MaxPending, 4096)
	defaultTo(&o.MaxPendingBytes, 8<<20)
	defaultTo(&o.MaxVoters, 5)
	defaultTo(&o.StableFor, 2*time.Second)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	o.Seeds = append([]string(nil), o.Seeds...)
	o.ClusterSecret = append([]byte(nil), o.ClusterSecret...)
	if o.PeerTLS != nil {
		o.PeerTLS = o.PeerTLS.Clone()
	}
	return o
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate returns every fault at once.
func (o Options) validate() error {
	var faults []error
	fault := func(when bool, format string, args ...any) {
		if when {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(!nodeIDs.MatchString(o.NodeID), "NodeID %q: want 1 to 64 letters, digits, dots, dashes and underscores", o.NodeID)
	fault(o.DataDir == "" && o.Memory == nil, "DataDir is empty: want a directory for this node alone")
	fault(!isAddress(o.Advertise), "Advertise %q: want the host:port at which the other nodes reach this one, of at most %d bytes", o.Advertise, node.MaxAddress)
	for _, s := range o.Seeds {
		fault(!isAddress(s), "Seeds: %q: want host:port", s)
	}
	fault(o.BootstrapExpect < 0 || o.BootstrapExpect > 64, "BootstrapExpect %d: want 0 to 64", o.BootstrapExpect)
	fault(o.BootstrapExpect == 0 && len(o.others()) == 0, "BootstrapExpect is 0, so the node joins a cluster, and Seeds names no other node: want a seed, or BootstrapExpect 1 for a new cluster")
	fault(o.BootstrapExpect == 1 && len(o.others()) > 0, "BootstrapExpect is 1, so the node forms a cluster alone, and Seeds names others: %s; want BootstrapExpect 0 to join them", strings.Join(o.others(), ", "))
	fault(o.BootstrapExpect > 1 && len(o.others()) == 0, "BootstrapExpect is %d and Seeds names no other node: want the address of one", o.BootstrapExpect)
	fault(len(o.ClusterName) > maxClusterName, "ClusterName has %d bytes: want at most %d", len(o.ClusterName), maxClusterName)
	fault(len(o.ClusterSecret) > 0 && len(o.ClusterSecret) < minSecret, "ClusterSecret has %d bytes: want %d or more, random ones", len(o.ClusterSecret), minSecret)
	fault(len(o.ClusterSecret) == 0 && o.PeerTLS == nil && !isLoopback(o.Advertise), "Advertise %q is not a loopback address, so peers must prove who they are: want ClusterSecret, or PeerTLS with certificates for node ids", o.Advertise)
	fault(o.Heartbeat < 50*time.Millisecond, "Heartbeat %v: want 50ms or more", o.Heartbeat)
	fault(o.DiskTimeout < 100*time.Millisecond, "DiskTimeout %v: want 100ms or more", o.DiskTimeout)
	fault(o.LogStore != "" && o.LogStore != LogStorePebble && o.LogStore != LogStoreBolt, "LogStore %q: want %q or %q", o.LogStore, LogStorePebble, LogStoreBolt)
	fault(o.ProposeTimeout < 0, "ProposeTimeout %v: want 0 or more", o.ProposeTimeout)
	fault(o.MaxPending < 0 || o.MaxPendingBytes < 0, "MaxPending %d, MaxPendingBytes %d: want 0 or more", o.MaxPending, o.MaxPendingBytes)
	fault(o.MaxVoters < 1 || o.MaxVoters%2 == 0, "MaxVoters %d: want an odd number", o.MaxVoters)
	fault(o.StableFor < 0, "StableFor %v: want 0 or more", o.StableFor)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("chat: invalid options: %w", errors.Join(faults...))
}

// openDir opens what the node keeps everything in.
func (o Options) openDir() (*replica.Dir, error) {
	if o.Memory != nil {
		return replica.OpenMemory(o.Memory, o.NodeID, o.LogStore)
	}
	return replica.OpenDir(o.DataDir, o.NodeID, o.LogStore)
}

// others are the seeds but the node itself.
func (o Options) others() (seeds []string) {
	for _, s := range o.Seeds {
		if s != o.Advertise {
			seeds = append(seeds, s)
		}
	}
	return seeds
}

func isAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	return err == nil && host != "" && port != "" && len(a) <= node.MaxAddress
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
