// Package fsm stands between raft and the replicated state: it applies log entries to package
// state in batches, takes and installs snapshots, and tells who listens what was committed.
package fsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

const (
	// flushTimeout is how long Close waits for what is only in memory to be written. What is not is
	// made anew from raft's log.
	flushTimeout = 10 * time.Second
	// flushLook is how long flush waits, at most flushLooks times, before it looks again whether another one is over.
	flushLook, flushLooks = 5 * time.Millisecond, 100
	// closeTimeout is how long a state that has failed may take to close.
	closeTimeout = 5 * time.Second
)

// Options are what an FSM needs. None may be left out but FS.
type Options struct {
	// Dir is where state and snapshots are kept. It exists, and belongs to this FSM alone.
	Dir    string
	Logger *zap.Logger
	// FS is the file system that Dir is in; nil for that of the machine.
	FS vfs.FS
	// Publish is called on raft's goroutine after each batch that had events, in the order of the
	// log. It must not wait. After a restart it may get events again.
	Publish func([]state.Event)
	// Skipped is called when a snapshot was installed, so that events were left out.
	Skipped func()
	// Fault is called, perhaps more than once, when the state cannot go on: the disk has failed,
	// data is damaged, or a newer version wrote the log. It must not wait.
	Fault func(error)
}

// FSM is a raft.BatchingFSM. raft calls Apply, ApplyBatch, Snapshot and Restore; everything else is
// safe for concurrent use. It has no goroutines of its own beside Pebble's.
type FSM struct {
	o         Options
	fs        files.FS
	snapshots *Snapshots
	state     *state.State // used by raft's goroutine alone
	refused   int          // snapshots, one after the other; used by raft's goroutine alone
	applied   progress
	cluster   atomic.Pointer[string]
	audit     atomic.Pointer[state.Audit]
	health    atomic.Pointer[health]

	mu     sync.Mutex // guards what follows
	store  *store     // nil once closed
	stores []*store   // it, and those before it that are still read
}

var (
	_ raft.FSM         = (*FSM)(nil)
	_ raft.BatchingFSM = (*FSM)(nil)
)

