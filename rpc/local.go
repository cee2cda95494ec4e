package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"example.com/chat/internal/chaterr"
)

// Local is the way for clients within the process: connections that are pipes, on which the server knows
// by the pipe who calls. It is safe for concurrent use.
type Local struct {
	server *grpc.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewLocal serves the services for clients. It has goroutines until Close.
func (s *Service) NewLocal() *Local {
	l := &Local{server: grpc.NewServer(grpc.Creds(localCreds{})), conns: make(chan net.Conn), closed: make(chan struct{})}
	s.Register(l.server)
	go func() { _ = l.server.Serve(localListener{l}) }() // ends with Close
	return l
}

// Dial is a connection for calls of a user; it blocks until the server takes it.
func (l *Local) Dial(ctx context.Context, user string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- localConn{there, user}:
		return here, nil
	case <-l.closed:
		return nil, chaterr.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close ends all connections and waits for the calls.
func (l *Local) Close() {
	l.once.Do(func() { close(l.closed) })
	l.server.Stop()
}

// localListener accepts the pipes of a Local.
type localListener struct{ l *Local }

func (a localListener) Accept() (net.Conn, error) {
	select {
	case c := <-a.l.conns:
		return c, nil
	case <-a.l.closed:
		return nil, net.ErrClosed
	}
}

func (a localListener) Close() error {
	a.l.once.Do(func() { close(a.l.closed) })
	return nil
}

func (a localListener) Addr() net.Addr { return localAddr{} }

type localAddr struct{}

func (localAddr) Network() string { return "chat" }
func (localAddr) String() string  { return "in-process" }

// localConn is a pipe of a user.
type localConn struct {
	net.Conn
	user string
}

// localCreds tell the server whose a pipe is. Nothing that comes over a network can have a localInfo.
type localCreds struct{}

type localInfo struct {
	credentials.CommonAuthInfo
	user string
}

func (localInfo) AuthType() string { return "chat in-process" }

func (localCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	l, ok := c.(localConn)
	if !ok {
		return nil, nil, fmt.Errorf("%T is no connection of this process", c)
	}
	return c, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, l.user}, nil
}

func (localCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("for servers only")
}

func (localCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "chat in-process"}
}
func (localCreds) Clone() credentials.TransportCredentials { return localCreds{} }
func (localCreds) OverrideServerName(string) error         { return nil }

// localUser is the user whose pipe a call came through.
func localUser(ctx context.Context) (string, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	i, ok := p.AuthInfo.(localInfo)
	return i.user, ok
}
