package replica

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

const (
	// auditEvery is how long a change of the state waits to be compared with the other nodes', and
	// auditChanges how many commands make that be done sooner.
	auditEvery   = time.Minute
	auditChanges = 4096
	// auditTimeout bounds the wait for the hashes of others, who may have to catch up first.
	auditTimeout = 5 * time.Second
)

// audits is a goroutine that has the states of all nodes compared: the leader marks a place in the
// log, asks what hash each voter has there, and lets the log say which most of them have. A node with
// another one finds out when it applies that, the leader too.
func (r *Replica) audits() {
	tick := time.NewTicker(min(time.Second, r.o.AuditEvery))
	defer tick.Stop()
	mark, since := uint64(0), time.Now()
	for {
		select {
		case <-tick.C:
		case <-r.life.Done():
			return
		}
		a := r.o.FSM.Audit()
		if a.Mark != mark {
			mark, since = a.Mark, time.Now()
		}
		due := a.Doubtful() || a.Changes >= auditChanges || a.Changes > 0 && time.Since(since) >= r.o.AuditEvery
		var err error
		switch {
		case r.Err() != nil || !a.Compared():
			continue
		case r.Leading() && a.Pending():
			err = r.verify(a)
		case r.Leading() && due, a.Doubtful():
			err = r.propose(&state.MarkState{})
		}
		if err != nil {
			r.log.Warn("cannot compare the states of nodes", zap.Error(err))
		}
	}
}

// propose has a command of the cluster's own carried out.
func (r *Replica) propose(payload proto.Message) error {
	c, err := state.NewCommand(state.Actor{}, nil, payload)
	if err != nil {
		return err
	}
	res, err := r.Propose(r.life, c)
	if err != nil {
		return err
	}
	return state.Err(res)
}

// verify asks all voters for their hashes at the last mark, and proposes the one that most have.
func (r *Replica) verify(a state.Audit) error {
	servers, _, err := r.Servers()
	if err != nil {
		return err
	}
	var voters []node.Server
	for _, s := range servers {
		if s.Voter {
			voters = append(voters, s)
		}
	}
	hashes := r.hashes(voters, a)
	votes := map[uint64]int{}
	for _, h := range hashes {
		if votes[h]++; votes[h] > len(voters)/2 {
			r.disputed.Store(0)
			return r.propose(&state.VerifyState{Index: a.Mark, Hash: h})
		}
	}
	if len(votes) > 1 {
		r.disputed.Store(a.Mark)
	}
	return fmt.Errorf("%d of %d voters have told their hash at entry %d, %d different ones", len(hashes), len(voters), a.Mark, len(votes))
}

// hashes are those that voters have at a mark, as far as they answer.
func (r *Replica) hashes(voters []node.Server, a state.Audit) (hashes []uint64) {
	ctx, cancel := context.WithTimeout(r.life, auditTimeout)
	defer cancel()
	answers := make(chan *uint64, len(voters))
	for _, s := range voters {
		if s.ID == r.o.NodeID {
			answers <- &a.MarkHash
			continue
		}
		go func() { // ends with ctx
			h, err := r.o.Peers.Mark(ctx, s.ID, s.Address, a.Mark)
			if err != nil {
				answers <- nil
				return
			}
			answers <- &h
		}()
	}
	for range voters {
		if h := <-answers; h != nil {
			hashes = append(hashes, *h)
		}
	}
	return hashes
}

// Mark is for the leader: the hash that this node's state has at the mark in the entry index. It
// waits until the entry is applied, and fails when another mark has come since.
func (r *Replica) Mark(ctx context.Context, index uint64) (hash uint64, err error) {
	if err := r.WaitApplied(ctx, index); err != nil {
		return 0, err
	}
	a := r.o.FSM.Audit()
	if a.Mark != index {
		return 0, fmt.Errorf("%w: the last mark is in entry %d", chaterr.ErrInvalid, a.Mark)
	}
	return a.MarkHash, nil
}

// Audit says how this node's state compares with that of the others.
func (r *Replica) Audit() state.Audit { return r.o.FSM.Audit() }

// Disputed is the entry of a mark at which no hash has most voters, as far as this node has asked as
// the leader; 0 while there is none. Which states are right cannot be told then.
func (r *Replica) Disputed() uint64 { return r.disputed.Load() }

// Level is the cluster's feature level.
func (r *Replica) Level() uint32 { return r.o.FSM.Audit().Level }

// RaiseLevel moves the cluster to a level, which all its servers must support.
func (r *Replica) RaiseLevel(level uint32) error { return r.propose(&state.RaiseLevel{Level: level}) }
