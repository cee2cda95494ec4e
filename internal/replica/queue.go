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
	forwarded bool          // by another node: it is not forwarded again
	tell      func(outcome) // is called once, by whoever knows, and must not wait
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
	_, err := q.add(ps, true)
	return err
}

// putSome adds as many proposals as there is room for, in order; the error is why there are not more.
func (q *queue) putSome(ps []*proposal) (taken int, err error) { return q.add(ps, false) }

func (q *queue) add(ps []*proposal, all bool) (taken int, err error) {
	for _, p := range ps {
		p.size = proto.Size(p.command)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, chaterr.ErrClosed
	}
	n, bytes := 0, 0
	for ; n < len(ps); n++ {
		bytes += ps[n].size
		if q.count+n+1 > q.maxCount || q.bytes+bytes > q.maxBytes {
			bytes -= ps[n].size
			err = chaterr.ErrOverloaded
			break
		}
	}
	if n == 0 || all && err != nil {
		return 0, err
	}
	q.count += n
	q.bytes += bytes
	q.waiting = append(q.waiting, ps[:n]...)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return n, err
}

// take returns what fits into one entry, in order; none when what waits neither fills one nor is as much as
// what is under way.
func (q *queue) take() []*proposal {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.waiting) && n < maxBatch && (n == 0 || bytes+q.waiting[n].size <= maxBatchBytes) {
		bytes += q.waiting[n].size
		n++
	}
	if underWay := q.count - len(q.waiting); n == len(q.waiting) && n < min(underWay, maxBatch) {
		return nil
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
		p.tell(tell(i))
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
