package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	gstatus "google.golang.org/grpc/status"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

const (
	connectMethod = "/chat.v1.EventService/Connect"
	// maxConnects is how many of these streams a session may have.
	maxConnects = 8
	// maxInFlight is how many sends of a stream may be without an answer that was written.
	maxInFlight = 1024
	// maxOutcomes is how many answers go into one frame.
	maxOutcomes = 512
	// grace is how long a stream that is to end waits for the answers to what it has taken, and for
	// its caller to read them.
	grace = 5 * time.Second
)

// conversation is one stream of Connect. It has three goroutines beside the handler's: read takes
// frames, write sends them, and events is there when the caller has asked for events. Receiving and
// sending know no deadline, and end when the handler returns: so it does neither itself, and a caller
// who does not read holds nobody up. It waits for events.
type conversation struct {
	*Service
	who    state.Actor
	stream grpc.BidiStreamingServer[chatpb.ConnectRequest, chatpb.ConnectResponse]
	ctx    context.Context
	cancel context.CancelCauseFunc
	wake   chan struct{}                  // one slot: there is something for write
	frames chan *chatpb.SubscribeResponse // from events

	number uint64         // of the last send; used by read alone
	work   sync.WaitGroup // of events

	mu       sync.Mutex // guards what follows
	listens  bool       // events was started, or is not to be any more
	inFlight int        // sends that were taken, and whose answers are not written
	answers  []*chatpb.SendOutcome
	ending   error // why nothing more is taken
}

var errHungUp = errors.New("the caller has said all")

// Connect answers many sends at a time; see EventService in chat.v1.
func (s events) Connect(stream grpc.BidiStreamingServer[chatpb.ConnectRequest, chatpb.ConnectResponse]) error {
	who := caller(stream.Context())
	if err := s.openStream(s.connects, who, maxConnects); err != nil {
		return err
	}
	defer s.closeStream(s.connects, who)
	c := &conversation{Service: s.Service, who: who, stream: stream, wake: make(chan struct{}, 1), frames: make(chan *chatpb.SubscribeResponse)}
	c.ctx, c.cancel = context.WithCancelCause(stream.Context())
	defer c.cancel(nil)
	go c.safely(c.read)
	go c.safely(c.write)
	err := c.watch()
	c.cancel(err)
	c.mu.Lock()
	c.listens = true
	c.mu.Unlock()
	c.work.Wait()
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

// safely ends the stream with the error of f, or its panic: the process is the host's.
func (c *conversation) safely(f func() error) {
	c.cancel(c.recovered(connectMethod, f))
}

// watch waits for the end: of the stream, of the session, or of the node's service.
func (c *conversation) watch() error {
	session := c.o.Hub.Watch(c.who)
	defer session.Close()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	drained := c.drained
	var late <-chan time.Time // never, while nothing ends
	for {
		select {
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-late:
			return c.reason()
		case <-c.o.Failed: // what has no answer may be sent again elsewhere
			return chaterr.ErrFault
		case <-drained:
			drained = nil
			c.end(chaterr.ErrDraining)
		case <-session.C:
			c.look()
		case <-tick.C:
			c.look()
		}
		if late == nil && c.reason() != nil {
			late = time.After(grace)
		}
	}
}

// look ends the conversation when the session is over.
func (c *conversation) look() {
	if err := c.view(func(v *state.View) error { return alive(v, c.who) }); err != nil {
		c.end(err)
	}
}

// end takes nothing more; when what was taken is answered, the stream ends with err.
func (c *conversation) end(err error) {
	c.mu.Lock()
	if c.ending == nil {
		c.ending = err
	}
	c.mu.Unlock()
	c.notify()
}

func (c *conversation) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

func (c *conversation) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// read is a goroutine.
func (c *conversation) read() error {
	for {
		f, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			c.end(errHungUp)
			<-c.ctx.Done()
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.take(f); err != nil {
			return err
		}
	}
}

// take takes one frame.
func (c *conversation) take(f *chatpb.ConnectRequest) error {
	if f.Subscribe != nil {
		if !c.listen() {
			return grpcerr.Invalid("subscribe", "is set in a second frame")
		}
		go c.safely(func() error { return c.events(f.Subscribe.Cursor) })
	}
	commands, numbers := make([]*state.Command, 0, len(f.Sends)), make([]uint64, 0, len(f.Sends))
	for _, r := range f.Sends {
		c.number++
		err := c.reserve()
		if errors.Is(err, errNoReader) {
			return err
		}
		if err != nil {
			c.answer(c.number, nil, err, false)
			continue
		}
		command, err := sendCommand(c.who, r)
		if err != nil {
			c.answer(c.number, nil, err, true)
			continue
		}
		commands, numbers = append(commands, command), append(numbers, c.number)
	}
	if len(commands) == 0 {
		return nil
	}
	taken, err := c.o.Replica.Submit(commands, func(i int, r *state.Result, err error) { c.answer(numbers[i], r, err, true) })
	for _, n := range numbers[taken:] {
		c.answer(n, nil, err, true)
	}
	return nil
}

// listen reports true once, and not when the handler is about to return.
func (c *conversation) listen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listens {
		return false
	}
	c.listens = true
	c.work.Add(1)
	return true
}

