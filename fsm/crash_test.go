package fsm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// crashed is what a process has left that died: state-00000001 is at entry 30, the log at 60, and
// there are snapshots of entries 20 and 30.
func crashed(t testing.TB, logs []*raft.Log) (dir string) {
	t.Helper()
	m := newMachine(t)
	m.apply(logs[:20], 10)
	m.snapshot(logs[19])
	m.apply(logs[20:30], 10)
	m.snapshot(logs[29])
	m.apply(logs[30:40], 10) // in memory alone
	return copyDir(t, m.dir)
}

// TestOpen_AfterCrash: whatever step a process died at, the next one finds the state of some entry,
// and raft's log makes of it what it was.
func TestOpen_AfterCrash(t *testing.T) {
	logs := makeLog(t, 60)
	left := crashed(t, logs)
	want := newMachine(t)
	want.apply(logs, 10)
	later := newMachine(t)
	later.apply(logs[:50], 10)
	at50 := later.snapshot(logs[49])

	for name, tt := range map[string]struct {
		leave   func(t *testing.T, dir string)
		applied uint64 // that the state is found at
	}{
		"nothing else": {func(*testing.T, string) {}, 30},
		"while a snapshot was written": {func(t *testing.T, dir string) {
			mkdir(t, dir, "snapshots", "0000000000000001-0000000000000028-1-9.tmp")
			mkdir(t, dir, "snapshots", "0000000000000001-0000000000000028-1-9.tmp", "state")
		}, 30},
		"while a stream came": {func(t *testing.T, dir string) {
			mkdir(t, dir, "snapshots", "ffffffffffffffff-ffffffffffffffff-1-9.tmp", "state")
		}, 30},
		"while a snapshot was removed": {func(t *testing.T, dir string) {
			old := glob(t, dir, "snapshots", "*")
			if err := errors.Join(os.Rename(old, old+unfinished), os.Remove(filepath.Join(old+unfinished, "manifest"))); err != nil {
				t.Fatal(err)
			}
		}, 30},
		"before old snapshots were removed": {func(t *testing.T, dir string) {
			add(t, filepath.Join(later.dir, "snapshots", at50), filepath.Join(dir, "snapshots", at50))
		}, 50},
		"before an installed snapshot was linked": {func(t *testing.T, dir string) {
			add(t, filepath.Join(later.dir, "snapshots", at50), filepath.Join(dir, "snapshots", at50))
			remove(t, glob(t, dir, "snapshots", "*"))
		}, 50},
		"while an installed snapshot was linked": {func(t *testing.T, dir string) {
			add(t, filepath.Join(later.dir, "snapshots", at50), filepath.Join(dir, "snapshots", at50))
			mkdir(t, dir, "state-00000002.tmp")
		}, 50},
		"after it was linked": {func(t *testing.T, dir string) {
			add(t, filepath.Join(later.dir, "snapshots", at50), filepath.Join(dir, "snapshots", at50))
			add(t, filepath.Join(later.dir, "snapshots", at50, "state"), filepath.Join(dir, "state-00000002"))
		}, 50},
		"while the old state was removed": {func(t *testing.T, dir string) {
			add(t, filepath.Join(dir, "state-00000001"), filepath.Join(dir, "state-00000010"))
			remove(t, glob(t, dir, "state-00000001", "MANIFEST*"))
		}, 30},
		"and lost the state":            {func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "state-00000001")) }, 30},
		"and lost the names in a state": {func(t *testing.T, dir string) { remove(t, glob(t, dir, "state-00000001", "marker.manifest*")) }, 30},
		// Pebble takes the rest of the file for torn, and the state is an earlier one.
		"and a list of files is damaged": {func(t *testing.T, dir string) {
			manifest := glob(t, dir, "state-00000001", "MANIFEST*")
			b, err := os.ReadFile(manifest)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(manifest, b[:100], 0o600); err != nil {
				t.Fatal(err)
			}
		}, 30},
		"and lost state and snapshots": {func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "state-00000001"))
			remove(t, filepath.Join(dir, "snapshots"))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, left)
			tt.leave(t, dir)
			m := reopen(t, dir)
			if m.Applied() != tt.applied {
				t.Errorf("the state is at entry %d, want %d", m.Applied(), tt.applied)
			}
			for _, path := range [][]string{{dir}, {dir, "snapshots"}} {
				for _, n := range names(t, path...) {
					if strings.HasSuffix(n, unfinished) {
						t.Errorf("left is %s", n)
					}
				}
			}
			if states := names(t, dir); len(states) != 2 {
				t.Errorf("left are %v", states)
			}
			from := uint64(0) // raft takes the newest snapshot's entries for applied
			if newest, ok := m.Snapshots().Newest(); ok {
				from = newest.Index
			}
			m.apply(logs[from:], 7)
			same(t, m, want)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			again := reopen(t, dir) // after an ordinary end there is nothing to replay
			same(t, again, want)
		})
	}
}

