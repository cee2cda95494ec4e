package peer

import (
	"context"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// linkKey: every purpose has HTTP/2 connections of its own, so that none can slow another.
type linkKey struct {
	addr    string
	purpose Purpose
}

type link struct {
	cc       *grpc.ClientConn
	timeouts int // handshakes in a row that had no answer
}

// redial is how fast a broken connection is tried again. gRPC's own pace slows down to two
// minutes, far too slow after a partition; raft and memberlist have a pace of their own anyway.
var redial = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: time.Second,
}

// link returns the HTTP/2 connection for a key.
func (t *Tunnels) link(k linkKey) (*grpc.ClientConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	if l := t.links[k]; l != nil {
		return l.cc, nil
	}
	creds := insecure.NewCredentials()
	if t.o.TLS != nil {
		creds = credentials.NewTLS(t.o.TLS)
	}
	dial := t.o.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	cc, err := grpc.NewClient("passthrough:///"+url.PathEscape(k.addr),
		grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dial),
		grpc.WithConnectParams(redial), grpc.WithIdleTimeout(0), grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, err
	}
	t.links[k] = &link{cc: cc}
	return cc, nil
}

// report drops a link whose handshakes get no answer: TCP alone would notice a dead peer only
// after a quarter of an hour, and HTTP/2 pings more often than every five minutes are punished by
// a server with default options.
func (t *Tunnels) report(k linkKey, cc *grpc.ClientConn, late bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.links[k]
	switch {
	case l == nil || l.cc != cc:
	case !late:
		l.timeouts = 0
	case l.timeouts < 2:
		l.timeouts++
	default:
		delete(t.links, k)
		go func() { _ = cc.Close() }() // nobody uses it any more; it waits for its goroutines
	}
}
