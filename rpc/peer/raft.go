package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Raft is raft's own NetworkTransport in tunnels, without two of its roads: the heartbeat fast
// path (hashicorp/raft#695, divergence) and the pipeline (#611 and #612, it can wedge).
//
// Votes and heartbeats have tunnels apart from entries and snapshots, so that they never wait
// behind them; what arrives in either goes through the inbox to the one Consumer.
type Raft struct {
	*raft.NetworkTransport
	bulk  *raft.NetworkTransport
	inbox *inbox
	muted atomic.Int64 // until when, in nanoseconds since 1970, nothing is sent to followers

	mu   sync.Mutex                      // guards what follows
	down map[raft.ServerID]chan struct{} // peers that did not answer; closed when one does again
}

var (
	_ raft.Transport   = (*Raft)(nil)
	_ raft.WithPreVote = (*Raft)(nil) // without it raft votes as in 2014
	_ raft.WithClose   = (*Raft)(nil)
)

// bulkTimeout is how long one AppendEntries may take; a batch may have tens of megabytes.
const bulkTimeout = 10 * time.Second

// NewRaft takes over the tunnels for raft. self is how the others reach this node; addr knows where a node is,
// which may have moved since raft's configuration was made, and must not wait; heartbeat is raft's
// HeartbeatTimeout, and a vote or heartbeat may take twice that.
func NewRaft(t *Tunnels, self string, addr func(node string) (string, bool), heartbeat time.Duration, log hclog.Logger) *Raft {
	in := &raftLayer{t: t, self: self, addr: addr, purpose: RaftControl, accepted: make(chan *Conn), closed: make(chan struct{})}
	out := &raftLayer{t: t, self: self, addr: addr, purpose: RaftBulk, accepted: nil, closed: make(chan struct{})}
	t.Handle(RaftControl, in.handle)
	t.Handle(RaftBulk, in.handle)
	transport := func(l *raftLayer, timeout time.Duration) *raft.NetworkTransport {
		return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: l, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: timeout, Logger: log,
			MsgpackUseNewTimeFormat: true,
		})
	}
	control := transport(in, 2*heartbeat)
	return &Raft{
		NetworkTransport: control, bulk: transport(out, bulkTimeout), inbox: newInbox(control.Consumer(), heartbeat),
		down: map[raft.ServerID]chan struct{}{},
	}
}

// Consumer is where raft takes the calls of its peers from.
func (r *Raft) Consumer() <-chan raft.RPC { return r.inbox.out }

// SetHeartbeatHandler does nothing, so that every heartbeat goes through Consumer.
func (*Raft) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline is never used.
func (*Raft) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Bind must follow raft.NewRaft. It turns the gate on, and the answers of the inbox.
func (r *Raft) Bind(state *raft.Raft) { r.inbox.state.Store(state) }

// Mute sends nothing to followers for some time. A leader that is muted for longer than its lease
// steps down, and the others elect one of themselves: raft has no call for that.
func (r *Raft) Mute(d time.Duration) { r.muted.Store(time.Now().Add(d).UnixNano()) }

// errMuted: the node has resolved to step down.
var errMuted = errors.New("this node steps down")

// RequestVote asks for a vote.
func (r *Raft) RequestVote(id raft.ServerID, a raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return r.NetworkTransport.RequestVote(id, target(id, a), req, resp)
}

// RequestPreVote asks whether there would be a vote (raft thesis, section 9.6).
func (r *Raft) RequestPreVote(id raft.ServerID, a raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return r.NetworkTransport.RequestPreVote(id, target(id, a), req, resp)
}

// TimeoutNow hands leadership over.
func (r *Raft) TimeoutNow(id raft.ServerID, a raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return r.NetworkTransport.TimeoutNow(id, target(id, a), req, resp)
}

// AppendEntries sends heartbeats at once, and everything else through the gate.
func (r *Raft) AppendEntries(id raft.ServerID, a raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if time.Now().UnixNano() < r.muted.Load() {
		return errMuted
	}
	lane := r.NetworkTransport
	if !isHeartbeat(req) {
		r.await(id, req.Term)
	}
	if len(req.Entries) > 0 {
		lane = r.bulk
	}
	return r.note(id, lane.AppendEntries(id, target(id, a), req, resp))
}

