package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
	"example.com/chat/internal/simnet"
	"example.com/chat/rpc/peer"
)

// sim is a cluster of replicas in one bubble: real raft over real tunnels on a network that can be
// cut, and states on disk. Logs are in memory, on disks that can be made slow or sick. It watches
// all the time that nobody differs from anybody.
type sim struct {
	t        *testing.T
	seed     uint64
	net      *simnet.Net
	machines []*machine
	bugs     bugs

	mu       sync.Mutex               // guards what follows
	leaders  map[uint64]string        // by term
	written  map[entryID][32]byte     // what stands in a log under an index and term
	events   map[state.Position]event // what was applied
	votes    map[castVote]bool        // that were cast
	installs map[install]int          // how often
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
	noFloor    bool // leave out the floor
	halfVotes  bool // write votes in two writes
	ackEarly   bool // the client takes "unknown" for done
	freshRetry bool // retry under a new operation id
	staleReads bool // read without asking the leader
}

// machine is a computer: it keeps its address, its files and its disk when the node on it dies.
type machine struct {
	s        *sim
	id, addr string
	path     string
	disk     *simDisk
	refused  error // by the last start

	mu sync.Mutex // guards what follows
	*running
}

// running is a node at work.
type running struct {
	dir       *Dir
	fsm       *fsm.FSM
	tunnels   *peer.Tunnels
	calls     *peer.Calls
	server    *grpc.Server
	transport atomic.Pointer[lossy]
	replica   *Replica
}

// simDisk is a log in memory that outlives the node, and is slow or fails when it is told to.
type simDisk struct {
	*raft.InmemStore
	s     *sim
	slow  atomic.Int64 // nanoseconds for a write
	fails atomic.Int64 // writes until one fails; 0 for none
}

var errSick = errors.New("input/output error")

func (d *simDisk) write() error {
	if ns := d.slow.Load(); ns > 0 {
		time.Sleep(time.Duration(ns))
	}
	if d.fails.Load() > 0 && d.fails.Add(-1) == 0 {
		return errSick
	}
	return nil
}

func (d *simDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *simDisk) StoreLogs(logs []*raft.Log) error {
	if err := d.write(); err != nil {
		return err
	}
	d.s.wrote(logs)
	return d.InmemStore.StoreLogs(logs)
}

func (d *simDisk) Set(k, v []byte) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.InmemStore.Set(k, v)
}

func (d *simDisk) SetUint64(k []byte, n uint64) error {
	if err := d.write(); err != nil {
		return err
	}
	return d.InmemStore.SetUint64(k, n)
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
		time.Sleep(5 * time.Millisecond)
	}
}

