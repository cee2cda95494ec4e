package replica

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// commitTimeout is how long raft waits before it tells a follower what is committed, when there are no
// entries to tell it with.
const commitTimeout = 50 * time.Millisecond

// nudges tell followers of a commit at once, when nothing else is about to. raft tells them with the next
// entries or after CommitTimeout, so that subscribers at followers wait that long while little happens;
// and with a short one, a thousand messages a second say nothing.
//
// A nudge is an AppendEntries without entries, which commits the one entry that it names as the previous
// one: that entry is committed, and this follower has confirmed that it has it. Two logs that have an
// entry of the same index and term are equal up to there (figure 3 of the raft paper, Log Matching), so
// it is right to commit it, whoever leads by now. What the follower answers is not used.
//
// It is safe for concurrent use.
type nudges struct {
	Transport
	spawn func(func()) bool

	mu        sync.Mutex // guards what follows
	stored    uint64     // the last entry that the log was given
	committed entryID
	confirmed map[raft.ServerID]confirmed
}

// confirmed is the last entry that a follower has said to have.
type confirmed struct {
	entryID
	target raft.ServerAddress
	header raft.RPCHeader
	term   uint64 // of the leader to whom it was said
	told   uint64 // up to where it has heard of commits
}

func newNudges(t Transport, spawn func(func()) bool) *nudges {
	return &nudges{Transport: t, spawn: spawn, confirmed: map[raft.ServerID]confirmed{}}
}

// AppendEntries sends a message of raft's.
func (n *nudges) AppendEntries(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := n.Transport.AppendEntries(id, target, a, resp)
	if len(a.Entries) == 0 && a.PrevLogEntry == 0 { // a heartbeat
		return err
	}
	last := entryID{a.PrevLogEntry, a.PrevLogTerm}
	if len(a.Entries) > 0 {
		e := a.Entries[len(a.Entries)-1]
		last = entryID{e.Index, e.Term}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil || !resp.Success {
		delete(n.confirmed, id)
		return err
	}
	n.confirmed[id] = confirmed{last, target, a.RPCHeader, a.Term, a.LeaderCommitIndex}
	n.nudge(id)
	return nil
}

// commits is told of an entry that is committed.
func (n *nudges) commits(e entryID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.committed = e
	for id := range n.confirmed {
		n.nudge(id)
	}
}

// nudge tells one follower, if there is something to tell, and if no entries are about to. mu is held.
func (n *nudges) nudge(id raft.ServerID) {
	c := n.confirmed[id]
	if c.entryID != n.committed || c.told >= c.index || n.stored > c.index {
		return
	}
	c.told = c.index
	n.confirmed[id] = c
	n.spawn(func() {
		a := &raft.AppendEntriesRequest{
			RPCHeader: c.header, Term: c.term, PrevLogEntry: c.index, PrevLogTerm: c.entryID.term, LeaderCommitIndex: c.index,
		}
		_ = n.Transport.AppendEntries(id, c.target, a, new(raft.AppendEntriesResponse)) // raft tells it again
	})
}

// nudgedLog tells of entries before they are stored.
type nudgedLog struct {
	raft.LogStore
	n *nudges
}

// StoreLog stores one entry.
func (l nudgedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs stores entries.
func (l nudgedLog) StoreLogs(logs []*raft.Log) error {
	if len(logs) > 0 {
		l.n.mu.Lock()
		l.n.stored = logs[len(logs)-1].Index
		l.n.mu.Unlock()
	}
	return l.LogStore.StoreLogs(logs)
}

// nudgedFSM tells of entries before they are applied.
type nudgedFSM struct {
	raft.BatchingFSM
	n *nudges
}

// Apply applies an entry that is committed.
func (f nudgedFSM) Apply(l *raft.Log) any {
	f.n.commits(entryID{l.Index, l.Term})
	return f.BatchingFSM.Apply(l)
}

// ApplyBatch applies entries that are committed.
func (f nudgedFSM) ApplyBatch(logs []*raft.Log) []any {
	if len(logs) > 0 {
		last := logs[len(logs)-1]
		f.n.commits(entryID{last.Index, last.Term})
	}
	return f.BatchingFSM.ApplyBatch(logs)
}
