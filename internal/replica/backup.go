package replica

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// maxBackups is how many are made at once.
const maxBackups = 2

// Backup writes a snapshot of what this node has applied to w: the stream that fsm.Snapshots.Import
// reads. The node works on meanwhile. It fails with chaterr.ErrOverloaded when there are two of them
// already.
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
