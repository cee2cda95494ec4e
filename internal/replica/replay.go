package replica

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// Replayed is what Replay has found.
type Replayed struct {
	From, To uint64   // what the state held before and after
	Level    uint32   // of the cluster
	Hash     uint64   // of all changes since level 2; 0 before
	Content  [32]byte // SHA-256 of all records
}

// replayBatch is how many entries are applied at once.
const replayBatch = 128

// Replay applies what the log of a data directory has to its state, under this binary. The state moves on,
// so dir should be a copy. Entries at the end of the log may not have been committed.
func Replay(dir string, log *zap.Logger) (Replayed, error) {
	var res Replayed
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err != nil {
		return res, fmt.Errorf("%s is no data directory: %w", dir, err) // and is not made one
	}
	d, err := OpenDir(dir, "", "")
	if err != nil {
		return res, err
	}
	f, err := fsm.Open(fsm.Options{
		Dir: d.StateDir(), Logger: log, Publish: func([]state.Event) {}, Skipped: func() {}, Fault: func(error) {},
	})
	if err != nil {
		return res, errors.Join(err, d.Close())
	}
	res.From = f.Applied()
	err = d.replay(f)
	a := f.Audit()
	res.To, res.Level, res.Hash = f.Applied(), a.Level, a.Hash
	if err == nil {
		res.Content, err = contentOf(f)
	}
	return res, errors.Join(err, f.Close(), d.Close())
}

// replay gives a state the entries that it lacks.
func (d *Dir) replay(f *fsm.FSM) error {
	logs := checksums{d.log}
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	held := f.Applied() // or more: entries without commands, which the newest snapshot stands for
	if newest, ok := f.Snapshots().Newest(); ok {
		held = max(held, newest.Index)
	}
	if first > held+1 {
		return fmt.Errorf("%w: the log begins at entry %d, and the state ends at entry %d", chaterr.ErrCorrupt, first, held)
	}
	var batch []*raft.Log
	for i := max(f.Applied()+1, first); i <= last; i++ {
		l := new(raft.Log)
		if err := logs.GetLog(i, l); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if l.Type == raft.LogCommand || l.Type == raft.LogConfiguration { // what raft gives to a state machine
			batch = append(batch, l)
		}
		if len(batch) == replayBatch || i == last && len(batch) > 0 {
			f.ApplyBatch(batch)
			batch = nil
			if err := f.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

func contentOf(f *fsm.FSM) (sum [32]byte, err error) {
	v, err := f.View()
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	err = v.Records(func(k, value []byte) bool {
		_, _ = fmt.Fprintf(h, "%d %d ", len(k), len(value)) // a hash never fails
		h.Write(k)
		h.Write(value)
		return true
	})
	h.Sum(sum[:0])
	return sum, errors.Join(err, v.Close())
}
