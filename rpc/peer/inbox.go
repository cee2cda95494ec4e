package peer

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// inbox stands between the tunnels and raft. It refuses what raft would panic on, and answers
// heartbeats while raft's main goroutine is busy, say in a slow write to the log: otherwise a leader
// loses its lease whenever the followers that it needs for a quorum write for longer than that.
//
// It answers only what that goroutine would answer, a heartbeat of the node's own term at a
// follower, from what raft keeps in atomics, and changes nothing. That sets it apart from raft's own
// fast path, which runs the request beside the main goroutine and can make two leaders write under
// one term (hashicorp/raft#695). A copy still goes to raft, so that the election timer is set back as
// soon as raft has time; one at a time waits for that.
//
// A leader's lease says then that the followers' processes live, not that their disks work.
type inbox struct {
	in       <-chan raft.RPC
	out      chan raft.RPC
	done     chan struct{} // closed by close
	once     sync.Once
	state    atomic.Pointer[raft.Raft] // nil before raft runs: then every call goes to it
	pending  atomic.Bool               // a copy of a heartbeat waits for raft
	patience time.Duration             // after which a leader of whom nothing comes may be replaced
	heard    time.Time                 // when something came of a leader; used by sort alone
}

// newInbox starts the goroutine that sorts; close ends it, and those that wait for raft. heartbeat is
// raft's HeartbeatTimeout.
func newInbox(in <-chan raft.RPC, heartbeat time.Duration) *inbox {
	b := &inbox{in: in, out: make(chan raft.RPC), done: make(chan struct{}), patience: heartbeat * 2 / 3}
	go b.sort()
	return b
}

func (b *inbox) close() { b.once.Do(func() { close(b.done) }) }

func (b *inbox) sort() {
	for {
		select {
		case rpc := <-b.in:
			b.take(rpc)
		case <-b.done:
			return
		}
	}
}

func (b *inbox) take(rpc raft.RPC) {
	if rpc.Reader != nil {
		rpc.RespChan = b.drained(rpc)
	}
	if err := check(rpc.Command); err != nil {
		rpc.Respond(nil, err)
		return
	}
	rpc.Command = b.listen(rpc.Command)
	resp := b.answer(rpc)
	if resp == nil {
		if !b.hand(rpc) {
			go b.pass(rpc) // one for each tunnel at most: its next call waits for this answer
		}
		return
	}
	rpc.Respond(resp, nil)
	rpc.RespChan = make(chan raft.RPCResponse, 1) // nobody reads it
	if !b.hand(rpc) && b.pending.CompareAndSwap(false, true) {
		go func() {
			defer b.pending.Store(false)
			b.pass(rpc)
		}()
	}
}

// hand gives raft a call if it has time for it.
func (b *inbox) hand(rpc raft.RPC) bool {
	select {
	case b.out <- rpc:
		return true
	default:
		return false
	}
}

// listen notes when a leader was heard, and lets raft vote when that is too long ago for a leader that
// lives. raft itself refuses to, even to grant a pre-vote, until its own timer has told it, which goes
// round from one random time to the next: an election took as long as the slowest of a majority. That
// refusal alone is lifted, which keeps a leader in office; what makes a vote safe is the term and the log.
func (b *inbox) listen(command any) any {
	r := b.state.Load()
	if r == nil {
		return command
	}
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		b.hear(c.Term >= r.CurrentTerm())
	case *raft.InstallSnapshotRequest:
		b.hear(c.Term >= r.CurrentTerm())
	case *raft.RequestPreVoteRequest:
		if leader, _ := r.LeaderWithID(); leader != "" && b.deserted(r) {
			asks := *c
			asks.Addr = []byte(leader) // raft grants a pre-vote to its leader
			return &asks
		}
	case *raft.RequestVoteRequest:
		if b.deserted(r) {
			asks := *c
			asks.LeadershipTransfer = true // raft votes though it has a leader
			return &asks
		}
	}
	return command
}

func (b *inbox) hear(leader bool) {
	if leader {
		b.heard = time.Now()
	}
}

func (b *inbox) deserted(r *raft.Raft) bool {
	return r.State() == raft.Follower && time.Since(b.heard) > b.patience
}

// drained is where the answer to a snapshot goes. It goes on when the snapshot was read to its end:
// raft and the filter refuse some at once, and the transport would then read what is in them, which
// users have written, as the next calls of a member.
func (b *inbox) drained(rpc raft.RPC) chan<- raft.RPCResponse {
	answer := make(chan raft.RPCResponse, 1)
	go func() {
		select {
		case a := <-answer:
			_, _ = io.Copy(io.Discard, rpc.Reader) // ends with the tunnel at the latest
			rpc.RespChan <- a
		case <-b.done:
		}
	}()
	return answer
}

// answer is nil when raft must answer itself.
func (b *inbox) answer(rpc raft.RPC) *raft.AppendEntriesResponse {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	r := b.state.Load()
	if !ok || r == nil || !isHeartbeat(req) || req.Term != r.CurrentTerm() || r.State() != raft.Follower {
		return nil
	}
	return &raft.AppendEntriesResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: req.ProtocolVersion},
		Term:      req.Term, LastLog: r.LastIndex(), Success: true,
	}
}

func (b *inbox) pass(rpc raft.RPC) {
	select {
	case b.out <- rpc:
	case <-b.done:
		rpc.Respond(nil, errCut)
	}
}
