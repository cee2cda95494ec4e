package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/files"
)

// moveBatch is how many entries are copied at once.
const moveBatch = 256

// MoveLog moves raft's entries in the data directory of a stopped node to another store. Whenever it is
// interrupted, they are in the one that node.json names, and it can be called again.
func MoveLog(dir string, to LogStore) error {
	if to != LogStoreBolt && to != LogStorePebble {
		return fmt.Errorf("log store %q: want %q or %q", to, LogStoreBolt, LogStorePebble)
	}
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err != nil {
		return fmt.Errorf("%s is no data directory: %w", dir, err)
	}
	d, err := OpenDir(dir, "", "")
	if err != nil {
		return err
	}
	on, pebble := files.FS{FS: d.fs}, filepath.Join(dir, pebbleDir)
	if d.id.logStore() != to {
		err = d.moveLog(on, pebble, to)
	}
	if err == nil && to == LogStorePebble {
		err = deleteAll(d.log.bolt)
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("move raft's log in %s to %s: %w", dir, to, err)
	}
	if to == LogStorePebble {
		return nil
	}
	return errors.Join(on.RemoveAll(pebble), on.SyncDir(dir))
}

func (d *Dir) moveLog(on files.FS, pebble string, to LogStore) (err error) {
	if to == LogStoreBolt {
		err = errors.Join(deleteAll(d.log.bolt), copyEntries(d.log.bolt, d.log))
	} else {
		err = errors.Join(on.RemoveAll(pebble), fillPebble(on, pebble, d.log))
	}
	if err != nil {
		return err
	}
	return d.change(func(id *identity) { id.Format, id.LogStore = identityFormat, to })
}

// deleteAll removes all entries.
func deleteAll(s disk) error {
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	return pieces{s}.DeleteRange(0, last)
}

// fillPebble makes a Pebble with the entries of a log.
func fillPebble(on files.FS, dir string, from raft.LogStore) error {
	if err := on.MakeDir(dir); err != nil {
		return err
	}
	to, err := openPebbleLog(on, dir, true, false)
	if err != nil {
		return err
	}
	return errors.Join(copyEntries(to, from), to.Close())
}

func copyEntries(to, from raft.LogStore) error {
	first, err := from.FirstIndex()
	if err != nil {
		return err
	}
	last, err := from.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	var batch []*raft.Log
	for i := first; i <= last; i++ {
		l := new(raft.Log)
		if err := from.GetLog(i, l); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if batch = append(batch, l); len(batch) < moveBatch && i < last {
			continue
		}
		if err := to.StoreLogs(batch); err != nil {
			return err
		}
		batch = nil
	}
	return nil
}
