package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// Verified is what Verify has seen. The entries are those in the log of a directory; of a backup there
// are none.
type Verified struct {
	Backup                bool
	NodeID                string // empty for a backup
	ClusterID             string
	FirstEntry, LastEntry uint64
	Applied               uint64 // the last entry that the state holds
	Snapshots, Records    int
}

// Verify is Check for a directory, and CheckBackup for a file.
func Verify(path string, log *zap.Logger) (Verified, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Verified{}, err
	}
	if !info.IsDir() {
		b, err := CheckBackup(path, log)
		return Verified{Backup: true, ClusterID: b.ClusterID, Applied: b.Applied, Records: b.Records}, err
	}
	c, err := Check(path, log)
	return Verified{
		NodeID: c.NodeID, ClusterID: c.ClusterID, FirstEntry: c.First, LastEntry: c.Last,
		Applied: c.Applied, Snapshots: c.Snapshots, Records: c.Records,
	}, err
}

// Checked is what Check has seen.
type Checked struct {
	NodeID, ClusterID string
	First, Last       uint64 // entries in the log; 0 for none
	fsm.Checked
}

// Check reads everything in the data directory of a stopped node, and changes nothing. Its error joins all
// problems that it has found, each with the file that it is in.
func Check(dir string, log *zap.Logger) (c Checked, err error) {
	report := func(e error) { err = errors.Join(err, e) }
	d := &Dir{path: dir, fs: files.NewWatched(files.Disk)}
	switch found, e := d.read(); {
	case e != nil:
		report(e)
	case !found:
		report(fmt.Errorf("%s: %w: there is none", filepath.Join(dir, identityFile), chaterr.ErrCorrupt))
	}
	c.NodeID, c.ClusterID = d.id.NodeID, d.id.ClusterID
	name := filepath.Join(dir, boltFile)
	e := safely(func() (e error) {
		if e = wholeLog(name); e != nil {
			return e
		}
		c.First, c.Last, e = checkLog(place{dir: dir, files: files.FS{FS: d.fs}, path: dir, store: d.id.logStore()}, report)
		return e
	})
	if errors.Is(e, chaterr.ErrDataDirInUse) {
		return c, e
	} else if e != nil {
		report(fmt.Errorf("%s: %w: %w", name, chaterr.ErrCorrupt, e))
	}
	c.Checked = fsm.Check(filepath.Join(dir, stateDir), log, report)
	for _, id := range c.Clusters {
		if id != c.ClusterID {
			report(fmt.Errorf("%s: %w: the state, or a snapshot, is of cluster %q, and the directory of %q", dir, chaterr.ErrOtherCluster, id, c.ClusterID))
		}
	}
	if held := max(c.Applied, c.Snapshot); c.First > held+1 {
		report(fmt.Errorf("%s: %w: the log begins at entry %d, and the state ends at entry %d", name, chaterr.ErrCorrupt, c.First, held))
	}
	return c, err
}

// checkLog reads raft's log, term and vote, page by page and entry by entry.
func checkLog(at place, report func(error)) (first, last uint64, err error) {
	name := at.bolt()
	if at.store == LogStorePebble {
		name = at.pebble()
	}
	file, err := at.read(false, true)
	if errors.Is(err, bbolt.ErrTimeout) {
		return 0, 0, fmt.Errorf("%s: %w", name, chaterr.ErrDataDirInUse)
	}
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	logs := &votes{disk: checksums{file}}
	if first, err = logs.FirstIndex(); err != nil {
		return 0, 0, err
	}
	if last, err = logs.LastIndex(); err != nil {
		return 0, 0, err
	}
	term := uint64(0)
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			report(fmt.Errorf("%s: entry %d: %w: %w", name, i, chaterr.ErrCorrupt, err))
			continue
		}
		if l.Term < term {
			report(fmt.Errorf("%s: %w: entry %d is of term %d, after term %d", name, chaterr.ErrCorrupt, i, l.Term, term))
		}
		term = l.Term
	}
	now, err := logs.GetUint64([]byte(termKey))
	if err != nil && !isNotFound(err) {
		report(fmt.Errorf("%s: the term: %w", at.bolt(), err))
	}
	voted, err := logs.GetUint64([]byte(voteTermKey))
	if err != nil && !isNotFound(err) {
		report(fmt.Errorf("%s: the vote: %w", at.bolt(), err))
	}
	if now < max(term, voted) {
		report(fmt.Errorf("%s: %w: the term is %d, with entries of term %d and a vote in term %d", at.bolt(), chaterr.ErrCorrupt, now, term, voted))
	}
	return first, last, nil
}

// CheckBackup reads a whole backup, which it unpacks for the time beside itself.
func CheckBackup(name string, log *zap.Logger) (b fsm.Backup, err error) {
	f, err := os.Open(name)
	if err != nil {
		return b, err
	}
	defer func() { _ = f.Close() }() // only read
	tmp, err := os.MkdirTemp(filepath.Dir(name), filepath.Base(name)+".check-")
	if err != nil {
		return b, err
	}
	b, err = fsm.CheckBackup(f, filepath.Join(tmp, "state"), log)
	if err = errors.Join(err, os.RemoveAll(tmp)); err != nil {
		return b, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}
