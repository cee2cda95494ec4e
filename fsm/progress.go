package fsm

import (
	"container/heap"
	"context"
	"sync"
)

// progress is how far the state is, and who waits for it to get further. Waking costs in
// proportion to those who are woken, not to those who wait.
type progress struct {
	mu      sync.Mutex // guards what follows
	index   uint64
	waiters waiterHeap
}

type waiter struct {
	index uint64
	done  chan struct{}
	at    int // place in the heap, -1 when it has left
}

func (p *progress) get() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index
}

func (p *progress) advance(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index = max(p.index, index)
	for len(p.waiters) > 0 && p.waiters[0].index <= p.index {
		close(heap.Pop(&p.waiters).(*waiter).done)
	}
}

// wait returns when the state holds index; its error is that of ctx, or of stop once it is closed.
func (p *progress) wait(ctx context.Context, index uint64, stop <-chan struct{}, stopped func() error) error {
	p.mu.Lock()
	if index <= p.index {
		p.mu.Unlock()
		return nil
	}
	w := &waiter{index: index, done: make(chan struct{})}
	heap.Push(&p.waiters, w)
	p.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		p.leave(w)
		return context.Cause(ctx)
	case <-stop:
		p.leave(w)
		return stopped()
	}
}

func (p *progress) leave(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.at >= 0 {
		heap.Remove(&p.waiters, w.at)
	}
}

// waiterHeap has the one who waits for the least index first.
type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.at = len(*h)
	*h = append(*h, w)
}

func (h *waiterHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.at = -1
	return w
}
