package peer

import (
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"example.com/chat/internal/grpcdial"
)

// linkKey: every purpose has HTTP/2 connections of its own, so that none can slow another.
type linkKey struct {
	addr    string
	purpose Purpose
}

type link struct {
	cc       *grpc.ClientConn
	users    int // tunnels or calls that are open, or being opened
	timeouts int // handshakes in a row that had no answer
}

// unused: nobody would notice if it were closed.
func (l *link) unused() bool { return l.users == 0 && l.cc.GetState() == connectivity.Idle }

// idle is after how long a connection that has no tunnel or call, and a queue that gets no packets, is
// given up. Without that, an address that a node once had would be dialled every second for ever.
const idle = 5 * time.Minute

// closeLater closes what nobody uses any more: Close waits for goroutines.
func closeLater(cc *grpc.ClientConn) { go func() { _ = cc.Close() }() }

// link returns the HTTP/2 connection for a key, to be given back with release. What is not used any
// more goes when another one comes.
func (t *Tunnels) link(k linkKey) (*link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	if l := t.links[k]; l != nil {
		l.users++
		return l, nil
	}
	for k, l := range t.links {
		if l.unused() {
			t.drop(k)
		}
	}
	cc, err := grpcdial.New(k.addr, t.o.TLS, t.o.Dial, idle)
	if err != nil {
		return nil, err
	}
	t.links[k] = &link{cc: cc, users: 1}
	return t.links[k], nil
}

// drop forgets a link; who uses it hears that it is closing. mu is held.
func (t *Tunnels) drop(k linkKey) {
	closeLater(t.links[k].cc)
	delete(t.links, k)
}

func (t *Tunnels) release(l *link) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.users--
}

// redial drops links that are broken, so that the next call dials at once: whoever has come may be the one who was
// away. gRPC has ResetConnectBackoff for this, which reads a map beside who writes it (clientconn.go), and that ends the
// process.
func (t *Tunnels) redial() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, l := range t.links {
		if l.cc.GetState() == connectivity.TransientFailure {
			t.drop(k)
		}
	}
}

// report drops a link whose handshakes get no answer: TCP alone would notice a dead peer only
// after a quarter of an hour, and HTTP/2 pings more often than every five minutes are punished by
// a server with default options.
func (t *Tunnels) report(k linkKey, l *link, late bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.links[k] != l: // dropped already
	case !late:
		l.timeouts = 0
	case l.timeouts < 2:
		l.timeouts++
	default:
		t.drop(k)
	}
}
