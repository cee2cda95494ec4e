package replica

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/memdisk"
	"example.com/chat/internal/node"
)

// TestOpenMemory: a disk in memory keeps who the node is, its term and its entries over a crash, in either log store,
// and lets one node in.
func TestOpenMemory(t *testing.T) {
	for _, store := range logStores {
		t.Run(string(store), func(t *testing.T) {
			disk := memdisk.New()
			d, err := OpenMemory(disk, "a", store)
			if err != nil {
				t.Fatal(err)
			}
			instance := d.Instance()
			if _, err := OpenMemory(disk, "a", store); !errors.Is(err, chaterr.ErrDataDirInUse) {
				t.Errorf("a second node: %v", err)
			}
			if _, err := OpenMemory(disk, "b", store); !errors.Is(err, chaterr.ErrOtherNode) {
				t.Errorf("another node: %v", err)
			}
			entry := raft.Log{Index: 1, Term: 7, Data: []byte("x")}
			if err := errors.Join(d.log.SetUint64([]byte(termKey), 7), d.log.StoreLog(&entry), d.Close()); err != nil {
				t.Fatal(err)
			}
			disk.Crash()
			if d, err = OpenMemory(disk, "a", store); err != nil {
				t.Fatal(err)
			}
			term, err := d.log.GetUint64([]byte(termKey))
			var got raft.Log
			if err := errors.Join(err, d.log.GetLog(1, &got), d.Close()); err != nil {
				t.Fatal(err)
			}
			if d.Instance() != instance || term != 7 || string(got.Data) != "x" {
				t.Errorf("instance %q, want %q; term %d; entry %q", d.Instance(), instance, term, got.Data)
			}
		})
	}
}

// TestOpenDir_Refuses: a directory that is not this node's own, or not whole, is not touched.
func TestOpenDir_Refuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, path string)
		id    string
		want  error
	}{
		"another node's": {func(*testing.T, string) {}, "b", chaterr.ErrOtherNode},
		"a flipped bit": {func(t *testing.T, path string) {
			name := filepath.Join(path, identityFile)
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[10] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a", chaterr.ErrCorrupt},
		"a newer format": {func(t *testing.T, path string) {
			text := `{"format":3,"node_id":"a","instance":"x"}`
			if err := os.WriteFile(filepath.Join(path, identityFile), []byte(text+"\n"+checksum(text)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a", chaterr.ErrUpgradeNeeded},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "a")
			d, err := OpenDir(path, "a", "")
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, path)
			before, err := os.ReadFile(filepath.Join(path, identityFile))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := OpenDir(path, tt.id, ""); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			after, err := os.ReadFile(filepath.Join(path, identityFile))
			if err != nil || string(after) != string(before) {
				t.Errorf("it was changed to %q, %v", after, err)
			}
		})
	}
}

// TestOpenDir_Locked: two nodes never work in one directory.
func TestOpenDir_Locked(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(path, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(path, "a", ""); !errors.Is(err, chaterr.ErrDataDirInUse) {
		t.Errorf("got %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenDir(path, "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenDir_Private: others on the machine cannot read it, and one that they can read is refused.
func TestOpenDir_Private(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d, err := OpenDir(path, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(path, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.IsDir() { // nobody reaches a file in a directory that is closed to him
			return err
		}
		info, err := os.Stat(name)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(path, "a", ""); err == nil {
		t.Error("a directory that others can read was taken")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(file, "a", ""); err == nil {
		t.Error("a file was taken")
	}
}

// TestDir_Durable: what was promised and adopted is there after a restart, and the instance is that
// of the directory.
func TestDir_Durable(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(path, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	instance := d.Instance()
	c := node.Cluster{ID: "c", Servers: []node.Info{{ID: "a", Address: "x:1", Instance: instance}, {ID: "b", Address: "y:1", Instance: "i"}}}
	if err := errors.Join(d.Promise("7.a"), d.Adopt(c), d.Close()); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenDir(path, "a", ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	got := d.Cluster()
	if d.Instance() != instance || d.Promised() != "7.a" || got.ID != "c" || len(got.Servers) != 2 || got.Servers[1].Address != "y:1" {
		t.Errorf("got %q, %q, %+v", d.Instance(), d.Promised(), got)
	}
	other, err := OpenDir(t.TempDir(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if other.Instance() == instance {
		t.Error("two directories have one instance")
	}
}
