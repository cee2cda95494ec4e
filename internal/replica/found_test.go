package replica

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// TestRecover_Refuses: while something takes connections at another voter's address nothing is done, and
// nobody is asked; a server without a vote does not matter.
func TestRecover_Refuses(t *testing.T) {
	voter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	d, err := OpenDir(dir, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	c := raft.Configuration{Servers: []raft.Server{
		{ID: "a", Address: "a:1"}, {ID: "b", Address: raft.ServerAddress(voter.Addr().String())},
		{ID: "c", Address: raft.ServerAddress(other.Addr().String()), Suffrage: raft.Nonvoter},
	}}
	err = errors.Join(d.Adopt(node.Cluster{ID: "c"}),
		checksums{d.log}.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}}), d.Close())
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	stop := errors.New("stop")
	ask := func(r Recovery) error {
		asked++
		if len(r.Lost) != 2 || r.NodeID != "a" || r.Address != "a:1" || r.Last != 1 {
			t.Errorf("%+v", r)
		}
		return stop
	}
	if _, err := Recover(t.Context(), dir, zap.NewNop(), ask); !errors.Is(err, chaterr.ErrQuorumAlive) || !strings.Contains(err.Error(), voter.Addr().String()) || asked > 0 {
		t.Errorf("got %v, asked %d times", err, asked)
	}
	if err := voter.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(t.Context(), dir, zap.NewNop(), ask); !errors.Is(err, stop) || asked != 1 {
		t.Errorf("got %v, asked %d times", err, asked)
	}
	if left, _ := os.ReadDir(parent); len(left) != 1 {
		t.Errorf("left are %v", left)
	}
	if _, err := Recover(t.Context(), parent, zap.NewNop(), ask); err == nil || asked != 1 {
		t.Errorf("what is no data directory: %v", err)
	}
}

// TestCheck_Finds: damage in any of a node's files is found, and named.
func TestCheck_Finds(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(d *Dir, path string) error
		want   error
		file   string
	}{
		"no node.json": {func(_ *Dir, p string) error { return os.Remove(filepath.Join(p, identityFile)) }, chaterr.ErrCorrupt, identityFile},
		"node.json": {func(_ *Dir, p string) error {
			return os.WriteFile(filepath.Join(p, identityFile), []byte("{}\nx"), 0o600)
		}, chaterr.ErrCorrupt, identityFile},
		"an entry": {func(d *Dir, _ string) error {
			return d.log.disk.StoreLogs([]*raft.Log{{Index: 7, Term: 1, Extensions: make([]byte, 4)}})
		}, chaterr.ErrCorrupt, "entry 7"},
		"a gap": {func(d *Dir, _ string) error {
			return d.log.disk.StoreLogs([]*raft.Log{{Index: 12, Term: 1}})
		}, chaterr.ErrCorrupt, "after entry 10"},
		"a lost tail": {func(d *Dir, _ string) error { return d.log.disk.DeleteRange(9, 10) }, chaterr.ErrCorrupt, "ends with entry 8"},
		"a lost vote": {func(d *Dir, _ string) error {
			return errors.Join(d.log.Set([]byte(voteKey), []byte("term five, for b")), d.log.disk.Set([]byte(voteKey), []byte("term five, for c")))
		}, chaterr.ErrCorrupt, "raft's Vote"},
		"a term that goes back": {func(d *Dir, _ string) error {
			return checksums{d.log}.StoreLogs([]*raft.Log{{Index: 11, Term: 0}})
		}, chaterr.ErrCorrupt, "entry 11"},
		"an old term": {func(d *Dir, _ string) error { return checksums{d.log}.SetUint64([]byte(termKey), 0) }, chaterr.ErrCorrupt, boltFile},
		"a log without its beginning": {func(d *Dir, _ string) error {
			return d.log.DeleteRange(1, 5)
		}, chaterr.ErrCorrupt, "begins at entry 6"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			d, err := OpenDir(path, "a", "")
			if err != nil {
				t.Fatal(err)
			}
			logs := checksums{d.log}
			if err := errors.Join(logs.StoreLogs(entries(1, 10, 1, "x")), logs.SetUint64([]byte(termKey), 1), d.Close()); err != nil {
				t.Fatal(err)
			}
			if c, err := Check(path, zap.NewNop()); err != nil || c.First != 1 || c.Last != 10 || c.NodeID != "a" {
				t.Fatalf("%+v, %v", c, err)
			}
			if d, err = OpenDir(path, "a", ""); err != nil {
				t.Fatal(err)
			}
			if _, err := Check(path, zap.NewNop()); !errors.Is(err, chaterr.ErrDataDirInUse) {
				t.Errorf("while it is open: %v", err)
			}
			if err := errors.Join(tt.damage(d, path), d.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := Check(path, zap.NewNop()); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("got %v", err)
			}
		})
	}
}
