package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

const (
	// verifierEvery is how far its messages are apart.
	verifierEvery = 10 * time.Millisecond
	// verifierKeeps is how many of the newest acknowledgements its percentiles are of.
	verifierKeeps = 1000
	// finishTime is how long messages may be on their way at the end.
	finishTime = 5 * time.Second
)

// verifier sends numbered messages all the time, and counts what becomes of them.
type verifier struct {
	clients []*client.Client
	halt    context.CancelFunc
	rest    context.CancelFunc // ends sending alone
	sending sync.WaitGroup
	work    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	count   counts
	took    []time.Duration // the newest acknowledgements, in a ring
	next    int             // in took
	last    int             // number of the newest message that was delivered
	missing map[int]uint64  // those that were acknowledged and have not come, with the place in their receipts
	early   map[int]uint64  // those that have come and are not acknowledged, with their place

	fault  time.Time     // the newest one; the start before there is one
	outage time.Duration // from then to the acknowledgement of a send that began later; 0 before that
}

// counts are of messages. Lost ones were acknowledged and did not come, though later ones did, or until the end;
// doubled ones came again, or in another place than their receipts say.
type counts struct {
	Sent         int     `json:"sent"`
	Acknowledged int     `json:"acknowledged"`
	Delivered    int     `json:"delivered"`
	Lost         int     `json:"lost"`
	Doubled      int     `json:"doubled"`
	P50          float64 `json:"p50_ms"` // from a send to its receipt
	P99          float64 `json:"p99_ms"`
}

// startVerifier makes a user who sends to a room and another who listens there. They go on until close,
// whatever becomes of ctx.
func startVerifier(ctx context.Context, addrs []string) (*verifier, error) {
	life, halt := context.WithCancel(context.Background())
	v := newVerifier()
	v.halt = halt
	if err := v.start(ctx, life, addrs); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

func newVerifier() *verifier {
	return &verifier{fault: time.Now(), halt: func() {}, rest: func() {}, missing: map[int]uint64{}, early: map[int]uint64{}}
}

func (v *verifier) start(ctx, life context.Context, addrs []string) error {
	for _, name := range []string{"verifier", "listener"} {
		c, err := login(ctx, name, addrs)
		if err != nil {
			return err
		}
		v.clients = append(v.clients, c)
	}
	sender, listener := v.clients[0], v.clients[1]
	room, err := enter(ctx, sender, "numbers")
	if err == nil {
		_, err = enter(ctx, listener, "numbers")
	}
	if err != nil {
		return err
	}
	events, err := listener.Subscribe(ctx, client.SubscribeOptions{})
	if err != nil {
		return err
	}
	v.work.Go(func() { v.listen(life, events, room.ID) })
	sending, rest := context.WithCancel(life)
	v.rest = rest
	v.sending.Go(func() { v.send(sending, sender, room.ID) })
	return nil
}

// enter makes a room, or joins it if it is there.
func enter(ctx context.Context, c *client.Client, name string) (client.Room, error) {
	room, err := c.CreateRoom(ctx, name)
	if errors.Is(err, client.ErrNameTaken) {
		room, err = c.JoinRoom(ctx, name)
	}
	return room, err
}

// send sends one message after the other, at a steady pace while they are acknowledged.
func (v *verifier) send(ctx context.Context, c *client.Client, room string) {
	tick := time.NewTicker(verifierEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v.mu.Lock()
		v.count.Sent++
		v.mu.Unlock()
		begun := time.Now()
		receipt, err := c.Send(ctx, client.ToRoom(room), client.Draft{Text: text("verifier", n)})
		if err == nil {
			v.acknowledged(n, receipt.Seq)
			v.measured(begun)
		}
	}
}

// measured notes how long a send took that began at an instant, and whether it ends an outage.
func (v *verifier) measured(begun time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.outage == 0 && begun.After(v.fault) {
		v.outage = time.Since(v.fault)
	}
	d := time.Since(begun)
	if len(v.took) < verifierKeeps {
		v.took = append(v.took, d)
		return
	}
	v.took[v.next] = d
	v.next = (v.next + 1) % verifierKeeps
}

// acknowledged compares a receipt with what has come.
func (v *verifier) acknowledged(n int, seq uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count.Acknowledged++
	at, came := v.early[n]
	switch {
	case !came && n <= v.last:
		v.count.Lost++
	case !came:
		v.missing[n] = seq
	case at != seq:
		v.count.Doubled++
	}
	delete(v.early, n)
}

// listen looks at what comes.
func (v *verifier) listen(ctx context.Context, events *client.Subscription, room string) {
	for e, err := range events.All(ctx) {
		if err != nil {
			return // ctx has ended, or the listener was deleted
		}
		if m := e.Message; e.Kind == client.MessageSent && m.RoomID == room && m.Sender == "verifier" {
			v.delivered(number(m.Text), m.Seq)
		}
	}
}

// delivered looks at a message that came. Each is sent when the one before it was answered, so their numbers
// only grow.
func (v *verifier) delivered(n int, seq uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n <= v.last {
		v.count.Doubled++
		return
	}
	v.last = n
	v.count.Delivered++
	for other := range v.missing {
		if other < n {
			v.count.Lost++
			delete(v.missing, other)
		}
	}
	clear(v.early) // those will not be acknowledged any more
	at, acknowledged := v.missing[n]
	switch {
	case !acknowledged:
		v.early[n] = seq
	case at != seq:
		v.count.Doubled++
	}
	delete(v.missing, n)
}

// finish sends no more, waits until what was acknowledged has come, but not for ever, and counts what is
// missing then as lost.
func (v *verifier) finish() counts {
	v.rest()
	v.sending.Wait()
	for end := time.Now().Add(finishTime); v.awaits() > 0 && time.Now().Before(end); {
		time.Sleep(verifierEvery)
	}
	c := v.counted()
	c.Lost += v.awaits()
	return c
}

// awaits is how many messages were acknowledged and have not come.
func (v *verifier) awaits() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.missing)
}

// counted is what was counted so far.
func (v *verifier) counted() counts {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.count
	c.P50, c.P99 = percentiles(v.took)
	return c
}

// percentiles are the 50th and the 99th, in milliseconds.
func percentiles(took []time.Duration) (p50, p99 float64) {
	if len(took) == 0 {
		return 0, 0
	}
	sorted := slices.Clone(took)
	slices.Sort(sorted)
	at := func(percent int) float64 {
		return float64(sorted[min(len(sorted)*percent/100, len(sorted)-1)].Microseconds()) / 1000
	}
	return at(50), at(99)
}

// hit notes a fault: from now on it is measured how long no write is acknowledged.
func (v *verifier) hit() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault, v.outage = time.Now(), 0
}

// lastOutage is how long the last fault was felt; 0 while it still is.
func (v *verifier) lastOutage() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.outage
}

func (v *verifier) close() {
	v.halt()
	v.sending.Wait()
	v.work.Wait()
	for _, c := range v.clients {
		_ = c.Close() // nothing is lost with a connection
	}
}
