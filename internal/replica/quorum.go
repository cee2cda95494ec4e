package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// leaderIndex is run on the leader, once for all who wait: the index of the last command that may
// have been acknowledged before it began (raft thesis, section 6.4). It writes nothing.
//
// raft's VerifyLeader proves less: it counts non-voters, and answers to questions that were asked
// before the call. DESIGN.md says why this is enough.
func (r *Replica) leaderIndex() (uint64, error) {
	ctx, cancel := context.WithTimeout(r.life, r.o.ProposeTimeout)
	defer cancel()
	for {
		e := r.raft.Load()
		term := e.CurrentTerm()
		if e.State() != raft.Leader || e.CurrentTerm() != term {
			return 0, chaterr.ErrNoLeader
		}
		if err := r.commitOwn(e, term); err != nil {
			return 0, err
		}
		commit := e.CommitIndex()
		if r.confirm(ctx, e, term) {
			index, err := r.lastCommand(commit)
			if now, ok := e.term(); now != term || !ok { // what has led to it may have replaced entries, or the state
				err = chaterr.ErrNoLeader
			}
			return index, err
		}
		select { // it may be a connection; raft ends a leader that is cut off
		case <-time.After(r.o.Heartbeat / 10):
		case <-r.fault:
			return 0, r.err
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: no majority answers: %w", chaterr.ErrNoLeader, context.Cause(ctx))
		}
	}
}

// term is raft's, false when this run of it is over: the next may have voted in a higher one.
func (e *engine) term() (term uint64, ok bool) {
	term = e.CurrentTerm()
	select {
	case <-e.gone:
		return 0, false
	default:
		return term, true
	}
}

// commitOwn makes sure that an entry of this leader's own term is committed. Until then it may not
// know of all that was committed before (raft paper, section 8).
func (r *Replica) commitOwn(e *engine, term uint64) error {
	if r.own.Load() == term {
		return nil
	}
	if err := r.wait(e, e.Barrier(r.o.ProposeTimeout)); err != nil {
		return fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err)
	}
	if e.CurrentTerm() != term { // the barrier may be one of another term
		return chaterr.ErrNoLeader
	}
	r.own.Store(term)
	return r.Err()
}

// confirm asks the voters for their terms, and reports whether a majority of them was in this
// leader's after the call began. Servers that do not vote are not asked, and this node counts if it
// votes.
func (r *Replica) confirm(ctx context.Context, e *engine, term uint64) bool {
	f := e.GetConfiguration() // the newest that stands in the log, as raft itself counts
	if f.Error() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*r.o.Heartbeat)
	defer cancel()
	voters, yes := 0, 0
	answers := make(chan bool, len(f.Configuration().Servers))
	for _, s := range f.Configuration().Servers {
		switch {
		case s.Suffrage != raft.Voter:
			continue
		case string(s.ID) == r.o.NodeID:
			answers <- true // see below
		case !r.spawn(func() { answers <- r.inTerm(ctx, s, term) }):
			answers <- false
		}
		voters++
	}
	for asked := range voters {
		if <-answers {
			yes++
		}
		if yes > voters/2 || yes+voters-asked-1 <= voters/2 {
			break
		}
	}
	mine, ok := e.term()
	return yes > voters/2 && mine == term && ok
}

func (r *Replica) inTerm(ctx context.Context, s raft.Server, term uint64) bool {
	theirs, err := r.o.Peers.CurrentTerm(ctx, string(s.ID), string(s.Address))
	return err == nil && theirs == term
}

// lastCommand is the last index up to one that is committed which a state applies: raft tells it of
// commands and configurations, and not of the rest. An entry that the log does not have any more is in
// a snapshot of this node's state.
func (r *Replica) lastCommand(commit uint64) (uint64, error) {
	for i := commit; i > r.o.FSM.Applied(); i-- {
		var l raft.Log
		err := r.store.logs.GetLog(i, &l)
		switch {
		case err == nil && (l.Type == raft.LogCommand || l.Type == raft.LogConfiguration):
			return i, nil
		case err != nil && !errors.Is(err, raft.ErrLogNotFound):
			return 0, fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err)
		}
	}
	return r.o.FSM.Applied(), r.Err()
}
