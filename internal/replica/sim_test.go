package replica

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/node"
	"example.com/chat/internal/simnet"
)

// sim is a cluster of replicas in one bubble: real raft over real tunnels on a network that can be
// cut, and states on disk. Logs are in memory, on disks that can be made slow or sick. It watches
// all the time that nobody differs from anybody.
type sim struct {
	t          *testing.T
	seed       uint64
	net        *simnet.Net
	machines   []*machine
	bugs       bugs
	damaged    bool       // a state was damaged on purpose
	dice       *rand.Rand // of what a power cut leaves
	auditEvery time.Duration
	logStore   LogStore
	tune       func(*Options) // of a replica; nil for nothing
	late       bool           // the test tells them which cluster it is

	mu       sync.Mutex               // guards what follows
	leaders  map[uint64]string        // by term
	written  map[entryID][32]byte     // what stands in a log under an index and term
	events   map[state.Position]event // what was applied
	votes    map[castVote]bool        // that were cast
	installs map[install]int          // how often
	hashes   map[uint64]uint64        // of the state, by the entry that it holds
	faults   []string
}

type castVote struct {
	voter     string
	term      uint64
	candidate string
}

type install struct {
	at string
	of entryID
}

// maxInstalls is how often one node may be sent one snapshot: it may crash in between.
const maxInstalls = 10

// installed checks that nobody installs one snapshot for ever.
func (s *sim) installed(id string, of entryID) {
	s.mu.Lock()
	s.installs[install{id, of}]++
	n := s.installs[install{id, of}]
	s.mu.Unlock()
	if n <= maxInstalls {
		return
	}
	s.fault("%s was sent the snapshot of entry %d %d times", id, of.index, n)

	for _, a := range s.machines { // it would take all the time that there is
		for _, b := range s.machines {
			s.net.Refuse(a.addr, b.addr)
			s.net.Reset(a.addr, b.addr)
		}
	}
}

// event is what a node published, without what may differ.
type event struct {
	kind    state.Kind
	account uint64
	room    uint64
	seq     uint64
	text    string
}

// bugs are switches that break the product on purpose, to see that the checks find it.
type bugs struct {
	fastPath   bool // raft takes heartbeats beside its main goroutine
	noFloor    bool // leave out the floor
	halfVotes  bool // write votes in two writes
	ackEarly   bool // the client takes "unknown" for done
	freshRetry bool // retry under a new operation id
	staleReads bool // read without asking the leader
	noOwn      bool // a leader reads before an entry of its own term is committed
	oldAnswers bool // a leader takes what a voter has answered a while ago
	nonvoters  bool // a leader takes the answer of a server that does not vote for a voter's
}

// fault notes that a promise was broken; the run ends at the next look.
func (s *sim) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) < 5 {
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

func (s *sim) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults) > 0
}

// wrote checks log matching (raft paper, figure 3): one index and term, one entry.
func (s *sim) wrote(logs []*raft.Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		at, sum := entryID{l.Index, l.Term}, sha256.Sum256(append([]byte{byte(l.Type)}, l.Data...))
		if old, ok := s.written[at]; ok && old != sum && len(s.faults) < 5 {
			s.faults = append(s.faults, fmt.Sprintf("two entries at index %d of term %d", l.Index, l.Term))
		}
		s.written[at] = sum
	}
}

// published checks state machine safety: what one node applied at a position, nobody applies
// differently.
func (s *sim) published(id string, events []state.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged {
		return
	}
	for _, e := range events {
		got := event{e.Kind, e.Account, e.Room, e.Seq, e.Text}
		if old, ok := s.events[e.Position]; ok && old != got && len(s.faults) < 5 {
			s.faults = append(s.faults, fmt.Sprintf("at %v %s applied %+v, another %+v", e.Position, id, got, old))
		}
		s.events[e.Position] = got
	}
}

// elected checks election safety: one leader a term.
func (s *sim) elected(ctx context.Context) {
	for ctx.Err() == nil {
		for _, m := range s.machines {
			n := m.up()
			if n == nil {
				continue
			}
			s.alike(m.id, n.replica.Audit())
			term := n.replica.Term()
			if !n.replica.Leading() || n.replica.Term() != term {
				continue
			}
			s.mu.Lock()
			if old := s.leaders[term]; old != "" && old != m.id {
				s.faults = append(s.faults, fmt.Sprintf("%s and %s lead in term %d", old, m.id, term))
			}
			s.leaders[term] = m.id
			s.mu.Unlock()
		}
		beats.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
}

// alike checks that states that hold the same entries have one hash.
func (s *sim) alike(id string, a state.Audit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.hashes[a.Applied]; ok && old != a.Hash && len(s.faults) < 5 && !s.damaged {
		s.faults = append(s.faults, fmt.Sprintf("%s has hash %x after entry %d, another %x", id, a.Hash, a.Applied, old))
	}
	s.hashes[a.Applied] = a.Hash
}

// newSim starts n machines that form a cluster. It ends with the test.
func newSim(t *testing.T, n int, seed uint64, b bugs) *sim {
	s := makeSim(t, n, seed, b)
	s.run()
	return s
}

// makeSim makes machines that are off.
func makeSim(t *testing.T, n int, seed uint64, b bugs) *sim {
	delay := []time.Duration{200 * time.Microsecond, 2 * time.Millisecond, 10 * time.Millisecond}[seed%3]
	s := &sim{
		dice: rand.New(rand.NewPCG(seed, 5)), auditEvery: 500 * time.Millisecond, logStore: logStores[seed%2],
		t: t, seed: seed, net: simnet.New(delay), bugs: b,
		leaders: map[uint64]string{}, written: map[entryID][32]byte{}, events: map[state.Position]event{}, votes: map[castVote]bool{}, installs: map[install]int{}, hashes: map[uint64]uint64{},
	}
	dir := t.TempDir()
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		s.machines = append(s.machines, &machine{
			s: s, id: id, addr: id + ".sim:1", path: filepath.Join(dir, id), fs: newFS(t), disk: &simDisk{InmemStore: raft.NewInmemStore(), s: s},
		})
	}
	return s
}

