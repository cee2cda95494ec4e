// Package simnet is a network in memory whose links can be cut, delayed and broken, for tests of
// many nodes in one testing/synctest bubble.
package simnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// Net connects hosts, which are named by what others dial. It is safe for concurrent use.
type Net struct {
	delay time.Duration

	mu        sync.Mutex // guards what follows
	listeners map[string]*listener
	links     map[[2]string]mode // from, to
	changed   chan struct{}      // closed and replaced when links change
	conns     map[*conn]struct{}
}

// mode is what is wrong with one direction of a link.
type mode uint8

const (
	whole   mode = iota
	cut          // bytes and dials wait
	refused      // dials fail at once
)

// New makes a network in which every byte takes the given time.
func New(delay time.Duration) *Net {
	return &Net{
		delay: delay, listeners: map[string]*listener{}, links: map[[2]string]mode{},
		changed: make(chan struct{}), conns: map[*conn]struct{}{},
	}
}

// Cut stops both directions between two hosts. No bytes are lost: like TCP, they arrive after
// Heal, unless Reset ends the connections. Dials wait, as for a SYN without an answer.
func (n *Net) Cut(a, b string) { n.set(cut, a, b) }

// CutOneWay stops what a sends to b.
func (n *Net) CutOneWay(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.change(cut, [2]string{a, b})
}

// Refuse makes dials between two hosts fail at once. Connections that exist live on.
func (n *Net) Refuse(a, b string) { n.set(refused, a, b) }

// Heal undoes Cut, CutOneWay and Refuse.
func (n *Net) Heal(a, b string) { n.set(whole, a, b) }

// HealAll undoes everything.
func (n *Net) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.links)
	n.change(whole)
}

func (n *Net) set(m mode, a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.change(m, [2]string{a, b}, [2]string{b, a})
}

func (n *Net) change(m mode, links ...[2]string) {
	for _, l := range links {
		n.links[l] = m
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// Reset ends every connection between two hosts.
func (n *Net) Reset(a, b string) {
	for _, c := range n.between(a, b) {
		_ = c.Close() // never fails
	}
}

// Blackhole makes the connections that exist lose everything without a sign; new ones work.
func (n *Net) Blackhole(a, b string) {
	for _, c := range n.between(a, b) {
		c.lost.Store(true)
	}
}

func (n *Net) between(a, b string) (conns []*conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.local == Addr(a) && c.remote == Addr(b) || c.local == Addr(b) && c.remote == Addr(a) {
			conns = append(conns, c)
		}
	}
	return conns
}

func (n *Net) state(from, to string) (m mode, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[[2]string{from, to}], n.changed
}

// Addr is a host.
type Addr string

// Network is "sim".
func (Addr) Network() string  { return "sim" }
func (a Addr) String() string { return string(a) }

// Listen lets a host accept connections. A host that is started again may listen again.
func (n *Net) Listen(host string) net.Listener {
	l := &listener{n: n, host: host, accepted: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[host] = l
	return l
}

// Dialer returns what a host dials with.
func (n *Net) Dialer(from string) func(ctx context.Context, to string) (net.Conn, error) {
	return func(ctx context.Context, to string) (net.Conn, error) {
		for {
			there, changed := n.state(from, to)
			back, _ := n.state(to, from)
			if there == refused || back == refused {
				return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
			}
			if there == whole && back == whole {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		n.mu.Lock()
		l := n.listeners[to]
		n.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
		}
		there, back := newPipe(), newPipe()
		here, other := n.conn(from, to, back, there), n.conn(to, from, there, back)
		select {
		case l.accepted <- other:
			return here, nil
		case <-l.closed:
			_, _ = here.Close(), other.Close() // never fail
			return nil, fmt.Errorf("dial %s: %w", to, syscall.ECONNREFUSED)
		case <-ctx.Done():
			_, _ = here.Close(), other.Close() // never fail
			return nil, ctx.Err()
		}
	}
}

type listener struct {
	n        *Net
	host     string
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return Addr(l.host) }
