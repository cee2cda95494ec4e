package replica

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// One entry holds at most so many commands and bytes of them. Followers without a pipeline take 128
// entries at a time, so this bounds their memory too.
const (
	maxBatch      = 512
	maxBatchBytes = 256 << 10
)

// proposal is a command on its way.
type proposal struct {
	command   *state.Command
	size      int
	forwarded bool         // by another node: it is not forwarded again
	done      chan outcome // has room for the one outcome
}

type outcome struct {
	result *state.Result
	index  uint64 // of the entry
	err    error
}

// queue holds the commands that wait. It is bounded, since a queue without bounds lets everybody
// wait for seconds before anybody is told.
type queue struct {
	maxCount, maxBytes int
	wake               chan struct{} // one slot: something came

	mu           sync.Mutex // guards what follows
	waiting      []*proposal
	count, bytes int // also those that were taken and are not finished
	closed       bool
}

func newQueue(maxCount, maxBytes int) queue {
	return queue{maxCount: maxCount, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

// put adds all proposals or none.
func (q *queue) put(ps ...*proposal) error {
	bytes := 0
	for _, p := range ps {
		p.size = proto.Size(p.command)
		p.done = make(chan outcome, 1)
		bytes += p.size
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return chaterr.ErrClosed
	}
	if q.count+len(ps) > q.maxCount || q.bytes+bytes > q.maxBytes {
		return chaterr.ErrOverloaded
	}
	q.count += len(ps)
	q.bytes += bytes
	q.waiting = append(q.waiting, ps...)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// take returns what fits into one entry, in order; none when nothing waits.
func (q *queue) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.waiting) && n < maxBatch && (n == 0 || bytes+q.waiting[n].size <= maxBatchBytes) {
		bytes += q.waiting[n].size
		n++
	}
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil // lets the array go
	}
	return batch
}

// finish tells each proposer its outcome and makes room.
func (q *queue) finish(batch []*proposal, tell func(i int) outcome) {
	q.mu.Lock()
	for _, p := range batch {
		q.count--
		q.bytes -= p.size
	}
	q.mu.Unlock()
	for i, p := range batch {
		p.done <- tell(i)
	}
}

// close refuses everything from now on, also what waits.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	waiting := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	q.finish(waiting, func(int) outcome { return outcome{err: chaterr.ErrClosed} })
}
