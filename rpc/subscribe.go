package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/cursor"
	"example.com/chat/internal/fanout"
	"example.com/chat/rpc/chatpb"
)

const (
	// heartbeat is how often a stream says that it lives. An HTTP/2 ping as often as that would be
	// punished by a server with default options.
	heartbeat = 5 * time.Second
	// maxStreams is how many streams of events a session may have. What waits in them is the same for
	// all, so that many are hardly more to keep than one.
	maxStreams = 32
	// maxFrame is how many events go into one frame.
	maxFrame = 256
	// maxCursor is more bytes than any cursor has.
	maxCursor = 256
	// aliveEvery is how often a stream looks whether its session has expired. A session that is ended
	// says so at once; one that grows too old says nothing.
	aliveEvery = time.Minute
)

// events is chat.v1.EventService.
type events struct {
	chatpb.UnsafeEventServiceServer
	*Service
}

var _ chatpb.EventServiceServer = events{}

func (s events) Subscribe(r *chatpb.SubscribeRequest, stream grpc.ServerStreamingServer[chatpb.SubscribeResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() { // ends with the handler
		select {
		case <-s.drained:
			cancel(chaterr.ErrDraining)
		case <-s.o.Failed:
			cancel(chaterr.ErrFault)
		case <-ctx.Done():
		}
	}()
	who := caller(ctx)
	if err := s.openStream(s.streams, who, maxStreams); err != nil {
		return err
	}
	defer s.closeStream(s.streams, who)
	f := &feed{Service: s.Service, who: who, send: func(_ context.Context, frame *chatpb.SubscribeResponse) error { return stream.Send(frame) }}
	return f.run(ctx, r.Cursor)
}

// openStream counts a stream of a session. of is a map of the Service.
func (s *Service) openStream(of map[state.Actor]int, a state.Actor, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of[a] >= limit {
		return fmt.Errorf("%w: %d streams of one session", chaterr.ErrLimit, limit)
	}
	of[a]++
	return nil
}

func (s *Service) closeStream(of map[state.Actor]int, a state.Actor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if of[a]--; of[a] == 0 {
		delete(of, a)
	}
}

// feed is one stream of events.
type feed struct {
	*Service
	who     state.Actor
	send    func(context.Context, *chatpb.SubscribeResponse) error // may wait for the reader
	cluster string
	at      state.Position // what was sent

	toShared func([]state.Event) any // toFrame, as Batch.Once takes it
}

// run sends events from a cursor on until ctx ends or the session does.
func (f *feed) run(ctx context.Context, from string) error {
	f.toShared = func(events []state.Event) any { return f.toFrame(events) }
	if err := f.begin(ctx, from); err != nil {
		return err
	}
	for {
		err := f.follow(ctx)
		switch {
		case errors.Is(err, fanout.ErrLagged):
			continue
		case errors.Is(err, fanout.ErrEnded):
			return chaterr.ErrUnauthenticated
		case errors.Is(err, fanout.ErrClosed):
			return chaterr.ErrDraining
		default:
			return err
		}
	}
}

// begin finds where to go on. A cursor may be newer than this node, which waits for it then; one of
// another cluster would have it wait for nothing.
func (f *feed) begin(ctx context.Context, from string) error {
	if err := f.fromNow(); err != nil || from == "" {
		return err
	}
	if len(from) > maxCursor {
		return chaterr.ErrBadCursor
	}
	c, err := cursor.Parse(from)
	if err != nil {
		return err
	}
	if c.Cluster != f.cluster {
		return fmt.Errorf("%w: the cursor is one of cluster %q, this is %q", chaterr.ErrOtherCluster, c.Cluster, f.cluster)
	}
	f.at = c.Position
	return f.waitApplied(ctx, c.Index)
}

func (f *feed) fromNow() error {
	return f.view(func(v *state.View) error {
		f.cluster, f.at = v.ClusterID(), cursor.EndOf(v.Applied())
		return nil
	})
}

// follow sends what the state has after f.at, and then what comes, until events were left out.
func (f *feed) follow(ctx context.Context) error {
	sub := f.o.Hub.Subscribe(f.who)
	defer sub.Close()
	var rooms []uint64
	if err := f.view(func(v *state.View) (err error) {
		rooms, err = v.RoomsOf(f.who.Account)
		return err
	}); err != nil {
		return err
	}
	sub.Follow(rooms)
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	return f.live(ctx, sub)
}

// catchUp sends what the state has. Its last frame may be empty: the first frame of a stream is.
func (f *feed) catchUp(ctx context.Context) error {
	for more := true; more; {
		var events []state.Event
		if err := f.view(func(v *state.View) (err error) {
			if err := f.alive(v); err != nil {
				return err
			}
			events, f.at, more, err = v.EventsSince(f.who.Account, f.at, maxFrame)
			return err
		}); err != nil {
			return err
		}
		if err := f.frame(ctx, events); err != nil {
			return err
		}
	}
	return nil
}

// alive fails when the session is over.
func (f *feed) alive(v *state.View) error { return alive(v, f.who) }

func alive(v *state.View, who state.Actor) error {
	ok, err := v.Alive(who)
	if err == nil && !ok {
		err = chaterr.ErrUnauthenticated
	}
	return err
}

// live sends what is committed from now on, several events to a frame when several are ready. It waits
// in Next alone, which is quick: the heartbeat and the end of ctx wake it.
func (f *feed) live(ctx context.Context, sub *fanout.Subscription) error {
	defer context.AfterFunc(ctx, sub.Wake)()
	beat := time.AfterFunc(heartbeat, sub.Wake)
	defer beat.Stop()
	looked := time.Now()
	for sent := looked; ; {
		batches, err := sub.Next()
		if err != nil {
			return err
		}
		now := time.Now()
		if now.Sub(looked) >= aliveEvery {
			if err := f.view(f.alive); err != nil {
				return err
			}
			looked = now
		}
		if len(batches) > 0 {
			err = f.pass(ctx, batches)
			sent = now
		} else if now.Sub(sent) >= heartbeat {
			err = f.frame(ctx, nil)
			sent = now
		}
		if err != nil || ctx.Err() != nil {
			return cmp.Or(err, context.Cause(ctx))
		}
		if len(batches) == 0 {
			beat.Reset(heartbeat - now.Sub(sent))
		}
	}
}

// pass sends batches. One that comes alone goes out in the frame that all share who are sent it.
func (f *feed) pass(ctx context.Context, batches []*fanout.Batch) error {
	if b := batches[0]; len(batches) == 1 && len(b.Events) <= maxFrame && b.Events[0].After(f.at) {
		return f.sendTo(ctx, f.shared(b), b.Events[len(b.Events)-1].Position)
	}
	frame := &chatpb.SubscribeResponse{}
	for _, b := range batches {
		shared := f.shared(b)
		for i := range b.Events {
			if !b.Events[i].After(f.at) { // catchUp has sent it
				continue
			}
			if len(frame.Events) == maxFrame {
				if err := f.sendTo(ctx, frame, f.at); err != nil {
					return err
				}
				frame = &chatpb.SubscribeResponse{}
			}
			frame.Events = append(frame.Events, shared.Events[i])
			f.at, frame.Cursor = b.Events[i].Position, shared.Events[i].Cursor
		}
	}
	if len(frame.Events) == 0 {
		return f.frame(ctx, nil)
	}
	return f.sendTo(ctx, frame, f.at)
}

// shared is the frame of a batch.
func (f *feed) shared(b *fanout.Batch) *chatpb.SubscribeResponse {
	return b.Once(f.toShared).(*chatpb.SubscribeResponse)
}

// sendTo sends a frame of events up to a position.
func (f *feed) sendTo(ctx context.Context, frame *chatpb.SubscribeResponse, to state.Position) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.at = to
	return f.send(ctx, frame)
}

// frame sends a frame of this stream alone; one without events is a heartbeat.
func (f *feed) frame(ctx context.Context, events []state.Event) error {
	frame := f.toFrame(events)
	frame.Cursor = f.cursor(f.at)
	if len(events) == 0 {
		frame.ServerTime = timestamp(time.Now().UnixMilli())
	}
	return f.sendTo(ctx, frame, f.at)
}

// toFrame converts events. Its cursor is that of the last one.
func (f *feed) toFrame(events []state.Event) *chatpb.SubscribeResponse {
	frame := &chatpb.SubscribeResponse{}
	for i := range events {
		frame.Cursor = f.cursor(events[i].Position)
		frame.Events = append(frame.Events, toEvent(&events[i], frame.Cursor))
	}
	return frame
}

func (f *feed) cursor(p state.Position) string {
	return cursor.Cursor{Cluster: f.cluster, Position: p}.String()
}
