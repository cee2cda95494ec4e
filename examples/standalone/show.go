package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// restartAfter is how long a node that was killed stays down.
const restartAfter = 3 * time.Second

// show runs three nodes and tells what becomes of them, until q is typed or ctx ends.
func show(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	say("starting three nodes ...")
	p, err := startProcesses(ctx, firstPort)
	if err != nil {
		return err
	}
	if p.nodes[0].addr != fmt.Sprintf("127.0.0.1:%d", firstPort) {
		say("ports %d to %d are in use, so the nodes have others", firstPort, firstPort+nodes-1)
	}
	leader, err := p.leader(ctx)
	if err != nil {
		_ = p.close() // err says more
		return err
	}
	for _, n := range p.nodes {
		say("  %s  %s  pid %d", n.id, n.addr, n.pid())
	}
	say("%s leads. Data and logs are in %s, until the end.", leader.id, p.dir)
	say("Chat in other terminals:\n  go run ./examples/cli --servers %s", strings.Join(p.addrs(), ","))
	say("k and Enter kills the leader (as does kill -9 with its pid), q and Enter ends all.")
	keys := make(chan string)
	go func() { // ends with standard input, or with the program
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			select {
			case keys <- strings.TrimSpace(lines.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	watch(ctx, p, leader, keys, say)
	say("ending")
	return p.close()
}

// watch tells who leads and starts again what has ended, until q is typed or ctx ends.
func watch(ctx context.Context, p *processes, leader *process, keys <-chan string, say func(string, ...any)) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	down := map[*process]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-keys:
			switch k {
			case "q":
				return
			case "k":
				say("killing %s", leader.id)
				leader.kill()
			case "":
			default:
				say("%q is no command: k kills the leader, q ends all", k)
			}
		case <-tick.C:
		}
		for _, n := range p.nodes {
			revive(n, down, say)
		}
		if now := p.leads(ctx); now != nil && now != leader {
			leader = now
			say("%s leads", leader.id)
		}
	}
}

// revive starts a node that has ended some time ago.
func revive(n *process, down map[*process]time.Time, say func(string, ...any)) {
	if n.alive() {
		return
	}
	switch since, ok := down[n]; {
	case !ok:
		say("%s has ended; it is started again in %v", n.id, restartAfter)
		down[n] = time.Now()
	case time.Since(since) > restartAfter:
		delete(down, n)
		if err := n.start(); err != nil {
			say("%s does not start: %v", n.id, err)
			return
		}
		say("%s is back, pid %d", n.id, n.pid())
	}
}
