package membership

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// maxServers is how many servers a cluster may have, those that only follow included.
const maxServers = 64

// joinTimeout bounds a request to be taken in, which the leader answers after one or two commits.
const joinTimeout = 10 * time.Second

// join asks the members that are in sight to take this node in, and reports whether one has. A member that
// has moved asks itself as well: it may lead.
func (m *Membership) join() bool {
	err := errors.New("no member is in sight")
	for _, n := range m.Alive() {
		if !n.Formed {
			continue
		}
		ctx, cancel := context.WithTimeout(m.life, joinTimeout)
		var id string
		if n.ID == m.o.Self.ID {
			id, err = m.Join(ctx, m.Self(), false)
		} else {
			id, err = m.o.Peers.Join(ctx, n.ID, n.Address, m.Self(), false)
		}
		cancel()
		if err != nil {
			continue
		}
		if err = m.joined(id); err == nil {
			return true
		}
	}
	m.trouble("no member has taken this node in: %v; seeds are %s", err, m.seeds())
	return false
}

// joined makes this node belong to the cluster that has taken it in.
func (m *Membership) joined(id string) error {
	m.deciding <- struct{}{}
	defer func() { <-m.deciding }()
	switch mine := m.o.Ledger.Cluster().ID; {
	case mine == id:
		return nil
	case mine != "" || id == "" || len(id) > node.MaxClusterID:
		return fmt.Errorf("%w: taken into %q, but belongs to %q", chaterr.ErrOtherCluster, id, mine)
	}
	return m.adopt(node.Cluster{ID: id})
}

// Join takes a node in, as the leader or by passing the request on to it: one hop.
func (m *Membership) Join(ctx context.Context, n node.Info, forwarded bool) (clusterID string, err error) {
	mine := m.o.Ledger.Cluster().ID
	switch {
	case !m.o.Raft.Formed():
		return "", fmt.Errorf("%w: node %q is in no cluster yet", chaterr.ErrNoLeader, m.o.Self.ID)
	case n.ClusterID != "" && n.ClusterID != mine:
		return "", fmt.Errorf("%w: node %q is in %q, this is %q", chaterr.ErrOtherCluster, n.ID, n.ClusterID, mine)
	case n.ID == "" || len(n.ID) > node.MaxID || n.Address == "" || len(n.Address) > node.MaxAddress:
		return "", fmt.Errorf("%w: node %q at %q", chaterr.ErrInvalid, n.ID, n.Address)
	case m.o.Raft.Leading():
		return mine, m.admit(ctx, n)
	case forwarded:
		return "", chaterr.ErrNoLeader
	}
	leader := m.o.Raft.Leader()
	addr, ok := m.o.Book.Addr(leader)
	if leader == "" || !ok {
		return "", chaterr.ErrNoLeader
	}
	return m.o.Peers.Join(ctx, leader, addr, n, true)
}

// admit makes a node a server that does not vote yet, or changes the address of one.
func (m *Membership) admit(ctx context.Context, n node.Info) error {
	select {
	case m.admitting <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-m.admitting }()
	if level := m.o.Raft.Level(); n.Level < level {
		return fmt.Errorf("%w: the cluster is at level %d, node %q supports level %d", chaterr.ErrUpgradeNeeded, level, n.ID, n.Level)
	}
	servers, index, err := m.o.Raft.Servers()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.Address == n.Address && s.ID != n.ID {
			return fmt.Errorf("%w: server %q has the address %s", chaterr.ErrNodeIDTaken, s.ID, s.Address)
		}
	}
	was, member := find(servers, n.ID)
	if member {
		if err := m.sameNode(ctx, was, n); err != nil {
			return err
		}
	} else if len(servers) >= maxServers {
		return fmt.Errorf("%w: %d servers", chaterr.ErrLimit, len(servers))
	}
	if member && n.ClusterID == "" && was.Voter {
		// It votes, and has lost what it voted for and what it has acknowledged. It must not vote
		// again before it has caught up.
		m.log.Warn("a server has lost its data and begins anew", zap.String("id", n.ID))
		if err := m.o.Raft.Remove(n.ID, index); err != nil {
			return err
		}
		if _, index, err = m.o.Raft.Servers(); err != nil {
			return err
		}
		member, was = false, node.Server{}
	}
	switch {
	case member && was.Address == n.Address:
		return nil
	case member && was.Voter:
		return m.o.Raft.AddVoter(n.ID, n.Address, index)
	default:
		m.log.Info("takes a server in", zap.String("id", n.ID), zap.String("address", n.Address))
		return m.o.Raft.AddNonvoter(n.ID, n.Address, index)
	}
}

// sameNode refuses a second node under the id of a server that lives.
func (m *Membership) sameNode(ctx context.Context, was node.Server, n node.Info) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lives, err := m.o.Peers.Probe(ctx, was.ID, was.Address)
	if err == nil && lives.ID == n.ID && lives.Instance != n.Instance {
		return fmt.Errorf("%w: node %q lives at %s", chaterr.ErrNodeIDTaken, n.ID, was.Address)
	}
	return nil
}
