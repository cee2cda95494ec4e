package fsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/fsmpb"
)

// retain is how many snapshots are kept.
const retain = 2

// Snapshots is a raft.SnapshotStore. A snapshot is a directory of Pebble files, most of them
// linked with those of the state; it becomes a stream of bytes only on its way to a follower.
// It is safe for concurrent use.
type Snapshots struct {
	dir string
	log *zap.Logger

	mu      sync.Mutex // guards what follows
	list    []*snap    // in the order of their names, which is that of the log: the newest last
	count   int        // of sinks, for their names
	durable func(index, term uint64) error
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// snap is a snapshot on disk.
type snap struct {
	dir      string
	manifest *fsmpb.Snapshot
	head     []byte // of the stream
	readers  int    // guarded by Snapshots.mu
	dropped  bool   // to be removed by the last reader; guarded by Snapshots.mu
}

func (s *snap) stateDir() string { return filepath.Join(s.dir, "state") }

func (s *snap) meta() *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: filepath.Base(s.dir), Index: s.manifest.Index, Term: s.manifest.Term,
		Configuration:      raft.DecodeConfiguration(s.manifest.Configuration),
		ConfigurationIndex: s.manifest.ConfigurationIndex,
		Size:               streamSize(s.head, s.manifest),
	}
}

// openSnapshots lists the snapshots in dir, and removes those that were not finished. A damaged
// manifest is an error that names it.
func openSnapshots(dir string, log *zap.Logger) (*Snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir) // sorted; names begin with term and index in fixed width
	if err != nil {
		return nil, err
	}
	s := &Snapshots{dir: dir, log: log}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(path, unfinished) {
			if err := os.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		one, err := openSnap(path)
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, one)
	}
	return s, s.keep(retain)
}

func openSnap(dir string) (*snap, error) {
	name := filepath.Join(dir, "manifest")
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	m, err := readManifest(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	head, err := manifestHead(m)
	return &snap{dir: dir, manifest: m, head: head}, err
}

// newest is the latest snapshot, if there is one.
func (s *Snapshots) newest() (*snap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return nil, false
	}
	return s.list[len(s.list)-1], true
}

// Newest is the latest snapshot, if there is one.
func (s *Snapshots) Newest() (*raft.SnapshotMeta, bool) {
	one, ok := s.newest()
	if !ok {
		return nil, false
	}
	return one.meta(), true
}

// OnDurable has f called for every snapshot that becomes durable from now on, its own and those of
// a leader, before raft goes on. An error of f is one of making the snapshot.
func (s *Snapshots) OnDurable(f func(index, term uint64) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = f
}

// List lists the snapshots, the newest first.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var metas []*raft.SnapshotMeta
	for _, one := range slices.Backward(s.list) {
		metas = append(metas, one.meta())
	}
	return metas, nil
}

// Open begins to read a snapshot as a stream. It stays on disk until the reader is closed.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.list {
		if filepath.Base(one.dir) == id {
			one.readers++
			return one.meta(), &snapshotReader{s: s, snap: one}, nil
		}
	}
	return nil, nil, fmt.Errorf("no snapshot %q", id)
}

// keep removes all but the newest n snapshots.
func (s *Snapshots) keep(n int) error {
	s.mu.Lock()
	var drop []*snap
	for len(s.list) > n {
		one := s.list[0]
		s.list = s.list[1:]
		if one.dropped = true; one.readers == 0 {
			drop = append(drop, one)
		}
	}
	s.mu.Unlock()
	var err error
	for _, one := range drop {
		err = errors.Join(err, one.remove())
	}
	return err
}

// remove takes the snapshot's name away first: what a crash leaves of it is unfinished, and not a
// snapshot without a manifest.
func (s *snap) remove() error {
	if err := os.Rename(s.dir, s.dir+unfinished); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(s.dir)), os.RemoveAll(s.dir+unfinished))
}

// snapshotReader sends a snapshot. The stream is made when Read is first called.
type snapshotReader struct {
	s      *Snapshots
	snap   *snap
	once   sync.Once
	pipe   *io.PipeReader
	closed bool
}

// Read reads the stream.
func (r *snapshotReader) Read(p []byte) (int, error) {
	r.once.Do(func() {
		pr, pw := io.Pipe()
		r.pipe = pr
		go func() { pw.CloseWithError(r.send(pw)) }() // ends with the stream, or when Close breaks the pipe
	})
	return r.pipe.Read(p)
}

func (r *snapshotReader) send(w io.Writer) error {
	if _, err := w.Write(r.snap.head); err != nil {
		return err
	}
	for _, f := range r.snap.manifest.Files {
		if err := sendFile(w, filepath.Join(r.snap.stateDir(), f.Name), f.Size); err != nil {
			return err
		}
	}
	return nil
}

// Close must not be called while Read is running. A second call does nothing.
func (r *snapshotReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.pipe != nil {
		_ = r.pipe.Close() // never fails
	}
	r.s.mu.Lock()
	r.snap.readers--
	remove := r.snap.dropped && r.snap.readers == 0
	r.s.mu.Unlock()
	if remove {
		return r.snap.remove()
	}
	return nil
}
