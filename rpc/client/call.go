package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

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
)

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
	now := uint64(time.Now().UnixMilli() + c.skew.Load())
	return ulid.MustNew(now, rand.Reader).String() // fails only after the year 10889
}

// outgoing is the metadata of a call.
func (c *Client) outgoing(ctx context.Context) context.Context {
	var kv []string
	if t := c.Token(); t != "" {
		kv = append(kv, "authorization", "Bearer "+t)
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
		for old := c.index.Load(); i > old && !c.index.CompareAndSwap(old, i); old = c.index.Load() {
		}
	}
}

// call makes one call, at as many nodes as it takes. f is a method of a generated client. Since every
// request that changes something carries an operation id, or does no harm when it is repeated, all
// may be repeated.
func call[C, Q, A any](ctx context.Context, c *Client, client func(grpc.ClientConnInterface) C,
	f func(C, context.Context, Q, ...grpc.CallOption) (A, error), q Q) (A, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	var none A
	_, changes := any(q).(interface{ GetOperationId() string })
	unknown := false // something may have been done by an attempt that ended without an answer
	for wait := patience; ; {
		n, cc, err := c.nodes.pick()
		if err != nil {
			return none, err
		}
		attempt, done := context.WithTimeout(ctx, wait)
		var header metadata.MD
		a, err := f(client(cc), c.outgoing(attempt), q, grpc.Header(&header))
		silent := err != nil && attempt.Err() != nil
		done()
		if err == nil {
			c.nodes.worked(n)
			c.seen(header)
			return a, nil
		}
		err = grpcerr.FromStatus(err)
		switch v := judge(err, silent); v {
		case refused:
			c.nodes.worked(n)
			return none, err
		case overloaded:
			c.nodes.worked(n)
			if !sleep(ctx, 200*time.Millisecond) {
				return none, c.ended(ctx, err, unknown)
			}
			continue
		case lost:
			unknown = changes
		}
		c.nodes.failed(n, silent)
		if silent {
			wait = min(2*wait, maxPatience)
		}
		if !sleep(ctx, c.nodes.rest()) {
			return none, c.ended(ctx, err, unknown)
		}
	}
}

// bound ends a call with the client, and after a while when the caller has set no deadline.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() { stop(); cancel() }
	}
	bounded, done := context.WithTimeout(ctx, defaultTimeout)
	return bounded, func() { stop(); done(); cancel() }
}

// ended is the error of a call whose time is over. last is what the last node said.
func (c *Client) ended(ctx context.Context, last error, unknown bool) error {
	switch {
	case c.life.Err() != nil:
		return chaterr.ErrClosed
	case unknown:
		return fmt.Errorf("%w: %w: %w", chaterr.ErrUnknownOutcome, context.Cause(ctx), last)
	default:
		return fmt.Errorf("%w: %w", context.Cause(ctx), last)
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
		return true
	case <-ctx.Done():
		return false
	}
}
