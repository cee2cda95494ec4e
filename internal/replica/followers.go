package replica

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// commitTimeout is how long raft waits before it tells a follower what is committed, when there are no
// entries to tell it with.
const commitTimeout = 50 * time.Millisecond

// maxAppend is how many entries go into one message: without a pipeline a round trip must carry much.
const maxAppend = 128

// maxAhead is how many entries a follower may be sent before raft asks for the first of them. A server
// that was taken out is not asked for any more.
const maxAhead = 2 * maxAppend

// followers know what each follower has, and do two things with it that raft does not.
//
// They send entries while this node, the leader, still writes them to its own disk (raft thesis, section
// 10.2.1), where raft writes first, so that one fsync waits for the other. When raft then asks to send
// them, the answer is there already, or on its way. Nothing that raft counts changes: itself when its disk
// has the entry, a follower when that has confirmed it. A leader whose write fails, and which would give the
// same index and term to another entry, does not get that far: the guard ends the node.
//
// And they tell of a commit at once, see nudge.go.
//
// They also know when one is sent a snapshot, see installs, and let raft read no answer of one whose address
// changes, see moves.go. They are safe for concurrent use.
type followers struct {
	Transport
	spawn         func(func()) bool
	heartbeatHold time.Duration
	closed        chan struct{} // by Close
	once          sync.Once

	mu        sync.Mutex // guards what follows
	stored    uint64     // the last entry that the log was given
	committed entryID
	all       map[raft.ServerID]*progress
	news      chan struct{} // closed when there is something to tell
	installs  installs
	reading   map[raft.ServerID]uint64 // the term in which raft was given a follower's answer that it may still read
	move      *move                    // nil while no address changes
	beat      chan struct{}            // closed when the heartbeats go that wait; nil while none does
}

// progress is how far a follower is with the log of a leader's term.
type progress struct {
	target raft.ServerAddress
	header raft.RPCHeader
	leader []byte // as the header has it, for old versions of raft
	term   uint64 // of the leader

	match   entryID     // the last entry that the follower has confirmed
	told    uint64      // up to where it has heard of commits, which it has confirmed
	nudged  uint64      // up to where it was sent a nudge
	asked   uint64      // the last entry that raft wanted sent
	rested  time.Time   // when raft had its last answer
	sending *sending    // nil for nothing
	queue   []*raft.Log // what is to be sent next
}

// sending is a message with entries on its way.
type sending struct {
	last entryID
	done chan struct{} // closed with the answer
}

func newFollowers(t Transport, heartbeat time.Duration, spawn func(func()) bool) *followers {
	return &followers{
		Transport: t, spawn: spawn, heartbeatHold: heartbeatHold(heartbeat), closed: make(chan struct{}),
		all: map[raft.ServerID]*progress{}, news: make(chan struct{}), reading: map[raft.ServerID]uint64{},
	}
}

// Close ends the transport, and what is held back.
func (f *followers) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Transport.Close()
}

// AppendEntries sends a message of raft's, unless its entries were sent.
func (f *followers) AppendEntries(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(a.Entries) == 0 && a.PrevLogEntry == 0 { // a heartbeat
		f.heartbeat()
		err := f.Transport.AppendEntries(id, target, a, resp)
		if err != nil {
			f.lost(id)
		}
		return err
	}
	f.asks(id, a.Term)
	err := f.replicate(id, target, a, resp)
	if err == nil {
		f.hears(id, a.Term)
	}
	return err
}

// replicate sends a message that is no heartbeat.
func (f *followers) replicate(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	var own *sending
	if len(a.Entries) == 0 {
		if news := f.awaits(id, a); news != nil {
			f.hold(news)
		}
	} else {
		var answered bool
		if own, answered = f.join(id, target, a, resp); answered {
			return nil
		}
	}
	err := f.Transport.AppendEntries(id, target, a, resp)
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.all[id]
	if err == nil && resp.Success && (p == nil || p.term < a.Term) {
		p = &progress{target: target, header: a.RPCHeader, leader: a.Leader, term: a.Term, asked: last(a).index}
		f.all[id] = p
	}
	f.answered(id, p, own, a, err == nil && resp.Success)
	if p := f.all[id]; p != nil {
		p.rested = time.Now()
	}
	return err
}

