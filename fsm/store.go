package fsm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"go.uber.org/zap"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// stateDirs are "state-" and a number; the highest counts. A directory that is being built has a
// name that ends in ".tmp", and is complete when it loses it.
const (
	stateDirs  = "state-"
	unfinished = ".tmp"
)

// store is a Pebble with a state in it. When the FSM has gone over to another store, this one is
// closed and removed as soon as the last View of it is closed.
type store struct {
	fs  files.FS
	dir string
	db  *pebble.DB

	mu      sync.Mutex // guards what follows
	users   int        // the FSM counts as one
	retired bool       // its directory goes once nobody uses it
	aside   string     // to there; empty for nowhere
	closed  chan struct{}
	err     error // of closing
}

// openStore opens the Pebble in dir, or makes one unless it is only to be read. fault is called when
// it cannot go on.
func openStore(fs files.FS, dir string, readOnly bool, log *zap.Logger, hold *files.Hold, fault func(error)) (*store, error) {
	opts := storeOptions()
	opts.ReadOnly = readOnly
	db, err := files.OpenPebble(fs, dir, opts, log, hold, fault)
	if err != nil {
		return nil, fmt.Errorf("open the state in %s: %w", dir, err)
	}
	return &store{fs: fs, dir: dir, db: db, users: 1, closed: make(chan struct{})}, nil
}

// storeOptions spend a little on reads, which look into more tables, so that a message is written again
// less often: BenchmarkApply with some millions of messages says what a change of them costs.
//
// What says when a store flushes and compacts is chosen anew each time that one is opened. The states of a cluster get
// the same writes, and would do it all at the same moments, while a commit waits for the quickest majority.
func storeOptions() *pebble.Options {
	o := &pebble.Options{
		DisableWAL:   true, // raft's log is the log
		MemTableSize: 12<<20 + rand.Uint64N(6<<20),
		// Level 0 is compacted when a key may be in seven to ten of its runs: each message is new, so that the
		// tables below, which are rewritten each time, are fewer for each one.
		L0CompactionThreshold: 14 + 2*rand.IntN(4),
		// While one large compaction runs, level 0 gets a run for each memtable. Writes that had to wait for it would be the
		// cluster's, for seconds: there is room for so many runs, and who reads is slower meanwhile.
		L0StopWritesThreshold: 100,
		LBaseMaxBytes:         256 << 20, // one level less
	}
	o.Levels[0].FilterPolicy = bloom.FilterPolicy(10) // most operation ids are new
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression } // soon written again
	}
	o.Levels[len(o.Levels)-1].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
	return o
}

// use keeps the store open until release; it reports false when that is over.
func (s *store) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

func (s *store) release() {
	s.mu.Lock()
	s.users--
	last, retired, aside := s.users == 0, s.retired, s.aside
	s.mu.Unlock()
	if !last {
		return
	}
	s.err = s.db.Close()
	switch {
	case !retired:
	case aside == "":
		s.err = errors.Join(s.err, s.fs.RemoveAll(s.dir))
	default:
		s.err = errors.Join(s.err, s.fs.Rename(s.dir, aside))
	}
	close(s.closed)
}

// over reports whether the store is closed.
func (s *store) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// retire makes the last user remove the directory, or give it another name.
func (s *store) retire(aside string) {
	s.mu.Lock()
	s.retired, s.aside = true, aside
	s.mu.Unlock()
	s.release()
}

// newestStateDir finds the directory to open, and removes what an interrupted change of stores has
// left behind.
func newestStateDir(fs files.FS, dir string) (string, error) {
	names, err := fs.Names(dir)
	if err != nil {
		return "", err
	}
	newest := ""
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !strings.HasPrefix(name, stateDirs) {
			continue
		}
		if strings.HasSuffix(path, unfinished) {
			err = errors.Join(err, fs.RemoveAll(path))
			continue
		}
		if newest != "" {
			err = errors.Join(err, fs.RemoveAll(newest))
		}
		newest = path
	}
	if newest == "" {
		newest = nextStateDir(filepath.Join(dir, stateDirs))
	}
	return newest, err
}

// nextStateDir is the name after another.
func nextStateDir(dir string) string {
	n := 0
	parent, last := filepath.Split(dir)
	_, _ = fmt.Sscanf(last, stateDirs+"%d", &n) // the first has no number before it
	return filepath.Join(parent, fmt.Sprintf(stateDirs+"%08d", n+1))
}

// linkState makes a state directory of the files of a snapshot, and checks it. Pebble never writes
// to a table again, so those are linked; everything else is copied.
func linkState(fs files.FS, s *snap, to string, log *zap.Logger) error {
	from := s.stateDir()
	tmp := to + unfinished
	if err := errors.Join(fs.RemoveAll(tmp), fs.MkdirAll(tmp, 0o700)); err != nil {
		return err
	}
	names, err := fs.Names(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		src, dst := filepath.Join(from, name), filepath.Join(tmp, name)
		if linkable(src) && fs.Link(src, dst) == nil {
			continue
		}
		if err := fs.Copy(src, dst); err != nil {
			return err
		}
	}
	if err := errors.Join(check(fs, tmp, s.manifest, log), fs.SyncDir(tmp)); err != nil {
		return err
	}
	if err := fs.Rename(tmp, to); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(to))
}

// linkable tells Pebble's tables and blobs, which are never changed, from its other files.
func linkable(name string) bool {
	return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob")
}

// check opens the state in dir and closes it again. It must be what the manifest says.
func check(fs files.FS, dir string, m *fsmpb.Snapshot, log *zap.Logger) error {
	var found atomic.Pointer[error]
	s, err := openStore(fs, dir, true, log, nil, func(err error) { found.CompareAndSwap(nil, &err) })
	if err != nil {
		return err
	}
	st, err := state.Open(s.db)
	if err == nil && (st.Applied() < m.AppliedIndex || m.ClusterId != "" && st.ClusterID() != m.ClusterId) {
		err = fmt.Errorf("%w: the state of cluster %q up to entry %d, where its manifest promises cluster %q and entry %d",
			chaterr.ErrCorrupt, st.ClusterID(), st.Applied(), m.ClusterId, m.AppliedIndex)
	}
	s.release()
	if p := found.Load(); p != nil {
		err = errors.Join(err, *p)
	}
	return errors.Join(err, s.err)
}
