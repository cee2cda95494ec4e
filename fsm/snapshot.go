package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Snapshot returns at once: the work is done in Persist, while entries are applied. What Persist
// writes may therefore hold entries behind the one that raft names the snapshot by; they are
// skipped when raft brings them.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Err(); err != nil {
		return nil, err // raft has counted entries as applied that the state does not hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.store == nil || !f.store.use() {
		return nil, errors.New("the state is closed")
	}
	return &snapshot{f, f.store, f.state.ClusterID(), f.state.Applied()}, nil
}

type snapshot struct {
	f       *FSM
	s       *store
	cluster string
	applied uint64
}

var _ raft.FSMSnapshot = (*snapshot)(nil)

// Persist writes what is only in memory to tables, and links all tables into the snapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	c, ok := sink.(checkpointer)
	if !ok {
		return errors.Join(fmt.Errorf("a %T cannot hold a checkpoint", sink), sink.Cancel())
	}
	err := s.f.flush(s.s, nil)
	if err == nil {
		err = c.checkpoint(s.cluster, s.applied, func(dir string) error { return s.s.db.Checkpoint(dir) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write a snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (s *snapshot) Release() { s.s.release() }

// checkpointer is a raft.SnapshotSink to which a snapshot is not written as a stream.
type checkpointer interface {
	checkpoint(cluster string, applied uint64, write func(dir string) error) error
}

// Restore goes over to the state in a snapshot of this FSM's own store. The state that it replaces
// is in use until then, and stays in use when Restore fails.
func (f *FSM) Restore(rc io.ReadCloser) error {
	if w, ok := rc.(raft.ReadCloserWrapper); ok {
		rc = w.WrappedReadCloser()
	}
	r, ok := rc.(*snapshotReader)
	if !ok {
		return fmt.Errorf("a %T is no snapshot of this store", rc)
	}
	if err := f.Err(); err != nil {
		return err
	}
	if f.state.Applied() >= r.snap.manifest.AppliedIndex && f.state.ClusterID() == r.snap.manifest.ClusterId {
		return nil // the leader sent what is here already
	}
	if err := f.replace(r.snap, drop); err != nil {
		// raft is sent it again, for ever, and only logs that.
		if f.refused++; f.refused == maxFailures {
			f.fail(err)
		}
		return err
	}
	f.refused = 0
	f.o.Skipped()
	return nil
}
