package replica

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
)

var (
	cuts    = flag.Int("cuts", defaultCuts, "TestPower_EveryWrite looks at one of so many power cuts; 1 for all")
	cutSeed = flag.Uint64("cutseed", 1, "what is left of what was not synced")
)

var logStores = []LogStore{LogStoreBolt, LogStorePebble}

// chronicle is what one machine did, and what a power cut at each place would have left of it.
type chronicle struct {
	store  LogStore
	cuts   []cut
	left   cut // by an orderly end
	log    map[uint64]*raft.Log
	votes  map[castVote]bool
	states map[uint64][32]byte // by the last command in them
	last   []uint64            // the last command up to an entry
}

// record has a machine carry out commands, take snapshots, forget entries, and stop and start.
func record(t *testing.T, store LogStore, commands int, seed uint64) *chronicle {
	h := &chronicle{store: store}
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, 1, 1, bugs{})
		s.auditEvery, s.logStore = 24*time.Hour, store
		m := s.machines[0]
		p := m.plug(seed)
		p.keep = true
		s.run()
		l, r := startLoad(s, 0), rand.New(rand.NewPCG(1, 7))
		for i := range commands {
			l.propose(r, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: fmt.Sprint("message ", i)})
			p.tell(m.up().replica.Applied())
			if i%20 == 19 {
				go m.up().replica.raft.Load().Snapshot() // beside what comes next
			}
			if i == commands/2 {
				m.stop()
				m.start()
			}
		}
		m.stop()
		h.cuts, h.log, h.votes = p.cuts, p.wrote, s.votes
		all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: p.r}
		h.left = cut{fs: m.fs.CrashClone(all), log: p.log, head: p.head, next: p.head, acked: p.acked}
	})
	h.replay(t)
	return h
}

// replay makes the state of each command from the log alone.
func (h *chronicle) replay(t *testing.T) {
	h.states = map[uint64][32]byte{}
	h.last = make([]uint64, len(h.log)+1)
	on := newFS(t)
	for i := uint64(0); i <= uint64(len(h.log)); i++ {
		f, err := fsm.Open(fsm.Options{Dir: root, FS: on, Logger: zap.NewNop(), Publish: func([]state.Event) {}, Skipped: func() {}, Fault: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && h.log[i].Type == raft.LogCommand {
			f.Apply(h.log[i])
		}
		h.last[i] = f.Applied()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		sum, err := sumIn(on, root)
		if err != nil {
			t.Fatal(err)
		}
		h.states[h.last[i]] = sum
	}
}

// TestPower_EveryWrite: whenever the power goes, at every write and every fsync of any file, the node
// starts again; its log holds what was written or what was being written; and it has every command
// that anybody was told of, once: its state is that of its log, key by key.
func TestPower_EveryWrite(t *testing.T) {
	for _, store := range logStores {
		t.Run(string(store), func(t *testing.T) {
			h := record(t, store, 200, *cutSeed)
			t.Logf("%d places to cut the power at", len(h.cuts))
			for i := 0; i < len(h.cuts); i += *cuts {
				synctest.Test(t, func(t *testing.T) { h.restart(t, &h.cuts[i]) })
			}
		})
	}
}

// restart starts a machine with what a power cut has left.
func (h *chronicle) restart(t *testing.T, c *cut) {
	defer func() {
		if t.Failed() {
			t.Errorf("the power was cut at %s", c.op)
		}
	}()
	s := makeSim(t, 1, 1, bugs{})
	s.auditEvery, s.logStore = 24*time.Hour, h.store
	s.votes = maps.Clone(h.votes)
	m := s.machines[0]
	if err := m.restore(c); err != nil {
		t.Fatal(err)
	}
	p := m.plug(1)
	s.run()
	if !like(p.found, c.head) && !like(p.found, c.next) {
		t.Errorf("the log holds %+v, want %+v or %+v", p.found, c.head, c.next)
	}
	s.converge()
	if err := m.up().replica.Err(); err != nil {
		t.Error(err)
	}
	applied := m.up().replica.Applied()
	m.stop()
	for _, f := range s.faults {
		t.Error(f)
	}
	want := h.last[p.found.Last]
	if want < h.formed() { // it forms the cluster anew
		return
	}
	if applied != want || applied < c.acked {
		t.Errorf("the state is at entry %d, want %d; up to %d was acknowledged", applied, want, c.acked)
	}
	if sum, err := stateSum(m.fs); err != nil || sum != h.states[want] {
		t.Errorf("the state is not that of the log: %v", err)
	}
}

// formed is the entry that gives the cluster its id: the first command.
func (h *chronicle) formed() uint64 {
	for i, last := range h.last {
		if last > 0 {
			return uint64(i)
		}
	}
	return 0
}

// like compares what two logs hold.
func like(a, b head) bool {
	return a.First == b.First && a.Last == b.Last && (len(a.Values) == 0 && len(b.Values) == 0 || reflect.DeepEqual(a.Values, b.Values))
}

// TestPower_Cluster cuts the power of one of three machines after the other, each time at another
// write, while clients send: every machine comes back, every acknowledged message is there once on all
// of them, and their states are equal, key by key.
func TestPower_Cluster(t *testing.T) {
	for _, store := range logStores {
		t.Run(string(store), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { cutCluster(t, store) }) })
	}
}

func cutCluster(t *testing.T, store LogStore) {
	s := makeSim(t, 3, *cutSeed, bugs{})
	s.logStore = store
	r := rand.New(rand.NewPCG(*cutSeed, 8))
	for i, m := range s.machines {
		m.plug(uint64(i))
	}
	s.run()
	l := startLoad(s, 3)
	for i := 0; i < 60 && !s.broken(); i++ {
		m := s.machines[i%3]
		m.power.cutIn(1 + r.IntN(60))
		for start := time.Now(); m.power.left() == nil && time.Since(start) < time.Minute; {
			time.Sleep(10 * time.Millisecond)
			if n := m.up(); r.IntN(20) == 0 && n.replica.Err() == nil {
				n.replica.raft.Load().Snapshot()
			}
		}
		c := m.power.left()
		if c == nil {
			t.Fatalf("%s writes nothing", m.id)
		}
		m.crash()
		if err := m.restore(c); err != nil {
			t.Fatal(err)
		}
		m.plug(uint64(i + 3))
		m.start()
		waitFor(t, "somebody leads after "+c.op, func() bool { return s.leader() != nil })
	}
	l.end()
	if !s.broken() {
		s.equal()
	}
	for _, f := range s.faults {
		t.Error(f)
	}
	t.Logf("%d messages were acknowledged", len(l.acked))
}
