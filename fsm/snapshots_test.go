package fsm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// indexes are those of the snapshots as raft sees them.
func (m *machine) indexes() (indexes []uint64) {
	m.t.Helper()
	list, err := m.Snapshots().List()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, s := range list {
		indexes = append(indexes, s.Index)
	}
	return indexes
}

// TestSnapshots_Retained: the newest two are kept, also over a restart; one that is being read stays
// on disk until it is read.
func TestSnapshots_Retained(t *testing.T) {
	logs := makeLog(t, 60)
	m := newMachine(t)
	var ids []string
	take := func(at int) {
		t.Helper()
		m.apply(logs[:at], 10)
		ids = append(ids, m.snapshot(logs[at-1]))
	}
	take(10)
	want, stream := m.stream(ids[0])
	_, one, err := m.Snapshots().Open(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := m.Snapshots().Open(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	begun := make([]byte, 10)
	if _, err := io.ReadFull(one, begun); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{20, 30, 40} {
		take(at)
	}
	if got := m.indexes(); !slices.Equal(got, []uint64{40, 30}) {
		t.Errorf("listed are %v", got)
	}
	if got := names(t, m.dir, "snapshots"); !slices.Equal(got, []string{ids[0], ids[2], ids[3]}) {
		t.Errorf("on disk are %v of %v", got, ids)
	}
	if _, _, err := m.Snapshots().Open(ids[0]); err == nil {
		t.Error("a snapshot that was given up can be opened")
	}
	rest, err := io.ReadAll(one)
	if err != nil || !bytes.Equal(append(begun, rest...), stream) || int64(len(stream)) != want.Size {
		t.Errorf("got %d bytes and %v, want %d", 10+len(rest), err, len(stream))
	}
	for i, r := range []io.Closer{one, two} {
		if got := names(t, m.dir, "snapshots"); len(got) != 3 {
			t.Errorf("before reader %d was closed, on disk are %v", i, got)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil { // a second call does nothing
			t.Error(err)
		}
	}
	if got := names(t, m.dir, "snapshots"); !slices.Equal(got, ids[2:]) {
		t.Errorf("on disk are %v of %v", got, ids)
	}
	m = reopen(t, copyDir(t, m.dir))
	if got := m.indexes(); !slices.Equal(got, []uint64{40, 30}) {
		t.Errorf("listed after a restart are %v", got)
	}
}

// TestSnapshots_Removal: a snapshot that is removed first loses its name, so that half of it is never
// taken for one.
func TestSnapshots_Removal(t *testing.T) {
	logs := makeLog(t, 30)
	m := newMachine(t)
	m.apply(logs[:10], 10)
	id := m.snapshot(logs[9])
	dir := filepath.Join(m.dir, "snapshots", id)
	mkdir(t, dir+unfinished) // the name is not free
	one, _ := m.snapshots.newest()
	if err := one.remove(); err == nil {
		t.Error("it was removed")
	}
	if got := names(t, dir); !slices.Equal(got, []string{"manifest", "state"}) {
		t.Errorf("left of it are %v", got)
	}
	remove(t, dir+unfinished)
	if err := one.remove(); err != nil || len(names(t, m.dir, "snapshots")) > 0 {
		t.Errorf("left are %v, %v", names(t, m.dir, "snapshots"), err)
	}
}

// TestSnapshots_Order: a snapshot of this node may be done after a leader's of a later entry came;
// the newest is that of the later entry.
func TestSnapshots_Order(t *testing.T) {
	logs := makeLog(t, 60)
	leader, m := newMachine(t), newMachine(t)
	leader.apply(logs, 10)
	m.apply(logs[:20], 10)
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	m.install(leader.stream(leader.snapshot(logs[59])))
	m.persist(s, logs[19])
	s.Release()
	if got := m.indexes(); !slices.Equal(got, []uint64{60, 20}) {
		t.Errorf("listed are %v", got)
	}
	if newest, ok := m.Snapshots().Newest(); !ok || newest.Index != 60 {
		t.Errorf("the newest is %+v", newest)
	}
	if err := m.Close(); err != nil { // which the state before Restore does not hold up
		t.Error(err)
	}
	if got := names(t, m.dir); len(got) != 2 {
		t.Errorf("left are %v", got)
	}
}

// TestSnapshots_OnDurable: it is told of every snapshot once that survives a crash, and its error is
// one of making the snapshot.
func TestSnapshots_OnDurable(t *testing.T) {
	logs := makeLog(t, 60)
	leader, m := newMachine(t), newMachine(t)
	leader.apply(logs, 10)
	var told [][2]uint64
	var sick error
	m.Snapshots().OnDurable(func(index, term uint64) error {
		told = append(told, [2]uint64{index, term})
		if got := names(t, m.dir, "snapshots"); len(got) != len(told) {
			t.Errorf("told of %d snapshots, on disk are %v", len(told), got)
		}
		return sick
	})
	m.apply(logs[:20], 10)
	m.snapshot(logs[19])
	meta, stream := leader.stream(leader.snapshot(logs[59]))
	sick = errors.New("sick")
	sink := m.create(logs[59])
	if err := take(sink, stream); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); !errors.Is(err, sick) {
		t.Errorf("got %v, want %v", err, sick)
	}
	if want := [][2]uint64{{20, logs[19].Term}, {60, meta.Term}}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// TestSnapshots_Gone: a snapshot that lost a file cannot be sent, and the receiver hears of it.
func TestSnapshots_Gone(t *testing.T) {
	m, meta, _ := sender(t)
	table := glob(t, m.dir, "snapshots", "*", "state", "*.sst")
	for _, damage := range []func() error{
		func() error {
			// In place it would be the state's table too.
			return errors.Join(os.Remove(table), os.WriteFile(table, []byte("short"), 0o600))
		},
		func() error { return os.Remove(table) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		_, r, err := m.Snapshots().Open(meta.ID)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err == nil || n >= meta.Size {
			t.Errorf("sent %d bytes of %d, %v", n, meta.Size, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
