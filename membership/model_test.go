package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

// world is nodes that form a cluster over a network that loses requests and answers, while nodes
// crash. What is in a ledger survives; what is in a Membership does not.
type world struct {
	expect int
	nodes  []*player
	lossy  bool

	mu  sync.Mutex // guards what follows
	rng *rand.Rand
	ids map[string]string // cluster ids that were adopted, with who was first
}

// player is one node: its disk, and the Membership that runs while it is up.
type player struct {
	w    *world
	info node.Info

	mu     sync.Mutex // guards what follows
	member *Membership
	ledger *ledger
}

// ledger is a disk.
type ledger struct {
	w  *world
	id string

	mu       sync.Mutex // guards what follows
	promised string
	cluster  node.Cluster
}

func (l *ledger) Promised() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.promised
}

func (l *ledger) Promise(a string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.promised = a
	return nil
}

func (l *ledger) Cluster() node.Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cluster
}

func (l *ledger) Adopt(c node.Cluster) error {
	l.mu.Lock()
	l.cluster = c
	l.mu.Unlock()
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.ids[c.ID] == "" {
		l.w.ids[c.ID] = l.id
	}
	return nil
}

// forming is a raft that does nothing but begin.
type forming struct{ Raft }

func (forming) Bootstrap() error { return nil }

var errLost = errors.New("lost")

func (w *world) roll(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// travel takes a while, and may lose what travels.
func (w *world) travel(ctx context.Context) error {
	select {
	case <-time.After(time.Duration(w.roll(50)) * time.Millisecond):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if w.lossy && w.roll(5) == 0 {
		return errLost
	}
	return nil
}

func (w *world) at(id string) *player {
	for _, p := range w.nodes {
		if p.info.ID == id {
			return p
		}
	}
	return nil
}

func (p *player) up() *Membership {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.member
}

// calls are those of one node to the others.
type calls struct {
	Peers
	w *world
}

func (c calls) Promise(ctx context.Context, id, _, a string) (highest string, in node.Cluster, err error) {
	if err := c.w.travel(ctx); err != nil {
		return "", in, err
	}
	m := c.w.at(id).up()
	if m == nil {
		return "", in, errLost
	}
	if highest, in, err = m.Promise(a); err != nil {
		return "", in, err
	}
	return highest, in, c.w.travel(ctx)
}

func (c calls) Adopt(ctx context.Context, id, _, a string, cl node.Cluster) error {
	if err := c.w.travel(ctx); err != nil {
		return err
	}
	m := c.w.at(id).up()
	if m == nil {
		return errLost
	}
	return errors.Join(m.Adopt(a, cl), c.w.travel(ctx))
}

func newWorld(n int, seed uint64) *world {
	w := &world{expect: n, lossy: true, rng: rand.New(rand.NewPCG(seed, 0)), ids: map[string]string{}}
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		w.nodes = append(w.nodes, &player{
			w: w, info: node.Info{ID: id, Address: id + ":1", Instance: "first", Expect: n}, ledger: &ledger{w: w, id: id},
		})
	}
	for _, p := range w.nodes {
		p.start()
	}
	return w
}

func (p *player) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.member = New(Options{Self: p.info, Raft: forming{}, Peers: calls{w: p.w}, Ledger: p.ledger, Logger: zap.NewNop()})
}

// crash ends the node; wiped, it loses its disk.
func (p *player) crash(wiped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.member != nil {
		p.member.stop()
		p.member = nil
	}
	if wiped {
		p.ledger = &ledger{w: p.w, id: p.info.ID}
		p.info.Instance = fmt.Sprint("after ", time.Now().UnixNano())
	}
}

func (w *world) infos() (infos []node.Info) {
	for _, p := range w.nodes {
		p.mu.Lock()
		infos = append(infos, p.info)
		p.mu.Unlock()
	}
	return infos
}

// agreed is the one cluster that all nodes are in, empty when there is none yet.
func (w *world) agreed() string {
	id := w.nodes[0].ledger.Cluster().ID
	for _, p := range w.nodes {
		if p.ledger.Cluster().ID != id {
			return ""
		}
	}
	return id
}

// play lets every node ask again and again, whoever may be first in its eyes, while nodes crash.
func (w *world) play() {
	var wg sync.WaitGroup
	for _, p := range w.nodes {
		wg.Go(func() {
			for range 6 {
				time.Sleep(time.Duration(w.roll(300)) * time.Millisecond)
				if m := p.up(); m != nil && p.ledger.Cluster().ID == "" {
					_ = m.ask(w.infos()) // who does not get all promises tries again
				}
			}
		})
		wg.Go(func() {
			for range 3 {
				time.Sleep(time.Duration(w.roll(600)) * time.Millisecond)
				p.crash(false)
				time.Sleep(time.Duration(w.roll(200)) * time.Millisecond)
				p.start()
			}
		})
	}
	wg.Wait()
}

