package replica

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// The tests of this file run one history twice: on the bare library, which must go wrong, and with
// the store's layers, which must hold. When the bare one goes well, upstream has mended the defect,
// and the layer may go.

// recorder is a state machine that remembers what it was given.
type recorder struct {
	mu       sync.Mutex // guards what follows
	commands []string
	saw      map[string]bool
}

func (r *recorder) Apply(l *raft.Log) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.saw == nil {
		r.saw = map[string]bool{}
	}
	r.commands = append(r.commands, string(l.Data))
	r.saw[string(l.Data)] = true
	return nil
}

func (r *recorder) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }

func (r *recorder) Restore(in io.ReadCloser) error {
	b, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = strings.Split(string(b), ",")
	return nil
}

func (r *recorder) has(command string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.saw[command]
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.commands)
}

type nothing struct{}

func (nothing) Persist(s raft.SnapshotSink) error { return s.Close() }
func (nothing) Release()                          {}

// watched is a snapshot store that tells when a snapshot is durable, as that of package fsm does.
type watched struct {
	raft.SnapshotStore
	durable func(index, term uint64) error
}

func (w watched) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, t raft.Transport) (raft.SnapshotSink, error) {
	s, err := w.SnapshotStore.Create(v, index, term, c, ci, t)
	return watchedSink{s, w, index, term}, err
}

type watchedSink struct {
	raft.SnapshotSink
	w           watched
	index, term uint64
}

func (s watchedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil || s.w.durable == nil {
		return err
	}
	return s.w.durable(s.index, s.term)
}

// wires are the in-memory transports of one test, without the pipeline.
type wires map[string]*wire

type wire struct {
	*raft.InmemTransport
	installs atomic.Int32
	hang     atomic.Pointer[chan struct{}] // until it is closed, nobody is told to lead
}

func (w *wire) TimeoutNow(id raft.ServerID, a raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if h := w.hang.Load(); h != nil {
		<-*h
	}
	return w.InmemTransport.TimeoutNow(id, a, req, resp)
}

func (*wire) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (w *wire) InstallSnapshot(id raft.ServerID, a raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	w.installs.Add(1)
	return w.InmemTransport.InstallSnapshot(id, a, req, resp, data)
}

func newWires(ids ...string) wires {
	w := wires{}
	for _, id := range ids {
		_, t := raft.NewInmemTransport(raft.ServerAddress(id))
		w[id] = &wire{InmemTransport: t}
	}
	return w
}

func (w wires) connect(a, b string) {
	w[a].Connect(raft.ServerAddress(b), w[b].InmemTransport)
	w[b].Connect(raft.ServerAddress(a), w[a].InmemTransport)
}

func voters(ids ...string) (c raft.Configuration) {
	for _, id := range ids {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	return c
}

// live is raft, which is another one after it was started anew.
type live struct {
	now  atomic.Pointer[raft.Raft]
	anew chan struct{} // one slot
}

func (l *live) end() { _ = l.now.Load().Shutdown().Error() }

// start runs raft on a disk, with the layers or bare. A timeout of a minute makes a node that does
// not stand for election in the test.
func (w wires) start(t *testing.T, id string, timeout time.Duration, d disk, snaps raft.SnapshotStore, layers bool) (*live, *recorder) {
	t.Helper()
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = raft.ServerID(id), hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = timeout, timeout, 200*time.Millisecond, 5*time.Millisecond
	f, l := &recorder{}, &live{anew: make(chan struct{}, 1)}
	var logs raft.LogStore = d
	var stable raft.StableStore = d
	if layers {
		s, err := newStore(d, 10*time.Second, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		s.logs.restart = func() { l.anew <- struct{}{} }
		logs, stable, snaps = s.logs, s.stable, watched{snaps, s.logs.raise}
	}
	run := func() {
		r, err := raft.NewRaft(c, f, logs, stable, snaps, unclosed{w[id]})
		if err != nil {
			t.Error(err)
		}
		l.now.Store(r)
	}
	run()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // what Replica.restarts does; the state machine reads the snapshot at the start
		defer close(stopped)
		select {
		case <-l.anew:
			l.end()
			run()
		case <-stop:
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		l.end()
	})
	return l, f
}

// unclosed is a transport that goes on when raft is started anew.
type unclosed struct{ *wire }

func (unclosed) Close() error { return nil }

// history is a disk with entry 1, the configuration, and what else it is given.
func history(t *testing.T, layers bool, c raft.Configuration, term uint64, logs ...[]*raft.Log) disk {
	t.Helper()
	inner := raft.NewInmemStore()
	var d disk = inner
	if layers {
		d = checksums{inner}
	}
	put(t, d, []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}})
	for _, l := range logs {
		put(t, d, l)
	}
	if err := d.SetUint64([]byte("CurrentTerm"), term); err != nil {
		t.Fatal(err)
	}
	return inner
}

