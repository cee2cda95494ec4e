package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

// statusTime is how long a node may take to say how it is.
const statusTime = 2 * time.Second

// answered is what a node has said of itself, or why it has not.
type answered struct {
	Address string `json:"address"`
	Node    string `json:"node,omitempty"`
	Role    string `json:"role"`
	Leader  string `json:"leader,omitempty"`
	Term    uint64 `json:"term"`
	Applied uint64 `json:"applied"`
	Ready   bool   `json:"ready"`
	Detail  string `json:"detail,omitempty"`
}

// status asks all nodes at once; the error says that some are not ready.
func status(ctx context.Context, t *toolFlags, out io.Writer) error {
	if err := t.need("servers"); err != nil {
		return err
	}
	addrs := strings.Split(t.servers, ",")
	nodes := make([]answered, len(addrs))
	var work sync.WaitGroup
	for i, addr := range addrs {
		work.Go(func() { nodes[i] = ask(ctx, addr) })
	}
	work.Wait()
	ready := 0
	if !t.json {
		_, _ = fmt.Fprintf(out, "%-22s %-10s %-12s %6s %10s  %s\n", "address", "node", "role", "term", "applied", "")
	}
	for _, n := range nodes {
		if n.Ready {
			ready++
		}
		if t.json {
			line, _ := json.Marshal(n) // cannot fail
			_, _ = fmt.Fprintf(out, "%s\n", line)
			continue
		}
		line := fmt.Sprintf("%-22s %-10s %-12s %6d %10d  %s", n.Address, n.Node, n.Role, n.Term, n.Applied, n.Detail)
		_, _ = fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
	if ready < len(nodes) {
		return fmt.Errorf("%d of %d nodes are ready", ready, len(nodes))
	}
	return nil
}

// ask asks one node alone.
func ask(ctx context.Context, addr string) answered {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	a := answered{Address: addr, Role: "silent"}
	c, err := client.Dial(ctx, []string{addr}, client.WithoutDiscovery())
	if err != nil {
		a.Detail = "does not answer"
		if !errors.Is(err, context.DeadlineExceeded) {
			a.Detail = err.Error()
		}
		return a
	}
	defer func() { _ = c.Close() }() // it has nothing to lose
	s, err := c.Status(ctx)
	if err != nil {
		a.Detail = err.Error()
		return a
	}
	a = answered{addr, s.NodeID, s.Role, s.Leader, s.Term, s.Applied, s.Ready, s.Detail}
	if !s.Ready && s.Detail == "" {
		a.Detail = "not ready yet"
	}
	return a
}
