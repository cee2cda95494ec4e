package membership

import (
	"context"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

// stability remembers how long servers have kept up, and how far this node was when they were last
// asked.
type stability map[string]kept

type kept struct {
	since  time.Time
	target uint64 // what this node had applied at the last look
}

// reconcile looks after the servers that do not vote yet, and lets one vote when it may.
func (m *Membership) reconcile(servers []node.Server, index uint64) {
	v := view{Servers: servers, Health: map[string]health{}, Now: time.Now(), MaxVoters: m.o.MaxVoters, StableFor: m.o.StableFor}
	for id := range m.stable {
		if s, ok := find(servers, id); !ok || s.Voter {
			delete(m.stable, id)
		}
	}
	for _, s := range servers {
		if !s.Voter {
			m.look(s, v.Now)
			v.Health[s.ID] = health{CaughtUpSince: m.stable[s.ID].since}
		}
	}
	m.raise(servers)
	s, ok := plan(v)
	if !ok {
		return
	}
	if err := m.o.Raft.AddVoter(s.ID, s.Address, index); err != nil {
		m.log.Warn("cannot let a server vote", zap.String("id", s.ID), zap.Error(err))
		return
	}
	m.log.Info("a server votes", zap.String("id", s.ID))
	m.hurry()
}

// look asks a server how far it is. It keeps up when it has what this node had at the last look.
func (m *Membership) look(s node.Server, now time.Time) {
	was := m.stable[s.ID]
	is := kept{target: m.o.Raft.Applied()}
	ctx, cancel := context.WithTimeout(m.life, callTimeout)
	defer cancel()
	n, err := m.o.Peers.Probe(ctx, s.ID, s.Address)
	if err == nil && was.target > 0 && n.Applied >= was.target {
		if is.since = was.since; is.since.IsZero() {
			is.since = now
		}
	}
	m.stable[s.ID] = is
}
