package replica

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
	"example.com/chat/internal/memdisk"
	"example.com/chat/internal/node"
)

// lockTimeout is how long OpenDir waits for another process that has the directory open: long
// enough for one that is about to end.
const lockTimeout = time.Second

const (
	identityFile   = "node.json"
	identityFormat = 2 // 1 knows raft.db alone
	boltFile       = "raft.db"
	pebbleDir      = "log"
	stateDir       = "fsm"
)

// Dir is a node's data directory:
//
//	node.json  who the node is and which cluster it belongs to
//	raft.db    raft's term and vote, and its entries, unless log/ has them; locked while it is open
//	log/       raft's entries
//	raft.head  what the two must hold at least
//	fsm/       state and snapshots
//
// Only the owner may read it: it holds password hashes and messages. It is safe for concurrent use.
type Dir struct {
	path string
	fs   *files.Watched // of everything but the log
	log  *logFile

	writing sync.Mutex // held while node.json is replaced
	mu      sync.Mutex // guards what follows
	id      identity
}

// identity is what node.json holds.
type identity struct {
	Format    int           `json:"format"`
	NodeID    string        `json:"node_id"`
	Instance  string        `json:"instance"`             // random, made with the directory
	Promised  string        `json:"promised,omitempty"`   // the highest attempt to form a cluster
	ClusterID string        `json:"cluster_id,omitempty"` // empty while the node has no state
	Servers   []serverEntry `json:"servers,omitempty"`    // what the cluster was formed with
	LogStore  LogStore      `json:"log_store,omitempty"`  // empty for raft-boltdb
}

func (id identity) logStore() LogStore { return cmp.Or(id.LogStore, LogStoreBolt) }

type serverEntry struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Instance string `json:"instance"`
}

// OpenDir opens the data directory of a node, or makes it, and locks it. Without a node id it opens that
// of any node. Without a log store it opens a directory with any, and makes one with DefaultLogStore. It
// fails with chaterr.ErrOtherNode, chaterr.ErrDataDirInUse, chaterr.ErrUpgradeNeeded or
// chaterr.ErrCorrupt, and has changed nothing then.
func OpenDir(path, nodeID string, store LogStore) (*Dir, error) {
	if err := privateDir(path); err != nil {
		return nil, err
	}
	return openDir(files.Disk, place{dir: path, path: path, store: store}, nodeID)
}

// memoryDir is where a node's directory is on a disk in memory.
const memoryDir = "/data"

// OpenMemory is OpenDir for a disk in memory.
func OpenMemory(disk *memdisk.Disk, nodeID string, store LogStore) (*Dir, error) {
	on := disk.Files()
	if err := (files.FS{FS: on}).MakeDir(memoryDir); err != nil {
		return nil, err
	}
	return openDir(on, place{memory: disk, path: memoryDir, store: store}, nodeID)
}

// openDir has raft.db where at says, and everything else on a file system.
func openDir(on vfs.FS, at place, nodeID string) (*Dir, error) {
	d, store := &Dir{path: at.path, fs: files.NewWatched(on)}, at.store
	found, err := d.read()
	if err != nil {
		return nil, err
	}
	if found && nodeID != "" && d.id.NodeID != nodeID {
		return nil, fmt.Errorf("%s is the data directory of node %q, not of %q: %w", at.path, d.id.NodeID, nodeID, chaterr.ErrOtherNode)
	}
	if found && store != "" && d.id.logStore() != store {
		return nil, fmt.Errorf("%s has its log in %s, not in %s: move it with MoveLog first, while the node is stopped", at.path, d.id.logStore(), store)
	}
	if found {
		store = d.id.logStore()
	}
	at.files, at.store = files.FS{FS: d.fs}, cmp.Or(store, DefaultLogStore)
	// node.json is made last: beside it, a log that is missing was lost, and the node's votes with it.
	if d.log, err = at.open(!found); err != nil {
		return nil, err
	}
	if err := d.settle(found, nodeID, at.store); err != nil {
		return nil, errors.Join(err, d.log.Close())
	}
	return d, nil
}

// settle makes what a directory has beside the log, or reads it again, now that nobody else can write.
func (d *Dir) settle(found bool, nodeID string, store LogStore) error {
	if err := (files.FS{FS: d.fs}).MakeDir(d.StateDir()); err != nil {
		return err
	}
	if found {
		_, err := d.read()
		return err
	}
	if last, err := d.log.LastIndex(); last > 0 || err != nil {
		return errors.Join(fmt.Errorf("%s is missing, and raft's log has entries: %w", filepath.Join(d.path, identityFile), chaterr.ErrCorrupt), err)
	}
	d.id = identity{Format: identityFormat, NodeID: nodeID, Instance: rand.Text(), LogStore: store}
	return d.write(d.id)
}

