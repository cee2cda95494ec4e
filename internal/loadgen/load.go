package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/chat/rpc/client"
)

const (
	// parts is into how many the filling is cut, to compare the first with the last.
	parts = 10
	// pages is how many pages of history are read, and pageSize how many messages one has.
	pages, pageSize = 2000, 50
)

// history is what load has sent.
type history struct {
	users []*user
	sent  int
	beat  beat
}

// load fills p.Rooms rooms up to p.N messages in all, as fast as it goes, and measures what that has made of the nodes.
func load(ctx context.Context, c *cluster, p params) (r result, err error) {
	h := c.filled
	if h.users == nil {
		if h.users, err = c.users(ctx, p); err != nil {
			return result{}, err
		}
	}
	if r, err = h.fill(ctx, p); err != nil {
		return r, err
	}
	if err := pause(ctx, p.For); err != nil { // what is under way in the background
		return r, err
	}
	c.sizes(&r)
	if p.heap != "" {
		leader, _, err := c.leader(ctx)
		if err = errors.Join(err, c.procs[leader].heap(ctx, p.heap)); err != nil {
			return r, err
		}
	}
	for _, step := range []func(context.Context, *cluster, params, *result) error{
		h.read, h.snapshots, h.restarts, h.catchUp,
	} {
		if err := step(ctx, c, p, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// sizes are what the nodes take, each time that of the one that takes most.
func (c *cluster) sizes(r *result) {
	for _, p := range c.procs {
		state, log, snapshots := disk(p.dir)
		most := func(name string, v float64) { r.Extra[name] = max(r.Extra[name], v) }
		most("rss_mib_node", rss(p.cmd.Process.Pid))
		most("disk_mib_node", state+log+snapshots)
		most("disk_state_mib", state)
		most("disk_log_mib", log)
		most("disk_snapshots_mib", snapshots)
	}
}

// fill sends what is missing, and compares the first part of that with the last one.
func (h *history) fill(ctx context.Context, p params) (result, error) {
	c := p.cluster
	before, start := c.used(), time.Now()
	h.beat.reset()
	var all []time.Duration
	var failed int64
	speed := map[string]float64{}
	for from := h.sent; h.sent < p.N; {
		to := min(p.N, h.sent+max((p.N-from+parts-1)/parts, 1))
		begun := time.Now()
		took, errs, err := h.send(ctx, p, to)
		if err != nil {
			return result{}, err
		}
		r := summarise(took, time.Since(begun))
		if len(all) == 0 {
			speed["first_ops_per_s"], speed["first_p99_us"] = r.Ops, r.P99
		}
		speed["last_ops_per_s"], speed["last_p99_us"] = r.Ops, r.P99
		all, failed = append(all, took...), failed+errs
	}
	in := time.Since(start)
	r := summarise(all, in)
	r.Errors = failed
	c.since(before, &r, in)
	for k, v := range speed {
		r.Extra[k] = v
	}
	if r.N > 0 {
		r.Extra["cpu_us_per_op"] = r.Extra["cpu_cores"] / r.Ops * 1e6
	}
	var made []event
	for _, p := range c.procs {
		made = append(made, p.said(snapshotEvent)...)
	}
	made = slices.DeleteFunc(made, func(e event) bool { return e.To.Before(start) })
	r.Extra["fill_snapshots"] = float64(len(made))
	for _, e := range made {
		r.Extra["fill_snapshot_ms"] = max(r.Extra["fill_snapshot_ms"], ms(e.To.Sub(e.From)))
	}
	during, others := h.beat.longest(made)
	r.Extra["fill_stall_snapshot_ms"], r.Extra["fill_stall_else_ms"] = ms(during), ms(others)
	return r, nil
}

// send sends messages until there are as many as upTo, to one room after the other.
func (h *history) send(ctx context.Context, p params, upTo int) (took []time.Duration, failed int64, err error) {
	var next, errs atomic.Int64
	next.Store(int64(h.sent))
	all := make([][]time.Duration, p.Conc)
	var work sync.WaitGroup
	for i := range p.Conc {
		work.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= upTo {
					return
				}
				start := time.Now()
				for h.one(ctx, p, k) != nil && ctx.Err() == nil {
					errs.Add(1)
				}
				all[i] = append(all[i], time.Since(start))
			}
		})
	}
	stop := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() {
		for begun, from := time.Now(), h.sent; ; {
			now := min(int(next.Load()), upTo)
			p.cluster.say("load: %d of %d messages, %.0f/s", now, p.N, float64(now-from)/time.Since(begun).Seconds())
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
		}
	})
	work.Wait()
	close(stop)
	shown.Wait()
	h.sent = upTo
	return slices.Concat(all...), errs.Load(), ctx.Err()
}

// one sends the k-th message.
func (h *history) one(ctx context.Context, p params, k int) error {
	k %= p.Rooms
	u := h.users[k%len(h.users)]
	_, err := u.Send(ctx, client.ToRoom(u.rooms[k/len(h.users)]), client.Draft{Text: stamped(p.Size)})
	if err == nil {
		h.beat.tick()
	}
	return err
}

// read reads pages of history anywhere in the rooms, one at a time.
func (h *history) read(ctx context.Context, c *cluster, p params, r *result) error {
	c.say("load: pages of history")
	rng := rand.New(rand.NewPCG(1, 1))
	var took []time.Duration
	n := min(pages, p.N)
	for i := range n + n/4 {
		k := rng.IntN(p.Rooms)
		u := h.users[k%len(h.users)]
		last := p.N / p.Rooms
		q := client.Query{Before: uint64(1 + pageSize + rng.IntN(max(last-pageSize, 1))), Limit: pageSize}
		start, got := time.Now(), 0
		for _, err := range u.History(ctx, client.ToRoom(u.rooms[k/len(h.users)]), q) {
			if err != nil {
				return err
			}
			got++
		}
		if want := min(pageSize, last); got < want {
			return fmt.Errorf("a page before message %d of %d has %d messages, want %d", q.Before, last, got, want)
		}
		if i >= n/4 { // else it was to warm up
			took = append(took, time.Since(start))
		}
	}
	s := summarise(took, time.Second)
	r.Extra["page_p50_us"], r.Extra["page_p99_us"] = s.P50, s.P99
	return nil
}

// beat notes when receipts came, as far as no other came for a while before.
type beat struct {
	last atomic.Int64

	mu   sync.Mutex // guards gaps
	gaps []gap
}

type gap struct{ from, to time.Time }

// noticed is the shortest gap that is kept.
const noticed = 5 * time.Millisecond

func (b *beat) tick() {
	now := time.Now()
	last := b.last.Swap(now.UnixNano())
	if from := time.Unix(0, last); last > 0 && now.Sub(from) > noticed {
		b.mu.Lock()
		b.gaps = append(b.gaps, gap{from, now})
		b.mu.Unlock()
	}
}

// reset forgets all, before sends begin again.
func (b *beat) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last.Store(0)
	b.gaps = nil
}

// longest are the longest gap that touches a snapshot being made, and the longest of the others.
func (b *beat) longest(made []event) (during, others time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.gaps {
		touches := slices.ContainsFunc(made, func(e event) bool { return g.from.Before(e.To) && g.to.After(e.From) })
		if touches {
			during = max(during, g.to.Sub(g.from))
		} else {
			others = max(others, g.to.Sub(g.from))
		}
	}
	return during, others
}
