package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// health is whether a state can go on.
type health struct {
	broken chan struct{} // closed at the first fault
	once   sync.Once
	fault  error // why broken was closed; read it only after that
}

func newHealth() *health { return &health{broken: make(chan struct{})} }

func (h *health) fail(err error) {
	h.once.Do(func() {
		h.fault = fmt.Errorf("%w: %w", chaterr.ErrFault, err)
		close(h.broken)
	})
}

func (h *health) err() error {
	select {
	case <-h.broken:
		return h.fault
	default:
		return nil
	}
}

// asideDirs are states that were set aside, for people to look at. The last one is kept.
const asideDirs = "diverged-"

// Mend goes over from a state that has diverged to that of the newest snapshot, which must have come
// from another node, and ends the fault. The state of before is set aside, and the older snapshots are
// removed, for they may be of its kind. raft must not be running.
func (f *FSM) Mend() error {
	newest, ok := f.snapshots.newest()
	if !ok || newest.manifest.AppliedIndex <= f.state.Applied() {
		return errors.New("there is no newer snapshot to go over to")
	}
	old := f.store
	if done, err := old.db.AsyncFlush(); err == nil { // what is aside should be all there was
		select {
		case <-done:
		case <-time.After(closeTimeout):
		}
	}
	if err := removeAside(f.fs, f.o.Dir); err != nil {
		return err
	}
	aside := filepath.Join(f.o.Dir, asideDirs+strings.TrimPrefix(filepath.Base(old.dir), stateDirs))
	if err := f.replace(newest, func(s *store) { s.retire(aside) }); err != nil {
		return err
	}
	f.o.Logger.Warn("the state that differs is set aside", zap.String("in", aside))
	f.health.Store(newHealth())
	f.o.Skipped()
	return f.snapshots.keep(1)
}

func removeAside(fs files.FS, dir string) error {
	names, err := fs.Names(dir)
	for _, name := range names {
		if strings.HasPrefix(name, asideDirs) {
			err = errors.Join(err, fs.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return err
}
