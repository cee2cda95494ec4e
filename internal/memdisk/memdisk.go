// Package memdisk is a node's disk in memory, for tests of whole nodes: it keeps what was synced when the node
// on it dies.
package memdisk

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// Disk is a computer's disk. It is safe for concurrent use.
type Disk struct {
	log *raft.InmemStore // what raft-boltdb would keep: each change is durable at once, as there

	mu    sync.Mutex // guards what follows
	files *vfs.MemFS
	used  bool
}

// New makes an empty disk.
func New() *Disk { return &Disk{log: raft.NewInmemStore(), files: vfs.NewCrashableMem()} }

// Crash loses what was not synced. The node on the disk must be closed.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = d.files.CrashClone(vfs.CrashCloneCfg{})
}

// Files is its file system, until Crash.
func (d *Disk) Files() vfs.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files
}

// Lock gives one user at a time what stands in for raft-boltdb, until he closes it. Others get
// chaterr.ErrDataDirInUse.
func (d *Disk) Lock() (*Log, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used {
		return nil, fmt.Errorf("the disk in memory: %w", chaterr.ErrDataDirInUse)
	}
	d.used = true
	return &Log{InmemStore: d.log, d: d}, nil
}

// Log keeps values, and entries, as raft-boltdb does: a number is a value of eight bytes.
type Log struct {
	*raft.InmemStore
	d    *Disk
	once sync.Once
}

var (
	_ raft.LogStore    = (*Log)(nil)
	_ raft.StableStore = (*Log)(nil)
)

// SetUint64 is Set for a number.
func (l *Log) SetUint64(key []byte, n uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 is Get for a number.
func (l *Log) GetUint64(key []byte) (uint64, error) {
	b, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%q is no number: %w", key, chaterr.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}

// Close lets the next one have the disk.
func (l *Log) Close() error {
	l.once.Do(func() {
		l.d.mu.Lock()
		defer l.d.mu.Unlock()
		l.d.used = false
	})
	return nil
}
