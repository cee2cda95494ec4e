package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"example.com/chat/rpc/client"
)

// deliver has p.N publishers at one node that each send a message every p.Every, and measures how long
// a message takes to one who listens at another node.
func deliver(ctx context.Context, c *cluster, p params) (r result, err error) {
	users, err := c.users(ctx, p)
	defer func() { err = errors.Join(err, closeAll(users)) }()
	if err != nil {
		return result{}, err
	}
	where := "follower"
	if p.At == where {
		where = "leader"
	}
	addr, err := c.at(ctx, where, 0)
	if err != nil {
		return result{}, err
	}
	listener, err := c.user(ctx, addr)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, listener.Close()) }()
	rooms, err := openRooms(ctx, c, users, listener)
	if err != nil {
		return result{}, err
	}
	var mu sync.Mutex
	var took []time.Duration
	stop, err := listen(ctx, listener, func(e client.Event) {
		if d, ok := age(e.Message.Text); ok {
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
		}
	})
	if err != nil {
		return result{}, err
	}
	sent, err := closed(ctx, p, func(sender, _ int) error {
		time.Sleep(p.Every)
		_, err := users[sender%len(users)].Send(ctx, client.ToRoom(rooms), client.Draft{Text: stamped(p.Size)})
		return err
	})
	time.Sleep(500 * time.Millisecond) // what is under way arrives
	stop()
	r = summarise(took, p.Warm+p.For)
	r.Extra, r.Errors = sent.Extra, sent.Errors
	return r, err
}

// openRooms has everybody in one room.
func openRooms(ctx context.Context, c *cluster, users []*user, others ...*user) (id string, err error) {
	c.clients++
	name := "all-" + time.Now().Format("150405.000000")
	r, err := users[0].CreateRoom(ctx, name)
	for _, u := range append(users[1:len(users):len(users)], others...) {
		if err == nil {
			_, err = u.JoinRoom(ctx, name)
		}
	}
	return r.ID, err
}

// listen calls f with each event that a user is sent.
func listen(ctx context.Context, u *user, f func(client.Event)) (stop func(), err error) {
	s, err := u.Subscribe(ctx, client.SubscribeOptions{})
	if err != nil {
		return nil, err
	}
	var work sync.WaitGroup
	work.Go(func() {
		for e, err := range s.All(ctx) {
			if err != nil {
				return
			}
			f(e)
		}
	})
	return func() {
		_ = s.Close() // never fails
		work.Wait()
	}, nil
}

// fanout has p.N subscribers, up to 32 of them to a client, in one room, and measures how long one
// message takes to all of them, p.Window messages at a time.
func fanout(ctx context.Context, c *cluster, p params) (r result, err error) {
	users, err := c.users(ctx, p)
	defer func() { err = errors.Join(err, closeAll(users)) }()
	if err != nil {
		return result{}, err
	}
	room, err := openRooms(ctx, c, users)
	if err != nil {
		return result{}, err
	}
	n := int64(p.N)
	got := newTally(n, p.Window)
	for i := range p.N {
		stop, err := listen(ctx, users[i%len(users)], func(e client.Event) {
			if e.Kind == client.MessageSent {
				got.add(e.Message.Seq)
			}
		})
		if err != nil {
			return result{}, err
		}
		defer stop()
	}
	p.N = p.Window
	r, err = closed(ctx, p, func(sender, _ int) error {
		receipt, err := users[sender%len(users)].Send(ctx, client.ToRoom(room), client.Draft{Text: stamped(p.Size)})
		if err != nil {
			return err
		}
		return got.wait(ctx, receipt.Seq)
	})
	r.Extra["deliveries_per_s"] = r.Ops * float64(n)
	return r, err
}

// tally counts who has got each of the messages of a room that are under way.
type tally struct {
	n      int64
	places []place
}

type place struct {
	got atomic.Int64
	all chan struct{} // has one when everybody has got it
}

// newTally is for n subscribers. A place is used again long after its message has reached them all.
func newTally(n int64, window int) *tally {
	t := &tally{n: n, places: make([]place, 16*window)}
	for i := range t.places {
		t.places[i].all = make(chan struct{}, 1)
	}
	return t
}

func (t *tally) at(seq uint64) *place { return &t.places[seq%uint64(len(t.places))] }

func (t *tally) add(seq uint64) {
	if p := t.at(seq); p.got.Add(1) == t.n {
		p.got.Store(0)
		select {
		case p.all <- struct{}{}:
		default: // nobody has waited for the last one: its send has failed
		}
	}
}

func (t *tally) wait(ctx context.Context, seq uint64) error {
	select {
	case <-t.at(seq).all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
