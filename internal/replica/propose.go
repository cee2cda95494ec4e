package replica

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// inFlight is how many entries this node has under way at most. While one is, commands wait and are joined
// into the next one, which goes when that is done, as soon as as many wait as are under way, or when it is full:
// no timer holds a lone command back, and no crowd waits for its turn. Entries of fewer cost more than they
// hasten: each is a write, an fsync and a message on three nodes.
const inFlight = 4

// Propose has a command carried out, here or by the leader, and returns its result once this node
// has applied it too. What the command was refused for is in the result.
//
// An error is one of three kinds. chaterr.ErrNoLeader, ErrOverloaded, ErrClosed and ErrFault: it was
// not done. chaterr.ErrUnknownOutcome: nobody knows, because the deadline of ctx or
// Options.ProposeTimeout passed first, or leadership was lost. There is no third kind that says it
// was done: that is the result.
func (r *Replica) Propose(ctx context.Context, c *state.Command) (*state.Result, error) {
	done := make(chan outcome, 1)
	p := &proposal{command: c, tell: func(o outcome) { done <- o }}
	if err := r.Err(); err != nil {
		return nil, err
	}
	if err := r.queue.put(p); err != nil {
		return nil, err
	}
	o, err := await(ctx, r, done)
	if err != nil {
		return nil, err
	}
	return o.result, o.err
}

// Submit is Propose for several commands, and does not wait: it takes as many as there is room for,
// from the first on, and the error says why not the others. done is called once for each that was
// taken, with what Propose would return; it must not wait, and may be called before Submit returns.
// No deadline ends the wait: the outcome comes with the commit, or when this node does not lead any
// more, has failed, or was closed.
func (r *Replica) Submit(commands []*state.Command, done func(i int, result *state.Result, err error)) (taken int, err error) {
	if err := r.Err(); err != nil {
		return 0, err
	}
	all := make([]proposal, len(commands))
	ps := make([]*proposal, len(commands))
	for i, c := range commands {
		all[i] = proposal{command: c, tell: func(o outcome) { done(i, o.result, o.err) }}
		ps[i] = &all[i]
	}
	return r.queue.putSome(ps)
}

// Forwarded carries out commands that another node was given. It fails with chaterr.ErrNoLeader,
// and has done nothing, when this node does not lead: one hop is all there is.
func (r *Replica) Forwarded(ctx context.Context, commands [][]byte) (results [][]byte, index uint64, err error) {
	if !r.Leading() {
		return nil, 0, chaterr.ErrNoLeader
	}
	if len(commands) == 0 {
		return nil, 0, nil
	}
	ps := make([]*proposal, len(commands))
	outcomes := make([]outcome, len(commands))
	var left atomic.Int64
	left.Store(int64(len(commands)))
	all := make(chan struct{})
	for i, b := range commands {
		c := new(state.Command)
		if err := proto.Unmarshal(b, c); err != nil {
			return nil, 0, fmt.Errorf("%w: command %d: %w", chaterr.ErrInvalid, i, err)
		}
		ps[i] = &proposal{command: c, forwarded: true, tell: func(o outcome) {
			if outcomes[i] = o; left.Add(-1) == 0 {
				close(all)
			}
		}}
	}
	if err := r.Err(); err != nil {
		return nil, 0, err
	}
	if err := r.queue.put(ps...); err != nil {
		return nil, 0, err
	}
	if _, err := await(ctx, r, all); err != nil {
		return nil, 0, err
	}
	results = make([][]byte, len(ps))
	for i, o := range outcomes {
		if o.err != nil {
			// Others of the same call may have been carried out.
			return nil, 0, errors.Join(chaterr.ErrUnknownOutcome, o.err)
		}
		if results[i], err = proto.Marshal(o.result); err != nil {
			return nil, 0, err
		}
		index = max(index, o.index)
	}
	return results, index, nil
}

// await takes what comes from done, but waits no longer than ctx and Options.ProposeTimeout, or until
// the node has failed.
func await[T any](ctx context.Context, r *Replica, done <-chan T) (t T, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.ProposeTimeout)
	defer cancel()
	select {
	case t = <-done:
		return t, nil
	case <-ctx.Done():
		return t, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, context.Cause(ctx))
	case <-r.fault:
		return t, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, r.err)
	}
}

// batches joins the commands that wait, and sends them off.
func (r *Replica) batches() {
	slots := make(chan struct{}, inFlight)
	freed := make(chan struct{}, 1) // one slot: an entry is done
	for {
		select {
		case <-r.queue.wake:
		case <-freed:
		case <-r.life.Done():
			return
		}
		for len(slots) < inFlight {
			batch := r.queue.take()
			if len(batch) == 0 {
				break
			}
			slots <- struct{}{}
			finish := r.send(batch)
			work := func() {
				finish()
				<-slots
				select {
				case freed <- struct{}{}:
				default:
				}
			}
			if !r.short.do(work) {
				work()
			}
		}
	}
}

