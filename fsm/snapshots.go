package fsm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

const (
	// retain is how many snapshots are kept.
	retain = 2
	// maxFailures is how many attempts to send a snapshot, or to install one, may fail, one after the other.
	maxFailures = 3
	// sendRate is how many bytes of a snapshot are sent in a second at most: a leader has other work, and a
	// disk that the follower shares with others as well.
	sendRate = 192 << 20
)

// Snapshots is a raft.SnapshotStore. A snapshot is a directory of Pebble files, most of them
// linked with those of the state; it becomes a stream of bytes only on its way to a follower.
// It is safe for concurrent use.
type Snapshots struct {
	dir string
	fs  files.FS
	log *zap.Logger
	// rate is sendRate.
	rate float64
	// hold is on while one is sent: who takes it is missing in the cluster, and compactions can wait.
	hold files.Hold
	// fault is told of a snapshot that cannot be sent: raft would try for ever, and whoever needs it
	// would never catch up (hashicorp/raft#522).
	fault func(error)

	mu      sync.Mutex // guards what follows
	unsent  int        // attempts to send one, one after the other
	list    []*snap    // in the order of their names, which is that of the log: the newest last
	count   int        // of sinks, for their names
	durable func(index, term uint64) error
}

var _ raft.SnapshotStore = (*Snapshots)(nil)

// snap is a snapshot on disk.
type snap struct {
	fs       files.FS
	dir      string
	manifest *fsmpb.Snapshot
	head     []byte        // of the stream
	opening  chan struct{} // one slot, taken while the state is open, which may take long: Pebble locks it, and two may be sent it
	readers  int           // guarded by Snapshots.mu
	dropped  bool          // to be removed by the last reader; guarded by Snapshots.mu
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
func openSnapshots(fs files.FS, dir string, log *zap.Logger, fault func(error)) (*Snapshots, error) {
	if err := fs.MakeDir(dir); err != nil {
		return nil, err
	}
	names, err := fs.Names(dir) // names begin with term and index in fixed width
	if err != nil {
		return nil, err
	}
	s := &Snapshots{dir: dir, fs: fs, log: log, rate: sendRate, fault: fault}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(path, unfinished) {
			if err := fs.RemoveAll(path); err != nil {
				return nil, err
			}
			continue
		}
		one, err := openSnap(fs, path)
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, one)
	}
	return s, s.keep(retain)
}

func openSnap(fs files.FS, dir string) (*snap, error) {
	name := filepath.Join(dir, "manifest")
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	m, err := readManifest(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	head, err := manifestHead(m)
	return &snap{fs: fs, dir: dir, manifest: m, head: head, opening: make(chan struct{}, 1)}, err
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
	if err := s.fs.Rename(s.dir, s.dir+unfinished); err != nil {
		return err
	}
	return errors.Join(s.fs.SyncDir(filepath.Dir(s.dir)), s.fs.RemoveAll(s.dir+unfinished))
}

// snapshotReader sends a snapshot. The stream is made when Read or WriteTo is first called.
type snapshotReader struct {
	s      *Snapshots
	snap   *snap
	once   sync.Once
	pipe   *io.PipeReader
	sent   chan struct{} // closed when nothing is read any more
	closed bool
}

var _ io.WriterTo = (*snapshotReader)(nil)

// Read reads the stream.
func (r *snapshotReader) Read(p []byte) (int, error) {
	r.once.Do(func() {
		pr, pw := io.Pipe()
		r.pipe, r.sent = pr, make(chan struct{})
		go func() { // ends with the stream, or soon after Close breaks the pipe
			defer close(r.sent)
			_, err := r.WriteTo(pw)
			pw.CloseWithError(err)
		}()
	})
	return r.pipe.Read(p)
}

// WriteTo writes the stream. So does raft's transport (by io.Copy): no goroutine then waits for the turn of another one to
// have the next block, on processors that have much else to do.
//
// It opens the state before, and looks at each block of the tables: of what has rotted on this disk the receiver would
// hear only when it reads it, and nobody whose fault it is. A stream with such a block breaks off.
func (r *snapshotReader) WriteTo(w io.Writer) (int64, error) {
	defer r.s.hold.Begin()()
	to := &receiver{w: w}
	err := r.snap.check(r.s.log)
	if err == nil {
		err = r.write(&paced{w: to, rate: r.s.rate})
	}
	if to.err == nil && r.s.unsendable(err) {
		r.s.fault(fmt.Errorf("send the snapshot in %s: %w", r.snap.dir, err))
	}
	return to.n, err
}

// receiver is who is sent a snapshot.
type receiver struct {
	w   io.Writer
	n   int64 // bytes that it took
	err error // why it takes no more
}

func (r *receiver) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	r.n += int64(n)
	r.err = err
	return n, err
}

// unsendable is told how each sending ends that the receiver did not, and reports whether another attempt is in vain.
func (s *Snapshots) unsendable(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.unsent = 0
		return false
	}
	s.unsent++
	return s.unsent == maxFailures || errors.Is(err, chaterr.ErrCorrupt) || errors.Is(err, fs.ErrNotExist)
}

// check opens the state.
func (s *snap) check(log *zap.Logger) error {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	return check(s.fs, s.stateDir(), s.manifest, log)
}

func (r *snapshotReader) write(w io.Writer) error {
	if _, err := w.Write(r.snap.head); err != nil {
		return err
	}
	for _, f := range r.snap.manifest.Files {
		path := filepath.Join(r.snap.stateDir(), f.Name)
		if err := sendFile(w, r.snap.fs, path, f.Size, newSum(r.snap.manifest)); err != nil {
			return err
		}
	}
	return nil
}

// Close must not be called while Read or WriteTo is running, and waits while a table is read. A second call does nothing.
func (r *snapshotReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.pipe != nil {
		_ = r.pipe.Close() // never fails
		<-r.sent           // what is removed now would be missing there, which is a fault
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
