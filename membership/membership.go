// Package membership finds the other nodes by gossip, forms a cluster with them once, takes
// newcomers in, and lets them vote when they have caught up. Gossip proposes; raft's configuration
// decides, and nobody is taken out of it because gossip thinks him dead. DESIGN.md says why a
// cluster cannot be formed twice.
package membership

import (
	"context"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

// Raft is what membership needs of this node's raft. The changes are for the leader; prev is the
// index of the configuration that the change was planned for.
type Raft interface {
	Leading() bool
	Leader() (id string)
	Servers() (servers []node.Server, index uint64, err error)
	Applied() uint64
	// Formed reports whether the cluster's first command was applied.
	Formed() bool
	// Level is the cluster's feature level, and RaiseLevel moves it up.
	Level() uint32
	RaiseLevel(level uint32) error
	// Bootstrap begins the cluster that the Ledger holds.
	Bootstrap() error
	AddNonvoter(id, addr string, prev uint64) error
	AddVoter(id, addr string, prev uint64) error
	Remove(id string, prev uint64) error
}

// Peers are calls of other nodes.
type Peers interface {
	Promise(ctx context.Context, id, addr, attempt string) (highest string, c node.Cluster, err error)
	Adopt(ctx context.Context, id, addr, attempt string, c node.Cluster) error
	Join(ctx context.Context, id, addr string, n node.Info, forwarded bool) (clusterID string, err error)
	Probe(ctx context.Context, id, addr string) (node.Info, error)
}

// Ledger is what the node must not forget. Its changes are durable when they return.
type Ledger interface {
	Promised() string
	Promise(attempt string) error
	Cluster() node.Cluster
	Adopt(c node.Cluster) error
}

// Options are what a Membership needs. None may be left out, unless its zero value is named.
type Options struct {
	// Self is this node: ID, Address, Instance, Level, and with how many nodes it wants to form a
	// cluster (Expect, 0 for a node that only joins).
	Self node.Info
	// Name is the name of the cluster in its options.
	Name string
	// Seeds are addresses of nodes that may be there. Its own may be among them.
	Seeds     []string
	Raft      Raft
	Peers     Peers
	Ledger    Ledger
	Book      *Book
	Transport memberlist.NodeAwareTransport
	// SeedName is the form in which Transport takes an address without a node.
	SeedName func(addr string) string
	Logger   *zap.Logger
	// GossipLogger is for memberlist.
	GossipLogger *log.Logger
	// MaxVoters is how many servers vote; further ones follow.
	MaxVoters int
	// StableFor is how long a newcomer must be there and caught up before it votes.
	StableFor time.Duration
}

// Membership is this node's part in its cluster. It is safe for concurrent use. Its goroutines are
// gossip (greets seeds, and servers that gossip has lost), steps (forms, joins, and lets newcomers
// vote), and memberlist's own. They are gone when Close returns.
type Membership struct {
	o    Options
	log  *zap.Logger
	list atomic.Pointer[memberlist.Memberlist] // nil before Start

	life   context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{} // one slot: look again at once
	stable stability     // used by steps alone

	// deciding holds one token over promises and adoptions, which are decisions by what stands in the Ledger. It is no
	// mutex, as to adopt is to start raft anew, and who waits for a mutex stops the time of a test's bubble.
	deciding chan struct{}
	number   uint64 // the highest number of an attempt that was heard of; guarded by deciding

	admitting chan struct{} // holds one token while a newcomer is taken in

	mu       sync.Mutex        // guards what follows
	meta     []byte            // what gossip tells of this node
	problem  string            // why this node is not yet a member, for people
	refusals map[string]string // by address: why it could not be greeted, for people
	closed   bool
}

// New makes a membership; it does nothing before Start.
func New(o Options) *Membership {
	m := &Membership{
		o: o, log: o.Logger.Named("membership"),
		wake: make(chan struct{}, 1), deciding: make(chan struct{}, 1), admitting: make(chan struct{}, 1),
		stable: stability{}, refusals: map[string]string{},
	}
	m.life, m.stop = context.WithCancel(context.Background())
	return m
}

// Start begins to gossip. It does not wait for anybody.
func (m *Membership) Start() error {
	if err := m.describe(); err != nil {
		return err
	}
	list, err := memberlist.Create(m.gossipConfig())
	if err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	m.list.Store(list)
	m.work.Go(m.gossip)
	m.work.Go(m.steps)
	return nil
}

// Close stops gossip. The others will think this node dead, and it stays a member.
func (m *Membership) Close() error {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if closed {
		return nil
	}
	m.stop()
	var err error
	if list := m.list.Load(); list != nil {
		err = list.Shutdown()
	}
	m.work.Wait()
	return err
}

// Self is what this node says of itself.
func (m *Membership) Self() node.Info {
	i := m.o.Self
	i.ClusterID, i.Formed, i.Applied = m.o.Ledger.Cluster().ID, m.o.Raft.Formed(), m.o.Raft.Applied()
	return i
}

// Problem says why this node is not a member of a cluster yet, for people; empty when it is.
func (m *Membership) Problem() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

func (m *Membership) trouble(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.mu.Lock()
	changed := text != m.problem
	m.problem = text
	m.mu.Unlock()
	if changed && text != "" {
		m.log.Info("not in a cluster yet", zap.String("because", text))
	}
}

const (
	// seeking is how often a node that is not a server of a cluster looks for one, or whether it is by now, and
	// leading how often a leader looks after newcomers.
	seeking = 250 * time.Millisecond
	leading = time.Second
	// callTimeout bounds a call of a peer.
	callTimeout = 2 * time.Second
)

// steps does what there is to do, again and again: it reads the truth each time, so nothing is lost
// when an event is.
func (m *Membership) steps() {
	for {
		pause := m.step()
		select {
		case <-time.After(pause):
		case <-m.wake:
		case <-m.life.Done():
			return
		}
	}
}

func (m *Membership) step() (pause time.Duration) {
	if err := m.describe(); err != nil {
		m.log.Error("gossip cannot tell of this node", zap.Error(err))
	}
	if m.o.Ledger.Cluster().ID == "" {
		m.seek()
		return seeking
	}
	servers, index, err := m.o.Raft.Servers()
	if err != nil {
		return leading // raft is shutting down
	}
	m.o.Book.configured(servers)
	mine, member := find(servers, m.o.Self.ID)
	switch {
	case len(servers) == 0 || member && mine.Address != m.o.Self.Address:
		if m.join() && len(servers) == 0 { // else it has moved
			m.trouble("cluster %q has taken this node in, and is sending it what it has", m.o.Ledger.Cluster().ID)
		}
		return seeking
	case !member:
		m.trouble("this node was taken out of cluster %q", m.o.Ledger.Cluster().ID)
	default:
		m.trouble("")
	}
	if m.o.Raft.Leading() {
		m.reconcile(servers, index)
	}
	return leading
}

func find(servers []node.Server, id string) (node.Server, bool) {
	for _, s := range servers {
		if s.ID == id {
			return s, true
		}
	}
	return node.Server{}, false
}

func (m *Membership) hurry() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