// TestForm_Model: whatever is lost, and whoever crashes at whatever moment, no two nodes ever belong
// to different clusters; and once the network is whole, all of them are in one.
func TestForm_Model(t *testing.T) {
	formed := 0
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(3+2*int(seed%2), seed)
			w.play()
			if len(w.ids) > 1 {
				t.Fatalf("seed %d: clusters %v", seed, w.ids)
			}
			formed += len(w.ids)
			w.lossy = false
			for range 10 {
				for _, p := range w.nodes {
					if p.ledger.Cluster().ID == "" {
						_ = p.up().ask(w.infos()) // a lower attempt is refused, and the next one is higher
						break
					}
				}
			}
			if w.agreed() == "" || len(w.ids) != 1 {
				t.Errorf("seed %d: on a whole network the nodes do not agree: %v", seed, w.ids)
			}
			for _, p := range w.nodes {
				p.crash(false)
			}
		})
	}
	if formed < 100 {
		t.Errorf("only %d of 400 runs formed a cluster under faults: they show little", formed)
	}
}

// TestForm_Wiped: a node that has lost its disk while the cluster was formed does not make another
// cluster, and does not begin as one that may vote.
func TestForm_Wiped(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(3, seed)
			w.play()
			w.nodes[2].crash(true)
			w.nodes[2].start()
			if w.nodes[0].ledger.Cluster().ID == "" && w.nodes[1].ledger.Cluster().ID == "" {
				for _, p := range w.nodes {
					p.crash(false)
				}
				return // nobody is left who was in one
			}
			w.lossy = false
			for range 5 {
				for _, p := range w.nodes {
					if p.ledger.Cluster().ID == "" {
						_ = p.up().ask(w.infos()) // is refused
					}
				}
			}
			if len(w.ids) != 1 || w.nodes[2].ledger.Cluster().ID != "" {
				t.Errorf("seed %d: clusters %v; the wiped node is in %q", seed, w.ids, w.nodes[2].ledger.Cluster().ID)
			}
			for _, p := range w.nodes {
				p.crash(false)
			}
		})
	}
}

// TestPromise: a promise is given to a higher attempt only, and to none by a member.
func TestPromise(t *testing.T) {
	w := newWorld(3, 0)
	m := w.nodes[0].up()
	promise := func(a string) string {
		t.Helper()
		highest, _, err := m.Promise(a)
		if err != nil {
			t.Fatal(err)
		}
		return highest
	}
	five, six := attempt(5, "n2"), attempt(6, "n1")
	if got := promise(five); got != five {
		t.Errorf("got %q", got)
	}
	if got := promise(attempt(4, "n3")); got != five {
		t.Errorf("a lower attempt: got %q", got)
	}
	if got := promise(six); got != six {
		t.Errorf("a higher attempt: got %q", got)
	}
	for _, bad := range []string{"", "6.n1", "x", attempt(7, string(make([]byte, 100)))} {
		if _, _, err := m.Promise(bad); err == nil {
			t.Errorf("attempt %q was taken", bad)
		}
	}
	c := node.Cluster{ID: "c", Servers: w.infos()}
	if err := m.Adopt(five, c); err == nil {
		t.Error("an attempt was adopted that was given up")
	}
	if err := m.Adopt(six, node.Cluster{ID: "c", Servers: []node.Info{{ID: "n1", Instance: "another"}}}); err == nil {
		t.Error("a cluster was adopted that another disk had formed")
	}
	if err := m.Adopt(six, c); err != nil {
		t.Fatal(err)
	}
	if _, in, err := m.Promise(attempt(9, "n3")); err != nil || in.ID != "c" || m.o.Ledger.Promised() != six {
		t.Errorf("a member says %v, %v, and has promised %q", in, err, m.o.Ledger.Promised())
	}
	if err := m.Adopt(six, node.Cluster{ID: "d", Servers: w.infos()}); err == nil {
		t.Error("a member went over to another cluster")
	}
}

// TestPlan: who votes next.
func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	voter := func(id string) node.Server { return node.Server{ID: id, Voter: true} }
	server := func(id string) node.Server { return node.Server{ID: id} }
	since := func(d time.Duration) health { return health{CaughtUpSince: now.Add(-d)} }
	for name, tt := range map[string]struct {
		servers []node.Server
		health  map[string]health
		want    string
	}{
		"nobody waits":       {[]node.Server{voter("a")}, nil, ""},
		"not seen":           {[]node.Server{voter("a"), server("b")}, nil, ""},
		"not long enough":    {[]node.Server{voter("a"), server("b")}, map[string]health{"b": since(time.Second)}, ""},
		"long enough":        {[]node.Server{voter("a"), server("b")}, map[string]health{"b": since(2 * time.Second)}, "b"},
		"one at a time":      {[]node.Server{voter("a"), server("c"), server("b")}, map[string]health{"b": since(time.Hour), "c": since(time.Hour)}, "b"},
		"the one that is up": {[]node.Server{voter("a"), server("b"), server("c")}, map[string]health{"c": since(time.Hour)}, "c"},
		"enough voters":      {[]node.Server{voter("a"), voter("b"), voter("c"), server("d")}, map[string]health{"d": since(time.Hour)}, ""},
	} {
		s, ok := plan(view{Servers: tt.servers, Health: tt.health, Now: now, MaxVoters: 3, StableFor: 2 * time.Second})
		if s.ID != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: got %q, %v; want %q", name, s.ID, ok, tt.want)
		}
	}
}