func add(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// TestOpen_Damaged: what no crash leaves is not guessed at. The error names the place.
func TestOpen_Damaged(t *testing.T) {
	left := crashed(t, makeLog(t, 60))
	for name, tt := range map[string]struct {
		damage func(t *testing.T, dir string) (named string)
		want   error // nil for any error
	}{
		"manifest of a snapshot": {func(t *testing.T, dir string) string {
			return flip(t, glob(t, dir, "snapshots", "*", "manifest"))
		}, chaterr.ErrCorrupt},
		"no manifest": {func(t *testing.T, dir string) string {
			path := glob(t, dir, "snapshots", "*", "manifest")
			remove(t, path)
			return path
		}, os.ErrNotExist},
		"file among the snapshots": {func(t *testing.T, dir string) string {
			path := filepath.Join(dir, "snapshots", "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, nil},
		"table of the state": {func(t *testing.T, dir string) string {
			path := glob(t, dir, "state-00000001", "*.sst")
			remove(t, path)
			return strings.TrimSuffix(filepath.Base(path), ".sst")
		}, nil},
		"format of the state": {func(t *testing.T, dir string) string {
			old := glob(t, dir, "state-00000001", "marker.format*")
			if err := os.Rename(old, strings.TrimSuffix(old, filepath.Ext(old))+".999"); err != nil {
				t.Fatal(err)
			}
			return "state-00000001"
		}, nil},
		// From here on the state has to be taken from the newest snapshot.
		"table of the snapshot": {func(t *testing.T, dir string) string {
			remove(t, filepath.Join(dir, "state-00000001"))
			for _, s := range names(t, dir, "snapshots") {
				remove(t, glob(t, dir, "snapshots", s, "state", "*.sst"))
			}
			return "snapshots"
		}, nil},
		"all of the snapshot": {func(t *testing.T, dir string) string {
			remove(t, filepath.Join(dir, "state-00000001"))
			for _, s := range names(t, dir, "snapshots") {
				remove(t, filepath.Join(dir, "snapshots", s, "state"))
				mkdir(t, dir, "snapshots", s, "state")
			}
			return "snapshots"
		}, chaterr.ErrCorrupt},
		"a snapshot of less than it says": {func(t *testing.T, dir string) string {
			remove(t, filepath.Join(dir, "state-00000001"))
			all := names(t, dir, "snapshots")
			newest := filepath.Join(dir, "snapshots", all[1], "state")
			remove(t, newest)
			add(t, filepath.Join(dir, "snapshots", all[0], "state"), newest)
			return all[1]
		}, chaterr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, left)
			named := tt.damage(t, dir)
			m, err := openIn(t, dir)
			if err == nil {
				t.Fatalf("opened at entry %d", m.Applied())
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), named) {
				t.Errorf("got %v, want %v of %s", err, tt.want, named)
			}
		})
	}
}

// flip changes a bit in the middle of a file.
func flip(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpen_Killed: a process that is killed at any time has lost what was in memory, and nothing of
// what was written before; from there the log makes the same state, byte for byte.
func TestOpen_Killed(t *testing.T) {
	logs := makeLog(t, 60)
	m := newMachine(t)
	written := uint64(0)
	for i := 0; i < len(logs); i += 5 {
		m.apply(logs[i:i+5], 3)
		if i == 10 || i == 35 {
			m.snapshot(logs[i+4])
			written = uint64(i + 5)
		}
		dir := copyDir(t, m.dir)
		after := reopen(t, dir)
		if after.Applied() != written {
			t.Errorf("killed after entry %d: the state is at entry %d, want %d", i+5, after.Applied(), written)
		}
		after.apply(logs[:i+5], 100)
		same(t, after, m)
		if err := after.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOpen_AnyPath: a directory may have a name that means something to a shell.
func TestOpen_AnyPath(t *testing.T) {
	logs := makeLog(t, 60)
	leader := newMachine(t)
	leader.apply(logs[:30], 10)
	meta, stream := leader.stream(leader.snapshot(logs[29]))
	dir := filepath.Join(t.TempDir(), "a[b]*?c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := reopen(t, dir)
	m.install(meta, stream)
	m.apply(logs[30:], 10)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = reopen(t, dir)
	leader.apply(logs[30:], 10)
	same(t, m, leader)
}

func TestNextStateDir(t *testing.T) {
	for from, want := range map[string]string{
		"/d/state-":         "/d/state-00000001",
		"/d/state-00000001": "/d/state-00000002",
		"/d/state-00000009": "/d/state-00000010",
		"/d/state-99999998": "/d/state-99999999",
	} {
		if got := nextStateDir(from); got != want {
			t.Errorf("after %s: got %s, want %s", from, got, want)
		}
	}
}
