package replica

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/node"
)

// When a follower's address changes, raft's main goroutine writes it to what the goroutine that sends to that follower
// reads, under a lock that the latter takes before it asks the transport and not when it has an answer (hashicorp/raft
// issue 681; replication.go, updateLastAppended and handleStaleTerm). The values of two addresses may then mix, and a
// string may reach past its end. So the transport keeps its answers for that follower while the address changes.

// backIn is how long raft's goroutine may take to come back after an answer: CommitTimeout, twice that at most, and
// as much again.
const backIn = 4 * commitTimeout

// move is a change of a follower's address that is under way.
type move struct {
	id   raft.ServerID
	term uint64        // of the leader
	back chan struct{} // closed when raft is done with the last answer
	done chan struct{} // closed when it may have others
}

// still calls change, which returns when raft's main goroutine has changed the address of a follower; meanwhile raft
// reads no answer of that follower's, but for a newer term in that to a snapshot, after which this node leads no more. One
// at a time.
func (f *followers) still(id raft.ServerID, term uint64, change func()) {
	m := &move{id: id, term: term, back: make(chan struct{}), done: make(chan struct{})}
	f.mu.Lock()
	f.move = m
	if f.reading[id] != term {
		close(m.back)
	}
	f.mu.Unlock()
	limit := time.NewTimer(backIn)
	defer limit.Stop()
	select {
	case <-m.back:
	case <-limit.C: // it has ended
	case <-f.closed:
	}
	change()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.move = nil
	close(m.done)
}

// asks is told that raft is done with the last answer of a follower.
func (f *followers) asks(id raft.ServerID, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reading[id] != term {
		return
	}
	delete(f.reading, id)
	if m := f.move; m != nil && m.id == id && m.term == term {
		close(m.back)
	}
}

// hears waits until raft may have an answer.
func (f *followers) hears(id raft.ServerID, term uint64) {
	f.mu.Lock()
	m := f.move
	if m == nil || m.id != id {
		f.reading[id] = max(f.reading[id], term)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	select {
	case <-m.done:
		f.hears(id, term)
	case <-f.closed:
	}
}

// addressed asks raft for a change, which may be one of a follower's address. Raft takes it when the last change is
// committed, for which it may need that very follower's answers: so it may not wait for long.
func (r *Replica) addressed(e *engine, id, addr string, change func(wait time.Duration) raft.IndexFuture) (changed raft.IndexFuture) {
	servers, _, err := r.Servers()
	if err != nil || id == r.o.NodeID || !slices.ContainsFunc(servers, func(s node.Server) bool { return s.ID == id && s.Address != addr }) {
		return change(r.o.ProposeTimeout)
	}
	e.transport.still(raft.ServerID(id), e.CurrentTerm(), func() {
		changed = change(r.o.Heartbeat)
		// Raft's main goroutine answers in its turn, which is after the change, and a configuration without servers
		// with an error always.
		_ = r.wait(e, future(func() error { return e.BootstrapCluster(raft.Configuration{}).Error() }))
	})
	return changed
}

// future is a raft.Future that is a call.
type future func() error

// Error calls it.
func (f future) Error() error { return f() }
