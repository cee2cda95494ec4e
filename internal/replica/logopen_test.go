package replica

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// TestOpenDir_Lost: what a power cut leaves of a directory that is begun is made anew; what no power
// cut leaves is refused: a log that is gone, shorter, or damaged, or one without its node.json.
func TestOpenDir_Lost(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(path string) error
		want  error
		store LogStore
	}{
		"a log that was being made, in Pebble": {func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, identityFile)), os.Remove(filepath.Join(path, boltFile)),
				os.Remove(filepath.Join(path, witnessFile)), os.RemoveAll(filepath.Join(path, pebbleDir)), os.Mkdir(filepath.Join(path, pebbleDir), 0o700))
		}, nil, LogStorePebble},
		"no entries":               {func(path string) error { return os.RemoveAll(filepath.Join(path, pebbleDir)) }, chaterr.ErrCorrupt, LogStorePebble},
		"no values":                {func(path string) error { return os.Remove(filepath.Join(path, boltFile)) }, os.ErrNotExist, LogStorePebble},
		"half a segment":           {func(path string) error { return halve(path, "*.log") }, chaterr.ErrCorrupt, LogStorePebble},
		"no segment":               {func(path string) error { return each(path, "*.log", os.Remove) }, chaterr.ErrCorrupt, LogStorePebble},
		"no list of what there is": {func(path string) error { return each(path, "MANIFEST-*", os.Remove) }, chaterr.ErrCorrupt, LogStorePebble},
		"a log that was being made": {func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, identityFile)), os.Remove(filepath.Join(path, boltFile)),
				os.Remove(filepath.Join(path, witnessFile)), os.WriteFile(filepath.Join(path, boltFile+".123.new"), make([]byte, 5000), 0o600))
		}, nil, ""},
		"nothing but what the log must hold": {func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, identityFile)), os.Remove(filepath.Join(path, boltFile)))
		}, chaterr.ErrCorrupt, ""},
		"no log":          {func(path string) error { return os.Remove(filepath.Join(path, boltFile)) }, os.ErrNotExist, ""},
		"no node.json":    {func(path string) error { return os.Remove(filepath.Join(path, identityFile)) }, chaterr.ErrCorrupt, ""},
		"an empty log":    {func(path string) error { return os.Truncate(filepath.Join(path, boltFile), 0) }, chaterr.ErrCorrupt, ""},
		"half of the log": {func(path string) error { return os.Truncate(filepath.Join(path, boltFile), 5*pageSize) }, chaterr.ErrCorrupt, ""},
		"one meta page":   {func(path string) error { return flipAt(path, pageSize+pageHead+20) }, chaterr.ErrCorrupt, ""},
		"the other one":   {func(path string) error { return flipAt(path, pageHead+20) }, chaterr.ErrCorrupt, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data")
			d, err := OpenDir(path, "a", cmp.Or(tt.store, LogStoreBolt))
			if err != nil {
				t.Fatal(err)
			}
			put(t, d.log, entries(1, 500, 1, "some text"))
			if err := errors.Join(d.Close(), tt.spoil(path)); err != nil {
				t.Fatal(err)
			}
			d, err = OpenDir(path, "a", "")
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if err == nil {
				if left, _ := filepath.Glob(filepath.Join(path, "*.new")); len(left) > 0 {
					t.Errorf("left are %v", left)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// each does something to files of the Pebble.
func each(path, names string, f func(string) error) (err error) {
	all, _ := filepath.Glob(filepath.Join(path, pebbleDir, names)) // the pattern is right
	if len(all) == 0 {
		return errors.New("there is no " + names)
	}
	for _, name := range all {
		err = errors.Join(err, f(name))
	}
	return err
}

func halve(path, names string) error {
	return each(path, names, func(name string) error {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		return os.Truncate(name, info.Size()/2)
	})
}

func flipAt(path string, at int) error {
	name := filepath.Join(path, boltFile)
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b[at] ^= 4
	return os.WriteFile(name, b, 0o600)
}

// TestGuard_BusError: a part of the log's file that cannot be read ends the node, and not the process.
func TestGuard_BusError(t *testing.T) {
	path := t.TempDir()
	l, err := place{dir: path, files: files.FS{FS: files.Disk}, path: path, store: LogStoreBolt}.open(true)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, entries(1, 2000, 1, "some text"))
	var fault error
	s, err := newStore(l, 1<<40, func(err error) { fault = err })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(path, boltFile), 2*pageSize); err != nil {
		t.Fatal(err)
	}
	if returned(func() { _ = s.guard.GetLog(1000, new(raft.Log)) }) || fault == nil {
		t.Errorf("got %v", fault)
	}
}

// deleting is a store that is read when entries have gone, and DeleteRange has not come back.
type deleting struct {
	raft.LogStore
	raft.StableStore
	read func()
}

func (d deleting) DeleteRange(low, high uint64) error {
	err := d.LogStore.DeleteRange(low, high)
	d.read()
	return err
}

// TestLog_ReadWhileCut: an entry that goes while it is read is one that a snapshot has replaced, and no damage.
func TestLog_ReadWhileCut(t *testing.T) {
	path := t.TempDir()
	l, err := place{dir: path, files: files.FS{FS: files.Disk}, path: path, store: LogStorePebble}.open(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := uint64(1); i <= 3; i++ {
		if err := l.StoreLog(&raft.Log{Index: i, Term: 1}); err != nil {
			t.Fatal(err)
		}
	}
	read := false
	l.disk = deleting{l.disk, l.disk, func() {
		read = true
		if err := l.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound {
			t.Errorf("%v, want %v", err, raft.ErrLogNotFound)
		}
	}}
	if err := l.DeleteRange(1, 2); err != nil || !read {
		t.Errorf("%v, read: %v", err, read)
	}
}

// TestPebbleLog_Apart: logs that are given the same entries do not all begin segments at the same ones.
func TestPebbleLog_Apart(t *testing.T) {
	began := map[string]int{}
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			l, err := openPebbleLog(files.FS{FS: vfs.NewMem()}, "log", true, false)
			if err != nil {
				t.Fatal(err)
			}
			var at []uint64
			for i, had := uint64(1), int64(0); len(at) < 3; i++ {
				if err := l.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: make([]byte, 128<<10)}}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if n := l.db.Metrics().Flush.Count; n > had {
					at, had = append(at, i), n
				}
			}
			began[fmt.Sprint(at)]++
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if len(began) < 3 {
		t.Errorf("eight logs began segments at %v", began)
	}
}
