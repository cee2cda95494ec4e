package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

const (
	senders  = 4
	password = "correct horse battery"
)

// traffic is users who send numbered messages to a room, and one who listens there.
type traffic struct {
	room     string
	listener *client.Client
	sub      *client.Subscription
	clients  []*client.Client
	halt     context.CancelFunc
	work     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	acked   map[string]client.Receipt
	begun   int
	latest  time.Time // when the newest send began that was acknowledged
	changed chan struct{}
}

// startTraffic makes the users and lets them begin.
func startTraffic(ctx context.Context, addrs []string) (*traffic, error) {
	t := &traffic{acked: map[string]client.Receipt{}, changed: make(chan struct{}), halt: func() {}}
	err := t.begin(ctx, addrs)
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *traffic) begin(ctx context.Context, addrs []string) (err error) {
	if t.listener, err = t.user(ctx, "listener", addrs); err != nil {
		return err
	}
	room, err := t.listener.CreateRoom(ctx, "smoke")
	if err != nil {
		return err
	}
	t.room = room.ID
	if t.sub, err = t.listener.Subscribe(ctx, client.SubscribeOptions{}); err != nil {
		return err
	}
	sending, halt := context.WithCancel(ctx)
	t.halt = halt
	for i := range senders {
		name := fmt.Sprintf("sender%d", i+1)
		c, err := t.user(ctx, name, addrs)
		if err != nil {
			return err
		}
		if _, err := c.JoinRoom(ctx, "smoke"); err != nil {
			return err
		}
		t.work.Go(func() { t.send(sending, ctx, c, name) })
	}
	return nil
}

// user registers and logs in.
func (t *traffic) user(ctx context.Context, name string, addrs []string) (*client.Client, error) {
	c, err := login(ctx, name, addrs)
	if err == nil {
		t.clients = append(t.clients, c)
	}
	return c, err
}

// login makes a client of a user, who is registered if need be.
func login(ctx context.Context, name string, addrs []string) (*client.Client, error) {
	c, err := client.Dial(ctx, addrs)
	if err != nil {
		return nil, err
	}
	if _, err = c.Register(ctx, name, password); err == nil || errors.Is(err, client.ErrNameTaken) {
		_, err = c.Login(ctx, name, password)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("user %s: %w", name, err), c.Close())
	}
	return c, nil
}

// send sends one message after the other until sending ends; the last one is waited for.
func (t *traffic) send(sending, ctx context.Context, c *client.Client, name string) {
	for n := 1; sending.Err() == nil; n++ {
		begun := time.Now()
		r, err := c.Send(ctx, client.ToRoom(t.room), client.Draft{Text: text(name, n)})
		t.mu.Lock()
		t.begun++
		if err == nil {
			t.acked[text(name, n)] = r
			if begun.After(t.latest) {
				t.latest = begun
				close(t.changed)
				t.changed = make(chan struct{})
			}
		}
		t.mu.Unlock()
	}
}

// acknowledged waits for a receipt of a send that began after an instant, and returns how long
// after it that came.
func (t *traffic) acknowledged(ctx context.Context, after time.Time) (time.Duration, error) {
	for {
		t.mu.Lock()
		latest, changed := t.latest, t.changed
		t.mu.Unlock()
		if latest.After(after) {
			return time.Since(after), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("no send was acknowledged: %w", context.Cause(ctx))
		}
	}
}

// stop lets the senders end.
func (t *traffic) stop() {
	t.halt()
	t.work.Wait()
}

func (t *traffic) close() {
	t.stop()
	for _, c := range t.clients {
		_ = c.Close() // nothing is lost with a connection
	}
}

func (t *traffic) sent() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begun
}

// receipts are those of the acknowledged messages, by text.
func (t *traffic) receipts() map[string]client.Receipt {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.acked)
}

// views are the messages of the room as the subscriber got them, and as each node has them in its
// history. The senders have stopped.
func (t *traffic) views(ctx context.Context, p *processes) (map[string][]client.Message, error) {
	views := map[string][]client.Message{}
	for _, n := range p.nodes {
		history, err := t.history(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("history at %s: %w", n.id, err)
		}
		views[n.id] = history
	}
	var last uint64
	for _, h := range views {
		last = max(last, uint64(len(h)))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	got := views["subscriber"]
	for len(got) == 0 || got[len(got)-1].Seq < last {
		e, err := t.sub.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			break // what is missing is lost
		}
		if err != nil {
			return nil, fmt.Errorf("subscription: %w", err)
		}
		if e.Kind == client.MessageSent {
			got = append(got, e.Message)
		}
	}
	views["subscriber"] = got
	return views, nil
}

// history asks one node, and waits until it has all that was acknowledged.
func (t *traffic) history(ctx context.Context, n *process) (all []client.Message, err error) {
	only := func(ctx context.Context, addr string) (net.Conn, error) {
		if addr != n.addr { // the client has learned it, and no other node is to answer
			return nil, fmt.Errorf("%s is not %s", addr, n.id)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	c, err := client.Dial(ctx, []string{n.addr}, client.WithToken(t.listener.Token()), client.WithDialer(only))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx = client.WithConsistency(ctx, client.Linearizable)
	for m, err := range c.History(ctx, client.ToRoom(t.room), client.Query{OldestFirst: true}) {
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}
