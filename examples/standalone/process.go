package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/chat/rpc/client"
)

const (
	// nodes is how many a cluster of processes has, and maxNodes how many it may have.
	nodes, maxNodes = 3, 7
	// firstPort is where they listen, when nobody else does: 8001 and up.
	firstPort = 8001
	// formTime is how long they may take to be ready.
	formTime = time.Minute
	// endTime is how long one may take to end when it is told to.
	endTime = 15 * time.Second
)

// processes is a cluster of processes of this program.
type processes struct {
	dir    string // data, logs and configuration
	keep   bool   // else close removes them
	secret string
	config string
	nodes  []*process
}

// process is one node, running or not.
type process struct {
	of         *processes
	id, addr   string
	data, logs string
	join       string // the nodes that it joins; empty for one that formed the cluster

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd  // nil before start
	stdin  io.Closer  // the process ends with it
	ended  chan struct{}
	client *client.Client // asks this node alone; nil before the first status
}

// startProcesses starts n nodes and waits until all can serve. port is the first to try. Without a dir they
// have a temporary one; in a dir that has nodes of an earlier time, these go on.
func startProcesses(ctx context.Context, port, n int, dir string) (p *processes, err error) {
	keep := dir != ""
	if keep {
		if dir, err = filepath.Abs(dir); err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
	} else {
		dir, err = os.MkdirTemp("", "chat-")
	}
	if err != nil {
		return nil, err
	}
	p = &processes{dir: dir, keep: keep, secret: rand.Text() + rand.Text(), config: filepath.Join(dir, "config.json")}
	for ; n < maxNodes; n++ {
		if _, err := os.Stat(filepath.Join(dir, nodeID(n+1))); err != nil {
			break
		}
	}
	if err := p.start(ctx, port, n); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func nodeID(i int) string { return "server" + strconv.Itoa(i) }

func (p *processes) newProcess(id string, port int) *process {
	return &process{
		of: p, id: id, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		data: filepath.Join(p.dir, id), logs: filepath.Join(p.dir, id+".log"),
	}
}

func (p *processes) start(ctx context.Context, port, n int) error {
	ports, err := freePorts(port, n)
	if err != nil {
		return err
	}
	servers := map[string]string{}
	for i, port := range ports {
		n := p.newProcess(nodeID(i+1), port)
		servers[n.id] = n.addr
		p.nodes = append(p.nodes, n)
	}
	text, err := json.Marshal(map[string]any{"servers": servers})
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.config, text, 0o600); err != nil {
		return err
	}
	for _, n := range p.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, formTime)
	defer cancel()
	for _, n := range p.nodes {
		if err := n.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// freePorts finds neighbouring ports on which nobody listens. It stays below those that the system
// gives to connections, so that nobody gets one by chance while a node is down.
func freePorts(first, n int) ([]int, error) {
next:
	for ; first+n < 32768; first += 10 {
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

// add starts one more node, which joins the others. It does not wait for that.
func (p *processes) add() (*process, error) {
	if len(p.nodes) == maxNodes {
		return nil, fmt.Errorf("%d nodes are enough", maxNodes)
	}
	ports, err := freePorts(firstPort+len(p.nodes), 1)
	if err != nil {
		return nil, err
	}
	n := p.newProcess(nodeID(len(p.nodes)+1), ports[0])
	n.join = strings.Join(p.addrs(), ",")
	if err := n.start(); err != nil {
		return nil, err
	}
	p.nodes = append(p.nodes, n)
	return n, nil
}

// close ends all nodes and removes their data, unless it is to be kept.
func (p *processes) close() error {
	var wait sync.WaitGroup
	for _, n := range p.nodes {
		wait.Go(n.stop)
	}
	wait.Wait()
	if p.keep {
		return nil
	}
	return os.RemoveAll(p.dir)
}

func (p *processes) addrs() (addrs []string) {
	for _, n := range p.nodes {
		addrs = append(addrs, n.addr)
	}
	return addrs
}

// node is nil when no node has the id.
func (p *processes) node(id string) *process {
	for _, n := range p.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// leader waits for a node that leads.
func (p *processes) leader(ctx context.Context) (*process, error) {
	for {
		if n := p.leads(ctx); n != nil {
			return n, nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("no node leads: %w", err)
		}
	}
}

// leads is the node that says it leads, in the newest term; nil when there is none at the moment.
func (p *processes) leads(ctx context.Context) (leader *process) {
	var newest uint64
	for _, n := range p.nodes {
		if !n.alive() {
			continue
		}
		if s, err := n.status(ctx); err == nil && s.Role == "leader" && s.Term > newest {
			leader, newest = n, s.Term
		}
	}
	return leader
}

// start starts the process; it may have run before.
func (n *process) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(self, "--id", n.id, "--data-dir", n.data, "--stop-with-stdin")
	if n.join == "" {
		cmd.Args = append(cmd.Args, "--config-file", n.of.config)
	} else {
		host, port, _ := net.SplitHostPort(n.addr) // newProcess made it
		cmd.Args = append(cmd.Args, "--host", host, "--port", port, "--join", n.join)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program, which ends them in good order
	cmd.Env = append(os.Environ(), "CHAT_CLUSTER_SECRET="+n.of.secret)
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd, n.stdin, n.ended = cmd, stdin, ended
	n.forget()
	return nil
}

// running is the process and what is closed when it has ended; nil before start.
func (n *process) running() (*exec.Cmd, io.Closer, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd, n.stdin, n.ended
}

// alive reports whether the process was started and has not ended.
func (n *process) alive() bool {
	_, _, ended := n.running()
	select {
	case <-ended:
		return false
	default:
		return ended != nil
	}
}

func (n *process) pid() int {
	cmd, _, _ := n.running()
	return cmd.Process.Pid
}

// kill ends the process as kill -9 does, and waits until it is gone.
func (n *process) kill() {
	cmd, _, ended := n.running()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // fails when it has ended already
	<-ended
}

// freeze stops the process in its tracks, as SIGSTOP does, and thaw lets it go on.
func (n *process) freeze() error { return n.signal(syscall.SIGSTOP) }
func (n *process) thaw() error   { return n.signal(syscall.SIGCONT) }

func (n *process) signal(s os.Signal) error {
	cmd, _, _ := n.running()
	return cmd.Process.Signal(s)
}

// stop tells the process to end, and kills it when it does not.
func (n *process) stop() {
	cmd, stdin, ended := n.running()
	if cmd == nil {
		return
	}
	n.mu.Lock()
	n.forget()
	n.mu.Unlock()
	_ = n.thaw()      // one that is frozen could not end; fails when it has ended
	_ = stdin.Close() // fails when the process has ended already
	select {
	case <-ended:
	case <-time.After(endTime):
		n.kill()
	}
}

// ready waits until the node can serve.
func (n *process) ready(ctx context.Context) error {
	for {
		s, err := n.status(ctx)
		if err == nil && s.Ready {
			return nil
		}
		if !n.alive() {
			return fmt.Errorf("%s has ended: %s", n.id, n.lastWords())
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%s is not ready: %s: %w", n.id, s.Detail, err)
		}
	}
}

// status asks the node alone.
func (n *process) status(ctx context.Context) (client.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n.mu.Lock()
	c := n.client
	n.mu.Unlock()
	if c != nil {
		return c.Status(ctx)
	}
	c, err := client.Dial(ctx, []string{n.addr}, client.WithoutDiscovery())
	if err != nil {
		return client.ClusterStatus{}, err
	}
	n.mu.Lock()
	n.client, c = c, n.client
	now := n.client
	n.mu.Unlock()
	if c != nil {
		_ = c.Close() // somebody was quicker
	}
	return now.Status(ctx)
}

// forget closes the client: that of a process that is gone would take its time to find the new one. mu is held.
func (n *process) forget() {
	if n.client != nil {
		_ = n.client.Close() // it was asked for its status only
		n.client = nil
	}
}

// lastWords is the end of the node's log.
func (n *process) lastWords() string {
	text, err := os.ReadFile(n.logs)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// pause waits a little; its error is that of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
