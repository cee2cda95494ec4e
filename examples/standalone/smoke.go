package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// smokeTime bounds the whole of --smoke.
	smokeTime = 30 * time.Second
	// chatTime is how long messages flow before, between and after the faults.
	chatTime = 700 * time.Millisecond
)

// report is the last line of --smoke.
type report struct {
	Nodes      int   `json:"nodes"`
	Sent       int   `json:"sent"`      // sends begun
	Acked      int   `json:"acked"`     // sends that returned a receipt
	Delivered  int   `json:"delivered"` // messages that came to the subscriber
	Lost       int   `json:"lost"`      // acknowledged, and missing at the subscriber or in a node's history
	Duplicated int   `json:"duplicated"`
	FailoverMS int64 `json:"failover_ms"` // the longest, from a kill to the next acknowledgement of a new send
	ReadyMS    int64 `json:"ready_ms"`    // from the start of the processes until all could serve
	// Error is why it has failed, empty when all is well. What it had not come to yet is 0 then.
	Error string `json:"error,omitempty"`
}

// smoke runs three nodes, kills the leader under load once, and checks what arrived.
func smoke(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, smokeTime)
	defer cancel()
	r, err := torment(ctx, out, firstPort, 1)
	if err != nil {
		r.Error = advise(err).Error()
	}
	line, _ := json.Marshal(r) // cannot fail
	_, _ = fmt.Fprintf(out, "%s\n", line)
	return err
}

// torment kills the leader under load and starts it again, some times over; port is the first that
// the nodes try. The error says what is lost, doubled or out of order.
func torment(ctx context.Context, out io.Writer, port, kills int) (r report, err error) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	r.Nodes = nodes
	begin := time.Now()
	p, err := startProcesses(ctx, port, nodes, "")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	r.ReadyMS = time.Since(begin).Milliseconds()
	say("three nodes are ready after %d ms", r.ReadyMS)
	t, err := startTraffic(ctx, p.addrs())
	if err != nil {
		return r, err
	}
	defer t.close()
	for range kills {
		if err := pause(ctx, chatTime); err != nil {
			return r, err
		}
		leader, err := p.leader(ctx)
		if err != nil {
			return r, err
		}
		killed := time.Now()
		leader.kill()
		took, err := t.acknowledged(ctx, killed)
		if err != nil {
			return r, fmt.Errorf("after the death of %s: %w", leader.id, err)
		}
		r.FailoverMS = max(r.FailoverMS, took.Milliseconds())
		say("%s, the leader, was killed; chat went on after %d ms", leader.id, took.Milliseconds())
		if err := pause(ctx, chatTime); err != nil {
			return r, err
		}
		if err := errors.Join(leader.start(), leader.ready(ctx)); err != nil {
			return r, err
		}
		say("%s is back", leader.id)
	}
	if err := pause(ctx, chatTime); err != nil {
		return r, err
	}
	t.stop()
	views, err := t.views(ctx, p)
	if err != nil {
		return r, err
	}
	r.Sent, r.Acked, r.Delivered = t.sent(), len(t.receipts()), len(views["subscriber"])
	v := verify(t.receipts(), views)
	r.Lost, r.Duplicated = v.lost, v.duplicated
	say("%d messages were sent, %d acknowledged; %d came to the subscriber", r.Sent, r.Acked, r.Delivered)
	return r, v.err()
}
