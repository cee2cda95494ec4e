package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

const (
	// backAfter is how long a node that was killed stays down, and one that was paused frozen.
	backAfter = 4 * time.Second
	// lookEvery is how often nodes are asked how they are.
	lookEvery = 200 * time.Millisecond
	// keptEvents is how many things the screen remembers.
	keptEvents = 100
)

// demo is a cluster on this machine, with what happens to it and what it answers.
type demo struct {
	p       *processes
	v       *verifier
	tell    func(event, counts) // of each event, at once
	client  string              // what to type in another terminal
	began   time.Time
	ready   time.Duration
	running bool
	work    sync.WaitGroup
	events  []event
	leader  *process
	faults  int
	fault   time.Time // the newest one
	felt    bool      // the newest fault, by nobody any more
	down    map[*process]time.Time
	frozen  map[*process]time.Time
	joining map[*process]time.Time // started and not ready

	mu   sync.Mutex // guards seen
	seen map[*process]sight
}

// sight is what a node last said of itself.
type sight struct {
	client.ClusterStatus
	ok bool
}

// event is something that happened.
type event struct {
	at         time.Time
	kind, node string
	text       string
	bad        bool
	outage     time.Duration // of a kind that ends one
}

// show runs the demo until q is pressed or ctx ends.
func show(ctx context.Context, f flags, in io.Reader, out io.Writer) (err error) {
	d := &demo{
		client: calledAs(os.Args[0]) + " client",
		began:  time.Now(), felt: true, seen: map[*process]sight{},
		down: map[*process]time.Time{}, frozen: map[*process]time.Time{}, joining: map[*process]time.Time{},
	}
	paint, keys, restore, err := open(ctx, d, f, in, out)
	if err != nil {
		return err
	}
	defer restore()
	if d.p, err = startProcesses(ctx, firstPort, f.nodes, f.dataDir); err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, d.p.close()) }()
	if d.v, err = startVerifier(ctx, d.p.addrs()); err != nil {
		return interrupted(ctx, err)
	}
	defer d.v.close()
	b, err := startBot(ctx, d.p.addrs())
	if err != nil {
		return interrupted(ctx, err)
	}
	defer b.close()
	if d.leader, err = d.p.leader(ctx); err != nil {
		return interrupted(ctx, err)
	}
	looking, cancel := context.WithCancel(ctx)
	defer d.work.Wait()
	defer cancel()
	for _, n := range d.p.nodes {
		d.glance(looking, n)
		d.work.Go(func() { d.look(looking, n) })
	}
	d.ready = time.Since(d.began)
	d.welcome()
	d.running = true
	d.run(looking, keys, paint)
	return d.farewell()
}

// calledAs is what to type to call this program again.
func calledAs(arg string) string {
	if !strings.Contains(filepath.ToSlash(arg), "/go-build") {
		return arg
	}
	// The file is go run's own, and gone when it has ended.
	if _, err := os.Stat("examples/standalone"); err == nil {
		return "go run ./examples/standalone"
	}
	return "go run example.com/chat/examples/standalone@latest"
}

// interrupted is no error when the user has ended the program.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// say notes an event and tells of it.
func (d *demo) say(e event, format string, args ...any) {
	e.at, e.text = time.Now(), fmt.Sprintf(format, args...)
	if d.running { // what was said before stands on the screen anyway
		d.events = append(d.events[max(len(d.events)-keptEvents, 0):], e)
	}
	var c counts
	if d.v != nil {
		c = d.v.counted()
	}
	d.tell(e, c)
}

