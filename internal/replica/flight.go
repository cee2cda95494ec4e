package replica

import (
	"context"
	"sync"

	"example.com/chat/internal/chaterr"
)

// flight lets calls that wait share one run: a call that comes while a run is under way gets the
// result of the next one, which begins after the call did.
type flight struct {
	run   func() (uint64, error)
	spawn func(func()) bool

	mu      sync.Mutex // guards what follows
	running bool
	next    *landing
}

type landing struct {
	done  chan struct{}
	index uint64 // read them only after done
	err   error
}

func (f *flight) join(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	if f.next == nil {
		f.next = &landing{done: make(chan struct{})}
	}
	l := f.next
	if !f.running {
		f.running = f.spawn(f.fly)
	}
	if !f.running {
		f.mu.Unlock()
		return 0, chaterr.ErrClosed
	}
	f.mu.Unlock()
	select {
	case <-l.done:
		return l.index, l.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// fly runs as long as somebody waits.
func (f *flight) fly() {
	for {
		f.mu.Lock()
		l := f.next
		f.next = nil
		f.running = l != nil
		f.mu.Unlock()
		if l == nil {
			return
		}
		go f.land(l)
		<-l.done
	}
}

// land answers even when run ends its goroutine, as a call of a failed disk does.
func (f *flight) land(l *landing) {
	defer close(l.done)
	l.err = chaterr.ErrClosed
	l.index, l.err = f.run()
}
