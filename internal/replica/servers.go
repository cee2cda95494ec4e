package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// Leading reports whether this node leads, as far as it knows.
func (r *Replica) Leading() bool { return r.is(raft.Leader) }

// Candidate reports whether this node stands for election.
func (r *Replica) Candidate() bool { return r.is(raft.Candidate) }

func (r *Replica) is(s raft.RaftState) bool {
	running := r.raft.Load()
	return running != nil && running.State() == s
}

// Leader is the id of the leader that this node knows, empty when it knows none.
func (r *Replica) Leader() string {
	id, _ := r.leader()
	return id
}

func (r *Replica) leader() (id, addr string) {
	running := r.raft.Load()
	if running == nil {
		return "", ""
	}
	a, i := running.LeaderWithID()
	return string(i), string(a)
}

// whileLeads is ctx until another node than id is known to lead: what id was asked for before that it
// may never answer. A machine that vanishes breaks no connection.
func (r *Replica) whileLeads(ctx context.Context, id string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var look func()
	look = func() {
		if now := r.Leader(); now != "" && now != id {
			cancel()
		}
		if ctx.Err() == nil {
			time.AfterFunc(r.o.Heartbeat/10, look)
		}
	}
	time.AfterFunc(r.o.Heartbeat/10, look)
	return ctx, cancel
}

// Term is the node's current term.
func (r *Replica) Term() uint64 {
	if running := r.raft.Load(); running != nil {
		return running.CurrentTerm()
	}
	return 0
}

// Servers lists the servers of the newest configuration that the node has, and its index; none
// before it has one.
func (r *Replica) Servers() ([]node.Server, uint64, error) {
	running := r.raft.Load()
	if running == nil {
		return nil, 0, nil
	}
	f := running.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, 0, err
	}
	var servers []node.Server
	for _, s := range f.Configuration().Servers {
		servers = append(servers, node.Server{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return servers, f.Index(), nil
}

// The changes below are for the leader, one at a time: prev is the index of the configuration that
// the caller has looked at, and the change is refused when there is a newer one. They return when
// the change is committed, or with an error of which nobody knows what it has done.

// AddNonvoter takes a server in, or changes its address.
func (r *Replica) AddNonvoter(id, addr string, prev uint64) error {
	e := r.raft.Load()
	return r.changed(e, r.addressed(e, id, addr, func(wait time.Duration) raft.IndexFuture {
		return e.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), prev, wait)
	}))
}

// AddVoter lets a server vote, or changes a voter's address.
func (r *Replica) AddVoter(id, addr string, prev uint64) error {
	e := r.raft.Load()
	return r.changed(e, r.addressed(e, id, addr, func(wait time.Duration) raft.IndexFuture {
		return e.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), prev, wait)
	}))
}

// Remove takes a server out.
func (r *Replica) Remove(id string, prev uint64) error {
	e := r.raft.Load()
	return r.changed(e, e.RemoveServer(raft.ServerID(id), prev, r.o.ProposeTimeout))
}

func (r *Replica) changed(e *engine, f raft.IndexFuture) error {
	err := r.wait(e, f)
	if notDone(err) {
		return fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err)
	}
	return err
}

// HandOver gives leadership to another voter, if this node has it: to the first one that takes it.
// ctx bounds the wait. When it returns without an error this node leads no more, or there is nobody
// else who could.
//
// It looks at what comes of it, and does not wait for raft's future: a raft whose main goroutine has
// ended never answers that, and who waits for it would wait for ever.
func (r *Replica) HandOver(ctx context.Context) error {
	servers, _, err := r.Servers()
	if err != nil || !r.Leading() || r.Err() != nil {
		return err
	}
	r.handing.Store(true)
	defer r.handing.Store(false)
	others := false
	for _, s := range servers {
		if !s.Voter || s.ID == r.o.NodeID {
			continue
		}
		others = true
		r.raft.Load().LeadershipTransferToServer(raft.ServerID(s.ID), raft.ServerAddress(s.Address))
		if err := r.resigned(ctx); err != nil || !r.Leading() {
			return err
		}
	}
	if others {
		return errors.New("hand leadership over: no other node took it")
	}
	return nil
}

// resigned waits until this node leads no more, as long as a transfer may take: raft gives up after
// an election timeout, and refuses another one until then.
func (r *Replica) resigned(ctx context.Context) error {
	limit := time.NewTimer(3 * r.o.Heartbeat / 2)
	defer limit.Stop()
	tick := time.NewTicker(max(r.o.Heartbeat/50, time.Millisecond))
	defer tick.Stop()
	for r.Leading() {
		select {
		case <-tick.C:
		case <-r.fault:
			return nil
		case <-limit.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
