package membership

import (
	"context"

	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

// raise moves the cluster to the highest level that all its servers support. They are asked
// themselves: what gossip tells of a server that was restarted with another binary may be late. A server
// that does not answer holds the cluster where it is.
func (m *Membership) raise(servers []node.Server) {
	is, level := m.o.Raft.Level(), m.o.Self.Level
	if is >= level || !m.o.Raft.Formed() {
		return
	}
	select {
	case m.admitting <- struct{}{}: // nobody comes in with a lower level meanwhile
		defer func() { <-m.admitting }()
	default:
		return
	}
	for _, s := range servers {
		if s.ID == m.o.Self.ID {
			continue
		}
		ctx, cancel := context.WithTimeout(m.life, callTimeout)
		n, err := m.o.Peers.Probe(ctx, s.ID, s.Address)
		cancel()
		if err != nil {
			return
		}
		level = min(level, n.Level)
	}
	if level <= is {
		return
	}
	if err := m.o.Raft.RaiseLevel(level); err != nil {
		m.log.Warn("cannot raise the level of the cluster", zap.Uint32("to", level), zap.Error(err))
		return
	}
	m.log.Info("the cluster has a new level", zap.Uint32("level", level))
}
