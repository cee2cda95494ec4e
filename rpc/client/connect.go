package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

const (
	// maxFrame and maxFrameBytes bound what goes into one frame; what waits meanwhile goes into the
	// next.
	maxFrame      = 512
	maxFrameBytes = 128 << 10
	// maxWindow is how many sends a lane has under way at most, whatever the node allows.
	maxWindow = 4096
	// laneIdle is how long a lane stays open that nobody uses.
	laneIdle = time.Minute
	// plainFor is how long sends to a node that has no lanes are plain calls.
	plainFor = 5 * time.Minute
)

// lane is one stream of EventService.Connect, to one node and for one session: all sends go through
// it, many at a time, where a call each would cost several times as much. It has two goroutines,
// receive and write, which end with it or with the client.
type lane struct {
	c      *Client
	cc     *grpc.ClientConn
	token  string
	cancel context.CancelFunc
	opened chan struct{} // closed by receive when the node's first frame has come
	over   chan struct{} // closed by receive at the end
	err    error         // why it has ended; read it only after over
	window int           // how many sends may be under way; read it only after opened
	wake   chan struct{} // one slot: there is something to write

	mu      sync.Mutex // guards what follows
	dialled bool       // there is a connection
	queue   []*errand  // not written yet
	waiting map[uint64]*errand
	expiry  *time.Timer // calls expire; nil before the first send
	next    time.Time   // when it will
	number  uint64      // of the last send that was written
	used    bool        // since the last look of write
	closed  bool        // takes no more
}

// errand is one send on a lane. Its fields are guarded by the lane's mu.
type errand struct {
	send   *chatpb.SendRequest
	done   chan sending  // has room for the one outcome
	wait   time.Duration // how long the node may take
	by     time.Time     // when the time is up
	number uint64        // 0 before it is written
	full   bool          // it waits for room
	gone   bool          // nobody waits for it
}

// sending is the outcome of one attempt to send.
type sending = attempt[*chatpb.Receipt]

// errNoLane: the node has no lane for this client, which says nothing about a call.
var errNoLane = errors.New("no stream for sends")

// lane returns the open lane to a node, or opens one; nil when sends are to be calls.
func (c *Client) lane(n *endpoint, cc *grpc.ClientConn) *lane {
	token := c.Token()
	e := &c.nodes
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || n.plain == cc && time.Now().Before(n.plainUntil) {
		return nil
	}
	if l := n.lane; l != nil {
		if l.cc == cc && l.token == token && l.takes() {
			return l
		}
		l.retire()
	}
	n.lane = c.openLane(cc, token)
	return n.lane
}

// noLane makes sends to a node plain calls, for a while or until there is another connection to it.
func (c *Client) noLane(n *endpoint, cc *grpc.ClientConn) {
	e := &c.nodes
	e.mu.Lock()
	defer e.mu.Unlock()
	n.plain, n.plainUntil = cc, time.Now().Add(plainFor)
}

// openLane does not wait. It is nil when the client is closed.
func (c *Client) openLane(cc *grpc.ClientConn, token string) *lane {
	// The lane needs no state that is as new as what this client has seen: only sends go through it.
	ctx, cancel := context.WithCancel(c.outgoing(WithConsistency(c.life, Local), token))
	l := &lane{
		c: c, cc: cc, token: token, cancel: cancel, opened: make(chan struct{}), over: make(chan struct{}),
		wake: make(chan struct{}, 1), waiting: map[uint64]*errand{},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		return nil
	}
	c.work.Go(func() { l.receive(ctx) })
	return l
}

// takes reports whether sends may go this way.
func (l *lane) takes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed
}

// retire ends the lane when what it has is answered.
func (l *lane) retire() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.notify()
}