// InstallSnapshot goes through the gate.
func (r *Raft) InstallSnapshot(id raft.ServerID, a raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	r.await(id, req.Term)
	return r.note(id, r.bulk.InstallSnapshot(id, target(id, a), req, resp, data))
}

// target is what Dial gets for an address. Dial is not told the id, and the handshake must name it.
func target(id raft.ServerID, a raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + a
}

// note remembers who answers and who does not.
func (r *Raft) note(id raft.ServerID, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch up := r.down[id]; {
	case err != nil && up == nil:
		r.down[id] = make(chan struct{})
	case err == nil && up != nil:
		close(up)
		delete(r.down, id)
	}
	return err
}

// await is the gate: it holds entries and snapshots back from a peer that does not answer until a
// heartbeat gets through, or this node does not lead in this term any more. Without it raft counts
// failures and backs off for up to 10.24 s (replication.go, maxFailureScale) from a peer that has
// long come back and counts as alive; if another node failed in that time, nothing could be
// committed though a majority is healthy.
func (r *Raft) await(id raft.ServerID, term uint64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for s := r.inbox.state.Load(); s != nil && s.State() == raft.Leader && s.CurrentTerm() == term; {
		r.mu.Lock()
		up := r.down[id]
		r.mu.Unlock()
		if up == nil {
			return
		}
		select {
		case <-up:
		case <-tick.C:
		}
	}
}

// Close ends both lanes and all tunnels of raft. Nothing comes in or goes out afterwards.
func (r *Raft) Close() error {
	r.inbox.close()
	err := r.NetworkTransport.Close()
	if bulkErr := r.bulk.Close(); err == nil {
		err = bulkErr
	}
	return err
}

// isHeartbeat is NetworkTransport's own test.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// raftLayer is the raft.StreamLayer of one lane.
type raftLayer struct {
	t        *Tunnels
	self     string
	addr     func(node string) (string, bool)
	purpose  Purpose
	accepted chan *Conn // nil for the lane that only dials
	closed   chan struct{}
}

var _ raft.StreamLayer = (*raftLayer)(nil)

func (l *raftLayer) handle(c *Conn) {
	select {
	case l.accepted <- c:
	case <-l.closed:
		_ = c.Close() // never fails
	case <-c.done:
	}
}

func (l *raftLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Dial opens a tunnel to a server whose id stands before the address. That is the address in raft's
// configuration, which only a leader can change: if most servers have moved, there is none before they are
// reached where they are. Both places get half of the time, for one that takes packets and does not answer
// must not cost the other its chance. Whoever answers proves the id, so that neither can be a wrong one.
func (l *raftLayer) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-l.closed: // the node was cut off: raft's goroutines may go on for a while
		return nil, net.ErrClosed
	default:
	}
	node, addr, _ := strings.Cut(string(a), "@")
	at, ok := l.addr(node)
	if !ok || at == addr {
		return l.dial(node, addr, timeout)
	}
	c, first := l.dial(node, at, timeout/2)
	if first == nil {
		return c, nil
	}
	c, second := l.dial(node, addr, timeout/2)
	if second == nil {
		return c, nil
	}
	return nil, errors.Join(first, second)
}

func (l *raftLayer) dial(node, addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.t.Dial(ctx, l.purpose, node, addr)
	if err != nil {
		return nil, err // not c: a nil *Conn in a net.Conn is not nil
	}
	return c, nil
}

// Close is called once, by NetworkTransport.Close. It must also end the accepted tunnels, for
// NetworkTransport waits in their Read and does not close them.
func (l *raftLayer) Close() error {
	close(l.closed)
	l.t.Cut(l.purpose)
	return nil
}

// Addr is what raft takes for its own address.
func (l *raftLayer) Addr() net.Addr { return Addr{Node: l.self, Purpose: l.purpose} }