// newSim starts n machines that form a cluster. It ends with the test.
func newSim(t *testing.T, n int, seed uint64, b bugs) *sim {
	delay := []time.Duration{200 * time.Microsecond, 2 * time.Millisecond, 10 * time.Millisecond}[seed%3]
	s := &sim{
		t: t, seed: seed, net: simnet.New(delay), bugs: b,
		leaders: map[uint64]string{}, written: map[entryID][32]byte{}, events: map[state.Position]event{}, votes: map[castVote]bool{}, installs: map[install]int{},
	}
	dir := t.TempDir()
	for i := range n {
		id := fmt.Sprintf("n%d", i+1)
		s.machines = append(s.machines, &machine{
			s: s, id: id, addr: id + ".sim:1", path: filepath.Join(dir, id), disk: &simDisk{InmemStore: raft.NewInmemStore(), s: s},
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.elected(ctx)
	}()
	t.Cleanup(func() {
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
	return s
}

func (s *sim) cluster() node.Cluster {
	c := node.Cluster{ID: "sim"}
	for _, m := range s.machines {
		c.Servers = append(c.Servers, node.Info{ID: m.id, Address: m.addr})
	}
	return c
}

func (m *machine) up() *running {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

// unasked is what a node says of membership, of which there is none here.
type unasked struct{}

func (unasked) Promise(string) (string, node.Cluster, error)          { return "", node.Cluster{}, errSick }
func (unasked) Adopt(string, node.Cluster) error                      { return errSick }
func (unasked) Join(context.Context, node.Info, bool) (string, error) { return "", errSick }
func (unasked) Self() node.Info                                       { return node.Info{} }

// lossy is a transport that can lose requests for a vote.
type lossy struct {
	*peer.Raft
	s    *sim
	lost atomic.Pointer[raft.ServerID] // whom no request for a vote reaches
}

// InstallSnapshot notes who gets which snapshot how often.
func (l *lossy) InstallSnapshot(id raft.ServerID, a raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := l.Raft.InstallSnapshot(id, a, req, resp, data)
	if err == nil && resp.Success {
		l.s.installed(string(id), entryID{req.LastLogIndex, req.LastLogTerm})
	}
	return err
}

func (l *lossy) RequestVote(id raft.ServerID, a raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if to := l.lost.Load(); to != nil && *to == id {
		return errors.New("the connection broke")
	}
	return l.Raft.RequestVote(id, a, req, resp)
}

func (m *machine) start() {
	m.s.t.Helper()
	n := &running{}
	var err error
	if n.dir, err = OpenDir(m.path, m.id); err != nil {
		m.s.t.Fatal(err)
	}
	if n.dir.Cluster().ID == "" {
		if err := n.dir.Adopt(m.s.cluster()); err != nil {
			m.s.t.Fatal(err)
		}
	}
	n.fsm, err = fsm.Open(fsm.Options{
		Dir: n.dir.StateDir(), Logger: zap.NewNop(), Skipped: func() {},
		Publish: func(e []state.Event) { m.s.published(m.id, e) },
		Fault: func(err error) {
			if n.replica != nil {
				n.replica.Fail(err)
			}
		},
	})
	if err != nil {
		m.s.t.Fatal(err)
	}
	n.tunnels = peer.NewTunnels(peer.Options{
		ID: m.id, Cluster: "sim", ClusterID: func() string { return "sim" }, Secret: bytes.Repeat([]byte("s"), 32),
		Dial: m.s.net.Dialer(m.addr), Logger: zap.NewNop(),
	})
	n.calls = peer.NewCalls(n.tunnels)
	const heartbeat = 300 * time.Millisecond
	transport := func() Transport {
		l := &lossy{Raft: peer.NewRaft(n.tunnels, m.addr, 2*heartbeat, hclog.NewNullLogger()), s: m.s}
		n.transport.Store(l)
		return l
	}
	n.replica = New(Options{
		NodeID: m.id, Dir: n.dir, FSM: n.fsm, Leader: n.calls, Logger: zap.NewNop(), Transport: transport,
		Heartbeat: heartbeat, ProposeTimeout: 5 * time.Second, MaxPending: 1000, MaxPendingBytes: 1 << 20,
		DiskTimeout: 2 * time.Second, SnapshotEvery: 20, KeepEntries: 1, open: m.open,
		Failed: func() { _ = n.fsm.Close() },
	})
	n.server = grpc.NewServer()
	n.tunnels.Register(n.server)
	lis, server := m.s.net.Listen(m.addr), n.server
	go func() { _ = server.Serve(lis) }()
	n.calls.Serve(n.replica, unasked{})
	m.mu.Lock()
	m.running = n
	m.mu.Unlock()
	if m.refused = n.replica.Start(); m.refused != nil {
		m.crash()
		if !errors.Is(m.refused, errSick) && !errors.Is(m.refused, chaterr.ErrCorrupt) {
			m.s.t.Errorf("start %s: %v", m.id, m.refused)
		}
	}
}

// open puts the store's layers, or all but one of them, around the machine's disk.
func (m *machine) open(_ disk, limit time.Duration, fail func(error)) (*store, error) {
	s, err := newStore(m.disk, limit, fail)
	if err != nil {
		return nil, err
	}
	if m.s.bugs.halfVotes {
		s.guard.disk = checksums{pieces{m.disk}}
	}
	if m.s.bugs.noFloor {
		s.logs.entry.Store(&entryID{1 << 63, 0}) // so high that no snapshot raises it
	}
	s.stable = &ballot{StableStore: s.stable, m: m}
	return s, m.whole(s.guard.disk)
}

// ballot notes each vote that raft casts, before it is on the disk.
type ballot struct {
	raft.StableStore
	m    *machine
	term uint64
}

func (b *ballot) SetUint64(key []byte, n uint64) error {
	if string(key) == voteTermKey {
		b.term = n
	}
	return b.StableStore.SetUint64(key, n)
}

func (b *ballot) Set(key, value []byte) error {
	if string(key) == voteCandidateKey {
		b.m.s.mu.Lock()
		b.m.s.votes[castVote{b.m.id, b.term, string(value)}] = true
		b.m.s.mu.Unlock()
	}
	return b.StableStore.Set(key, value)
}

// whole checks that the vote on a machine's disk is one that it has cast.
func (m *machine) whole(d disk) error {
	term, err := d.GetUint64([]byte(voteTermKey))
	if isNotFound(err) {
		return nil
	}
	candidate, err2 := d.Get([]byte(voteCandidateKey))
	if err := errors.Join(err, err2); err != nil && !isNotFound(err2) {
		return err
	}
	m.s.mu.Lock()
	cast := m.s.votes[castVote{m.id, term, string(candidate)}]
	m.s.mu.Unlock()
	if !cast {
		m.s.fault("%s finds a vote for %q in term %d, which it never cast", m.id, candidate, term)
	}
	return nil
}

// stop ends the node as a host does.
func (m *machine) stop() { m.end(func() {}) }

// crash ends the node, and what was only in memory is lost.
func (m *machine) crash() {
	m.end(func() {
		// The state writes nothing at its end once it has failed.
		m.running.fsm.ApplyBatch([]*raft.Log{{Index: 1 << 60, Type: raft.LogCommand, Data: []byte{0xff}}})
	})
}

func (m *machine) end(before func()) {
	m.mu.Lock()
	n := m.running
	m.mu.Unlock()
	if n == nil {
		return
	}
	for _, o := range m.s.machines {
		m.s.net.Reset(m.addr, o.addr)
	}
	_ = n.replica.Close() // an error is one of a disk that has failed
	before()
	if err := errors.Join(n.calls.Stop(), n.tunnels.Close()); err != nil {
		m.s.t.Errorf("%s: %v", m.id, err)
	}
	n.server.Stop()
	if err := n.fsm.Close(); err != nil {
		m.s.t.Errorf("%s: %v", m.id, err)
	}
	if err := n.dir.Close(); err != nil {
		m.s.t.Errorf("%s: %v", m.id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = nil
}

// load is clients that send to one room, and read there.
type load struct {
	s      *sim
	actor  state.Actor
	room   uint64
	stop   atomic.Bool
	work   sync.WaitGroup
	newest atomic.Uint64 // highest number of an acknowledged message

	mu    sync.Mutex // guards what follows
	acked map[string]uint64
	reads int
}

// propose has a command carried out, at any node and as often as it takes; nil when the load ends
// first.
func (l *load) propose(r *rand.Rand, op []byte, payload proto.Message) *state.Result {
	for !l.stop.Load() {
		if l.s.bugs.freshRetry {
			op = newOp(r)
		}
		c, err := state.NewCommand(l.actor, op, payload)
		if err != nil {
			l.s.t.Error(err)
			return nil
		}
		n := l.s.machines[r.IntN(len(l.s.machines))].up()
		if n == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		res, err := n.replica.Propose(ctx, c)
		cancel()
		if err == nil && state.Err(res) == nil {
			return res
		}
		if err != nil && l.s.bugs.ackEarly && !errors.Is(err, context.DeadlineExceeded) {
			return &state.Result{}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func newOp(r *rand.Rand) []byte {
	var id ulid.ULID
	_ = id.SetTime(uint64(time.Now().UnixMilli())) // fails after the year 10889
	for i := 6; i < 16; i++ {
		id[i] = byte(r.Uint32())
	}
	return id[:]
}

func startLoad(s *sim, senders int) *load {
	l := &load{s: s, acked: map[string]uint64{}}
	r := rand.New(rand.NewPCG(s.seed, 1))
	bugs := s.bugs
	s.bugs.ackEarly = false
	a := l.propose(r, newOp(r), &state.RegisterAccount{Name: "alice", PasswordHash: "h"})
	session := l.propose(r, nil, &state.CreateSession{Account: a.Account, TokenHash: bytes.Repeat([]byte{1}, 32), PasswordVersion: 1})
	l.actor = state.Actor{Account: a.Account, Session: session.Session}
	l.room = l.propose(r, newOp(r), &state.CreateRoom{Name: "room"}).Room
	s.bugs = bugs
	for i := range senders {
		l.work.Go(func() { l.send(i) })
		l.work.Go(func() { l.read(i) })
	}
	return l
}

func (l *load) send(i int) {
	r := rand.New(rand.NewPCG(l.s.seed, uint64(100+i)))
	for n := 1; !l.stop.Load(); n++ {
		text := fmt.Sprintf("%d %d", i, n)
		res := l.propose(r, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: text})
		if res == nil {
			return
		}
		l.mu.Lock()
		l.acked[text] = res.Seq
		l.mu.Unlock()
		for old := l.newest.Load(); res.Seq > old && !l.newest.CompareAndSwap(old, res.Seq); old = l.newest.Load() {
		}
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
	}
}

// read checks that a linearizable read sees all that was acknowledged before it began.
func (l *load) read(i int) {
	r := rand.New(rand.NewPCG(l.s.seed, uint64(200+i)))
	for !l.stop.Load() {
		time.Sleep(time.Duration(5+r.IntN(50)) * time.Millisecond)
		n := l.s.machines[r.IntN(len(l.s.machines))].up()
		if n == nil {
			continue
		}
		want := l.newest.Load()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := error(nil)
		if !l.s.bugs.staleReads {
			err = n.replica.Linearizable(ctx)
		}
		cancel()
		if err != nil {
			continue
		}
		v, err := n.replica.View()
		if err != nil {
			continue
		}
		room, err := v.Room(l.actor.Account, l.room)
		if err == nil && room.LastSeq < want {
			l.s.fault("a read saw %d messages, and %d was acknowledged", room.LastSeq, want)
		}
		_ = v.Close() // a second error of the same kind
		l.mu.Lock()
		l.reads++
		l.mu.Unlock()
	}
}

// end stops the clients and checks what every node has.
func (l *load) end() {
	l.stop.Store(true)
	l.work.Wait()
	l.s.converge()
	for _, m := range l.s.machines {
		v, err := m.up().replica.View()
		if err != nil {
			l.s.fault("%s: %v", m.id, err)
			continue
		}
		seen := map[string]uint64{}
		room, err := v.Room(l.actor.Account, l.room)
		if err == nil {
			_, err = v.Messages(l.actor.Account, l.room, 1, room.LastSeq, false, 1<<20, func(msg state.Message) bool {
				if seen[msg.Text] != 0 {
					l.s.fault("%s has %q twice", m.id, msg.Text)
				}
				seen[msg.Text] = msg.Seq
				return true
			})
		}
		if err != nil {
			l.s.fault("%s, as of entry %d: room %d of %v: %v", m.id, v.Applied(), l.room, l.actor, err)
		}
		if err := v.Close(); err != nil {
			l.s.fault("%s: %v", m.id, err)
		}
		for text, seq := range l.acked {
			if seen[text] == 0 || seq != 0 && seen[text] != seq {
				l.s.fault("%s has %q as number %d, and %d was acknowledged", m.id, text, seen[text], seq)
			}
		}
	}
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

// settled reports whether a leader has applied all there is, and the others as much.
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
		sum, err := stateSum(m.path)
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

func stateSum(path string) (sum [32]byte, err error) {
	dirs, err := filepath.Glob(filepath.Join(path, stateDir, "state-*"))
	if err != nil || len(dirs) != 1 {
		return sum, fmt.Errorf("%d states, %v", len(dirs), err)
	}
	db, err := pebble.Open(dirs[0], &pebble.Options{ReadOnly: true, Logger: quiet{}})
	if err != nil {
		return sum, err
	}
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
	return sum, errors.Join(err, db.Close())
}