func (l *lane) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// receive is a goroutine.
func (l *lane) receive(ctx context.Context) {
	err := l.run(ctx)
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.err = true, grpcerr.FromStatus(err)
	if l.expiry != nil {
		l.expiry.Stop()
	}
	for _, e := range l.queue {
		if e.gone {
			continue
		}
		e.done <- sending{err: fmt.Errorf("%w: the stream has ended: %v", chaterr.ErrNoLeader, err)}
	}
	for _, e := range l.waiting {
		e.done <- sending{sent: true, err: fmt.Errorf("%w: the stream has ended: %v", chaterr.ErrUnknownOutcome, err)}
	}
	l.queue, l.waiting = nil, nil
	close(l.over)
}

func (l *lane) run(ctx context.Context) error {
	stream, err := chatpb.NewEventServiceClient(l.cc).Connect(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.dialled = true
	l.mu.Unlock()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	l.c.newest(first.Index)
	l.window = int(min(max(first.MaxInFlight, 1), maxWindow))
	close(l.opened)
	done := make(chan struct{})
	go func() { // receive waits for it
		defer close(done)
		l.write(stream)
	}()
	defer func() {
		l.cancel()
		<-done
	}()
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		l.c.newest(f.Index)
		l.deliver(f.Outcomes)
	}
}

// deliver tells who waits.
func (l *lane) deliver(outcomes []*chatpb.SendOutcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range outcomes {
		e := l.waiting[o.Number]
		if e == nil {
			continue // nobody waits any more
		}
		delete(l.waiting, o.Number)
		a := sending{answer: o.GetReceipt(), sent: true}
		if a.answer == nil {
			a.err = grpcerr.FromReason(codes.Code(o.GetFailure().GetCode()), o.GetFailure().GetReason(), o.GetFailure().GetMessage())
		}
		e.done <- a
	}
	if len(l.queue) > 0 { // there is room again
		l.notify()
	}
}

// write is a goroutine: it puts into a frame what waits.
func (l *lane) write(stream grpc.BidiStreamingClient[chatpb.ConnectRequest, chatpb.ConnectResponse]) {
	idle := time.NewTicker(laneIdle)
	defer idle.Stop()
	for {
		runtime.Gosched() // whom the last frame has answered sends more, mostly
		f := l.frame()
		if len(f.GetSends()) > 0 {
			if stream.Send(f) != nil {
				return // receive hears why
			}
			continue
		}
		if f == nil {
			_ = stream.CloseSend() // never fails
			return
		}
		select {
		case <-l.wake:
		case <-idle.C:
			l.look()
		case <-stream.Context().Done():
			return
		}
	}
}

// frame takes what goes into a frame; it is empty when nothing waits, and nil when nothing will.
func (l *lane) frame() *chatpb.ConnectRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &chatpb.ConnectRequest{}
	size, n := 0, 0
	for ; n < len(l.queue) && len(l.waiting) < l.window && len(f.Sends) < maxFrame && size < maxFrameBytes; n++ {
		e := l.queue[n]
		if e.gone {
			continue
		}
		if f.Sends == nil {
			f.Sends = make([]*chatpb.SendRequest, 0, min(len(l.queue)-n, maxFrame))
		}
		l.number++
		e.number = l.number
		l.waiting[e.number] = e
		f.Sends = append(f.Sends, e.send)
		size += len(e.send.Text) + 128 // more than the rest has
		if e.full {
			e.full = false
			l.expect(e, e.wait)
		}
	}
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	if len(f.Sends) == 0 && l.closed && len(l.waiting) == 0 {
		return nil
	}
	return f
}

// look closes a lane that was not used since the last look.
func (l *lane) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.used && len(l.waiting)+len(l.queue) == 0 {
		l.closed = true
		l.notify()
	}
	l.used = false
}

