package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/cursor"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

const (
	// silence is how long a stream may say nothing before another node is asked: three heartbeats. When a call shows
	// that the node does not answer, patience is enough.
	silence = 15 * time.Second
	// buffered is how many events wait for Next. When they are not taken, the stream waits, and then
	// the node reads them from its state later: nothing is lost.
	buffered = 256
)

// EventKind says what an event is.
type EventKind int

const (
	// MessageSent: Message was sent to a room of this user, perhaps by this user.
	MessageSent EventKind = iota + 1
	// MemberJoined: User, perhaps this user, became a member of the room. When it is this user, the
	// room's history is to be read anew.
	MemberJoined
	// MemberLeft: User, perhaps this user, left the room.
	MemberLeft
	// MarkerMoved: this user has read the room up to Seqs[0], perhaps on another device.
	MarkerMoved
	// MessagesHidden: this user has hidden Seqs of the room.
	MessagesHidden
)

// Event is something that happened.
type Event struct {
	// Cursor is where to go on after this event, on any node, also after a restart of the program.
	Cursor  string
	Kind    EventKind
	Time    time.Time
	RoomID  string
	User    string
	Seqs    []uint64
	Message Message
}

// SubscribeOptions say where a subscription begins.
type SubscribeOptions struct {
	// Cursor goes on after the event that it came with; empty begins with what happens from now on.
	Cursor string
	// OnLive, if set, is told true when a node has taken the subscription, also the first time, and false when
	// that node is lost and another one is sought: what a user sees as reconnecting. Events do not come between
	// false and true, and none is missed. It is called by the subscription's goroutine, which waits for it; it
	// must not call Close. It is not called at the end, of which Next tells.
	OnLive func(live bool)
}

// Subscription delivers events in the order of the log, each one once: over a lost connection or a
// dead node it goes on at another one where it was. It is safe for concurrent use, but who calls
// Next from several goroutines has no order.
type Subscription struct {
	c      *Client
	onLive func(bool)
	token  string // of the session that it belongs to, whatever the client logs in to later
	inbox  inbox
	done   chan struct{} // closed when the stream has ended for good
	err    error         // why; read it only after done
	stop   context.CancelFunc
	share  *share
	alone  chan struct{} // one slot: it rides no more
	at     cursor.Cursor // what was received; used by run alone, and by share while it rides
	live   bool          // a node has the subscription; used by run alone
	first  chan error    // the outcome of the first frame, once
}

// Subscribe begins to receive events, and returns when a node has taken the subscription: what
// happens from then on will come. It needs a session, and ends with it. ctx bounds the call, not
// the subscription, which lives until Close. Subscriptions of one client, but those with OnLive, share a stream
// when they are at the same place, so that one more costs the node little; one that is slow holds up no other.
// Errors: ErrUnauthenticated, ErrBadCursor, ErrOtherCluster, ErrLimit beyond 32 subscriptions of a session.
func (c *Client) Subscribe(ctx context.Context, o SubscribeOptions) (*Subscription, error) {
	s := &Subscription{c: c, onLive: o.OnLive, token: c.Token(), inbox: newInbox(), done: make(chan struct{}), alone: make(chan struct{}, 1), first: make(chan error, 1)}
	if o.Cursor != "" {
		at, err := cursor.Parse(o.Cursor)
		if err != nil {
			return nil, err
		}
		s.at = at
	}
	ctx, cancel := c.bound(ctx, time.Now())
	defer cancel()
	life, stop := context.WithCancel(c.life)
	s.stop = stop
	if s.share = c.enlist(s.token); s.share == nil {
		stop()
		return nil, fmt.Errorf("%w: %d subscriptions of one session; close one first", chaterr.ErrLimit, maxSubscriptions)
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.work.Go(func() { s.run(life) })
	}
	c.mu.Unlock()
	if closed {
		stop()
		c.discharge(s)
		return nil, chaterr.ErrClosed
	}
	select {
	case err := <-s.first:
		return s, err
	case <-s.done:
		return nil, s.err
	case <-ctx.Done():
		_ = s.Close() // never fails
		if c.life.Err() != nil {
			return nil, chaterr.ErrClosed
		}
		return nil, fmt.Errorf("subscribe: %w", context.Cause(ctx))
	}
}