func (d *demo) welcome() {
	d.say(event{kind: "ready"}, "%d nodes are ready after %.1f s", len(d.p.nodes), d.ready.Seconds())
	for _, n := range d.p.nodes {
		d.say(event{kind: "node", node: n.id}, "%s  %s  pid %d", n.id, n.addr, n.pid())
	}
	if d.p.nodes[0].addr != fmt.Sprintf("127.0.0.1:%d", firstPort) {
		d.say(event{kind: "ports"}, "port %d and its neighbours are in use, so the nodes have others", firstPort)
	}
	keeps := "until the end"
	if d.p.keep {
		keeps = "and stay there"
	}
	d.say(event{kind: "data"}, "data and logs are in %s, %s", d.p.dir, keeps)
	d.say(event{kind: "chat"}, "chat in other terminals, %s answers: %s --servers %s", botName, d.client, strings.Join(d.p.addrs(), ","))
}

// farewell is the sum, and an error if something was lost or doubled. Nodes that are frozen go on before: a subscriber
// there waits longer for one that is silent than the verifier for what is to come, which is not lost for that.
func (d *demo) farewell() error {
	for n := range d.frozen {
		_ = n.thaw() // fails when it has ended meanwhile
	}
	c := d.v.finish()
	d.say(event{kind: "end"}, "ending: %v", c)
	if c.Lost+c.Doubled > 0 {
		return fmt.Errorf("%d messages were lost and %d doubled; the logs are in %s", c.Lost, c.Doubled, d.p.dir)
	}
	return nil
}

// String is for people.
func (c counts) String() string {
	return fmt.Sprintf("%d sent, %d acknowledged, %d delivered, %d lost, %d doubled", c.Sent, c.Acknowledged, c.Delivered, c.Lost, c.Doubled)
}

// look asks a node how it is, again and again.
func (d *demo) look(ctx context.Context, n *process) {
	for pause(ctx, lookEvery) == nil {
		d.glance(ctx, n)
	}
}

func (d *demo) glance(ctx context.Context, n *process) {
	s, err := n.status(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[n] = sight{s, err == nil}
}

func (d *demo) sights() map[*process]sight {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.seen)
}

// run does what keys say and tells what becomes of the nodes, until q or the end of ctx.
func (d *demo) run(ctx context.Context, keys <-chan string, paint func(view)) {
	tick := time.NewTicker(lookEvery / 2)
	defer tick.Stop()
	for {
		paint(d.view())
		select {
		case <-ctx.Done():
			return
		case k := <-keys:
			if k == "q" {
				return
			}
			d.press(ctx, k)
		case <-tick.C:
		}
		for _, n := range d.p.nodes {
			d.watch(n)
		}
		d.follow()
	}
}

func (d *demo) press(ctx context.Context, key string) {
	switch key {
	case "":
	case "k", "p":
		d.strike(key)
	case "a":
		n, err := d.p.add()
		if err != nil {
			d.say(event{kind: "refused", bad: true}, "no node is added: %v", err)
			return
		}
		d.joining[n] = time.Now()
		d.work.Go(func() { d.look(ctx, n) })
		d.say(event{kind: "added", node: n.id}, "%s  %s  pid %d joins", n.id, n.addr, n.pid())
	case "s":
		for _, n := range d.view().nodes {
			d.say(event{kind: "status", node: n.id}, "%s: %s, term %d, applied %d", n.id, n.role, n.term, n.applied)
		}
		d.say(event{kind: "status"}, "%v", d.v.counted())
	default:
		d.say(event{kind: "refused"}, "%q is no key: %s", cut(key, 10), keyHelp)
	}
}

// strike kills or freezes the leader.
func (d *demo) strike(key string) {
	n := d.leader
	if n == nil || !n.alive() || !d.frozen[n].IsZero() {
		d.say(event{kind: "refused"}, "no node leads at the moment")
		return
	}
	d.hit()
	if key == "k" {
		n.kill()
		d.down[n] = time.Now()
		d.say(event{kind: "killed", node: n.id, bad: true}, "%s, the leader, was killed (kill -9)", n.id)
		return
	}
	if err := n.freeze(); err != nil {
		d.say(event{kind: "refused", bad: true}, "%s cannot be paused: %v", n.id, err)
		return
	}
	d.frozen[n] = time.Now()
	d.say(event{kind: "paused", node: n.id, bad: true}, "%s, the leader, was paused (kill -STOP)", n.id)
}