// Open opens the state in o.Dir, or begins one. A state that is behind the newest snapshot, because
// the process died between the two, is replaced by it: raft would take the snapshot's entries for
// applied (api.go, restoreSnapshot, with NoSnapshotRestoreOnStart).
func Open(o Options) (*FSM, error) {
	f := &FSM{o: o, fs: files.FS{FS: cmp.Or[vfs.FS](o.FS, files.Disk)}}
	f.health.Store(newHealth())
	var err error
	if f.snapshots, err = openSnapshots(f.fs, filepath.Join(o.Dir, "snapshots"), o.Logger, f.fail); err != nil {
		return nil, err
	}
	dir, err := newestStateDir(f.fs, o.Dir)
	if err != nil {
		return nil, err
	}
	if err := f.open(dir); err != nil {
		return nil, err
	}
	if err := f.Install(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Install goes over to the newest snapshot if the state is behind it. raft must not be running.
func (f *FSM) Install() error {
	newest, ok := f.snapshots.newest()
	if !ok || f.state.Applied() >= newest.manifest.AppliedIndex {
		return nil
	}
	if err := f.replace(newest, drop); err != nil {
		return err
	}
	f.o.Skipped()
	return nil
}

// open begins to use the state in dir.
func (f *FSM) open(dir string) error {
	s, err := openStore(f.fs, dir, false, f.o.Logger, &f.snapshots.hold, f.fail)
	if err != nil {
		return err
	}
	st, err := state.Open(s.db)
	if err != nil {
		s.release()
		return fmt.Errorf("state in %s: %w", dir, err)
	}
	f.mu.Lock()
	f.state, f.store = st, s
	f.stores = append(slices.DeleteFunc(f.stores, (*store).over), s)
	f.mu.Unlock()
	f.note()
	return nil
}

// note tells of the state's progress.
func (f *FSM) note() {
	if id := f.state.ClusterID(); id != f.ClusterID() {
		f.cluster.Store(&id)
	}
	a := f.state.Audit()
	f.audit.Store(&a)
	f.applied.advance(f.state.Applied())
}

// Audit says how the state compares with that of other nodes, as of the last entry applied.
func (f *FSM) Audit() state.Audit { return *f.audit.Load() }

// ClusterID is empty until the first command of the cluster was applied.
func (f *FSM) ClusterID() string {
	if id := f.cluster.Load(); id != nil {
		return *id
	}
	return ""
}

// drop ends the use of a store whose directory nobody needs any more.
func drop(s *store) { s.retire("") }

// replace goes over to the state in a snapshot, of which it makes its own copy first; leave is what
// becomes of the state of before.
func (f *FSM) replace(by *snap, leave func(*store)) error {
	if is, of := f.ClusterID(), by.manifest.ClusterId; is != "" && of != is {
		return fmt.Errorf("a snapshot of cluster %q for the state of cluster %q: %w", of, is, chaterr.ErrOtherCluster)
	}
	old := f.store
	dir := nextStateDir(old.dir)
	if err := linkState(f.fs, by, dir, f.o.Logger); err != nil {
		return errors.Join(fmt.Errorf("install the state in %s: %w", by.stateDir(), err), f.fs.RemoveAll(dir+unfinished))
	}
	if err := f.open(dir); err != nil {
		return errors.Join(err, f.fs.RemoveAll(dir)) // else it would be in the way of the next attempt
	}
	leave(old)
	return nil
}

// Snapshots is the store in which raft keeps snapshots.
func (f *FSM) Snapshots() *Snapshots { return f.snapshots }

// View takes a view of what is applied now. The caller closes it. The error is chaterr.ErrClosed,
// or wraps chaterr.ErrFault.
func (f *FSM) View() (*state.View, error) {
	if err := f.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	s := f.store
	ok := s != nil && s.use()
	f.mu.Unlock()
	if !ok {
		return nil, chaterr.ErrClosed
	}
	return state.NewView(s.db, s.release)
}

// Applied is the index of the last command that the state holds. raft's own AppliedIndex says
// what was sent to the FSM, which may be more.
func (f *FSM) Applied() uint64 { return f.applied.get() }

// WaitApplied waits until the state holds the command at index. The error is that of ctx, or wraps
// chaterr.ErrFault.
func (f *FSM) WaitApplied(ctx context.Context, index uint64) error {
	return f.applied.wait(ctx, index, f.health.Load().broken, f.Err)
}

// Err is the first fault, wrapped in chaterr.ErrFault; nil while there is none.
func (f *FSM) Err() error { return f.health.Load().err() }

// Fail makes the FSM refuse everything, as a fault of its own does. It does not wait.
func (f *FSM) Fail(err error) { f.fail(err) }

// fail makes the FSM refuse everything from now on.
func (f *FSM) fail(err error) {
	f.health.Load().fail(err)
	f.o.Fault(err)
}

// flush writes what is only in memory to tables. Pebble itself would wait for ever on a disk that
// fails, and tries again without a pause; the first failure is a fault.
//
// It does not begin while a memtable that was full is being written, unless there is always one: Pebble has two, so it
// would have all writes wait for that.
func (f *FSM) flush(s *store, late <-chan time.Time) error {
	await := func(done <-chan struct{}) error {
		select {
		case <-done:
			return nil
		case <-late:
			return fmt.Errorf("the state in %s was not written within %v", s.dir, flushTimeout)
		case <-f.health.Load().broken:
			return f.Err()
		}
	}
	for n := 0; n < flushLooks && s.db.Metrics().Flush.NumInProgress > 0; n++ {
		soon := make(chan struct{})
		time.AfterFunc(flushLook, func() { close(soon) })
		if err := await(soon); err != nil {
			return err
		}
	}
	done, err := s.db.AsyncFlush()
	if err != nil {
		return err
	}
	return await(done)
}

// Close writes what is only in memory, so that the next start need not replay it, and closes the
// state. It waits for open views, and for a disk that hangs some seconds. raft must have been shut down.
func (f *FSM) Close() error {
	f.mu.Lock()
	s, stores := f.store, f.stores
	f.store, f.stores = nil, nil
	f.mu.Unlock()
	if s == nil {
		return nil
	}
	var err error
	var late <-chan time.Time // never, unless something has failed
	if f.Err() == nil {
		err = f.flush(s, time.After(flushTimeout))
	}
	if f.Err() != nil || err != nil {
		late = time.After(closeTimeout)
	}
	// A Pebble that has failed may never close: the goroutine that failed may have held its locks.
	go s.release()
	for _, s := range stores {
		select {
		case <-s.closed:
			err = errors.Join(err, s.err)
		case <-late:
			return fmt.Errorf("the state in %s did not close within %v: %w", s.dir, closeTimeout, cmp.Or(f.Err(), err))
		}
	}
	return err
}
