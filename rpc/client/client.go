// Package client talks to a chat cluster.
//
//	c, err := client.Dial(ctx, []string{"n1:8443", "n2:8443", "n3:8443"}, client.WithTLS(conf))
//	defer c.Close()
//	_, err = c.Login(ctx, "alice", password)
//	events, err := c.Subscribe(ctx, client.SubscribeOptions{})
//	receipt, err := c.Send(ctx, client.ToUser("bob"), client.Draft{Text: "hello"})
//	for event, err := range events.All(ctx) { ... }
//
// # Calls
//
// Every call goes to one node, and to another one when that node is down, cannot serve, or does not
// answer: what changes something carries an operation id that stays the same over all of that, so
// it takes effect once. A call ends with its context, or after 30 seconds when that has no
// deadline. An election in that time is not seen. A Client is safe for concurrent use; one for each user of a
// program is enough.
//
// # Errors
//
// Errors are tested with errors.Is and the variables of this package. They are of three kinds: not
// done, outcome unknown (ErrUnknownOutcome alone), and refused. After "unknown" the same call may be made
// again if it carries the same operation id:
//
//	draft := client.Draft{Text: "hello", OperationID: c.NewOperationID()}
//	receipt, err := c.Send(ctx, to, draft)
//	if errors.Is(err, client.ErrUnknownOutcome) {
//		receipt, err = c.Send(ctx, to, draft) // appears once; receipt.Duplicate tells
//	}
//
// # Reads
//
// A read sees at least what this client has seen or written before, on whatever node. WithConsistency asks for
// more, all that was acknowledged to anybody, or for less, what a node has:
//
//	ctx = client.WithConsistency(ctx, client.Linearizable)
//	for message, err := range c.History(ctx, client.ToUser("bob"), client.Query{Limit: 10}) { ... }
//
// # Events
//
// A Subscription has each event once and in order, and goes on at another node where it was when its node is
// lost; SubscribeOptions.OnLive tells of that. A program that keeps the Cursor of the last event that it has dealt
// with goes on there after a restart. How many messages a user has not read is in Rooms.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcdial"
	"example.com/chat/internal/grpcerr"
)

// The errors that a caller can act on; each says how.
var (
	// ErrNoLeader, not done: no node could be reached that knows a leader. Try again later.
	ErrNoLeader = chaterr.ErrNoLeader
	// ErrOverloaded, not done: the cluster takes no more at the moment. Try again later.
	ErrOverloaded = chaterr.ErrOverloaded
	// ErrClosed, not done: the client was closed.
	ErrClosed = chaterr.ErrClosed
	// ErrUnknownOutcome: it may have been done. Call again with the same operation id, which
	// Draft.OperationID gives you; without one, look first.
	ErrUnknownOutcome = chaterr.ErrUnknownOutcome

	// ErrInvalid, refused: an argument is outside what is documented.
	ErrInvalid = chaterr.ErrInvalid
	// ErrUnauthenticated, refused: not logged in, or not any more. Log in again.
	ErrUnauthenticated = chaterr.ErrUnauthenticated
	// ErrBadCredentials, refused: no such account, or not its password.
	ErrBadCredentials = chaterr.ErrBadCredentials
	// ErrHostAccounts, refused: the cluster's users are those of the program that it is part of. Show its
	// token, with WithToken or WithPerRPCCredentials, and neither register nor log in.
	ErrHostAccounts = chaterr.ErrHostAccounts
	// ErrNameTaken, refused: choose another name.
	ErrNameTaken = chaterr.ErrNameTaken
	// ErrPasswordChanged, refused: the password was changed by another call meanwhile.
	ErrPasswordChanged = chaterr.ErrPasswordChanged
	// ErrNoSuchUser, refused: nobody has the name.
	ErrNoSuchUser = chaterr.ErrNoSuchUser
	// ErrNoSuchRoom, refused: there is no such room that you may see.
	ErrNoSuchRoom = chaterr.ErrNoSuchRoom
	// ErrNotMember, refused: join the room first.
	ErrNotMember = chaterr.ErrNotMember
	// ErrDirectRoom, refused: nobody leaves a direct room.
	ErrDirectRoom = chaterr.ErrDirectRoom
	// ErrNoSuchMessage, refused: the room has no message of that number.
	ErrNoSuchMessage = chaterr.ErrNoSuchMessage
	// ErrLimit, refused: one of the documented limits is reached.
	ErrLimit = chaterr.ErrLimit
	// ErrOperationMismatch, refused: the operation id was used for something else.
	ErrOperationMismatch = chaterr.ErrOperationMismatch
	// ErrOperationTooOld, refused, though it may have been done when the id was new: look, then decide.
	ErrOperationTooOld = chaterr.ErrOperationTooOld
	// ErrOperationFromFuture, refused: the clock that made the id is more than five minutes ahead.
	ErrOperationFromFuture = chaterr.ErrOperationFromFuture
	// ErrBadCursor, refused: subscribe without a cursor.
	ErrBadCursor = chaterr.ErrBadCursor
	// ErrOtherCluster, refused: the cursor is one of another cluster. Subscribe without one.
	ErrOtherCluster = chaterr.ErrOtherCluster
)

