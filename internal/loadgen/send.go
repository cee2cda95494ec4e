package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"example.com/chat/rpc/client"
)

// send has p.N senders, each of which waits for its receipt before it sends again.
func send(ctx context.Context, c *cluster, p params) (r result, err error) {
	users, err := c.users(ctx, p)
	defer func() { err = errors.Join(err, closeAll(users)) }()
	if err != nil {
		return result{}, err
	}
	return closed(ctx, p, func(sender, i int) error {
		u := users[sender%len(users)]
		room := u.rooms[(sender*31+i)%len(u.rooms)]
		_, err := u.Send(ctx, client.ToRoom(room), client.Draft{Text: stamped(p.Size)})
		return err
	})
}

// stream is send with as many senders as several streams of EventService.Connect take: the client has all sends
// of a node and session share one, so its window is full while there is a sender for each place in it.
// Client.Send waits for its receipt, so that is a goroutine for each send under way.
func stream(ctx context.Context, c *cluster, p params) (result, error) { return send(ctx, c, p) }

// closed runs p.N loops of f, and measures what begins and ends within the time.
func closed(ctx context.Context, p params, f func(caller, i int) error) (result, error) {
	var work sync.WaitGroup
	var failed atomic.Int64
	took := make([][]time.Duration, p.N)
	from := time.Now().Add(p.Warm)
	to := from.Add(p.For)
	first := make(chan error, 1)
	for caller := range p.N {
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				start := time.Now()
				if start.After(to) {
					return
				}
				err := f(caller, i)
				end := time.Now()
				switch {
				case err != nil:
					failed.Add(1)
					select {
					case first <- err:
					default:
					}
				case start.After(from) && end.Before(to):
					took[caller] = append(took[caller], end.Sub(start))
				}
			}
		})
	}
	time.Sleep(time.Until(from))
	before := p.cluster.used()
	time.Sleep(time.Until(to))
	spent := result{Extra: map[string]float64{}}
	p.cluster.since(before, &spent, p.For)
	work.Wait()
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	r := summarise(all, p.For)
	r.Extra, r.Errors = spent.Extra, failed.Load()
	if r.N > 0 {
		r.Extra["cpu_us_per_op"] = r.Extra["cpu_cores"] / r.Ops * 1e6
	}
	if len(all) == 0 && r.Errors > 0 {
		return r, fmt.Errorf("all have failed: %w", <-first)
	}
	return r, ctx.Err()
}

// stampSize is how many bytes of a message say when it was sent.
const stampSize = 16

// filler is text that no compression makes much smaller, as it would a row of the same letter.
var filler = func() string {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 128<<10)
	for i := range b {
		b[i] = ' ' + byte(rng.IntN('~'-' '))
	}
	return string(b)
}()

// stamped is a message of some size that says when it was made.
func stamped(size int) string {
	var b [8]byte
	now := time.Now().UnixNano()
	for i := range b {
		b[i] = byte(now >> (56 - 8*i))
	}
	at := int(uint64(now) * 0x9e3779b97f4a7c15 >> 48) // 16 bits, anywhere
	return hex.EncodeToString(b[:]) + filler[at:at+size-stampSize]
}

// age is how long ago a message was made.
func age(text string) (time.Duration, bool) {
	if len(text) < stampSize {
		return 0, false
	}
	ns, err := strconv.ParseInt(text[:stampSize], 16, 64)
	return time.Since(time.Unix(0, ns)), err == nil
}
