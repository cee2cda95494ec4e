package replica

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// commitTimeout is how long raft waits before it tells a follower what is committed, when there are no
	// entries to tell it with.
	commitTimeout = time.Millisecond
	// holdTime is how long a message is held that says nothing new.
	holdTime = 40 * time.Millisecond
)

// lull has followers hear of a commit at once, and costs nothing while nothing happens. raft tells them
// with the next entries or after CommitTimeout, and has no third way: a long one makes subscribers at
// followers wait, and a short one is a thousand messages a second without content. So it is short, and
// lull holds a message that says what the follower has confirmed already. It sends it when an entry is
// about to be stored, which raft will want to send next, and has sent it before that entry is on the
// disk.
//
// It changes no message and answers none itself: raft would take an answer for a sign of life.
type lull struct {
	Transport
	*calm
}

// calm is what lull knows. It is safe for concurrent use.
type calm struct {
	mu        sync.Mutex
	stored    uint64        // the last entry that the log was given
	stir      chan struct{} // closed when it is given one
	confirmed map[raft.ServerID]content
}

// content is what a message without entries says.
type content struct{ term, prev, prevTerm, commit uint64 }

func newCalm() *calm {
	return &calm{stir: make(chan struct{}), confirmed: map[raft.ServerID]content{}}
}

// AppendEntries sends a message, some time later if it says nothing new.
func (q lull) AppendEntries(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	says := content{a.Term, a.PrevLogEntry, a.PrevLogTerm, a.LeaderCommitIndex}
	heartbeat := a.PrevLogEntry == 0 // which is not the way that commits are told, and must not wait
	if len(a.Entries) == 0 && !heartbeat {
		q.hold(id, says)
	}
	err := q.Transport.AppendEntries(id, target, a, resp)
	if !heartbeat {
		q.answered(id, says, err == nil && resp.Success && len(a.Entries) == 0)
	}
	return err
}

// hold waits while there is nothing to say.
func (c *calm) hold(id raft.ServerID, says content) {
	c.mu.Lock()
	// What is not committed will be, soon; and an entry that is stored is to be sent next.
	idle := c.confirmed[id] == says && says.commit >= says.prev && says.prev >= c.stored
	stir := c.stir
	c.mu.Unlock()
	if !idle {
		return
	}
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	select {
	case <-stir:
	case <-timer.C:
	}
}

func (c *calm) answered(id raft.ServerID, says content, confirmed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if confirmed {
		c.confirmed[id] = says
	} else {
		delete(c.confirmed, id)
	}
}

// stirring tells a calm of entries before they are stored.
type stirring struct {
	raft.LogStore
	*calm
}

// StoreLog stores one entry.
func (s stirring) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries.
func (s stirring) StoreLogs(logs []*raft.Log) error {
	if len(logs) > 0 {
		s.calm.mu.Lock()
		s.calm.stored = logs[len(logs)-1].Index
		close(s.calm.stir)
		s.calm.stir = make(chan struct{})
		s.calm.mu.Unlock()
	}
	return s.LogStore.StoreLogs(logs)
}
