package simnet

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// window is how many bytes one direction of a connection holds before Write waits.
const window = 256 << 10

// pipe is one direction of a connection.
type pipe struct {
	wake   chan struct{} // one slot: bytes came
	room   chan struct{} // one slot: bytes left
	closed chan struct{} // by the sending end

	mu    sync.Mutex // guards what follows
	queue []chunk
	held  int
}

type chunk struct {
	at   time.Time // when it arrives
	data []byte
}

func newPipe() *pipe {
	return &pipe{wake: make(chan struct{}, 1), room: make(chan struct{}, 1), closed: make(chan struct{})}
}

// put queues what there is room for.
func (p *pipe) put(b []byte, at time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(b), window-p.held)
	if n > 0 {
		p.queue = append(p.queue, chunk{at, append([]byte(nil), b[:n]...)})
		p.held += n
		notify(p.wake)
	}
	return n
}

// take returns bytes that have arrived, or how long until the next do; 0 means that none are on the
// way.
func (p *pipe) take(b []byte) (n int, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return 0, 0
	}
	first := &p.queue[0]
	if wait := time.Until(first.at); wait > 0 {
		return 0, wait
	}
	n = copy(b, first.data)
	if first.data = first.data[n:]; len(first.data) == 0 {
		p.queue = p.queue[1:]
	}
	p.held -= n
	notify(p.room)
	return n, 0
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// conn is one end of a connection.
type conn struct {
	n             *Net
	local, remote Addr
	in, out       *pipe
	done          chan struct{}
	once          sync.Once
	lost          atomic.Bool

	mu     sync.Mutex // guards what follows
	readBy time.Time
	moved  chan struct{} // closed and replaced when readBy changes
}

func (n *Net) conn(local, remote string, in, out *pipe) *conn {
	c := &conn{n: n, local: Addr(local), remote: Addr(remote), in: in, out: out, done: make(chan struct{}), moved: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[c] = struct{}{}
	return c
}

// Read gives what has arrived. A cut link holds back what was sent, and the end as well.
func (c *conn) Read(b []byte) (int, error) {
	for {
		link, changed := c.n.state(string(c.remote), string(c.local))
		closed := c.in.closed
		var arrival time.Duration
		if link == cut || c.lost.Load() {
			closed = nil
		} else if n, wait := c.in.take(b); n > 0 {
			return n, nil
		} else if wait > 0 {
			closed, arrival = nil, wait // what was sent before the end comes first
		}
		by, moved := c.deadline()
		if !by.IsZero() && !time.Now().Before(by) {
			return 0, os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(soonest(arrival, by))
		select {
		case <-timer.C:
		case <-c.in.wake:
		case <-changed:
		case <-moved:
		case <-closed:
			timer.Stop()
			return 0, io.EOF
		case <-c.done:
			timer.Stop()
			return 0, net.ErrClosed
		}
		timer.Stop()
	}
}

// soonest is how long to sleep: for ever is an hour.
func soonest(arrival time.Duration, by time.Time) time.Duration {
	d := time.Hour
	if arrival > 0 {
		d = arrival
	}
	if !by.IsZero() {
		d = min(d, time.Until(by))
	}
	return d
}

func (c *conn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		link, changed := c.n.state(string(c.remote), string(c.local))
		closed := c.in.closed
		if link == cut || c.lost.Load() {
			closed = nil
		}
		select {
		case <-c.done:
			return n, net.ErrClosed
		case <-closed:
			return n, syscall.EPIPE
		default:
		}
		k := c.out.put(b[n:], time.Now().Add(c.n.delay))
		if n += k; k > 0 {
			continue
		}
		select {
		case <-c.out.room:
		case <-changed:
		case <-closed:
		case <-c.done:
		}
	}
	return n, nil
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		close(c.out.closed)
		c.n.mu.Lock()
		defer c.n.mu.Unlock()
		delete(c.n.conns, c)
	})
	return nil
}

func (c *conn) deadline() (time.Time, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readBy, c.moved
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	close(c.moved)
	c.moved = make(chan struct{})
	return nil
}

func (c *conn) LocalAddr() net.Addr              { return c.local }
func (c *conn) RemoteAddr() net.Addr             { return c.remote }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
