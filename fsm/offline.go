package fsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// Refound makes the state that of a cluster of its own, which begins with one snapshot, of the entry (index,
// term), and the servers of c. No other snapshot is left. index is that of the last entry that the state
// holds or has passed. raft must not be running.
func (f *FSM) Refound(cluster string, c raft.Configuration, index, term uint64, endSessions bool) error {
	if index < f.state.Applied() {
		return fmt.Errorf("the state holds entry %d, and is to begin at entry %d", f.state.Applied(), index)
	}
	if err := f.state.Refound(cluster, endSessions); err != nil {
		return err
	}
	f.note()
	s, err := f.Snapshot()
	if err != nil {
		return err
	}
	defer s.Release()
	sink, err := f.snapshots.Create(raft.SnapshotVersionMax, index, term, c, index, nil)
	if err != nil {
		return err
	}
	if err := s.Persist(sink); err != nil {
		return err
	}
	return f.snapshots.keep(1)
}

// Position is the last entry that the state holds, and its term.
func (f *FSM) Position() (index, term uint64) { return f.state.Applied(), f.state.Term() }

// disk is where the directories are that no FSM has open.
var disk = files.FS{FS: files.Disk}

// CopyDir copies the directory of an FSM that is not open; tables are linked where that is possible.
func CopyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dst := filepath.Join(to, strings.TrimPrefix(path, from))
		if e.IsDir() {
			return os.MkdirAll(dst, 0o700)
		}
		if linkable(path) && os.Link(path, dst) == nil {
			return nil
		}
		return disk.Copy(path, dst)
	})
}

// Checked is what Check has seen.
type Checked struct {
	Clusters  []string // of states and snapshots
	Applied   uint64   // by the state; 0 when there is none
	Records   int      // of the state
	Snapshots int
	// Snapshot is the newest one's entry, 0 when there is none, and Configuration the one in it.
	Snapshot      uint64
	Configuration raft.Configuration
}

// Check reads everything in the directory of an FSM that is not open, and changes nothing. Each problem that
// it finds is passed to report.
func Check(dir string, log *zap.Logger, report func(error)) (c Checked) {
	names, err := os.ReadDir(dir)
	if err != nil {
		report(err)
	}
	for _, e := range names {
		if path := filepath.Join(dir, e.Name()); strings.HasPrefix(e.Name(), stateDirs) && !strings.HasSuffix(path, unfinished) {
			st, n, err := checkState(path, nil, log)
			if err != nil {
				report(fmt.Errorf("%s: %w", path, err))
				continue
			}
			c.Clusters, c.Applied, c.Records = append(c.Clusters, st.ClusterID()), st.Applied(), n
		}
	}
	all, err := os.ReadDir(filepath.Join(dir, "snapshots")) // sorted
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		report(err)
	}
	for _, e := range all {
		path := filepath.Join(dir, "snapshots", e.Name())
		if strings.HasSuffix(path, unfinished) {
			continue
		}
		one, err := openSnap(disk, path)
		if err != nil {
			report(err)
			continue
		}
		if _, _, err := checkState(one.stateDir(), one.manifest, log); err != nil {
			report(fmt.Errorf("%s: %w", path, err))
			continue
		}
		c.Snapshots++
		c.Clusters, c.Snapshot = append(c.Clusters, one.manifest.ClusterId), one.manifest.Index
		if c.Configuration, err = DecodeConfiguration(one.manifest.Configuration); err != nil {
			report(fmt.Errorf("%s: %w", path, err))
		}
	}
	return c
}

// checkState reads a whole state. Of a snapshot it is what the manifest says.
func checkState(dir string, m *fsmpb.Snapshot, log *zap.Logger) (st *state.State, records int, err error) {
	if m != nil {
		for _, f := range m.Files {
			if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil {
				return nil, 0, fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err)
			} else if uint64(info.Size()) != f.Size {
				return nil, 0, fmt.Errorf("%s: %w: %d bytes, the manifest says %d", f.Name, chaterr.ErrCorrupt, info.Size(), f.Size)
			}
		}
		if err := check(disk, dir, m, log); err != nil {
			return nil, 0, err
		}
	}
	s, err := openStore(disk, dir, true, log, nil, func(error) {})
	if err != nil {
		return nil, 0, err
	}
	defer s.release()
	if st, err = state.Open(s.db); err != nil {
		return nil, 0, err
	}
	records, err = state.Check(s.db)
	return st, records, err
}

// Backup is what a backup says of itself.
type Backup struct {
	ClusterID   string
	Index, Term uint64
	Applied     uint64
	Servers     []raft.Server
	Records     int
}

// CheckBackup reads a whole backup. It unpacks it in tmp, a new directory, and removes that again.
func CheckBackup(r io.Reader, tmp string, log *zap.Logger) (b Backup, err error) {
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	m, err := receive(r, disk, tmp)
	if err != nil {
		return b, err
	}
	c, err := DecodeConfiguration(m.Configuration)
	if err != nil {
		return b, err
	}
	b = Backup{ClusterID: m.ClusterId, Index: m.Index, Term: m.Term, Applied: m.AppliedIndex, Servers: c.Servers}
	_, b.Records, err = checkState(tmp, m, log)
	return b, err
}