// run turns all machines on.
func (s *sim) run() {
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	sims.Add(1)
	go func() {
		defer close(watched)
		s.elected(ctx)
	}()
	s.t.Cleanup(func() {
		defer sims.Add(-1)
		cancel()
		<-watched
		s.net.HealAll()
		for _, m := range s.machines {
			m.stop()
		}
		time.Sleep(time.Minute) // what waits for a timer has its time
	})
	for _, m := range s.machines {
		m.start()
	}
}

func (s *sim) cluster() node.Cluster {
	c := node.Cluster{ID: "sim"}
	for _, m := range s.machines {
		c.Servers = append(c.Servers, node.Info{ID: m.id, Address: m.addr})
	}
	return c
}

// converge heals everything, and waits until all nodes have applied the same.
func (s *sim) converge() {
	s.net.HealAll()
	for _, m := range s.machines {
		m.disk.slow.Store(0)
		m.disk.fails.Store(0)
		if n := m.up(); n != nil && n.replica.Err() != nil {
			m.crash()
		}
		if m.up() == nil {
			m.start()
		}
	}
	for start := time.Now(); !s.settled() && !s.broken(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > 2*time.Minute {
			s.fault("two minutes after everything was healed the nodes have not applied the same")
		}
	}
}

// settled reports whether a leader has applied all there is and has no more audits to come, and the others
// have applied as much.
func (s *sim) settled() bool {
	l := s.leader()
	if l == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if l.up().replica.Linearizable(ctx) != nil {
		return false
	}
	if a := l.up().replica.Audit(); s.auditEvery < time.Hour && a.Compared() && (a.Pending() || a.Changes > 0 || a.Doubtful()) {
		return false
	}
	for _, m := range s.machines {
		if m.up().replica.Applied() != l.up().replica.Applied() {
			return false
		}
	}
	return true
}

// equal ends all nodes and compares what they have on disk, down to the last byte.
func (s *sim) equal() {
	for _, m := range s.machines {
		m.stop()
	}
	var first [32]byte
	for i, m := range s.machines {
		sum, err := stateSum(m.fs)
		if err != nil {
			s.fault("%s: %v", m.id, err)
		}
		if i == 0 {
			first = sum
		} else if sum != first {
			s.fault("the states of %s and %s differ", s.machines[0].id, m.id)
		}
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// onlyState is where the state in a machine's file system is.
func onlyState(on vfs.FS) (string, error) { return stateIn(on, filepath.Join(root, stateDir)) }

func stateIn(on vfs.FS, dir string) (string, error) {
	all, err := on.List(dir)
	all = slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, "state-") })
	if err != nil || len(all) != 1 {
		return "", fmt.Errorf("states %v, %v", all, err)
	}
	return filepath.Join(dir, all[0]), nil
}

// stateSum is the hash of all that a machine's state holds.
func stateSum(on vfs.FS) (sum [32]byte, err error) { return sumIn(on, filepath.Join(root, stateDir)) }

func sumIn(on vfs.FS, dir string) (sum [32]byte, err error) {
	dir, err = stateIn(on, dir)
	if err != nil {
		return sum, err
	}
	db, err := pebble.Open(dir, &pebble.Options{FS: on, ReadOnly: true, Logger: quiet{}, EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}})
	if err != nil {
		return sum, err
	}
	sum, err = contentSum(db)
	return sum, errors.Join(err, db.Close())
}

// contentSum is the hash of all keys and values.
func contentSum(db *pebble.DB) (sum [32]byte, err error) {
	h := sha256.New()
	it, err := db.NewIter(nil)
	if err == nil {
		for it.First(); it.Valid(); it.Next() {
			fmt.Fprintf(h, "%d %d ", len(it.Key()), len(it.Value()))
			h.Write(it.Key())
			h.Write(it.Value())
		}
		err = it.Close()
	}
	h.Sum(sum[:0])
	return sum, err
}