// Option changes how a Client connects.
type Option func(*options)

type options struct {
	tls   *tls.Config
	dial  func(context.Context, string) (net.Conn, error)
	token string
	creds credentials.PerRPCCredentials
	fixed bool
}

// WithTLS speaks TLS with the nodes. Without it passwords and messages can be read on the way.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithDialer opens network connections with f; TLS is spoken on what it returns.
func WithDialer(f func(ctx context.Context, addr string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = f }
}

// WithPerRPCCredentials adds the metadata of creds to each call: it is how callers show who they are to a
// cluster whose program has users of its own, with tokens that are renewed.
func WithPerRPCCredentials(creds credentials.PerRPCCredentials) Option {
	return func(o *options) { o.creds = creds }
}

// WithoutDiscovery uses no other nodes than those that Dial and Prefer name: for nodes that are reached through
// a proxy, and not where they reach each other.
func WithoutDiscovery() Option { return func(o *options) { o.fixed = true } }

// WithToken begins with the session of an earlier Login, see Client.Token, or with a token of the host
// program's where users are the host's.
func WithToken(token string) Option { return func(o *options) { o.token = token } }

// Client is a connection to a cluster, with at most one session. It is safe for concurrent use.
// Subscriptions have a goroutine each, which is gone when they or the client are closed.
type Client struct {
	o     options
	nodes endpoints
	index atomic.Uint64 // the newest state that was seen
	skew  atomic.Int64  // the cluster's clock minus ours, in milliseconds
	life  context.Context
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	token  string
	closed bool
	shares map[string]*share // of the sessions that have subscriptions, by token
}

// Dial makes a client for the cluster of which endpoints, each host:port, are nodes: one is enough,
// as the others are learned at Login, but more help while some are down. It returns when a node has
// answered; the error wraps that of ctx, or says which endpoint is malformed.
func Dial(ctx context.Context, endpoints []string, opts ...Option) (*Client, error) {
	c := &Client{}
	for _, o := range opts {
		o(&c.o)
	}
	c.token = c.o.token
	c.life, c.stop = context.WithCancel(context.Background())
	if len(endpoints) == 0 {
		return nil, errors.New("chat client: no endpoints")
	}
	order := rand.Perm(len(endpoints)) // so that clients spread over the nodes
	for _, i := range order {
		if _, _, err := net.SplitHostPort(endpoints[i]); err != nil {
			return nil, errors.Join(fmt.Errorf("chat client: endpoint %q: want host:port: %w", endpoints[i], err), c.Close())
		}
		if err := c.add(endpoints[i]); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if _, err := c.Status(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("chat client: none of %q answers: %w", endpoints, err), c.Close())
	}
	return c, nil
}

// add makes an endpoint known.
func (c *Client) add(addr string) error {
	return c.nodes.add(addr, func() (*grpc.ClientConn, error) {
		var more []grpc.DialOption
		if c.o.creds != nil {
			more = append(more, grpc.WithPerRPCCredentials(c.o.creds))
		}
		return grpcdial.New(addr, c.o.tls, c.o.dial, 0, more...)
	})
}

// Token is the session's token, empty without a session. Keep it secret; WithToken takes it.
func (c *Client) Token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *Client) setToken(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// Close ends subscriptions and connections. The session lives on: see Logout.
func (c *Client) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	c.stop()
	c.work.Wait()
	return c.nodes.close()
}

// Reason is the stable name of an error's cause, such as NO_SUCH_USER, for programs that pass errors
// on: the same that gRPC clients find in google.rpc.ErrorInfo. It is empty for nil, and INTERNAL
// for what has no name.
func Reason(err error) string { return grpcerr.Reason(grpcerr.ToStatus(err)) }
