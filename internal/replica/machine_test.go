package replica

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
	"example.com/chat/internal/node"
	"example.com/chat/rpc/peer"
)

// machine is a computer: it keeps its address, its files and its disk when the node on it dies.
type machine struct {
	s        *sim
	id, addr string
	path     string     // of the log's file, which locks it
	fs       *vfs.MemFS // of everything else, below root
	disk     *simDisk   // of the log, unless there is a power
	power    *power     // nil for a machine that loses it only when it is idle
	refused  error      // by the last start

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
	spell atomic.Pointer[spell]
	calls atomic.Int64 // while there is a spell
}

var errSick = errors.New("input/output error")

func (d *simDisk) write() error {
	if ns := d.slow.Load(); ns > 0 {
		time.Sleep(time.Duration(ns))
	}
	if sp := d.spell.Load(); sp != nil && sp.every > 0 && d.calls.Add(1)%sp.every == 0 {
		time.Sleep(sp.spike)
	} else if sp != nil {
		time.Sleep(sp.usual)
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

// lossy is a transport that can lose requests.
type lossy struct {
	*peer.Raft
	s    *sim
	lost atomic.Pointer[raft.ServerID] // whom nothing reaches but heartbeats
	mute atomic.Bool                   // entries and heartbeats reach nobody
	hang atomic.Pointer[chan struct{}] // until it is closed, nobody is told to lead

	appends atomic.Int64 // messages to followers
	slow    atomic.Int64 // nanoseconds that a snapshot is under way

	fast        atomic.Pointer[func(raft.RPC)] // for the bug fastPath, as what follows
	once, ended sync.Once
	out         chan raft.RPC
	closed      chan struct{}
}

// SetHeartbeatHandler and Consumer give raft, when that bug is on, the fast path for heartbeats that
// package peer does not give it.
func (l *lossy) SetHeartbeatHandler(f func(raft.RPC)) { l.fast.Store(&f) }

func (l *lossy) Consumer() <-chan raft.RPC {
	in := l.Raft.Consumer()
	if !l.s.bugs.fastPath {
		return in
	}
	l.once.Do(func() {
		l.out = make(chan raft.RPC)
		go l.sort(in)
	})
	return l.out
}

func (l *lossy) sort(in <-chan raft.RPC) {
	for {
		var rpc raft.RPC
		select {
		case rpc = <-in:
		case <-l.closed:
			return
		}
		c, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if f := l.fast.Load(); f != nil && ok && isHeartbeat(c) {
			(*f)(rpc)
			continue
		}
		go func() {
			select {
			case l.out <- rpc:
			case <-l.closed:
			}
		}()
	}
}

func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// Close ends sort as well.
func (l *lossy) Close() error {
	l.ended.Do(func() { close(l.closed) })
	return l.Raft.Close()
}

func (l *lossy) TimeoutNow(id raft.ServerID, a raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if h := l.hang.Load(); h != nil {
		<-*h
		return errors.New("the connection broke")
	}
	return l.Raft.TimeoutNow(id, a, req, resp)
}

// InstallSnapshot notes who gets which snapshot how often.
func (l *lossy) InstallSnapshot(id raft.ServerID, a raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	time.Sleep(time.Duration(l.slow.Load()))
	err := l.Raft.InstallSnapshot(id, a, req, resp, data)
	if err == nil && resp.Success {
		l.s.installed(string(id), entryID{req.LastLogIndex, req.LastLogTerm})
	}
	return err
}

func (l *lossy) AppendEntries(id raft.ServerID, a raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	l.appends.Add(1)
	if to := l.lost.Load(); l.mute.Load() || to != nil && *to == id && !isHeartbeat(req) {
		return errors.New("the connection broke")
	}
	return l.Raft.AppendEntries(id, a, req, resp)
}

func (l *lossy) RequestVote(id raft.ServerID, a raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if to := l.lost.Load(); to != nil && *to == id {
		return errors.New("the connection broke")
	}
	return l.Raft.RequestVote(id, a, req, resp)
}

// start turns the machine on. A disk that fails at once may refuse it.
func (m *machine) start() {
	m.s.t.Helper()
	if err := m.boot(); err != nil {
		m.s.t.Fatal(err)
	}
	if err := m.refused; err != nil && !errors.Is(err, errSick) && !errors.Is(err, chaterr.ErrCorrupt) && !errors.Is(err, errPower) {
		m.s.t.Errorf("start %s: %v", m.id, err)
	}
}

// boot fails when the files cannot be used; when raft cannot start with them, that is noted.
func (m *machine) boot() error {
	n := &running{}
	err := os.MkdirAll(m.path, 0o700)
	if err != nil {
		return err
	}
	if n.dir, err = openDir(m.files(), place{dir: m.path, path: root, store: m.s.logStore}, m.id); err != nil {
		return err
	}
	if n.dir.Cluster().ID == "" && !m.s.late {
		if err := n.dir.Adopt(m.s.cluster()); err != nil {
			return errors.Join(err, n.dir.Close())
		}
	}
	n.fsm, err = fsm.Open(fsm.Options{
		Dir: n.dir.StateDir(), FS: n.dir.FS(), Logger: zap.NewNop(), Skipped: func() {},
		Publish: func(e []state.Event) { m.s.published(m.id, e) },
		Fault: func(err error) {
			if n.replica != nil {
				n.replica.Fault(err)
			}
		},
	})
	if err != nil {
		return errors.Join(err, n.dir.Close())
	}
	n.tunnels = peer.NewTunnels(peer.Options{
		ID: m.id, Cluster: "sim", ClusterID: func() string { return "sim" }, Secret: bytes.Repeat([]byte("s"), 32),
		Dial: m.s.net.Dialer(m.addr), Logger: zap.NewNop(),
	})
	n.calls = peer.NewCalls(n.tunnels)
	const heartbeat = 300 * time.Millisecond
	transport := func() Transport {
		l := &lossy{Raft: peer.NewRaft(n.tunnels, m.addr, nowhere, heartbeat, hclog.NewNullLogger()), s: m.s, closed: make(chan struct{})}
		n.transport.Store(l)
		return l
	}
	o := Options{
		NodeID: m.id, Dir: n.dir, FSM: n.fsm, Peers: &asked{Calls: n.calls, s: m.s, answers: map[string]answer{}}, Logger: zap.NewNop(), Transport: transport,
		Heartbeat: heartbeat, ProposeTimeout: 5 * time.Second, MaxPending: 1000, MaxPendingBytes: 1 << 20,
		DiskTimeout: 2 * time.Second, SnapshotEvery: 20, KeepEntries: 1, AuditEvery: m.s.auditEvery, open: m.open,
		Failed: func() { _ = n.fsm.Close() },
	}
	if m.s.tune != nil {
		m.s.tune(&o)
	}
	n.replica = New(o)
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
	}
	return nil
}

// open puts the store's layers, or all but one of them, around the machine's disk.
func (m *machine) open(d disk, limit time.Duration, fail func(error)) (*store, error) {
	if m.power == nil {
		d = m.disk
	} else {
		d = m.power.on(d.(*logFile))
	}
	s, err := newStore(d, limit, fail)
	if err != nil {
		return nil, err
	}
	if m.s.bugs.halfVotes {
		s.guard.disk = checksums{pieces{d}}
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

// crash ends the node as a power cut does: what was only in memory is lost, and of what was not synced
// a part, at random.
func (m *machine) crash() {
	var left *vfs.MemFS
	m.end(func() { left = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: m.s.dice}) })
	if left != nil {
		m.fs = left
	}
}

// root is where a machine's files are in its file system.
const root = "/data"

// newFS is an empty file system with a root.
func newFS(t testing.TB) *vfs.MemFS {
	t.Helper()
	on := vfs.NewCrashableMem()
	if err := (files.FS{FS: on}).MakeDir(root); err != nil {
		t.Fatal(err)
	}
	return on
}

// files is the machine's file system as its node sees it.
func (m *machine) files() vfs.FS {
	if m.power == nil {
		return m.fs
	}
	return errorfs.Wrap(links{m.fs, m.power}, errorfs.InjectorFunc(m.power.write))
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

// nowhere is for nodes that stay where raft's configuration has them.
func nowhere(string) (string, bool) { return "", false }