// hit begins to measure what is felt of a fault.
func (d *demo) hit() {
	d.v.hit()
	d.faults++
	d.fault, d.felt, d.leader = time.Now(), false, nil
}

// watch brings a node back that is down or frozen.
func (d *demo) watch(n *process) {
	since, frozen := d.frozen[n]
	if frozen && time.Since(since) > backAfter {
		delete(d.frozen, n)
		_ = n.thaw() // fails when it has ended meanwhile, which is seen
		d.say(event{kind: "resumed", node: n.id}, "%s goes on", n.id)
	}
	if begun, ok := d.joining[n]; ok && d.sights()[n].Ready {
		delete(d.joining, n)
		d.say(event{kind: "back", node: n.id}, "%s is up and has everything, after %.1f s", n.id, time.Since(begun).Seconds())
	}
	if n.alive() {
		return
	}
	since, known := d.down[n]
	switch {
	case !known:
		if n == d.leader {
			d.hit()
		}
		d.down[n] = time.Now()
		d.say(event{kind: "ended", node: n.id, bad: true}, "%s has ended", n.id)
	case time.Since(since) > backAfter:
		delete(d.down, n)
		delete(d.frozen, n)
		if err := n.start(); err != nil {
			d.down[n] = time.Now()
			d.say(event{kind: "refused", node: n.id, bad: true}, "%s does not start: %v", n.id, err)
			return
		}
		d.mu.Lock()
		delete(d.seen, n) // that was the one before
		d.mu.Unlock()
		d.joining[n] = time.Now()
	}
}

// follow tells who leads, and after a fault how long it was felt.
func (d *demo) follow() {
	var leader *process
	var term uint64
	for n, s := range d.sights() {
		if s.ok && s.Role == "leader" && s.Term > term && n.alive() && d.frozen[n].IsZero() {
			leader, term = n, s.Term
		}
	}
	if leader == nil {
		return
	}
	outage := d.v.lastOutage()
	if d.felt {
		if d.leader != nil && leader != d.leader {
			d.say(event{kind: "leader", node: leader.id}, "%s leads", leader.id)
		}
		d.leader = leader
		return
	}
	if outage > 0 {
		d.felt, d.leader = true, leader
		c := d.v.counted()
		d.say(event{kind: "leader", node: leader.id, outage: outage}, "%s leads; no write was acknowledged for %.2f s; %d lost, %d doubled", leader.id, outage.Seconds(), c.Lost, c.Doubled)
	}
}

// view is how it is now.
func (d *demo) view() view {
	v := view{
		up: time.Since(d.began), ready: d.ready, counts: d.v.counted(), faults: d.faults, since: time.Since(d.fault),
		client: d.client, addrs: d.p.addrs(), dir: d.p.dir, events: d.events,
	}
	if d.felt && d.faults > 0 {
		v.outage = d.v.lastOutage()
	}
	sights := d.sights()
	var newest uint64
	for _, s := range sights {
		newest = max(newest, s.Applied)
	}
	for _, n := range d.p.nodes {
		s := sights[n]
		node := nodeView{id: n.id, addr: n.addr, pid: n.pid(), role: s.Role, term: s.Term, applied: s.Applied, lag: newest - s.Applied, up: s.ok}
		left := func(since time.Time) float64 { return max(backAfter-time.Since(since), 0).Seconds() }
		switch {
		case !d.frozen[n].IsZero():
			node.role, node.up = fmt.Sprintf("paused, on in %.0f s", left(d.frozen[n])), false
		case !d.down[n].IsZero():
			node.role, node.up = fmt.Sprintf("down, back in %.0f s", left(d.down[n])), false
		case !s.ok:
			node.role = "starts"
		case !s.Ready:
			node.role = "catches up"
		}
		v.nodes = append(v.nodes, node)
	}
	return v
}
