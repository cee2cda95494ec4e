package replica

import (
	"context"
	"errors"
	"fmt"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// View reads what this node has applied. The caller closes it.
func (r *Replica) View() (*state.View, error) { return r.o.FSM.View() }

// Applied is the index of the last command that this node has applied.
func (r *Replica) Applied() uint64 { return r.o.FSM.Applied() }

// Formed reports whether this node has applied the first command of its cluster.
func (r *Replica) Formed() bool { return r.o.FSM.ClusterID() != "" }

// WaitApplied waits until this node has applied the command at index, of which the caller knows
// that it was committed. The error is that of ctx, or wraps chaterr.ErrFault.
func (r *Replica) WaitApplied(ctx context.Context, index uint64) error {
	return r.o.FSM.WaitApplied(ctx, index)
}

// Linearizable waits until this node has applied everything that was acknowledged, by any node,
// before the call began. What is read from the state after it is linearizable. The error is
// chaterr.ErrNoLeader, that of ctx, or wraps chaterr.ErrFault; nothing was changed.
func (r *Replica) Linearizable(ctx context.Context) error {
	if err := r.Err(); err != nil {
		return err
	}
	index, err := r.read.join(ctx)
	if err != nil {
		return err
	}
	return r.o.FSM.WaitApplied(ctx, index)
}

// LeaderReadIndex is for a node that does not lead: what it has to wait for.
func (r *Replica) LeaderReadIndex(ctx context.Context) (uint64, error) {
	if err := r.Err(); err != nil {
		return 0, err
	}
	if !r.Leading() {
		return 0, chaterr.ErrNoLeader
	}
	return r.local.join(ctx)
}

// readIndex is run by Linearizable, once for all who wait.
func (r *Replica) readIndex() (uint64, error) {
	ctx, cancel := context.WithTimeout(r.life, r.o.ProposeTimeout)
	defer cancel()
	for {
		if r.Leading() {
			return r.local.join(ctx)
		}
		id, addr := r.leader()
		if id == "" || id == r.o.NodeID {
			return 0, chaterr.ErrNoLeader
		}
		asking, done := r.whileLeads(ctx, id)
		index, err := r.o.Peers.ReadIndex(asking, id, addr)
		deposed := err != nil && asking.Err() != nil && ctx.Err() == nil
		done()
		if deposed {
			continue
		}
		if errors.Is(err, chaterr.ErrUnknownOutcome) {
			err = fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err) // a read changes nothing
		}
		return index, err
	}
}

// CurrentTerm is for the leader, which asks whether it still leads: this node has voted in no later
// term when it answers. raft stores its term, and sets it in memory, before it votes in it.
func (r *Replica) CurrentTerm() (uint64, error) {
	e := r.raft.Load()
	if e == nil {
		return 0, chaterr.ErrNoLeader
	}
	term, ok := e.term()
	if !ok {
		return 0, chaterr.ErrNoLeader
	}
	return term, r.Err()
}
