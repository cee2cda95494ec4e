package files

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// TestTable_StandsBack: who writes a table lets others run before each block, who writes the log does not.
func TestTable_StandsBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that others run when this goroutine lets them
	for name, want := range map[string]bool{"000001.sst": true, "000002.log": false} {
		f, err := pebbleFS{FS: vfs.NewMem()}.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		const blocks = 100
		ran := 0
		for range blocks {
			var done atomic.Bool
			go done.Store(true)
			if _, err := f.Write([]byte("block")); err != nil {
				t.Fatal(err)
			}
			if done.Load() {
				ran++
			}
		}
		if got := ran > blocks/2; got != want { // Go itself may change goroutines now and then
			t.Errorf("%s: %d of %d times another goroutine ran", name, ran, blocks)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTable_Rests: where as many tables are written as there are processors, who writes them sleeps from time to time, so
// that Go looks what has come from the network; where there are fewer, never.
func TestTable_Rests(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	synctest.Test(t, func(t *testing.T) {
		create := func() vfs.File {
			f, err := pebbleFS{FS: vfs.NewMem()}.Create("000001.sst", vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		f := create()
		rests := func(others int, want time.Duration) {
			t.Helper()
			for range 3 {
				time.Sleep(stint) // the work of some blocks
				start := time.Now()
				for range 5 {
					if _, err := f.Write([]byte("block")); err != nil {
						t.Fatal(err)
					}
				}
				if slept := time.Since(start); slept != want {
					t.Errorf("beside %d others: slept for %v, want %v", others, slept, want)
				}
			}
		}
		rests(0, 0)
		other := create()
		rests(1, rest)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		rests(0, 0)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenPebble_Quiet: a Pebble that is left alone does not run at all, and one that is written to still compacts:
// every compaction that had to wait for another one is begun.
func TestOpenPebble_Quiet(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(64)) // so that no table rests
	synctest.Test(t, func(t *testing.T) {
		o := &pebble.Options{L0CompactionThreshold: 2, LBaseMaxBytes: 64 << 10}
		o.TargetFileSizes[0] = 4 << 10
		db, err := OpenPebble(FS{FS: vfs.NewMem()}, "db", o, zap.NewNop(), nil, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, 1<<10)
		for i := range uint64(5_000) {
			if err := db.Set(binary.BigEndian.AppendUint64(nil, i*2654435761%5_000), value, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			if i%100 == 99 {
				if err := db.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait() // fake time stands still, so no timer has helped
		m := db.Metrics()
		if m.Compact.Count < 10 || m.Compact.NumInProgress > 0 || m.Levels[0].Sublevels > 2 {
			t.Errorf("%d compactions, %d under way, %d sublevels are left", m.Compact.Count, m.Compact.NumInProgress, m.Levels[0].Sublevels)
		}
		stacks := make([]byte, 1<<20)
		if stacks = stacks[:runtime.Stack(stacks, true)]; bytes.Contains(stacks, []byte("periodicGranter")) {
			t.Error("a goroutine looks for compactions while there is nothing to do")
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOpenPebble_Owing: a Pebble that owes compactions opens before it pays, and pays then.
func TestOpenPebble_Owing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(64)) // so that no table rests
	synctest.Test(t, func(t *testing.T) {
		fs, options := vfs.NewMem(), func() *pebble.Options { return &pebble.Options{L0CompactionThreshold: 2} }
		o := options()
		o.FS, o.DisableAutomaticCompactions, o.L0StopWritesThreshold = fs, true, 100
		db, err := pebble.Open("db", o)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := errors.Join(db.Set([]byte("key"), []byte{byte(i)}, pebble.Sync), db.Flush()); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		slow := make(chan struct{})
		db, err = OpenPebble(FS{FS: slowTables{fs, slow}}, "db", options(), zap.NewNop(), nil, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		close(slow)
		synctest.Wait()
		if m := db.Metrics(); m.Compact.Count == 0 || m.Levels[0].Sublevels > 2 {
			t.Errorf("%d compactions, %d sublevels are left", m.Compact.Count, m.Levels[0].Sublevels)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestHold: no compaction begins while there is a Hold, until many tables wait; what has waited is begun when it is over.
func TestHold(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(64)) // so that no table rests
	synctest.Test(t, func(t *testing.T) {
		var hold Hold
		fs, o := &slowTable{FS: vfs.NewMem()}, &pebble.Options{L0CompactionThreshold: 2, L0StopWritesThreshold: 100}
		db, err := OpenPebble(FS{FS: fs}, "db", o, zap.NewNop(), &hold, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		flush := func(n int) (compactions int64, sublevels int32) {
			for i := range n {
				if err := errors.Join(db.Set([]byte("key"), []byte{byte(i)}, pebble.NoSync), db.Flush()); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait() // fake time stands still, so no timer has helped
			m := db.Metrics()
			return m.Compact.Count, m.Levels[0].Sublevels
		}
		first, second := hold.Begin(), hold.Begin()
		if n, _ := flush(maxHeld - 1); n != 0 {
			t.Errorf("%d compactions while there is a Hold", n)
		}
		first()
		if n, _ := flush(0); n != 0 {
			t.Errorf("%d compactions while there is a second Hold", n)
		}
		second()
		n, left := flush(0)
		if n == 0 || left > 2 {
			t.Errorf("%d compactions after the Holds, %d sublevels are left", n, left)
		}
		end := hold.Begin()
		if more, left := flush(maxHeld + 1); more == n || left > 3 {
			t.Errorf("%d compactions for %d tables, %d sublevels are left", more-n, maxHeld+1, left)
		}
		flush(maxHeld - 2)
		ready := make(chan struct{})
		fs.next.Store(&ready)
		end()
		before, _ := flush(0) // and one has begun
		end = hold.Begin()
		flush(maxHeld - 2)
		close(ready)
		if after, _ := flush(0); after != before+1 {
			t.Errorf("%d compactions ended while there is a Hold, of one that had begun", after-before)
		}
		end()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		hold.Begin()() // a Pebble that is closed is not asked
	})
}

// TestOpenPebble_Rotten: a compaction that fails on a damaged table is told of, and not tried again for ever.
func TestOpenPebble_Rotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewMem()
		db, err := pebble.Open("db", &pebble.Options{FS: fs, DisableAutomaticCompactions: true})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if err := errors.Join(db.Set([]byte("key"), bytes.Repeat([]byte{byte(i)}, 1000), pebble.Sync), db.Flush()); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := fs.List("db")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if filepath.Ext(name) != ".sst" {
				continue
			}
			b, err := fs.UnsafeGetFileDataBuffer("db/" + name)
			if err != nil {
				t.Fatal(err)
			}
			b[20] ^= 1
		}
		told := 0
		enough := make(chan struct{}) // so that the test ends when it fails
		db, err = OpenPebble(FS{FS: fs}, "db", &pebble.Options{L0CompactionThreshold: 2}, zap.NewNop(), nil, func(error) {
			if told++; told > 100 {
				<-enough
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if told == 0 || told > 10 {
			t.Errorf("told of %d faults", told)
		}
		close(enough)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// slowTable is a file system that begins the next table only when a channel is closed, if there is one.
type slowTable struct {
	vfs.FS
	next atomic.Pointer[chan struct{}]
}

func (s *slowTable) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if filepath.Ext(name) == ".sst" {
		if ready := s.next.Swap(nil); ready != nil {
			<-*ready
		}
	}
	return s.FS.Create(name, c)
}

// slowTables is a file system that begins no table before ready is closed.
type slowTables struct {
	vfs.FS
	ready chan struct{}
}

func (s slowTables) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if filepath.Ext(name) == ".sst" {
		<-s.ready
	}
	return s.FS.Create(name, c)
}
