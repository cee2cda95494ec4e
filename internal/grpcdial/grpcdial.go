// Package grpcdial makes gRPC connections to nodes, those of clients and those of other nodes.
package grpcdial

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// pace is how fast a broken connection is tried again. gRPC's own slows down to two minutes, far too slow
// after a partition; who calls has a pace of his own anyway.
var pace = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: time.Second,
}

// How many bytes may be on their way to this side before it has read them, on a stream and on a connection. gRPC's own
// windows are measured by a ping for what arrives, to each of which the node has to read and answer: half of the work
// when little arrives at a time.
const (
	streamWindow = 1 << 20
	connWindow   = 4 << 20
)

// New makes a connection to addr, which nothing resolves but dial; nil dials TCP. It connects when it is first used. A nil
// c is without TLS. After idle without a call the connection is given up until the next one; 0 is never.
func New(addr string, c *tls.Config, dial func(ctx context.Context, addr string) (net.Conn, error), idle time.Duration, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c != nil {
		creds = credentials.NewTLS(c)
	}
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	return grpc.NewClient("passthrough:///"+url.PathEscape(addr), append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dial),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithConnectParams(pace), grpc.WithIdleTimeout(idle), grpc.WithDisableServiceConfig(),
	}, more...)...)
}
