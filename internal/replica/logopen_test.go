package replica

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

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
	}{
		"a log that was being made": {func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, identityFile)), os.Remove(filepath.Join(path, logFileName)),
				os.Remove(filepath.Join(path, witnessFile)), os.WriteFile(filepath.Join(path, logFileName+".123.new"), make([]byte, 5000), 0o600))
		}, nil},
		"nothing but what the log must hold": {func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, identityFile)), os.Remove(filepath.Join(path, logFileName)))
		}, chaterr.ErrCorrupt},
		"no log":          {func(path string) error { return os.Remove(filepath.Join(path, logFileName)) }, os.ErrNotExist},
		"no node.json":    {func(path string) error { return os.Remove(filepath.Join(path, identityFile)) }, chaterr.ErrCorrupt},
		"an empty log":    {func(path string) error { return os.Truncate(filepath.Join(path, logFileName), 0) }, chaterr.ErrCorrupt},
		"half of the log": {func(path string) error { return os.Truncate(filepath.Join(path, logFileName), 5*pageSize) }, chaterr.ErrCorrupt},
		"one meta page":   {func(path string) error { return flipAt(path, pageSize+pageHead+20) }, chaterr.ErrCorrupt},
		"the other one":   {func(path string) error { return flipAt(path, pageHead+20) }, chaterr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data")
			d, err := OpenDir(path, "a")
			if err != nil {
				t.Fatal(err)
			}
			put(t, d.log, entries(1, 500, 1, "some text"))
			if err := errors.Join(d.Close(), tt.spoil(path)); err != nil {
				t.Fatal(err)
			}
			d, err = OpenDir(path, "a")
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

func flipAt(path string, at int) error {
	name := filepath.Join(path, logFileName)
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
	l, err := openLog(path, true, files.FS{FS: vfs.Default}, path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, l, entries(1, 2000, 1, "some text"))
	var fault error
	s, err := newStore(l, 1<<40, func(err error) { fault = err })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(path, logFileName), 2*pageSize); err != nil {
		t.Fatal(err)
	}
	if returned(func() { _ = s.guard.GetLog(1000, new(raft.Log)) }) || fault == nil {
		t.Errorf("got %v", fault)
	}
}
