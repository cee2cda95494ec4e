package fsm

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// taken is a snapshot that was begun on raft's goroutine and is written on another.
type taken struct {
	raft.FSMSnapshot
	at *raft.Log // the last entry that raft has handed over
}

// underLoad applies a log in batches, while another goroutine writes snapshots of it, and returns
// what each of them was as a stream.
func underLoad(t *testing.T, m *machine, logs []*raft.Log, snapshots int) (metas []*raft.SnapshotMeta, streams [][]byte) {
	t.Helper()
	ask, give := make(chan struct{}), make(chan taken)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range snapshots {
			ask <- struct{}{}
			s := <-give
			id := m.persist(s, s.at)
			s.Release()
			meta, stream := m.stream(id)
			metas, streams = append(metas, meta), append(streams, stream)
		}
	}()
	for i, asked := 0, 0; i < len(logs); {
		n := min(1+i%7, len(logs)-i)
		m.apply(logs[i:i+n], n)
		i += n
		if asked == snapshots || i < len(logs)*(asked+1)/(snapshots+1) {
			continue
		}
		select {
		case <-ask:
			s, err := m.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			give <- taken{s, logs[i-1]}
			asked++
		default:
		}
	}
	for {
		select {
		case <-ask:
			s, err := m.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			give <- taken{s, logs[len(logs)-1]}
		case <-done:
			return metas, streams
		}
	}
}