// join waits while entries of a message are on their way, and answers when the follower has confirmed all of
// them. If it does not, the message is to be sent; others wait for it, if there is a sending for it.
func (f *followers) join(id raft.ServerID, target raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (own *sending, answered bool) {
	for {
		f.mu.Lock()
		p := f.all[id]
		if p == nil || p.term != a.Term || p.target != target {
			f.mu.Unlock()
			return nil, false
		}
		p.asked = max(p.asked, last(a).index)
		if p.match.index >= last(a).index {
			p.rested = time.Now()
			*resp = raft.AppendEntriesResponse{RPCHeader: a.RPCHeader, Term: a.Term, LastLog: p.match.index, Success: true}
			f.mu.Unlock()
			return nil, true
		}
		s := p.sending
		if s == nil {
			p.sending = &sending{last: last(a), done: make(chan struct{})}
			s = p.sending
			f.mu.Unlock()
			return s, false
		}
		f.mu.Unlock()
		<-s.done
	}
}

// stores is told of entries before they are stored, and sends them if this node is their leader.
func (f *followers) stores(logs []*raft.Log) {
	if len(logs) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = logs[len(logs)-1].Index
	f.tell()
	for id, p := range f.all {
		if p.term != logs[0].Term || p.end()+1 != logs[0].Index || f.stored > p.asked+maxAhead {
			continue
		}
		p.queue = append(p.queue, logs...)
		f.send(id, p)
	}
}

// end is the last entry that the follower has confirmed, or will when all goes well.
func (p *progress) end() uint64 {
	switch {
	case len(p.queue) > 0:
		return p.queue[len(p.queue)-1].Index
	case p.sending != nil:
		return p.sending.last.index
	default:
		return p.match.index
	}
}

// send sends what is in the queue, if nothing is on its way. mu is held.
func (f *followers) send(id raft.ServerID, p *progress) {
	if p.sending != nil || len(p.queue) == 0 {
		return
	}
	n := min(len(p.queue), maxAppend)
	a := &raft.AppendEntriesRequest{
		RPCHeader: p.header, Leader: p.leader, Term: p.term, PrevLogEntry: p.match.index, PrevLogTerm: p.match.term, Entries: p.queue[:n:n],
		// Not more than what this message itself shows the follower to have.
		LeaderCommitIndex: min(f.committed.index, p.match.index),
	}
	s := &sending{last: last(a), done: make(chan struct{})}
	p.queue, p.sending = p.queue[n:], s
	work := func() {
		var resp raft.AppendEntriesResponse
		err := f.Transport.AppendEntries(id, p.target, a, &resp)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answered(id, p, s, a, err == nil && resp.Success)
	}
	if !f.spawn(work) {
		f.answered(id, p, s, a, false)
	}
}

// answered is told what became of a message: s is its sending, if it has one. mu is held.
func (f *followers) answered(id raft.ServerID, p *progress, s *sending, a *raft.AppendEntriesRequest, success bool) {
	if s != nil {
		close(s.done)
	}
	if p == nil || p != f.all[id] || p.term != a.Term {
		return
	}
	if p.sending == s {
		p.sending = nil
	}
	if !success { // raft finds out where the follower is
		delete(f.all, id)
		return
	}
	if l := last(a); l.index >= p.match.index {
		p.match = l
	}
	p.told = max(p.told, a.LeaderCommitIndex)
	f.send(id, p)
	f.nudge(id, p)
}

// last is the last entry that a follower has when it has taken a message.
func last(a *raft.AppendEntriesRequest) entryID {
	if n := len(a.Entries); n > 0 {
		return entryID{a.Entries[n-1].Index, a.Entries[n-1].Term}
	}
	return entryID{a.PrevLogEntry, a.PrevLogTerm}
}

// followedLog tells of entries before they are stored.
type followedLog struct {
	raft.LogStore
	f     *followers
	trail *trail
}

// StoreLog stores one entry.
func (l followedLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs stores entries.
func (l followedLog) StoreLogs(logs []*raft.Log) error {
	l.f.stores(logs)
	l.trail.add(logs)
	return l.LogStore.StoreLogs(logs)
}
