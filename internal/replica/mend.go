package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// mendEvery is how long a node waits at most before it asks the others again for their state.
const mendEvery = 30 * time.Second

// termKey is where raft keeps its term (raft.go, keyCurrentTerm).
const termKey = "CurrentTerm"

// Fault is told by the state that it cannot go on. A state that has diverged is replaced by that of
// another node, and the replica serves nothing until then; anything else ends it. It does not wait.
func (r *Replica) Fault(err error) {
	if !errors.Is(err, chaterr.ErrDiverged) {
		r.Fail(err)
		return
	}
	err = fmt.Errorf("%w: %w", chaterr.ErrFault, err)
	if r.sick.CompareAndSwap(nil, &err) {
		r.log.Error("the state differs from that of most nodes, and is replaced", zap.Error(err))
		r.startAnew()
	}
}

// mend replaces the state, while raft does not run. It asks the others in turn until one gives its
// own, and is false when the replica ends before. What this node has in its log, and has acknowledged,
// stays there as far as the snapshot does not cover it, and so does its vote: the node is as good a voter
// as before.
func (r *Replica) mend() bool {
	ctx, cancel := context.WithCancel(r.life)
	defer cancel()
	go func() { // ends with mend
		select {
		case <-r.fault:
			cancel()
		case <-ctx.Done():
		}
	}()
	r.store.logs.restart = nil // there is no raft to be started anew when the snapshot conflicts with the log
	for pause := r.o.Heartbeat; ; pause = min(2*pause, mendEvery) {
		servers, _, err := r.Servers()
		if err != nil {
			r.log.Error("cannot tell who the others are", zap.Error(err))
		}
		for _, s := range servers {
			if s.ID == r.o.NodeID {
				continue
			}
			if err := r.mendFrom(ctx, s); err == nil {
				r.sick.Store(nil)
				r.log.Warn("the state has been replaced", zap.String("by that of", s.ID))
				return true
			} else if ctx.Err() == nil {
				r.log.Warn("cannot have another node's state", zap.String("of", s.ID), zap.Error(err))
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

func (r *Replica) mendFrom(ctx context.Context, s node.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	go func() { // ends with ctx
		_ = pw.CloseWithError(r.o.Peers.Backup(ctx, s.ID, s.Address, pw)) // never fails
	}()
	err := r.o.FSM.Snapshots().Import(pr)
	_ = pr.Close() // never fails
	if err != nil {
		return err
	}
	newest, _ := r.o.FSM.Snapshots().Newest()
	if err := raiseTerm(r.store.stable, newest.Term); err != nil {
		return err
	}
	return r.o.FSM.Mend()
}

// raiseTerm makes the term at least that of the snapshot, as it would be had its leader sent it.
func raiseTerm(s raft.StableStore, term uint64) error {
	is, err := s.GetUint64([]byte(termKey))
	if err != nil && !isNotFound(err) {
		return err
	}
	if is >= term {
		return nil
	}
	return s.SetUint64([]byte(termKey), term)
}
