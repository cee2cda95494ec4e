package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// live is how many senders go on while something is done to the nodes.
	live = 64
	// restarts is how often one node is restarted, each way.
	restarts = 3
	// sequential is how much is written to measure the disk.
	sequential = 512 << 20
)

// prefer has all users ask the leader first, from which they may have been driven.
func (h *history) prefer(ctx context.Context, c *cluster) (leader int, term uint64, err error) {
	leader, term, err = c.leader(ctx)
	for _, u := range h.users {
		if err == nil {
			err = u.Prefer(c.addrs[leader])
		}
	}
	return leader, term, err
}

// sending are senders that go on until they are stopped.
type sending struct {
	mu   sync.Mutex
	took []time.Duration // by each send since measure was called last
	stop func()
}

func (h *history) live(ctx context.Context, p params) *sending {
	ctx, cancel := context.WithCancel(ctx)
	s := &sending{}
	var work sync.WaitGroup
	h.beat.reset()
	for i := range live {
		work.Go(func() {
			for k := i; ctx.Err() == nil; k += live {
				begun := time.Now()
				if h.one(ctx, p, k) == nil {
					s.mu.Lock()
					s.took = append(s.took, time.Since(begun))
					s.mu.Unlock()
				}
			}
		})
	}
	s.stop = func() {
		cancel()
		work.Wait()
	}
	return s
}

// measure tells of the sends while f runs.
func (s *sending) measure(f func() error) (result, error) {
	take := func() (took []time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		took, s.took = s.took, nil
		return took
	}
	take()
	start := time.Now()
	err := f()
	return summarise(take(), time.Since(start)), err
}

// snapshots has each node make one: a follower first while nothing is sent, which shows what it writes; then all, the
// leader too, while messages are sent, which shows what it holds up.
func (h *history) snapshots(ctx context.Context, c *cluster, p params, r *result) error {
	c.say("load: snapshots")
	leader, _, err := h.prefer(ctx, c)
	if err != nil {
		return err
	}
	s := h.live(ctx, p) // so that there is something new
	err = pause(ctx, p.For/2)
	s.stop()
	if err != nil {
		return err
	}
	e, err := c.procs[(leader+1)%len(c.procs)].snapshot(ctx)
	if err != nil {
		return err
	}
	r.Extra["snapshot_mib"], r.Extra["snapshot_own_mib"], r.Extra["snapshot_written_mib"] = float64(e.Size)/mib, float64(e.Own)/mib, float64(e.Written)/mib
	s = h.live(ctx, p)
	defer s.stop()
	var made []event
	for i := range c.procs {
		if err := pause(ctx, p.For/2); err != nil {
			return err
		}
		e, err := c.procs[(leader+i)%len(c.procs)].snapshot(ctx)
		if err != nil {
			return err
		}
		made = append(made, e)
		r.Extra["snapshot_ms"] = max(r.Extra["snapshot_ms"], ms(e.To.Sub(e.From)))
	}
	if err := pause(ctx, p.For/2); err != nil {
		return err
	}
	during, others := h.beat.longest(made)
	r.Extra["snapshot_stall_ms"], r.Extra["no_snapshot_stall_ms"] = ms(during), ms(others)
	return nil
}

// restarts ends nodes and starts them again: all at once by kill -9, then a follower in both ways.
func (h *history) restarts(ctx context.Context, c *cluster, p params, r *result) error {
	c.say("load: restarts")
	for _, p := range c.procs {
		p.kill()
	}
	start := time.Now()
	for _, p := range c.procs {
		if err := p.start(); err != nil {
			return err
		}
	}
	if err := h.one(ctx, p, 0); err != nil {
		return err
	}
	r.Extra["restart_to_write_ms"] = ms(time.Since(start))
	if err := c.ready(ctx); err != nil {
		return err
	}
	r.Extra["restart_all_kill_ms"] = ms(time.Since(start))
	for range restarts {
		leader, _, err := h.prefer(ctx, c)
		if err != nil {
			return err
		}
		one := c.procs[(leader+1)%len(c.procs)]
		for _, way := range []struct {
			name string
			end  func() error
		}{
			{"restart_kill_ms", func() error { one.kill(); return nil }}, {"restart_clean_ms", one.stop},
		} {
			s := h.live(ctx, p) // so that there is something to replay
			err := pause(ctx, p.For/2)
			s.stop()
			if err = errors.Join(err, way.end()); err != nil {
				return err
			}
			start := time.Now()
			if err := errors.Join(one.start(), one.wait(ctx)); err != nil {
				return err
			}
			r.Extra[way.name] = max(r.Extra[way.name], ms(time.Since(start)))
		}
	}
	return nil
}

// catchUp takes a follower's data away, and has it come back while messages are sent.
func (h *history) catchUp(ctx context.Context, c *cluster, p params, r *result) error {
	if len(c.procs) == 1 {
		return nil // from whom should it have it?
	}
	c.say("load: an empty follower")
	leader, term, err := h.prefer(ctx, c)
	if err != nil {
		return err
	}
	one := c.procs[(leader+1)%len(c.procs)]
	state, _, _ := disk(one.dir)
	r.Extra["sequential_mib_per_s"], err = writeSpeed(c.dir, min(sequential, int(state+1)<<20))
	if err != nil {
		return err
	}
	s := h.live(ctx, p)
	defer s.stop()
	wait := func() error { return pause(ctx, p.For) }
	before, err := s.measure(wait)
	if err != nil {
		return err
	}
	if err := errors.Join(one.stop(), os.RemoveAll(one.dir)); err != nil {
		return err
	}
	without, err := s.measure(wait)
	if err != nil {
		return err
	}
	start := time.Now()
	beside, err := s.measure(func() error { return errors.Join(one.start(), one.wait(ctx)) })
	if err != nil {
		return err
	}
	took := time.Since(start)
	for name, live := range map[string]result{"live": before, "live_without": without, "live_catchup": beside} {
		r.Extra[name+"_ops_per_s"], r.Extra[name+"_p99_us"] = live.Ops, live.P99
	}
	_, after, err := c.leader(ctx)
	r.Extra["catchup_ms"], r.Extra["catchup_mib_per_s"] = ms(took), state/took.Seconds()
	r.Extra["catchup_terms"] = float64(after - term)
	return errors.Join(err, h.voters(ctx, len(c.procs)))
}

// voters waits until so many nodes vote: one that came back empty does not at once, and until then the cluster can
// spare no other.
func (h *history) voters(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		s, err := h.users[0].Status(ctx)
		n := 0
		for _, v := range s.Servers {
			if v.Voter {
				n++
			}
		}
		if n == want {
			return err
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("%d of %d nodes vote: %w", n, want, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// writeSpeed is at how many MiB a second a file is written and synced.
func writeSpeed(dir string, size int) (float64, error) {
	name := filepath.Join(dir, "sequential")
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * i >> 4)
	}
	for n := 0; n < size && err == nil; n += len(block) {
		_, err = f.Write(block)
	}
	err = errors.Join(err, f.Sync(), f.Close(), os.Remove(name))
	return float64(size) / mib / time.Since(start).Seconds(), err
}
