package client

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"example.com/chat/internal/chaterr"
)

// maxEndpoints is how many nodes a client knows; what a node tells cannot fill memory.
const maxEndpoints = 64

// endpoints are the nodes that a client knows, the preferred one first. It is safe for concurrent
// use.
type endpoints struct {
	mu     sync.Mutex // guards what follows
	list   []*endpoint
	closed bool
}

// endpoint is one node. Its fields are guarded by endpoints.mu.
type endpoint struct {
	addr  string
	dial  func() (*grpc.ClientConn, error)
	cc    *grpc.ClientConn    // nil before the first call, and after it was given up
	fails int                 // calls in a row that this node could not serve
	until time.Time           // when it is worth another try
	lane  *lane               // nil before the first send
	watch map[*watch]struct{} // over the subscriptions that it serves

	plain      *grpc.ClientConn // a connection on which sends are calls
	plainUntil time.Time
}

func (e *endpoints) add(addr string, dial func() (*grpc.ClientConn, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return chaterr.ErrClosed
	}
	for _, known := range e.list {
		if known.addr == addr {
			return nil
		}
	}
	if len(e.list) < maxEndpoints {
		e.list = append(e.list, &endpoint{addr: addr, dial: dial})
	}
	return nil
}

// pick returns the first node that is worth a try, or else the one that will be soonest; it becomes
// the preferred one.
func (e *endpoints) pick() (*endpoint, *grpc.ClientConn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, chaterr.ErrClosed
	}
	now, best := time.Now(), 0
	for i, n := range e.list {
		if !n.until.After(now) {
			best = i
			break
		}
		if n.until.Before(e.list[best].until) {
			best = i
		}
	}
	return e.use(best)
}

// use moves a node to the front and connects to it.
func (e *endpoints) use(i int) (*endpoint, *grpc.ClientConn, error) {
	n := e.list[i]
	copy(e.list[1:i+1], e.list[:i])
	e.list[0] = n
	if n.cc == nil {
		cc, err := n.dial()
		if err != nil {
			return nil, nil, err
		}
		n.cc = cc
	}
	return n, n.cc, nil
}

// prefer moves a node to the front, whatever was wrong with it.
func (e *endpoints) prefer(addr string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return chaterr.ErrClosed
	}
	for i, n := range e.list {
		if n.addr == addr {
			n.fails, n.until = 0, time.Time{}
			_, _, err := e.use(i)
			return err
		}
	}
	return fmt.Errorf("%w: %d endpoints", chaterr.ErrLimit, maxEndpoints)
}

// worked notes that a node has served.
func (e *endpoints) worked(n *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n.fails, n.until = 0, time.Time{}
}

// An election takes less than a second. For as long a node that answers is asked again at a steady
// pace: one that doubled would find the new leader up to as late again as it was elected.
const (
	steadyPace  = 100 * time.Millisecond
	steadyTries = 50
)

// failed notes that a node could not serve, though it may have answered. One that was silent gets a
// new connection: its old one may lead nowhere, and TCP takes a quarter of an hour to notice.
func (e *endpoints) failed(n *endpoint, answered, silent bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n.fails++
	pause := min(50*time.Millisecond<<min(n.fails, 6), 2*time.Second)
	if answered && n.fails <= steadyTries {
		pause = steadyPace
	}
	n.until = time.Now().Add(pause)
	if silent && n.cc != nil && n.fails > 1 {
		cc := n.cc
		n.cc = nil
		go func() { _ = cc.Close() }() // it waits for its goroutines, and nobody uses it any more
	}
}

// attend has a subscription's stream to a node doubted with the node, until the function is called that it returns.
func (e *endpoints) attend(n *endpoint, w *watch) (leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n.watch == nil {
		n.watch = map[*watch]struct{}{}
	}
	n.watch[w] = struct{}{}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(n.watch, w)
	}
}

// doubt is told that a node has not answered a call for as long as patience. Its streams that have said nothing for as
// long end: who waits for events need not wait for silence to be sure of what the call has shown.
func (e *endpoints) doubt(n *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range n.watch {
		w.doubt()
	}
}

// rest is how long to wait before the next try: not at all while a node is left that is worth one.
func (e *endpoints) rest() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	soonest := 2 * time.Second
	for _, n := range e.list {
		soonest = min(soonest, n.until.Sub(now))
	}
	return max(soonest, 0)
}

func (e *endpoints) addrs() (addrs []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.list {
		addrs = append(addrs, n.addr)
	}
	return addrs
}

func (e *endpoints) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	var err error
	for _, n := range e.list {
		if n.cc != nil {
			err = errors.Join(err, n.cc.Close())
			n.cc = nil
		}
	}
	return err
}
