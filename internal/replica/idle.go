package replica

import (
	"time"

	"github.com/hashicorp/raft"
)

// While nothing happens, a node costs what its messages cost: raft sends each follower a heartbeat each
// HeartbeatTimeout/10 to /5, and, as often as CommitTimeout says, an empty message that tells of commits. Here
// a heartbeat waits a while longer, and an empty message as long as it would say nothing. Nothing is answered
// in a follower's name: what raft hears of followers is as old as the answer of one of them.

// emptyHold is how long an empty message without news waits.
const emptyHold = 2 * time.Second

// heartbeatHold is how much later than raft wants it a heartbeat goes. With the longest wait of raft's, a
// follower has heard two in a HeartbeatTimeout, and the leader's lease, which is as long, has as many answers.
func heartbeatHold(timeout time.Duration) time.Duration { return timeout / 6 }

// heartbeat waits until a heartbeat goes. Those to all followers go together, as soon as the first one has
// waited long enough: what costs is to wake up.
func (f *followers) heartbeat() {
	f.mu.Lock()
	beat := f.beat
	if beat == nil {
		beat = make(chan struct{})
		f.beat = beat
		time.AfterFunc(f.heartbeatHold, func() {
			f.mu.Lock()
			f.beat = nil
			f.mu.Unlock()
			close(beat)
		})
	}
	f.mu.Unlock()
	select {
	case <-beat:
	case <-f.closed:
	}
}

// hold waits for news, for emptyHold, or until the transport is closed.
func (f *followers) hold(news <-chan struct{}) {
	wait := time.NewTimer(emptyHold)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-news:
	case <-f.closed:
	}
}

// lost forgets what a follower has heard when a heartbeat has not reached it: it may have been started again since, and
// then knows of no commit. What is held back goes, to hear from it.
func (f *followers) lost(id raft.ServerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[id] != nil {
		delete(f.all, id)
		f.tell()
	}
}

// tell lets go what is held back. mu is held.
func (f *followers) tell() {
	close(f.news)
	f.news = make(chan struct{})
}

// awaits is closed when a message without entries will be worth sending; nil when it is already, as the follower
// has not confirmed its entry, or heard of all that it commits. One that comes sooner than CommitTimeout after
// the last one is sent as well: a transfer of leadership waits for it.
func (f *followers) awaits(id raft.ServerID, a *raft.AppendEntriesRequest) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.all[id]
	if p == nil || p.term != a.Term || p.match != last(a) || p.told < a.LeaderCommitIndex || f.stored > p.match.index || time.Since(p.rested) < commitTimeout {
		return nil
	}
	return f.news
}