// errNoReader: so many refusals wait to be read that the caller does not read.
var errNoReader = fmt.Errorf("%w: the caller sends and does not read", chaterr.ErrOverloaded)

// reserve makes room for one send.
func (c *conversation) reserve() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.answers) >= 2*maxInFlight:
		return errNoReader
	case c.ending != nil:
		return c.ending
	case c.inFlight >= maxInFlight:
		return fmt.Errorf("%w: %d sends without an answer", chaterr.ErrOverloaded, maxInFlight)
	}
	c.inFlight++
	return nil
}

// answer has an answer written. reserved says that there was room made for its send.
func (c *conversation) answer(number uint64, r *state.Result, err error, reserved bool) {
	if err == nil {
		err = state.Err(r)
	}
	var out *chatpb.SendOutcome
	if err == nil {
		out = toOutcome(number, r)
	} else {
		out = &chatpb.SendOutcome{Number: number, Outcome: &chatpb.SendOutcome_Failure{Failure: toFailure(c.status(connectMethod, err))}}
	}
	c.mu.Lock()
	if !reserved {
		c.inFlight++ // so that written need not know
	}
	c.answers = append(c.answers, out)
	c.mu.Unlock()
	c.notify()
}

func toFailure(err error) *chatpb.Failure {
	s := gstatus.Convert(err)
	return &chatpb.Failure{Code: int32(s.Code()), Reason: grpcerr.Reason(err), Message: s.Message()}
}

// write is a goroutine. It puts into a frame what there is.
func (c *conversation) write() error {
	if err := c.stream.Send(&chatpb.ConnectResponse{Index: c.o.Replica.Applied(), MaxInFlight: maxInFlight}); err != nil {
		return err
	}
	for {
		f := &chatpb.ConnectResponse{}
		select {
		case f.Events = <-c.frames:
		case <-c.wake:
		case <-c.ctx.Done():
			return nil
		}
		runtime.Gosched() // who answers has more, mostly
		var done error
		if f.Outcomes, done = c.ready(); done != nil {
			return done
		}
		if len(f.Outcomes) > 0 {
			f.Index = c.o.Replica.Applied()
		} else if f.Events == nil {
			continue
		}
		if err := c.stream.Send(f); err != nil {
			return err
		}
		c.written(len(f.Outcomes))
	}
}

// ready takes answers for a frame; done is why there will be no more.
func (c *conversation) ready() (answers []*chatpb.SendOutcome, done error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inFlight == 0 {
		return nil, c.ending
	}
	n := min(len(c.answers), maxOutcomes)
	answers, c.answers = c.answers[:n:n], c.answers[n:]
	if len(c.answers) == 0 {
		c.answers = nil
	}
	return answers, nil
}

func (c *conversation) written(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight -= n
	if len(c.answers) > 0 || c.ending != nil && c.inFlight == 0 {
		c.notify()
	}
}

// events is a goroutine. A caller who is slow to read holds up this one alone, which then goes on
// from what is stored.
func (c *conversation) events(from string) error {
	defer c.work.Done()
	f := &feed{Service: c.Service, who: c.who, send: func(ctx context.Context, frame *chatpb.SubscribeResponse) error {
		select {
		case c.frames <- frame:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
	if err := f.run(c.ctx, from); c.ctx.Err() == nil {
		c.end(err)
		<-c.ctx.Done()
	}
	return nil
}