// compacted is a disk with a snapshot of so many commands, and ten entries behind it.
func (w wires) compacted(t *testing.T, id string, layers bool, c raft.Configuration, snap uint64) (disk, raft.SnapshotStore) {
	t.Helper()
	snaps := raft.NewInmemSnapshotStore()
	sink, err := snaps.Create(1, snap, 3, c, 1, w[id])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, strings.TrimSuffix(strings.Repeat("committed,", int(snap)-1), ",")); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	inner := raft.NewInmemStore()
	var d disk = inner
	if layers {
		d = checksums{inner}
	}
	put(t, d, entries(snap+1, snap+10, 3, "committed"))
	if err := d.SetUint64([]byte("CurrentTerm"), 3); err != nil {
		t.Fatal(err)
	}
	return inner, snaps
}

// eventually waits, in a bubble or out of one.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("waited in vain until ", what)
		}
	}
}

// TestUpstream_HalfWrittenVote: hashicorp/raft#661. After a crash between the two writes of a vote, a
// candidate whose log is older than the voter's gets it.
func TestUpstream_HalfWrittenVote(t *testing.T) {
	for _, layers := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWires("a", "b", "c")
			w.connect("a", "b")
			d := history(t, layers, voters("a", "b", "c"), 5, entries(2, 10, 4, "committed"))
			var s raft.StableStore = d
			if layers {
				s = &votes{disk: checksums{d}}
			}
			if err := vote(s, 4, "b"); err != nil {
				t.Fatal(err)
			}
			if err := s.SetUint64([]byte(voteTermKey), 5); err != nil { // and then the power goes
				t.Fatal(err)
			}
			w.start(t, "a", time.Minute, d, raft.NewInmemSnapshotStore(), layers)
			var resp raft.RequestVoteResponse
			header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("b"), Addr: []byte("b")}
			if err := w["b"].RequestVote("a", "a", &raft.RequestVoteRequest{RPCHeader: header, Term: 5, LastLogIndex: 2, LastLogTerm: 1}, &resp); err != nil {
				t.Fatal(err)
			}
			if resp.Granted == layers {
				t.Errorf("layers %v: granted %v", layers, resp.Granted)
			}
		})
	}
}

// TestUpstream_InstallLivelock: hashicorp/raft#697. A follower whose entries conflict with a snapshot
// installs it over and over, and never gets the entries behind it.
func TestUpstream_InstallLivelock(t *testing.T) {
	for _, layers := range []bool{false, true} {
		t.Run(fmt.Sprint("layers ", layers), func(t *testing.T) { // in real time: bare, it never ends
			c := voters("L", "F", "G")
			w := newWires("L", "F", "G")
			w.connect("L", "F")
			old := history(t, layers, c, 2, entries(2, 10, 1, "committed"), entries(11, 20, 2, "never committed"))
			_, follower := w.start(t, "F", time.Minute, old, raft.NewInmemSnapshotStore(), layers)
			d, snaps := w.compacted(t, "L", layers, c, 15)
			w.start(t, "L", 300*time.Millisecond, d, snaps, layers)
			if !layers {
				eventually(t, "it was installed 50 times", func() bool { return w["L"].installs.Load() >= 50 })
				return
			}
			eventually(t, "the follower has caught up", func() bool { return follower.count() >= 24 })
			if n := w["L"].installs.Load(); n > 2 { // the first ends with a new start
				t.Errorf("%d installs", n)
			}
		})
	}
}

// TestUpstream_StaleVote: after a follower has installed a snapshot of a later term over entries that
// conflict with it, raft still remembers the last of those as its last entry, and votes for a
// candidate who has them too, and lacks what the snapshot says is committed.
func TestUpstream_StaleVote(t *testing.T) {
	for _, layers := range []bool{false, true} {
		t.Run(fmt.Sprint("layers ", layers), func(t *testing.T) {
			c := voters("L", "F", "G")
			w := newWires("L", "F", "G")
			w.connect("L", "F")
			w.connect("G", "F")
			old := history(t, layers, c, 2, entries(2, 10, 1, "committed"), entries(11, 20, 2, "never committed"))
			f, state := w.start(t, "F", time.Minute, old, raft.NewInmemSnapshotStore(), layers)
			header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("L"), Addr: []byte("L")}
			req := &raft.InstallSnapshotRequest{
				RPCHeader: header, SnapshotVersion: 1, Term: 3, LastLogIndex: 15, LastLogTerm: 3,
				Configuration: raft.EncodeConfiguration(c), ConfigurationIndex: 1, Size: int64(len("committed")),
			}
			for !layers || state.count() == 0 { // the first ends with a new start
				var resp raft.InstallSnapshotResponse
				if err := w["L"].InstallSnapshot("F", "F", req, &resp, strings.NewReader("committed")); err == nil && resp.Success {
					break
				}
			}
			w["L"].Disconnect("F")
			header.ID, header.Addr = []byte("G"), []byte("G")
			var resp raft.RequestVoteResponse
			vote := &raft.RequestVoteRequest{RPCHeader: header, Term: 9, LastLogIndex: 20, LastLogTerm: 2, LeadershipTransfer: true}
			if err := w["G"].RequestVote("F", "F", vote, &resp); err != nil {
				t.Fatal(err)
			}
			if resp.Granted == layers {
				t.Errorf("granted %v; F's last entry is %v", resp.Granted, f.now.Load().Stats()["last_log_term"])
			}
		})
	}
}

