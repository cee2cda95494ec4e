package membership

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// A cluster is formed by an attempt, as a value is chosen in Paxos: the node that asks first has
// all n nodes promise, durably, to take part in no lower attempt, and then to adopt a cluster id
// with the attempt in it. A node that has adopted one promises nothing any more and says which one
// it has; who asks it must then go on with that one. So a second attempt with the same nodes either
// fails or ends in the same cluster, and an asker that dies blocks nobody. DESIGN.md has the proof.

// attempt is a number and the node that asks, such that attempts are ordered as text.
func attempt(number uint64, node string) string { return fmt.Sprintf("%012d.%s", number, node) }

// numberOf reads the number of an attempt; 0 when it has none.
func numberOf(attempt string) uint64 {
	digits, _, _ := strings.Cut(attempt, ".")
	if len(digits) != 12 {
		return 0
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Promise answers another node's attempt. The promise is durable when it returns.
func (m *Membership) Promise(attempt string) (highest string, in node.Cluster, err error) {
	m.deciding <- struct{}{}
	defer func() { <-m.deciding }()
	if c := m.o.Ledger.Cluster(); c.ID != "" {
		return m.o.Ledger.Promised(), c, nil
	}
	if m.o.Self.Expect == 0 || numberOf(attempt) == 0 || len(attempt) > 13+node.MaxID {
		return "", node.Cluster{}, fmt.Errorf("%w: node %q takes no part in attempt %q", chaterr.ErrInvalid, m.o.Self.ID, attempt)
	}
	m.number = max(m.number, numberOf(attempt))
	if attempt > m.o.Ledger.Promised() {
		if err := m.o.Ledger.Promise(attempt); err != nil {
			return "", node.Cluster{}, err
		}
	}
	return m.o.Ledger.Promised(), node.Cluster{}, nil
}

// Adopt makes this node belong to the cluster that came of an attempt, if it has promised that
// attempt and no later one.
func (m *Membership) Adopt(attempt string, c node.Cluster) error {
	m.deciding <- struct{}{}
	defer func() { <-m.deciding }()
	switch mine := m.o.Ledger.Cluster(); {
	case mine.ID == c.ID && c.ID != "":
		return nil
	case mine.ID != "":
		return fmt.Errorf("%w: node %q is in cluster %q", chaterr.ErrOtherCluster, m.o.Self.ID, mine.ID)
	case c.ID == "" || len(c.ID) > node.MaxClusterID || len(c.Servers) == 0:
		return fmt.Errorf("%w: cluster %q with %d servers", chaterr.ErrInvalid, c.ID, len(c.Servers))
	case m.o.Ledger.Promised() != attempt:
		return fmt.Errorf("%w: node %q has promised attempt %q", chaterr.ErrInvalid, m.o.Self.ID, m.o.Ledger.Promised())
	case !m.amongst(c.Servers):
		return fmt.Errorf("%w: cluster %q was not formed with this data directory; it has to be taken in anew", chaterr.ErrInvalid, c.ID)
	}
	return m.adopt(c)
}

// amongst looks for this node, with this data directory, among the servers of a cluster. One that
// has lost its disk may have voted in that cluster, and must not vote again knowing nothing.
func (m *Membership) amongst(servers []node.Info) bool {
	return slices.ContainsFunc(servers, func(s node.Info) bool {
		return s.ID == m.o.Self.ID && s.Instance == m.o.Self.Instance
	})
}

// adopt is durable when it returns.
func (m *Membership) adopt(c node.Cluster) error {
	if err := m.o.Ledger.Adopt(c); err != nil {
		return err
	}
	m.log.Info("belongs to a cluster", zap.String("cluster", c.ID))
	m.hurry()
	return m.o.Raft.Bootstrap()
}

// seek looks for a cluster to join, or forms one. Who is told to join only joins.
func (m *Membership) seek() {
	alive := m.Alive()
	for _, n := range alive {
		if n.Formed && n.ID != m.o.Self.ID {
			m.join()
			return
		}
	}
	n := m.o.Self.Expect
	if n == 0 {
		m.trouble("no member of a cluster was found; %d nodes are in sight, seeds are %s", len(alive)-1, m.seeds())
		return
	}
	var candidates []node.Info
	for _, i := range alive {
		if i.Expect == n {
			candidates = append(candidates, i)
		}
	}
	if len(candidates) < n {
		m.trouble("%d of the %d nodes that are to form the cluster are in sight; seeds are %s", len(candidates), n, m.seeds())
		return
	}
	candidates = candidates[:n] // sorted by id
	first := slices.IndexFunc(candidates, func(i node.Info) bool { return i.ClusterID == "" })
	if first < 0 || candidates[first].ID != m.o.Self.ID {
		m.trouble("node %q is to form the cluster", candidates[max(first, 0)].ID)
		return
	}
	if err := m.ask(candidates); err != nil {
		m.trouble("the nodes do not agree yet: %v", err)
	}
}

// ask makes one attempt.
func (m *Membership) ask(nodes []node.Info) error {
	m.deciding <- struct{}{}
	m.number = max(m.number, numberOf(m.o.Ledger.Promised())) + 1
	a := attempt(m.number, m.o.Self.ID)
	<-m.deciding
	c := node.Cluster{ID: clusterID(a), Servers: nodes}
	found, err := m.promises(a, nodes)
	if err != nil {
		return err
	}
	if len(found) > 1 {
		return fmt.Errorf("nodes are in the clusters %q and %q", found[0].ID, found[1].ID)
	}
	if len(found) == 1 {
		if c = found[0]; len(c.Servers) == 0 {
			return fmt.Errorf("cluster %q was formed earlier; waiting until it can take this node in", c.ID)
		}
	}
	if err := m.Adopt(a, c); err != nil {
		return err
	}
	return m.adoptions(a, c, nodes)
}

// promises asks all nodes for a promise. The clusters that some are in already come back.
func (m *Membership) promises(a string, nodes []node.Info) (found []node.Cluster, err error) {
	err = m.each(nodes, func(ctx context.Context, n node.Info) (result func() error) {
		var highest string
		var in node.Cluster
		var err error
		if n.ID == m.o.Self.ID {
			highest, in, err = m.Promise(a)
		} else {
			highest, in, err = m.o.Peers.Promise(ctx, n.ID, n.Address, a)
		}
		return func() error {
			known := slices.ContainsFunc(found, func(c node.Cluster) bool { return c.ID == in.ID })
			switch {
			case err != nil:
				return fmt.Errorf("node %q: %w", n.ID, err)
			case in.ID != "" && !known:
				found = append(found, in)
			case in.ID == "" && highest != a:
				m.deciding <- struct{}{}
				m.number = max(m.number, numberOf(highest))
				<-m.deciding
				return fmt.Errorf("node %q takes part in attempt %q", n.ID, highest)
			}
			return nil
		}
	})
	return found, err
}

// adoptions tells the other nodes what was decided. Who misses it finds the cluster by gossip.
func (m *Membership) adoptions(a string, c node.Cluster, nodes []node.Info) error {
	return m.each(nodes, func(ctx context.Context, n node.Info) func() error {
		var err error
		if n.ID != m.o.Self.ID {
			err = m.o.Peers.Adopt(ctx, n.ID, n.Address, a, c)
		}
		return func() error {
			if err != nil {
				return fmt.Errorf("node %q: %w", n.ID, err)
			}
			return nil
		}
	})
}

// each calls all nodes at once, and then the functions that come back, one after the other; the
// first error counts.
func (m *Membership) each(nodes []node.Info, call func(context.Context, node.Info) (result func() error)) (err error) {
	ctx, cancel := context.WithTimeout(m.life, callTimeout)
	defer cancel()
	results := make([]func() error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { results[i] = call(ctx, n) })
	}
	wg.Wait()
	for _, r := range results {
		if e := r(); err == nil {
			err = e
		}
	}
	return err
}

// clusterID is random, and says of which attempt the cluster came.
func clusterID(attempt string) string {
	return strings.ToLower(rand.Text()[:16]) + "-" + strings.TrimLeft(attempt, "0")
}
