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
)

// verifier sends numbered messages all the time, and counts what becomes of them.
type verifier struct {
	clients []*client.Client
	halt    context.CancelFunc
	work    sync.WaitGroup

	mu    sync.Mutex // guards what follows
	count counts
	took  []time.Duration // the newest acknowledgements, in a ring
	next  int             // in took
	last  uint64          // number of the newest message that was delivered

	fault  time.Time     // the newest one; zero for none
	outage time.Duration // from then to the acknowledgement of a send that began later; 0 before that
}

// counts are of messages. Lost ones were acknowledged and did not come, though later ones did.
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
	v := &verifier{halt: halt}
	if err := v.start(ctx, life, addrs); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
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
	v.work.Go(func() { v.send(life, sender, room.ID) })
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
		_, err := c.Send(ctx, client.ToRoom(room), client.Draft{Text: text("verifier", n)})
		v.mu.Lock()
		if err == nil {
			v.count.Acknowledged++
			v.measured(time.Since(begun))
			if v.outage == 0 && begun.After(v.fault) {
				v.outage = time.Since(v.fault)
			}
		}
		v.mu.Unlock()
	}
}

// measured notes an acknowledgement. mu is held.
func (v *verifier) measured(d time.Duration) {
	if len(v.took) < verifierKeeps {
		v.took = append(v.took, d)
		return
	}
	v.took[v.next] = d
	v.next = (v.next + 1) % verifierKeeps
}

// listen looks at the numbers that the cluster gave to the messages: they have no gaps.
func (v *verifier) listen(ctx context.Context, events *client.Subscription, room string) {
	for e, err := range events.All(ctx) {
		if err != nil {
			return // ctx has ended, or the listener was deleted
		}
		if e.Kind == client.MessageSent && e.Message.RoomID == room {
			v.delivered(e.Message.Seq)
		}
	}
}

func (v *verifier) delivered(seq uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.last != 0 && seq <= v.last:
		v.count.Doubled++
		return
	case v.last != 0:
		v.count.Lost += int(seq - v.last - 1)
	}
	v.last = seq
	v.count.Delivered++
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
	v.work.Wait()
	for _, c := range v.clients {
		_ = c.Close() // nothing is lost with a connection
	}
}