// TestSnapshot_UnderLoad: a snapshot that is written while entries are applied, and the log behind
// it, make the same state as the whole log does, on a node that had nothing and on one that had a
// part. What the snapshot holds already is skipped.
func TestSnapshot_UnderLoad(t *testing.T) {
	logs := makeLog(t, 500)
	leader := newMachine(t)
	metas, streams := underLoad(t, leader, logs, 3)
	if len(leader.events) == 0 {
		t.Fatal("the log has no events")
	}
	for i, meta := range metas {
		for name, had := range map[string]int{"nothing": 0, "a part": int(meta.Index) / 2, "more": int(meta.Index)} {
			follower := newMachine(t)
			follower.apply(logs[:had], 100)
			follower.install(meta, streams[i])
			held := follower.Applied()
			if held < meta.Index && logs[meta.Index-1].Type == raft.LogCommand {
				t.Errorf("snapshot %d of entry %d, node with %s: the state is at entry %d", i, meta.Index, name, held)
			}
			follower.apply(logs[meta.Index:], 100)
			same(t, follower, leader)
			want := 0
			if int(held) > had {
				want = 1
			}
			if follower.skipped != want {
				t.Errorf("snapshot %d, node with %s: told %d times that events were left out, want %d", i, name, follower.skipped, want)
			}
			if err := follower.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestSnapshot_Holds: while a snapshot is sent the state is not compacted.
func TestSnapshot_Holds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, logs := newMachine(t), makeLog(t, 34)
		m.apply(logs[:20], 1)
		_, stream, err := m.Snapshots().Open(m.snapshot(logs[19]))
		if err != nil {
			t.Fatal(err)
		}
		there, sent := io.Pipe()
		go func() {
			_, err := io.Copy(sent, stream)
			sent.CloseWithError(errors.Join(err, stream.Close()))
		}()
		for i := 20; i < 34; i++ { // each a run of level 0, of which ten are enough
			m.apply(logs[i:i+1], 1)
			if err := m.store.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		count := func() int64 {
			time.Sleep(time.Second) // who writes a table may rest
			return m.store.db.Metrics().Compact.Count
		}
		if n := count(); n != 0 {
			t.Errorf("%d compactions while a snapshot is sent", n)
		}
		if _, err := io.Copy(io.Discard, there); err != nil {
			t.Fatal(err)
		}
		if n := count(); n == 0 {
			t.Error("no compaction afterwards")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// slowLock is a file system that takes its time to lock a directory.
type slowLock struct{ vfs.FS }

func (s slowLock) Lock(name string) (io.Closer, error) {
	time.Sleep(time.Second)
	return s.FS.Lock(name)
}

// TestSnapshot_Turns: two are sent one snapshot, whose state is opened for one after the other. Who waits for that does not
// stop the time.
func TestSnapshot_Turns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, logs := &machine{t: t, dir: "state"}, makeLog(t, 20)
		on := slowLock{vfs.NewMem()}
		err := on.MkdirAll(m.dir, 0o700)
		if err == nil {
			m.FSM, err = Open(Options{
				Dir: m.dir, Logger: zap.NewNop(), FS: on, Publish: func([]state.Event) {}, Skipped: func() {},
				Fault: func(err error) { t.Error(err) },
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		m.apply(logs, 20)
		id := m.snapshot(logs[19])
		var sent sync.WaitGroup
		for range 2 {
			sent.Go(func() {
				_, stream, err := m.Snapshots().Open(id)
				if err == nil {
					_, err = io.Copy(io.Discard, stream)
					err = errors.Join(err, stream.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		sent.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSnapshot_BesideFlush: a snapshot that is begun while a full memtable is being written does not have entries wait for
// that: they are applied while no table can be written at all.
func TestSnapshot_BesideFlush(t *testing.T) {
	late := time.After(10 * time.Second) // of real time: who waits for a mutex stops the other
	synctest.Test(t, func(t *testing.T) {
		logs, free := makeLog(t, 500), make(chan struct{})
		on := &slowTables{FS: vfs.NewMem()}
		m := &machine{t: t, dir: "state"}
		if err := on.MkdirAll(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		m.FSM, err = Open(Options{
			Dir: m.dir, Logger: zap.NewNop(), FS: on, Publish: func([]state.Event) {}, Skipped: func() {},
			Fault: func(err error) { t.Error(err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		m.apply(logs[:260], 100)
		write := func(i int) { m.damage([]byte{'z', byte(i >> 8), byte(i)}, make([]byte, 64<<10)) }
		for i := range 600 { // so many bytes that memtables get as large as they may
			write(i)
		}
		synctest.Wait()
		on.free.Store(&free)
		for i := 600; m.store.db.Metrics().Flush.NumInProgress == 0; i++ {
			write(i)
		}
		s, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		made, applied := make(chan string), make(chan struct{})
		go func() { made <- m.persist(s, logs[259]) }()
		synctest.Wait()
		go func() {
			defer close(applied)
			m.apply(logs[260:], 1)
		}()
		select {
		case <-applied:
		case <-late:
			t.Error("entries wait")
		}
		close(free)
		id := <-made
		<-applied
		s.Release()
		if meta, _ := m.stream(id); meta.Index != 260 {
			t.Errorf("the snapshot is of entry %d", meta.Index)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// slowTables is a file system on which no table can be begun, once there is a free, before that is closed.
type slowTables struct {
	vfs.FS
	free atomic.Pointer[chan struct{}]
}

func (s *slowTables) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if free := s.free.Load(); free != nil && isTable(name) {
		<-*free
	}
	return s.FS.Create(name, c)
}

// TestSnapshot_Chain: what was installed from a stream can be sent on, and taken anew.
func TestSnapshot_Chain(t *testing.T) {
	logs := makeLog(t, 120)
	a, b, c, d := newMachine(t), newMachine(t), newMachine(t), newMachine(t)
	a.apply(logs[:50], 10)
	meta, stream := a.stream(a.snapshot(logs[49]))
	b.install(meta, stream)
	newest, ok := b.Snapshots().Newest()
	if !ok || newest.Index != meta.Index || newest.Term != meta.Term || len(newest.Configuration.Servers) != 2 || newest.ConfigurationIndex != 1 {
		t.Fatalf("got %+v", newest)
	}
	c.install(b.stream(newest.ID))
	b.apply(logs[50:80], 10)
	d.install(b.stream(b.snapshot(logs[79])))
	for _, m := range []*machine{a, b, c, d} {
		m.apply(logs, 7) // what it has is skipped
	}
	for _, m := range []*machine{b, c, d} {
		same(t, m, a)
	}
}

// TestSnapshot_Ahead: what Persist writes may hold more than raft asked for; the manifest promises
// no more than what was there when raft asked.
func TestSnapshot_Ahead(t *testing.T) {
	logs := makeLog(t, 60)
	m, f := newMachine(t), newMachine(t)
	m.apply(logs[:40], 10)
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	m.apply(logs[40:], 10)
	id := m.persist(s, logs[39])
	s.Release()
	if one, _ := m.snapshots.newest(); one.manifest.AppliedIndex != 40 || one.manifest.Index != 40 {
		t.Errorf("got %v", one.manifest)
	}
	f.install(m.stream(id))
	if f.Applied() != 60 {
		t.Errorf("the follower is at entry %d, want 60", f.Applied())
	}
	f.apply(logs[40:], 3)
	same(t, f, m)
	if len(f.events) > 0 {
		t.Errorf("%d events of entries that the snapshot held", len(f.events))
	}
}

// otherSink is a sink of another store.
type otherSink struct {
	raft.SnapshotSink
	cancelled int
}

func (s *otherSink) Cancel() error { s.cancelled++; return nil }

// TestSnapshot_Foreign: the FSM works with its own store of snapshots, and says so of others.
func TestSnapshot_Foreign(t *testing.T) {
	m := newMachine(t)
	m.apply(makeLog(t, 10), 10)
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	sink := &otherSink{}
	if err := s.Persist(sink); err == nil || sink.cancelled != 1 {
		t.Errorf("persist: got %v, and %d times Cancel", err, sink.cancelled)
	}
	if err := m.Restore(io.NopCloser(nil)); err == nil {
		t.Error("restored from a reader of another store")
	}
}

// TestRestore_Views: a view is of one entry for as long as it is held, also when the state is
// replaced meanwhile. The old state is removed with the last view of it.
func TestRestore_Views(t *testing.T) {
	logs := makeLog(t, 100)
	leader, m := newMachine(t), newMachine(t)
	leader.apply(logs, 10)
	meta, stream := leader.stream(leader.snapshot(logs[99]))
	m.apply(logs[:30], 10)
	before := dump(t, m.FSM)
	old := m.store
	one, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	two, err := m.View()
	if err != nil {
		t.Fatal(err)
	}
	m.install(meta, stream)
	for i, v := range []interface {
		Applied() uint64
		RoomsOf(uint64) ([]uint64, error)
		Close() error
	}{one, two} {
		if got := names(t, old.dir); len(got) == 0 {
			t.Fatal("the old state is gone")
		}
		if rooms, err := v.RoomsOf(actors[0].Account); v.Applied() != 30 || err != nil || len(rooms) == 0 {
			t.Errorf("view %d: entry %d, rooms %v, %v", i, v.Applied(), rooms, err)
		}
		if i == 0 && string(dump(t, &FSM{store: old})) != string(before) {
			t.Error("the old state has changed")
		}
		if err := errors.Join(v.Close(), v.Close()); err != nil { // a second call does nothing
			t.Error(err)
		}
	}
	if got := names(t, m.dir); len(got) != 2 || got[1] != "state-00000002" {
		t.Errorf("left are %v", got)
	}
	if v, err := m.View(); err != nil || v.Applied() != 100 {
		t.Errorf("a new view: %v", err)
	} else if err := v.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestore_Fails: a snapshot that cannot be installed leaves the state in use, and can be
// installed once it can.
func TestRestore_Fails(t *testing.T) {
	logs := makeLog(t, 60)
	leader, m := newMachine(t), newMachine(t)
	leader.apply(logs, 10)
	meta, stream := leader.stream(leader.snapshot(logs[59]))
	m.apply(logs[:30], 10)
	before := dump(t, m.FSM)
	sink := m.create(logs[59])
	if err := errors.Join(take(sink, stream), sink.Close()); err != nil {
		t.Fatal(err)
	}
	table := glob(t, m.dir, "snapshots", sink.ID(), "state", "*.sst")
	hide(t, table)
	_, r, err := m.Snapshots().Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Restore(r)); err == nil {
		t.Error("installed without one of its tables")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if m.Err() != nil || string(dump(t, m.FSM)) != string(before) || m.skipped != 0 {
		t.Errorf("the state is another one, %v", m.Err())
	}
	if got := names(t, m.dir); len(got) != 2 {
		t.Errorf("left are %v", got)
	}
	m.apply(logs[30:40], 10)
	unhide(t, table)
	m.restore(sink.ID())
	m.apply(logs[meta.Index:], 10)
	same(t, m, leader)
}

// TestRestore_AfterFault: a state that has failed is not replaced under those who were told.
func TestRestore_AfterFault(t *testing.T) {
	logs := makeLog(t, 20)
	m := newMachine(t)
	m.apply(logs, 10)
	id := m.snapshot(logs[19])
	m.fail(errors.New("disk"))
	_, r, err := m.Snapshots().Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := m.Restore(r); !errors.Is(err, chaterr.ErrFault) {
		t.Errorf("got %v", err)
	}
}

// TestRestore_OtherCluster: the state of one cluster is not replaced by that of another.
func TestRestore_OtherCluster(t *testing.T) {
	m := newMachine(t)
	m.apply(makeLog(t, 10), 10)
	before := dump(t, m.FSM)
	if err := m.replace(&snap{manifest: &fsmpb.Snapshot{ClusterId: "d", AppliedIndex: 100}}, drop); !errors.Is(err, chaterr.ErrOtherCluster) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(dump(t, m.FSM), before) {
		t.Error("the state has changed")
	}
}
