package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"example.com/chat/internal/chaterr"
)

// open opens the log, which is made first if create is set: raft.db beside it, for what a power cut leaves
// of a file that bbolt is beginning is none that bbolt opens.
func (p place) open(create bool) (*logFile, error) {
	if p.memory != nil {
		return p.load(create)
	}
	path := p.bolt()
	if _, err := os.Stat(path); create && errors.Is(err, fs.ErrNotExist) {
		if err := makeLog(p.dir, path); err != nil {
			return nil, fmt.Errorf("make raft's log: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("raft's log: %w", err)
	}
	if err := wholeLog(path); err != nil {
		return nil, fmt.Errorf("raft's log %s: %w", path, err)
	}
	l, err := p.load(create)
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", path, chaterr.ErrDataDirInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open raft's log %s: %w", path, err)
	}
	if err := removeUnfinished(p.dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// boltOptions leave the free list out of each commit, where it would be the larger part, and keep it in
// no array (bbolt's options of the same names).
func boltOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// opened opens something of bbolt's, which panics on some kinds of damage, and would leave the file open
// and locked.
func opened[T any](open func(o *bbolt.Options) (T, error)) (t T, err error) {
	var file *os.File
	o := boltOptions()
	o.OpenFile = func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	err = safely(func() (err error) {
		t, err = open(o)
		return err
	})
	if err != nil && file != nil {
		_ = file.Close() // it may be closed
	}
	return t, err
}

func openBolt(path string, readOnly bool) (*bbolt.DB, error) {
	return opened(func(o *bbolt.Options) (*bbolt.DB, error) {
		o.ReadOnly = readOnly
		return bbolt.Open(path, 0o600, o)
	})
}

func openStore(path string, readOnly bool) (*raftboltdb.BoltStore, error) {
	return opened(func(o *bbolt.Options) (*raftboltdb.BoltStore, error) {
		o.ReadOnly = readOnly
		return raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: o, MsgpackUseNewTimeFormat: true})
	})
}

// makeLog makes an empty log under another name, and gives it its own when it is whole. Another
// process may do the same: a link never replaces a file.
func makeLog(dir, path string) error {
	tmp, err := os.CreateTemp(dir, boltFile+".*.new")
	if err != nil {
		return err
	}
	s, err := openStore(tmp.Name(), false)
	if err == nil {
		err = s.Close()
	}
	if err == nil {
		if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	return errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
}

// removeUnfinished removes what power cuts have left of makeLog. The log is open.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if ok, _ := filepath.Match(boltFile+".*.new", e.Name()); ok { // the pattern is right
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