// send has one message sent, and waits for the answer, but not longer than patience once there is
// room for it. silent says that the time was up.
func (l *lane) send(ctx context.Context, r *chatpb.SendRequest, patience time.Duration) sending {
	select {
	case <-l.opened:
	default:
		if a := l.open(ctx, patience); a.err != nil {
			return a
		}
	}
	e := &errand{send: r, done: make(chan sending, 1), wait: patience}
	if !l.put(e) {
		return sending{err: fmt.Errorf("%w: the stream has ended", chaterr.ErrNoLeader)}
	}
	select {
	case a := <-e.done:
		return a
	case <-ctx.Done():
		return l.forget(e, context.Cause(ctx))
	}
}

// open waits for the lane to open.
func (l *lane) open(ctx context.Context, patience time.Duration) sending {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-l.opened:
		return sending{}
	case <-l.over:
		if judge(l.err, false) == refused {
			return sending{err: fmt.Errorf("%w: %w", errNoLane, l.err)}
		}
		return sending{err: l.err}
	case <-timer.C:
		return l.late()
	case <-ctx.Done():
		return sending{err: context.Cause(ctx), silent: true}
	}
}

// late is for a lane that does not open: a lane that has a connection, and none of whose frames come,
// is perhaps kept back by something on the way that knows no streams.
func (l *lane) late() sending {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed = true; l.dialled {
		return sending{err: errors.Join(errNoLane, context.DeadlineExceeded), silent: true}
	}
	return sending{err: context.DeadlineExceeded, silent: true}
}

func (l *lane) put(e *errand) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.used = true
	wait := e.wait
	if e.full = len(l.waiting)+len(l.queue) >= l.window; e.full { // it is not silent: its sends are, in time
		wait = defaultTimeout
	}
	l.expect(e, wait)
	l.queue = append(l.queue, e)
	l.notify()
	return true
}

// expect has an errand end after a while without an answer. It is called with mu held.
func (l *lane) expect(e *errand, wait time.Duration) {
	e.by = time.Now().Add(wait)
	if l.expiry == nil {
		l.expiry = time.AfterFunc(wait, l.expire)
	} else if l.next.IsZero() || e.by.Before(l.next) {
		l.expiry.Reset(wait)
	} else {
		return
	}
	l.next = e.by
}

// expire ends the errands whose time is up: one timer for all, which is rarely set.
func (l *lane) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.next = time.Time{}
	look := func(e *errand) {
		switch {
		case e.gone:
		case !e.by.After(now):
			e.done <- l.drop(e, context.DeadlineExceeded)
		case l.next.IsZero() || e.by.Before(l.next):
			l.next = e.by
		}
	}
	for _, e := range l.waiting {
		look(e)
	}
	for _, e := range l.queue {
		look(e)
	}
	if !l.next.IsZero() {
		l.expiry.Reset(l.next.Sub(now))
	}
}

// forget stops waiting for an answer, unless it has come.
func (l *lane) forget(e *errand, err error) sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case a := <-e.done:
		return a
	default:
	}
	return l.drop(e, err)
}

// drop makes an errand one for which nobody waits. It is called with mu held.
func (l *lane) drop(e *errand, err error) sending {
	e.gone = true
	delete(l.waiting, e.number)
	if l.closed && len(l.waiting) == 0 || len(l.queue) > 0 {
		l.notify()
	}
	return sending{sent: e.number > 0, err: err, silent: true}
}

// sendAt makes one attempt to send at one node, on the lane to it or, if there is none, by a call.
func (c *Client) sendAt(ctx context.Context, n *endpoint, cc *grpc.ClientConn, r *chatpb.SendRequest, patience time.Duration) sending {
	if l := c.lane(n, cc); l != nil {
		a := l.send(ctx, r, patience)
		if !errors.Is(a.err, errNoLane) {
			return a
		}
		if !errors.Is(a.err, chaterr.ErrUnauthenticated) { // which a call is to say
			c.noLane(n, cc)
		}
		if a.silent {
			return a
		}
	}
	a := plain(ctx, c, cc, chatpb.NewMessageServiceClient, chatpb.MessageServiceClient.Send, r, patience)
	return sending{answer: a.answer.GetReceipt(), err: a.err, sent: a.sent, silent: a.silent}
}
