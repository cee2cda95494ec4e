package membership

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

const (
	// greetEvery is how often seeds and servers that gossip does not see are greeted again: after 30 s
	// memberlist forgets the dead, and never finds them again by itself.
	greetEvery = 5 * time.Second
	// reclaim is after how long a node may come back under another address.
	reclaim = 10 * time.Second
	// tellTimeout bounds how long telling the others takes.
	tellTimeout = time.Second
)

func (m *Membership) gossipConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.RequireNodeNames = m.o.Self.ID, m.o.Name, true
	c.Transport = m.o.Transport
	c.Delegate = delegate{m: m}
	c.Alive = delegate{m: m}
	c.Events = delegate{m: m}
	c.DeadNodeReclaimTime = reclaim
	c.EnableCompression = false // of a packet of some hundred bytes it takes 64 KiB of new memory
	c.Logger = m.o.GossipLogger
	return c
}

// delegate is called by memberlist with its locks held: it does nothing slow and calls nothing back.
type delegate struct{ m *Membership }

var (
	_ memberlist.Delegate      = delegate{}
	_ memberlist.AliveDelegate = delegate{}
	_ memberlist.EventDelegate = delegate{}
)

func (d delegate) NodeMeta(int) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.m.meta
}

func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

// NotifyAlive looks at a node before gossip believes in it.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	i, err := node.Decode(n.Meta)
	switch {
	case err != nil:
		return err
	case i.ID != n.Name:
		return fmt.Errorf("node %q says that it is %q", n.Name, i.ID)
	}
	if mine := d.m.o.Ledger.Cluster().ID; mine != "" && i.ClusterID != "" && i.ClusterID != mine {
		return fmt.Errorf("node %q belongs to cluster %q, and this one to %q", n.Name, i.ClusterID, mine)
	}
	return nil
}

// describe lets gossip tell what is new of this node.
func (m *Membership) describe() error {
	meta, err := m.Self().Encode()
	if err != nil {
		return err
	}
	m.mu.Lock()
	changed := !bytes.Equal(meta, m.meta)
	m.meta = meta
	m.mu.Unlock()
	list := m.list.Load()
	if !changed || list == nil {
		return nil
	}
	if err := list.UpdateNode(tellTimeout); err != nil {
		m.log.Debug("gossip is slow to tell of this node", zap.Error(err))
	}
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave keep a list of our own: what memberlist's Members returns
// changes while it is read.
func (d delegate) NotifyJoin(n *memberlist.Node)   { d.heard(n) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.heard(n) }

func (d delegate) heard(n *memberlist.Node) {
	i, err := node.Decode(n.Meta)
	if err != nil {
		return // NotifyAlive has refused it
	}
	d.m.o.Book.lives(i)
}

func (d delegate) NotifyLeave(n *memberlist.Node) { d.m.o.Book.left(n.Name) }

// Alive lists the nodes that gossip thinks alive, this one included, by id.
func (m *Membership) Alive() []node.Info { return m.o.Book.Alive() }

// gossip greets seeds and servers that gossip does not see, for ever.
func (m *Membership) gossip() {
	for pause := seeking; ; {
		all := true
		addrs := m.missing()
		m.forgive(addrs)
		for _, addr := range addrs {
			_, err := m.list.Load().Join([]string{m.o.SeedName(addr)})
			m.greeted(addr, err)
			if err != nil {
				all = false
				m.log.Debug("no gossip with a seed", zap.String("address", addr), zap.Error(err))
			}
		}
		m.hurry()
		if all {
			pause = greetEvery
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, greetEvery)
		case <-m.life.Done():
			return
		}
	}
}

// maxReason is how much is told of why a seed could not be greeted, in bytes. Some of it may come from
// whoever has its address.
const maxReason = 300

// greeted notes what came of greeting an address, for people.
func (m *Membership) greeted(addr string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.refusals, addr)
		return
	}
	text := strings.Join(strings.Fields(err.Error()), " ") // memberlist's is a list of lines, with an address that is none
	if _, cause, ok := strings.Cut(text, "failed to join "); ok {
		_, text, _ = strings.Cut(cause, ": ")
	}
	if len(text) > maxReason {
		text = text[:maxReason] + "..."
	}
	m.refusals[addr] = strings.ToValidUTF8(text, "?")
}

// forgive forgets about addresses that need not be greeted any more.
func (m *Membership) forgive(missing []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.refusals, func(addr, _ string) bool { return !slices.Contains(missing, addr) })
}

// seeds lists the seeds for people, with why one could not be greeted when that was tried last.
func (m *Membership) seeds() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	texts := slices.Clone(m.o.Seeds)
	for i, addr := range texts {
		if why := m.refusals[addr]; why != "" {
			texts[i] = fmt.Sprintf("%s (%s)", addr, why)
		}
	}
	return strings.Join(texts, ", ")
}

// missing lists the addresses of seeds and of servers that gossip does not see.
func (m *Membership) missing() (addrs []string) {
	seen := map[string]bool{m.o.Self.Address: true}
	for _, n := range m.Alive() {
		seen[n.Address] = true
	}
	candidates := slices.Clone(m.o.Seeds)
	servers, _, _ := m.o.Raft.Servers() // without them, the seeds are enough
	for _, s := range servers {
		candidates = append(candidates, s.Address)
	}
	for _, a := range candidates {
		if !seen[a] {
			seen[a] = true
			addrs = append(addrs, a)
		}
	}
	return addrs
}
