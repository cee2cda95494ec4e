package fsm

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// TestPersist_DirFails: the sync of a directory fails while a snapshot is written, each of them once.
// Pebble panics at some, which would end the process.
func TestPersist_DirFails(t *testing.T) {
	sick := errors.New("input/output error")
	for left := int64(0); ; left++ {
		var syncs atomic.Int64 // until one fails
		syncs.Store(1 << 40)
		on := vfs.NewMem()
		f, err := Open(Options{
			Dir: "/", Logger: zap.NewNop(), Publish: func([]state.Event) {}, Skipped: func() {}, Fault: func(error) {},
			FS: errorfs.Wrap(on, errorfs.InjectorFunc(func(op errorfs.Op) error {
				info, err := on.Stat(op.Path)
				if op.Kind == errorfs.OpFileSync && err == nil && info.IsDir() && syncs.Add(-1) < 0 {
					return sick
				}
				return nil
			})),
		})
		if err != nil {
			t.Fatal(err)
		}
		f.ApplyBatch(makeLog(t, 20))
		syncs.Store(left)
		var persisted error
		done := make(chan struct{})
		go func() { // as raft does; it may be ended
			defer close(done)
			persisted = sick
			s, err := f.Snapshot()
			if err != nil {
				t.Error(err)
				return
			}
			sink, err := f.Snapshots().Create(1, 20, 1, servers, 1, nil)
			if err != nil {
				t.Error(err)
				return
			}
			persisted = s.Persist(sink)
		}()
		<-done
		if syncs.Load() >= 0 { // there are no more
			if left < 5 || persisted != nil || f.Err() != nil {
				t.Errorf("after %d syncs: %v, %v", left, persisted, f.Err())
			}
			return
		}
		if persisted == nil {
			t.Errorf("after %d syncs there is a snapshot", left)
		}
	}
}

// beforeTables is how many bytes of a stream come before its first table.
func beforeTables(s *snap) int64 {
	n := int64(len(s.head))
	for _, f := range s.manifest.Files {
		if isTable(f.Name) {
			break
		}
		n += int64(f.Size) + int64(newSum(s.manifest).Size())
	}
	return n
}

// TestSend_Rotten: a leader does not send a file that has rotted on its disk, and is given up for
// another one: raft would only try again, for ever (hashicorp/raft#522).
func TestSend_Rotten(t *testing.T) {
	for _, file := range []string{"*.sst", "MANIFEST-*", "none"} {
		m := newMachine(t)
		logs := makeLog(t, 40)
		m.apply(logs, 10)
		id := m.snapshot(logs[39])
		dir := filepath.Join(m.dir, "snapshots", id, "state")
		if file == "none" {
			remove(t, glob(t, dir, "*.sst"))
		} else {
			path := glob(t, dir, file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			remove(t, path) // it is linked with the state's
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			flip(t, path)
		}
		_, r, err := m.Snapshots().Open(id)
		if err != nil {
			t.Fatal(err)
		}
		newest, _ := m.Snapshots().newest()
		if n, err := io.Copy(io.Discard, r); err == nil || n > beforeTables(newest) || n > 0 && file != "*.sst" {
			t.Errorf("%s: %d bytes were sent, %v", file, n, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Err(); !errors.Is(err, chaterr.ErrFault) || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: got %v", file, err)
		}
	}
}

// TestSend_GivenUp: a snapshot that is removed as soon as nobody wants it any more is none that cannot be sent.
func TestSend_GivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		logs := makeLog(t, 40)
		m.apply(logs[:10], 10)
		id := m.snapshot(logs[9])
		first, _ := m.Snapshots().newest()
		var opens atomic.Int64
		slow, last := make(chan struct{}), int64(math.MaxInt64)
		first.fs.FS = errorfs.Wrap(first.fs.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpOpen && isTable(op.Path) && opens.Add(1) == last {
				<-slow
			}
			return nil
		}))
		m.stream(id)
		last = opens.Load() * 2 // to send the table
		_, r, err := m.Snapshots().Open(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, beforeTables(first))); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{20, 30, 40} {
			m.apply(logs[:at], 10)
			m.snapshot(logs[at-1])
		}
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- r.Close() }()
		synctest.Wait()
		close(slow)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if err := m.Err(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(first.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the snapshot is still there: %v", err)
		}
	})
}

// TestSend_AtOnce: several followers may be sent the same snapshot at once.
func TestSend_AtOnce(t *testing.T) {
	m := newMachine(t)
	logs := makeLog(t, 40)
	m.apply(logs, 10)
	id := m.snapshot(logs[39])
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, r, err := m.Snapshots().Open(id)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := m.Err(); err != nil {
		t.Error(err)
	}
}

// TestCheck_EveryBlock: a bit that has rotted anywhere in a table is found, also in what no record is read
// from.
func TestCheck_EveryBlock(t *testing.T) {
	m := newMachine(t)
	m.apply(makeLog(t, 40), 10)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	path := glob(t, m.dir, stateDirs+"*", "*.sst")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	problems := func() (all error) {
		Check(m.dir, zap.NewNop(), func(err error) { all = errors.Join(all, err) })
		return all
	}
	if err := problems(); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 7 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if problems() == nil {
			t.Errorf("nobody finds a bit at %d of %d", at, len(whole))
		}
	}
}

// TestRestore_FailsForEver: that snapshots cannot be installed is a fault after some.
func TestRestore_FailsForEver(t *testing.T) {
	logs := makeLog(t, 60)
	m := newMachine(t)
	m.apply(logs[:50], 10)
	later := newMachine(t)
	later.apply(logs, 10)
	meta, stream := later.stream(later.snapshot(logs[59]))
	for i := range maxFailures {
		if err := m.Err(); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		sink := m.create(logs[59])
		if err := errors.Join(take(sink, stream), sink.Close()); err != nil {
			t.Fatal(err)
		}
		remove(t, glob(t, m.dir, "snapshots", sink.ID(), "state", "*.sst"))
		_, r, err := m.Snapshots().Open(sink.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Restore(r); err == nil {
			t.Fatalf("installed entry %d", meta.Index)
		}
		_ = r.Close() // only read
	}
	if err := m.Err(); !errors.Is(err, chaterr.ErrFault) {
		t.Errorf("got %v", err)
	}
}
