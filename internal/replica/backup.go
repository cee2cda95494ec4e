package replica

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

const (
	// maxBackups is how many are made at once.
	maxBackups = 2
	// leaderTimeout is how long a backup waits for a leader. Without one it is made all the same.
	leaderTimeout = 2 * time.Second
)

// Backup writes a snapshot to w: the stream that fsm.Snapshots.Import reads. It has everything that was
// acknowledged before, or, when no leader is reached, what this node has applied. The node works on
// meanwhile. It fails with chaterr.ErrOverloaded when there are two of them already.
func (r *Replica) Backup(ctx context.Context, w io.Writer) error {
	if err := r.Err(); err != nil {
		return err
	}
	select {
	case r.backups <- struct{}{}:
		defer func() { <-r.backups }()
	default:
		return chaterr.ErrOverloaded
	}
	wait, cancel := context.WithTimeout(ctx, leaderTimeout)
	_ = r.Linearizable(wait) // else it is as the doc says
	cancel()
	e := r.raft.Load()
	if e == nil {
		return chaterr.ErrClosed
	}
	if err := r.wait(e, e.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return err
	}
	snapshots := r.o.FSM.Snapshots()
	newest, ok := snapshots.Newest()
	if !ok {
		return errors.New("there is nothing to back up yet")
	}
	_, stream, err := snapshots.Open(newest.ID)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, ending{ctx, stream})
	return errors.Join(err, stream.Close())
}

// ending is a reader that ends with a context.
type ending struct {
	context.Context
	r io.Reader
}

func (e ending) Read(p []byte) (int, error) {
	if e.Err() != nil {
		return 0, context.Cause(e)
	}
	return e.r.Read(p)
}
