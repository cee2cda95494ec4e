package replica

import "github.com/hashicorp/raft"

// A nudge tells a follower of a commit at once, when nothing else is about to. raft tells it with the next
// entries or after CommitTimeout, so that subscribers at followers wait that long while little happens;
// and with a short one, a thousand messages a second say nothing.
//
// A nudge is an AppendEntries without entries, which commits the one entry that it names as the previous
// one: that entry is committed, and this follower has confirmed that it has it. Two logs that have an
// entry of the same index and term are equal up to there (figure 3 of the raft paper, Log Matching), so
// it is right to commit it, whoever leads by now. A follower that has not answered was not told: raft's next
// message, which idle.go would hold back, goes out as raft has it.

// commits is told of an entry that is committed.
func (f *followers) commits(e entryID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.committed = e
	for id, p := range f.all {
		f.nudge(id, p)
	}
}

// nudge tells one follower, if there is something to tell, and if no entries are about to. mu is held.
func (f *followers) nudge(id raft.ServerID, p *progress) {
	index := p.match.index
	if p.match != f.committed || p.told >= index || p.nudged >= index || f.stored > index {
		return
	}
	p.nudged = index
	a := &raft.AppendEntriesRequest{
		RPCHeader: p.header, Term: p.term, PrevLogEntry: index, PrevLogTerm: p.match.term, LeaderCommitIndex: index,
	}
	f.spawn(func() {
		var resp raft.AppendEntriesResponse
		if err := f.Transport.AppendEntries(id, p.target, a, &resp); err != nil || !resp.Success {
			return // raft tells it again
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		p.told = max(p.told, index)
	})
}

// nudgingFSM tells of entries when this node has applied them: who waits for that comes first.
type nudgingFSM struct {
	raft.BatchingFSM
	f *followers
}

// Apply applies an entry that is committed.
func (n nudgingFSM) Apply(l *raft.Log) any {
	defer n.f.commits(entryID{l.Index, l.Term})
	return n.BatchingFSM.Apply(l)
}

// ApplyBatch applies entries that are committed.
func (n nudgingFSM) ApplyBatch(logs []*raft.Log) []any {
	if len(logs) > 0 {
		last := logs[len(logs)-1]
		defer n.f.commits(entryID{last.Index, last.Term})
	}
	return n.BatchingFSM.ApplyBatch(logs)
}
