package main

import (
	"context"
	"errors"
	"time"

	"example.com/chat/rpc/client"
)

const (
	// quiet is how many messages go between two rounds of failover.
	quiet = 50
	// outageTime is how long an outage may take.
	outageTime = time.Minute
)

// failover kills the leader's process p.N times, and measures how long a client that sends waits for its receipt. The
// node comes back before the next time.
func failover(ctx context.Context, c *cluster, p params) (r result, err error) {
	users, err := c.users(ctx, p)
	defer func() { err = errors.Join(err, closeAll(users)) }()
	if err != nil {
		return result{}, err
	}
	send := func() error {
		ctx, cancel := context.WithTimeout(ctx, outageTime)
		defer cancel()
		_, err := users[0].Send(ctx, client.ToRoom(users[0].rooms[0]), client.Draft{Text: stamped(p.Size)})
		return err
	}
	var took []time.Duration
	for round := range p.N {
		c.say("failover: round %d of %d", round+1, p.N)
		leader, _, err := c.leader(ctx)
		if err != nil {
			return result{}, err
		}
		if p.At == "leader" { // of the round before it may be another one
			err = users[0].Prefer(c.addrs[leader])
		}
		for range quiet {
			err = errors.Join(err, send())
		}
		if err != nil {
			return result{}, err
		}
		start := time.Now()
		_ = c.procs[leader].cmd.Process.Kill() // it lives: it leads
		if err := send(); err != nil {
			return result{}, err
		}
		took = append(took, time.Since(start))
		<-c.procs[leader].ended
		if err := errors.Join(c.procs[leader].start(), c.procs[leader].wait(ctx)); err != nil {
			return result{}, err
		}
	}
	r = summarise(took, time.Second)
	r.Ops = 0
	r.Extra["min_ms"], r.Extra["median_ms"], r.Extra["max_ms"] = ms(took[0]), ms(took[len(took)/2]), ms(took[len(took)-1])
	return r, nil
}

// ms is a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
