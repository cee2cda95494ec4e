package client

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
)

const (
	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = 30 * time.Second
	// patience is how long one node may take to answer before another one is asked; it doubles with
	// each node that was silent, up to maxPatience.
	patience    = 2 * time.Second
	maxPatience = 10 * time.Second
	// maxRequest is far more than any request has that keeps to the documented limits, and far below
	// the 4 MiB that a server takes.
	maxRequest = 1 << 20
)

// errMeanwhile: the session has ended since an attempt that may have succeeded.
var errMeanwhile = fmt.Errorf("%w: the session has ended since the first attempt", chaterr.ErrUnknownOutcome)

// Level is how new the state must be that a read sees.
type Level int

const (
	// ReadYourWrites sees at least what this client has seen or written before, on whatever node.
	ReadYourWrites Level = iota
	// Local sees what the node has, be it old. It needs no leader.
	Local
	// Linearizable sees all that was acknowledged to anybody before the read.
	Linearizable
)

type levelKey struct{}

// WithConsistency makes the calls with this context read at a level; ReadYourWrites is the default.
func WithConsistency(ctx context.Context, l Level) context.Context {
	return context.WithValue(ctx, levelKey{}, l)
}

// NewOperationID makes an id for one intent of a caller who keeps it to retry later, over a crash
// of the program for instance. It can be used for 24 hours.
func (c *Client) NewOperationID() string {
	var id ulid.ULID
	_ = id.SetTime(uint64(time.Now().UnixMilli() + c.skew.Load())) // fails only after the year 10889
	binary.BigEndian.PutUint16(id[6:], uint16(rand.Uint32()))      // an id is to be unique, and no secret
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return id.String()
}