// privateDir makes a directory that only its owner may use, or sees that it is one.
func privateDir(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeDirs(path)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if info.Mode().Perm()&0o077 == 0 || runtime.GOOS == "windows" {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return os.Chmod(path, 0o700)
	}
	return fmt.Errorf("%s holds password hashes and messages, and its mode %v lets others in: chmod 700 it", path, info.Mode().Perm())
}

// makeDirs makes a directory and those above it, durably.
func makeDirs(path string) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	return files.FS{FS: files.Disk}.MakeDir(path)
}

// FS is the file system that the directory is in: a call that hangs, or a write that fails, ends the
// node.
func (d *Dir) FS() vfs.FS { return d.fs }

// StateDir is where the state machine keeps its files.
func (d *Dir) StateDir() string { return filepath.Join(d.path, stateDir) }

// Instance is random and was made with the directory: a node whose disk was lost has another.
func (d *Dir) Instance() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id.Instance
}

// Promised is the highest attempt to form a cluster that this node takes part in.
func (d *Dir) Promised() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id.Promised
}

// Promise makes a promise durable.
func (d *Dir) Promise(attempt string) error {
	return d.change(func(id *identity) { id.Promised = attempt })
}

// Cluster is what the node belongs to; its ID is empty while it belongs to none.
func (d *Dir) Cluster() node.Cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := node.Cluster{ID: d.id.ClusterID}
	for _, s := range d.id.Servers {
		c.Servers = append(c.Servers, node.Info{ID: s.ID, Address: s.Address, Instance: s.Instance})
	}
	return c
}

// Adopt makes the node belong to a cluster, durably and for ever.
func (d *Dir) Adopt(c node.Cluster) error {
	return d.change(func(id *identity) {
		id.ClusterID, id.Servers = c.ID, nil
		for _, s := range c.Servers {
			id.Servers = append(id.Servers, serverEntry{s.ID, s.Address, s.Instance})
		}
	})
}

// change keeps the old identity when the new one cannot be written. Who reads the old one meanwhile
// does not wait for the disk.
func (d *Dir) change(f func(*identity)) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	id := d.id
	d.mu.Unlock()
	f(&id)
	if err := d.write(id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id = id
	return nil
}

// read reads node.json: one line of JSON and one with its SHA-256.
func (d *Dir) read() (found bool, err error) {
	name := filepath.Join(d.path, identityFile)
	b, err := files.FS{FS: d.fs}.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	text, sum, _ := strings.Cut(string(b), "\n")
	if strings.TrimSpace(sum) != checksum(text) {
		return false, fmt.Errorf("%s does not match its checksum: %w", name, chaterr.ErrCorrupt)
	}
	d.id = identity{}
	if err := json.Unmarshal([]byte(text), &d.id); err != nil {
		return false, fmt.Errorf("%s: %w: %w", name, chaterr.ErrCorrupt, err)
	}
	if d.id.Format < 1 || d.id.Format > identityFormat {
		return false, fmt.Errorf("%s has format %d, this binary knows format %d: %w", name, d.id.Format, identityFormat, chaterr.ErrUpgradeNeeded)
	}
	return true, nil
}

// write replaces node.json at once and durably.
func (d *Dir) write(id identity) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	on, name := files.FS{FS: d.fs}, filepath.Join(d.path, identityFile)
	if err := on.Write(name+".tmp", fmt.Appendf(nil, "%s\n%s\n", text, checksum(string(text)))); err != nil {
		return err
	}
	if err := on.Rename(name+".tmp", name); err != nil {
		return err
	}
	return on.SyncDir(d.path)
}

func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Close unlocks the directory. raft must have been shut down. When a call hangs in the disk, so
// would this: after some seconds it gives up, and the directory stays locked until the call returns.
func (d *Dir) Close() error {
	done := make(chan error, 1)
	go func() { done <- safely(d.log.Close) }()
	select {
	case err := <-done:
		return err
	case <-time.After(endTime):
		return fmt.Errorf("%s has not closed within %v: a call of the disk hangs", filepath.Join(d.path, boltFile), endTime)
	}
}