// Next waits for the next event. Its error is that of ctx, after which the next call goes on, or why
// there will be no more: ErrUnauthenticated when the session has ended, ErrClosed after Close.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok, err := s.inbox.next(); ok || err != nil { // what has come is delivered, also after the end
			return e, err
		}
		select {
		case <-s.inbox.ready:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// All is Next as a sequence. An error ends it, and comes as its last element; not when ctx ends.
func (s *Subscription) All(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			e, err := s.Next(ctx)
			if err != nil && ctx.Err() != nil {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the subscription and waits for its goroutine.
func (s *Subscription) Close() error {
	s.stop()
	<-s.done
	return nil
}

// run keeps a stream open until Close, or until it is refused.
func (s *Subscription) run(ctx context.Context) {
	defer func() {
		s.c.discharge(s)
		s.inbox.end(s.err)
		close(s.done)
	}()
	for {
		n, cc, err := s.c.nodes.pick()
		if err != nil {
			s.err = err
			return
		}
		err = s.receive(ctx, n, cc)
		s.share.pause(s)
		if err == errRides {
			select {
			case <-s.alone:
				continue
			case <-ctx.Done():
			}
		}
		err = grpcerr.FromStatus(err)
		if ctx.Err() != nil {
			s.err = chaterr.ErrClosed
			return
		}
		if judge(err, false) == refused {
			s.err = err
			return
		}
		s.setLive(false)
		silent := errors.Is(err, errSilent)
		s.c.nodes.failed(n, !silent && judge(err, false) == elsewhere, silent)
		sleep(ctx, max(s.c.nodes.rest(), 20*time.Millisecond))
	}
}

func (s *Subscription) setLive(live bool) {
	if s.live != live && s.onLive != nil {
		s.onLive(live)
	}
	s.live = live
}

// errRides: the subscription needs no stream.
var errRides = errors.New("rides")

// errSilent: the stream has missed its heartbeats.
var errSilent = fmt.Errorf("%w: the node is silent", chaterr.ErrNoLeader)

// receive reads one stream to its end.
func (s *Subscription) receive(ctx context.Context, n *endpoint, cc *grpc.ClientConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := newWatch(func() { cancel(errSilent) })
	defer watch.stop()
	defer s.c.nodes.attend(n, watch)()
	req := &chatpb.SubscribeRequest{}
	if s.at.Cluster != "" {
		req.Cursor = s.at.String()
	}
	stream, err := chatpb.NewEventServiceClient(cc).Subscribe(s.c.outgoing(ctx, s.token), req)
	if err != nil {
		return err
	}
	for began := false; ; {
		frame, err := stream.Recv()
		if err != nil {
			if errors.Is(context.Cause(ctx), errSilent) {
				return errSilent
			}
			return err
		}
		watch.hear()
		if !began || len(frame.Events) == 0 { // not at each event
			s.c.nodes.worked(n)
			s.setLive(true)
		}
		if !began {
			select {
			case s.first <- nil: // before deliver, which may wait for a Next that comes after Subscribe
			default:
			}
		}
		began = true
		if err := s.deliver(ctx, frame, watch); err != nil {
			return err
		}
		if s.share.join(s, len(frame.Events)) {
			return errRides
		}
	}
}

// deliver hands on what was not seen before. It waits for the caller.
func (s *Subscription) deliver(ctx context.Context, frame *chatpb.SubscribeResponse, watch *watch) error {
	events, places := make([]Event, 0, len(frame.Events)), make([]cursor.Position, 0, len(frame.Events))
	last := s.at
	for _, e := range frame.Events {
		at, err := cursor.Parse(e.Cursor)
		if err != nil {
			return err
		}
		if last.Cluster == at.Cluster && !at.After(last.Position) {
			continue
		}
		if event := toEvent(e); event.Kind != 0 {
			events, places = append(events, event), append(places, at.Position)
		}
		last = at
	}
	if n := len(frame.Events); n == 0 || frame.Cursor != frame.Events[n-1].Cursor {
		at, err := cursor.Parse(frame.Cursor)
		if err != nil {
			return err
		}
		if last.Cluster != at.Cluster || at.After(last.Position) {
			last = at
		}
	}
	s.share.carry(s, events, places, last)
	if !s.inbox.offer(events) {
		s.share.leave(s)
		watch.hold(true)
		defer watch.hold(false)
		if err := s.inbox.put(ctx, events); err != nil {
			return err
		}
	}
	s.at = last
	return nil
}

// toEvent has no Kind for what this version does not know.
func toEvent(e *chatpb.Event) Event {
	out := Event{Cursor: e.Cursor, Time: toTime(e.Time)}
	switch k := e.Kind.(type) {
	case *chatpb.Event_Message:
		out.Kind, out.RoomID, out.User, out.Message = MessageSent, k.Message.RoomId, k.Message.Sender, toMessage(k.Message)
	case *chatpb.Event_MemberJoined:
		out.Kind, out.RoomID, out.User = MemberJoined, k.MemberJoined.RoomId, k.MemberJoined.Name
	case *chatpb.Event_MemberLeft:
		out.Kind, out.RoomID, out.User = MemberLeft, k.MemberLeft.RoomId, k.MemberLeft.Name
	case *chatpb.Event_MarkerMoved:
		out.Kind, out.RoomID, out.Seqs = MarkerMoved, k.MarkerMoved.RoomId, []uint64{k.MarkerMoved.Seq}
	case *chatpb.Event_MessagesHidden:
		out.Kind, out.RoomID, out.Seqs = MessagesHidden, k.MessagesHidden.RoomId, k.MessagesHidden.Seqs
	}
	return out
}
