package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// readyTime is how long a node may take until it can serve.
	readyTime = 10 * time.Minute
	// endTime is how long a process may take to end.
	endTime = 30 * time.Second
)

// process is a node in a process of its own: this program, run with nodeCommand. It ends in good order when
// its standard input does, so no process is left behind when this one dies.
type process struct {
	args []string
	dir  string

	cmd   *exec.Cmd
	stdin io.WriteCloser
	ready chan struct{} // closed when the node can serve
	ended chan struct{} // closed when the process has ended

	mu     sync.Mutex // guards what follows
	events []event
}

// startProcesses returns when all nodes can serve.
func (c *cluster) startProcesses(ctx context.Context, n int) error {
	ports, err := freePorts(n)
	if err != nil {
		return err
	}
	for _, port := range ports {
		c.addrs = append(c.addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	for i := range n {
		dir := filepath.Join(c.dir, nodeID(i))
		p := &process{dir: dir, args: []string{
			nodeCommand, "-i", strconv.Itoa(i), "-addrs", strings.Join(c.addrs, ","), "-dir", dir, "-accounts", c.accounts,
		}}
		if err := p.start(); err != nil {
			return err
		}
		c.procs = append(c.procs, p)
	}
	return c.ready(ctx)
}

// ready waits until all processes can serve.
func (c *cluster) ready(ctx context.Context) error {
	for _, p := range c.procs {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// freePorts finds neighbouring ports on which nobody listens, below those that the system gives to
// connections: nobody gets one by chance while a node is down.
func freePorts(n int) ([]int, error) {
next:
	for range 1000 {
		first := 10_000 + rand.IntN(20_000)
		var ports []int
		for port := first; port < first+n; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				continue next
			}
			if err := l.Close(); err != nil {
				return nil, err
			}
			ports = append(ports, port)
		}
		return ports, nil
	}
	return nil, errors.New("no free ports on 127.0.0.1")
}

// start starts the process; it may have run before.
func (p *process) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, p.args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	ignoreInterrupt(cmd) // it is for this program, which ends the nodes
	if err := cmd.Start(); err != nil {
		return err
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the process
		p.listen(stdout, ready)
		_ = cmd.Wait() // who waits for ready hears of it
		close(ended)
	}()
	p.cmd, p.stdin, p.ready, p.ended = cmd, stdin, ready, ended
	return nil
}

// listen notes what the process says.
func (p *process) listen(r io.Reader, ready chan struct{}) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if e.Kind == readyEvent {
			close(ready)
		}
		p.mu.Lock()
		p.events = append(p.events, e)
		p.mu.Unlock()
	}
}

// wait waits until the node can serve.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		return fmt.Errorf("the node in %s has ended", p.dir)
	case <-time.After(readyTime):
		return fmt.Errorf("the node in %s was not ready after %v", p.dir, readyTime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// alive reports whether the process has not ended.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process as kill -9 does, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails when it has ended already
	<-p.ended
}

// stop has the process end in good order.
func (p *process) stop() error {
	_ = p.stdin.Close() // fails when the process has ended already
	select {
	case <-p.ended:
		return nil
	case <-time.After(endTime):
		p.kill()
		return fmt.Errorf("the node in %s did not end within %v", p.dir, endTime)
	}
}

// snapshot has the node make a snapshot, and waits for it.
func (p *process) snapshot(ctx context.Context) (event, error) { return p.ask(ctx, "", snapshotEvent) }

// heap has the node write a heap profile.
func (p *process) heap(ctx context.Context, name string) error {
	_, err := p.ask(ctx, name, heapEvent)
	return err
}

// ask writes a line to the node, and waits for an event.
func (p *process) ask(ctx context.Context, line, kind string) (event, error) {
	before := len(p.said(kind))
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		return event{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if all := p.said(kind); len(all) > before {
			return all[len(all)-1], nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return event{}, fmt.Errorf("no %s of the node in %s: %w", kind, p.dir, err)
		}
	}
}

// said are the events of a kind.
func (p *process) said(kind string) (of []event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == kind {
			of = append(of, e)
		}
	}
	return of
}