// TestUpstream_StaleEntries: entries that conflict with an installed snapshot stay below it in the
// bare log. In term 2 F appends entries alone; in term 3 the others commit different ones and
// compact their logs. F comes back, installs their snapshot, and then leads; G, which was away all
// the time, applies what was never committed. See step 7 of InstallSnapshot in figure 13 of the raft
// paper.
func TestUpstream_StaleEntries(t *testing.T) {
	const stale, snap = 200, 300
	for _, layers := range []bool{false, true} {
		t.Run(fmt.Sprint("layers ", layers), func(t *testing.T) {
			c := voters("L", "A", "F", "G")
			c.Servers[3].Suffrage = raft.Nonvoter
			w := newWires("L", "A", "F", "G")
			w.connect("L", "F")
			w.connect("L", "A")
			w.connect("F", "A")
			aDisk, aSnaps := w.compacted(t, "A", layers, c, snap)
			w.start(t, "A", time.Minute, aDisk, aSnaps, layers)
			fDisk := history(t, layers, c, 2, entries(2, 10, 1, "committed"), entries(11, stale, 2, "never committed"))
			f, fState := w.start(t, "F", time.Second, fDisk, raft.NewInmemSnapshotStore(), layers)
			lDisk, lSnaps := w.compacted(t, "L", layers, c, snap)
			l, _ := w.start(t, "L", 300*time.Millisecond, lDisk, lSnaps, layers)
			eventually(t, "F has caught up", func() bool { return fState.count() >= snap+9 })
			if err := l.now.Load().LeadershipTransferToServer("F", "F").Error(); err != nil {
				t.Fatal(err)
			}
			l.end()
			w["A"].Disconnect("L")
			w["F"].Disconnect("L")
			eventually(t, "F leads", func() bool { return f.now.Load().State() == raft.Leader })
			gDisk := history(t, layers, c, 2, entries(2, 10, 1, "committed"))
			g, gState := w.start(t, "G", time.Minute, gDisk, raft.NewInmemSnapshotStore(), layers)
			w.connect("F", "G")
			eventually(t, "G has caught up", func() bool { return g.now.Load().LastIndex() >= f.now.Load().LastIndex() && gState.count() >= snap+9 })
			if saw := gState.has("never committed"); saw == layers {
				t.Errorf("G has applied what was never committed: %v", saw)
			}
		})
	}
}

// TestUpstream_DiskHang: hashicorp/raft#503, #614, #666. A leader whose disk hangs leads on, also while
// it shuts down. What helps is to cut it off, as Replica.Fail does.
func TestUpstream_DiskHang(t *testing.T) {
	for remedy, want := range map[string]bool{"nothing": false, "shutdown": false, "cut": true} {
		t.Run(remedy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWires("a", "b", "c")
				disks, rafts := map[string]*sick{}, map[string]*raft.Raft{}
				for _, id := range []string{"a", "b", "c"} {
					disks[id] = &sick{disk: history(t, false, voters("a", "b", "c"), 1)}
					l, _ := w.start(t, id, 300*time.Millisecond, disks[id], raft.NewInmemSnapshotStore(), false)
					rafts[id] = l.now.Load()
				}
				w.connect("a", "b")
				w.connect("a", "c")
				w.connect("b", "c")
				leader := func(but string) (found string) {
					for id, r := range rafts {
						if id != but && r.State() == raft.Leader {
							found = id
						}
					}
					return found
				}
				eventually(t, "one leads", func() bool { return leader("") != "" })
				old := leader("")
				if err := rafts[old].Barrier(0).Error(); err != nil {
					t.Fatal(err)
				}
				release := make(chan struct{})
				disks[old].hang.Store(&release)
				var shutdown raft.Future
				defer func() {
					close(release)
					if shutdown != nil { // only the first call of Shutdown waits
						_ = shutdown.Error()
					}
				}()
				go func() { _ = rafts[old].Apply([]byte("x"), time.Second).Error() }() // ends with raft
				time.Sleep(time.Second)
				switch remedy {
				case "shutdown":
					shutdown = rafts[old].Shutdown()
				case "cut":
					w[old].DisconnectAll()
					for _, id := range []string{"a", "b", "c"} {
						w[id].Disconnect(raft.ServerAddress(old))
					}
				}
				time.Sleep(time.Minute)
				if got := leader(old) != ""; got != want {
					t.Errorf("after %s there is a new leader: %v, want %v", remedy, got, want)
				}
			})
		})
	}
}
