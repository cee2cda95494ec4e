package peer

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// inbox stands between the tunnels and raft. It refuses what raft would panic on, and answers
// heartbeats while raft's main goroutine is busy, say in a slow write to the log: otherwise a leader
// loses its lease whenever the followers that it needs for a quorum write for longer than that.
//
// It answers only what that goroutine would answer, a heartbeat of the node's own term at a
// follower, from what raft keeps in atomics, and changes nothing. That sets it apart from raft's own
// fast path, which runs the request beside the main goroutine and can make two leaders write under
// one term (hashicorp/raft#695). One copy at a time still goes to raft, so that the election timer
// is set back as soon as raft has time.
//
// A leader's lease says then that the followers' processes live, not that their disks work.
type inbox struct {
	in      <-chan raft.RPC
	out     chan raft.RPC
	done    chan struct{} // closed by close
	once    sync.Once
	state   atomic.Pointer[raft.Raft] // nil before raft runs: then every call goes to it
	pending atomic.Bool               // a copy of a heartbeat waits for raft
}

// newInbox starts the goroutine that sorts; close ends it, and those that wait for raft.
func newInbox(in <-chan raft.RPC) *inbox {
	b := &inbox{in: in, out: make(chan raft.RPC), done: make(chan struct{})}
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
	resp := b.answer(rpc)
	if resp == nil {
		go b.pass(rpc) // one for each tunnel at most: its next call waits for this answer
		return
	}
	rpc.Respond(resp, nil)
	if b.pending.CompareAndSwap(false, true) {
		go b.copy(rpc)
	}
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

// copy has raft carry out a heartbeat that was answered.
func (b *inbox) copy(rpc raft.RPC) {
	defer b.pending.Store(false)
	answer := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answer
	select {
	case b.out <- rpc:
	case <-b.done:
		return
	}
	select {
	case <-answer:
	case <-b.done:
	}
}