// outgoing is the metadata of a call with a session's token.
func (c *Client) outgoing(ctx context.Context, token string) context.Context {
	var kv []string
	if token != "" {
		kv = append(kv, "authorization", "Bearer "+token)
	}
	level, _ := ctx.Value(levelKey{}).(Level)
	if level == Local {
		kv = append(kv, "chat-consistency", "local")
	} else if level == Linearizable {
		kv = append(kv, "chat-consistency", "linearizable")
	} else if i := c.index.Load(); i > 0 {
		kv = append(kv, "chat-index", strconv.FormatUint(i, 10))
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// seen notes how new the state was that answered.
func (c *Client) seen(header metadata.MD) {
	v := header.Get("chat-index")
	if len(v) == 0 {
		return
	}
	if i, err := strconv.ParseUint(v[0], 10, 64); err == nil {
		c.newest(i)
	}
}

// newest notes how new a state is that this client has seen.
func (c *Client) newest(i uint64) {
	for old := c.index.Load(); i > old && !c.index.CompareAndSwap(old, i); old = c.index.Load() {
	}
}

// call makes one call, at as many nodes as it takes. f is a method of a generated client. Since every
// request that changes something carries an operation id, or does no harm when it is repeated, all
// may be repeated.
func call[C any, Q proto.Message, A any](ctx context.Context, c *Client, client func(grpc.ClientConnInterface) C,
	f func(C, context.Context, Q, ...grpc.CallOption) (A, error), q Q) (A, error) {
	return try(ctx, c, q, func(ctx context.Context, _ *endpoint, cc *grpc.ClientConn, patience time.Duration) attempt[A] {
		return plain(ctx, c, cc, client, f, q, patience)
	})
}

// attempt is the outcome of asking one node.
type attempt[A any] struct {
	answer A
	err    error
	sent   bool // the node may have the request
	silent bool // there was no answer in time
}

// plain is one attempt by a unary call.
func plain[C any, Q proto.Message, A any](ctx context.Context, c *Client, cc *grpc.ClientConn, client func(grpc.ClientConnInterface) C,
	f func(C, context.Context, Q, ...grpc.CallOption) (A, error), q Q, patience time.Duration) (a attempt[A]) {
	ctx, done := context.WithTimeout(ctx, patience)
	defer done()
	var header metadata.MD
	var to peer.Peer // stays empty when there was no connection to send on
	a.answer, a.err = f(client(cc), c.outgoing(ctx, c.Token()), q, grpc.Header(&header), grpc.Peer(&to))
	a.sent, a.silent = to.Addr != nil, a.err != nil && ctx.Err() != nil
	if a.err == nil {
		c.seen(header)
	}
	a.err = grpcerr.FromStatus(a.err)
	return a
}

// try asks one node after the other until one has answered. ask makes an attempt, which takes no
// longer than patience, and ends with the client. Only when the first has failed a context is made that
// bounds all of them: most calls need none, and it costs more than the rest of a send.
func try[Q proto.Message, A any](ctx context.Context, c *Client, q Q,
	ask func(ctx context.Context, n *endpoint, cc *grpc.ClientConn, patience time.Duration) attempt[A]) (A, error) {
	var none A
	if size := proto.Size(q); size > maxRequest {
		return none, grpcerr.Invalid("request", "has %d bytes, more than anything documented", size)
	}
	_, changes := any(q).(interface{ GetOperationId() string })
	unknown := false // something may have been done by an attempt that ended without an answer
	var last error   // what the last node said that had the time to
	begun, bounded := time.Now(), false
	asked := begun // the last node
	for wait := patience; ; asked = time.Now() {
		n, cc, err := c.nodes.pick()
		if err != nil {
			return none, c.ended(ctx, err, unknown)
		}
		a := ask(ctx, n, cc, wait)
		if a.err == nil {
			c.nodes.worked(n)
			return a.answer, nil
		}
		if !bounded {
			inner, cancel := c.bound(ctx, begun)
			defer cancel()
			ctx, bounded = inner, true
		}
		if last == nil || ctx.Err() == nil {
			last = a.err
		}
		verdict := judge(a.err, a.silent)
		switch verdict {
		case refused:
			c.nodes.worked(n)
			return none, refusal(a.err, q, unknown)
		case overloaded:
			c.nodes.worked(n)
			if !sleep(ctx, 200*time.Millisecond) {
				return none, c.ended(ctx, last, unknown)
			}
			continue
		case lost:
			unknown = unknown || changes && a.sent
		}
		if errors.Is(ctx.Err(), context.Canceled) { // by the caller, or by Close: no fault of the node
			return none, c.ended(ctx, last, unknown)
		}
		c.nodes.failed(n, verdict == elsewhere, a.silent)
		if a.silent {
			wait = min(2*wait, maxPatience)
			if time.Since(asked) >= patience { // and not for the caller's own, shorter time
				c.nodes.doubt(n)
			}
		}
		if !sleep(ctx, c.nodes.rest()) {
			return none, c.ended(ctx, last, unknown)
		}
	}
}

// bound ends a call with the client, and a while after it has begun when the caller has set no deadline.
func (c *Client) bound(ctx context.Context, begun time.Time) (context.Context, context.CancelFunc) {
	by, ok := ctx.Deadline()
	if !ok {
		by = begun.Add(defaultTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, by)
	stop := context.AfterFunc(c.life, cancel)
	if c.life.Err() != nil { // AfterFunc may come later
		cancel()
	}
	return ctx, func() { stop(); cancel() }
}

// refusal is the error of a call that was refused. unknown says that there was an attempt before that
// may have succeeded; all refusals but one show that it has not, since the cluster looks for the
// operation id first.
func refusal(err error, q proto.Message, unknown bool) error {
	if unknown && errors.Is(err, chaterr.ErrUnauthenticated) {
		return errMeanwhile
	}
	if status.Code(err) == codes.Internal && grpcerr.Reason(err) == "" {
		if _, bad := proto.Marshal(q); bad != nil { // gRPC has failed to
			return fmt.Errorf("%w: %w", chaterr.ErrInvalid, bad)
		}
	}
	return err
}

// ended is the error of a call that is given up. last is what the last node said; of that only the
// text goes into an error of another kind.
func (c *Client) ended(ctx context.Context, last error, unknown bool) error {
	why := cmp.Or(context.Cause(ctx), last)
	switch {
	case unknown:
		return fmt.Errorf("%w: %w: %v", chaterr.ErrUnknownOutcome, why, last)
	case c.life.Err() != nil:
		return chaterr.ErrClosed
	case errors.Is(last, chaterr.ErrNoLeader) || errors.Is(last, chaterr.ErrOverloaded) || errors.Is(last, chaterr.ErrUnknownOutcome):
		return fmt.Errorf("%w: %w", why, last)
	default:
		return fmt.Errorf("%w: %w: %v", why, chaterr.ErrNoLeader, last)
	}
}

// verdict is what to do about an error.
type verdict int

const (
	refused    verdict = iota // another node would say the same
	elsewhere                 // not done; ask another node
	lost                      // perhaps done; ask another node
	overloaded                // not done; ask again a little later
)

func judge(err error, silent bool) verdict {
	for _, e := range []error{chaterr.ErrNoLeader, chaterr.ErrDraining, chaterr.ErrClosed, chaterr.ErrFault} {
		if errors.Is(err, e) {
			return elsewhere
		}
	}
	switch {
	case errors.Is(err, chaterr.ErrOverloaded):
		return overloaded
	case errors.Is(err, chaterr.ErrUnknownOutcome) || silent || errors.Is(err, io.EOF):
		return lost
	case grpcerr.Reason(err) != "":
		return refused
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return lost // the connection broke, or a proxy between gave up
	case codes.ResourceExhausted:
		return overloaded
	default:
		return refused
	}
}

// sleep reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		by, ok := ctx.Deadline() // both may have come at once
		return !ok || time.Now().Before(by)
	case <-ctx.Done():
		return false
	}
}
