package replica

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// supervisor makes a leader step down that cannot do its work and that raft lets lead on. A lease
// says that the followers' processes live, no more: entries may not get through to them, or not to
// their disks, while heartbeats do. Another node, elected, may fare better.
type supervisor struct {
	limit time.Duration // how long a leader may do nothing
	raft  leadership

	term, commit uint64    // when there was progress last
	progress     time.Time // when that was
}

// leadership is what the supervisor looks at; *raft.Raft is one.
type leadership interface {
	State() raft.RaftState
	CurrentTerm() uint64
	LastIndex() uint64
	CommitIndex() uint64
}

var _ leadership = (*raft.Raft)(nil)

// stuck reports for how long a leader has not committed anything though entries wait; 0 while all is
// well.
func (s *supervisor) stuck(now time.Time) time.Duration {
	term, commit := s.raft.CurrentTerm(), s.raft.CommitIndex()
	waits := s.raft.LastIndex() > commit
	if s.raft.State() != raft.Leader || term != s.term || commit != s.commit || !waits {
		s.term, s.commit, s.progress = term, commit, now
		return 0
	}
	if d := now.Sub(s.progress); d >= s.limit {
		s.progress = now // the next complaint takes as long again
		return d
	}
	return 0
}

// supervise is a goroutine.
func (r *Replica) supervise() {
	s := &supervisor{limit: r.o.DiskTimeout}
	tick := time.NewTicker(r.o.Heartbeat)
	defer tick.Stop()
	believed := true
	tried := uint64(0)
	var refused time.Time // since when commands were, without a transfer of ours; zero while they are not
	for {
		select {
		case <-tick.C:
		case <-r.life.Done():
			return
		}
		if d := r.clock.stepped(); (d == 0) != believed {
			believed = d == 0
			r.log.Warn("the wall clock has jumped; until it is right again entries have the time of before", zap.Duration("by", d))
		}
		e := r.raft.Load()
		s.raft = e
		if d := s.stuck(time.Now()); d > 0 {
			r.log.Error("this leader commits nothing, and steps down", zap.Duration("for", d))
			e.transport.Mute(3 * r.o.Heartbeat)
		}
		tried = r.trim(e, tried)
		if refuses := r.refuses.Load(); !refuses || !r.Leading() || r.handing.Load() {
			refused = time.Time{}
		} else if refused.IsZero() {
			refused = time.Now()
		} else if time.Since(refused) > 2*r.o.Heartbeat {
			refused = time.Time{}
			r.spawn(func() { r.unstick(e) })
		}
	}
}

// unstick starts raft anew when a leadership transfer has been given up, and raft goes on refusing all
// writes because of it: until the transfer's last call returns, also when this node is elected again
// (hashicorp/raft#696).
func (r *Replica) unstick(e *engine) {
	refuses := errors.Is(r.wait(e, e.Barrier(r.o.ProposeTimeout)), raft.ErrLeadershipTransferInProgress)
	r.refuses.Store(refuses)
	if refuses {
		r.log.Error("this leader is stuck in a transfer of leadership")
		r.startAnew()
	}
}