// send gives a batch to raft, in the order in which batches were taken, or else returns what gives
// it to the leader.
func (r *Replica) send(batch []*proposal) (finish func()) {
	if r.Leading() {
		commands := make([]*state.Command, len(batch))
		for i, p := range batch {
			commands[i] = p.command
		}
		data, err := state.EncodeEntry(r.clock.stampMS(), commands)
		if err != nil {
			return func() { r.failed(batch, err) }
		}
		e := r.raft.Load()
		f := e.Apply(data, r.o.ProposeTimeout)
		return func() { r.commit(batch, e, f) }
	}
	return func() { r.forward(batch) }
}

// commit waits for raft.
func (r *Replica) commit(batch []*proposal, e *engine, f raft.ApplyFuture) {
	err := r.wait(e, f)
	r.refuses.Store(errors.Is(err, raft.ErrLeadershipTransferInProgress))
	switch {
	case err == nil:
		results, err := fsm.Results(f.Response())
		if err == nil && len(results) != len(batch) {
			err = fmt.Errorf("%d results for %d commands", len(results), len(batch))
		}
		if err != nil {
			r.failed(batch, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, err))
			return
		}
		r.queue.finish(batch, func(i int) outcome { return outcome{result: results[i], index: f.Index()} })
	case notDone(err):
		r.failed(batch, fmt.Errorf("%w: %w", chaterr.ErrNoLeader, err))
	default:
		r.failed(batch, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, err))
	}
}

// wait is the error of a future. It may never come: raft drops what its state machine's goroutine
// has not taken yet when it ends (fsm.go, runFSM), and everything once its main goroutine has ended.
func (r *Replica) wait(e *engine, f raft.Future) error {
	done := make(chan error, 1)
	r.asked.Add(1)
	go func() { // ends with the answer; see settle
		err := f.Error()
		r.asked.Add(-1)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-r.fault:
		return r.err
	case <-e.over:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(drainTime):
		return raft.ErrRaftShutdown
	}
}

// notDone reports whether raft has refused an entry before it was in the log. Everything else,
// leadership lost and a failed disk included, may yet be committed.
func notDone(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrEnqueueTimeout) || errors.Is(err, raft.ErrLeadershipTransferInProgress)
}

func (r *Replica) failed(batch []*proposal, err error) {
	r.queue.finish(batch, func(int) outcome { return outcome{err: err} })
}

// forward hands a batch to the leader, once, and waits until this node has applied it.
func (r *Replica) forward(batch []*proposal) {
	var mine []*proposal
	for _, p := range batch {
		if p.forwarded {
			r.failed([]*proposal{p}, chaterr.ErrNoLeader)
		} else {
			mine = append(mine, p)
		}
	}
	if len(mine) == 0 {
		return
	}
	results, index, err := r.forwardAll(mine)
	if err != nil {
		r.failed(mine, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.life, r.o.ProposeTimeout)
	defer cancel()
	// They are done, whether this node hears of it in time or not. The client carries the index to
	// its next call, which waits again.
	_ = r.o.FSM.WaitApplied(ctx, index)
	r.queue.finish(mine, func(i int) outcome { return outcome{result: results[i], index: index} })
}

func (r *Replica) forwardAll(batch []*proposal) ([]*state.Result, uint64, error) {
	id, addr := r.leader()
	if id == "" || id == r.o.NodeID {
		return nil, 0, chaterr.ErrNoLeader
	}
	commands := make([][]byte, len(batch))
	for i, p := range batch {
		b, err := proto.Marshal(p.command)
		if err != nil {
			return nil, 0, err
		}
		commands[i] = b
	}
	ctx, cancel := context.WithTimeout(r.life, r.o.ProposeTimeout)
	defer cancel()
	ctx, done := r.whileLeads(ctx, id)
	defer done()
	encoded, index, err := r.o.Peers.Forward(ctx, id, addr, commands)
	if err != nil {
		return nil, 0, err
	}
	if len(encoded) != len(batch) {
		return nil, 0, fmt.Errorf("%w: the leader sent %d results for %d commands", chaterr.ErrUnknownOutcome, len(encoded), len(batch))
	}
	results := make([]*state.Result, len(encoded))
	for i, b := range encoded {
		results[i] = new(state.Result)
		if err := proto.Unmarshal(b, results[i]); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", chaterr.ErrUnknownOutcome, err)
		}
	}
	return results, index, nil
}
