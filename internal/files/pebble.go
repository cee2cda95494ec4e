package files

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/zaplog"
)

// pebbleFS is the file system under Pebble, and does three things that Pebble should.
//
// It makes the name of a MANIFEST durable before Pebble makes the marker that points to it. Pebble
// syncs their directory once for both, so that a power cut may leave a marker of nothing where a file
// system does not keep the order of changes.
//
// It ends the goroutine in which the sync of a directory fails. Pebble would panic (vfs/atomicfs,
// Marker.Move), mostly on a goroutine of its own, and that ends the process.
//
// And it has the goroutines that write tables stand back after each block, see table.
type pebbleFS struct {
	vfs.FS
	fault func(error)
}

func (fs pebbleFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	if err == nil && filepath.Ext(name) == ".sst" {
		writing.Add(1)
		return &table{File: f}, nil
	}
	if err != nil || !strings.HasPrefix(filepath.Base(name), "MANIFEST-") {
		return f, err
	}
	if err := (FS{FS: fs.FS}).SyncDir(filepath.Dir(name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (fs pebbleFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return pebbleDir{f, name, fs.fault}, nil
}

// table is a table that is written, by a flush or a compaction: for seconds, on a goroutine that Go would let run for
// 10 ms at a time, while messages wait that a microsecond would do for.
type table struct {
	vfs.File
	looked time.Time // whether there are as many as processors
}

// writing is how many tables are written in this process.
var writing atomic.Int64

const (
	// stint is how long who writes a table goes on, and rest how long it sleeps then, where there are as many of them as
	// processors.
	stint = 250 * time.Microsecond
	rest  = 50 * time.Microsecond
)

// Write lets all others run before: those that can, and from time to time also those for whom something has come from the
// network. For that Go looks when nobody can run, and else every 10 ms (runtime/proc.go, findRunnable and sysmon); who
// calls Gosched can. So where all processors write tables, a message took up to 10 ms for each step of its way.
func (t *table) Write(p []byte) (int, error) {
	switch now := time.Now(); {
	case now.Sub(t.looked) < stint:
		runtime.Gosched()
	case writing.Load() < int64(runtime.GOMAXPROCS(0)):
		t.looked = now
		runtime.Gosched()
	default:
		time.Sleep(rest)
		t.looked = time.Now()
	}
	return t.File.Write(p)
}

func (t *table) Close() error {
	writing.Add(-1)
	return t.File.Close()
}

// pebbleDir is a directory.
type pebbleDir struct {
	vfs.File
	name  string
	fault func(error)
}

func (d pebbleDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fault(fmt.Errorf("sync %s: %w", d.name, err))
		runtime.Goexit()
	}
	return nil
}

// OpenPebble opens the Pebble in a directory, with o, in which it fills in what is the same for all.
// fault is told when it cannot go on; it must not wait. hold may be nil. Damage is chaterr.ErrCorrupt.
func OpenPebble(fs FS, dir string, o *pebble.Options, log *zap.Logger, hold *Hold, fault func(error)) (*pebble.DB, error) {
	o.FS = pebbleFS{fs.FS, fault}
	o.FormatMajorVersion = pebble.FormatValueSeparation
	turns := &compactions{ConcurrencyLimitScheduler: pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest(), hold: hold}
	o.Experimental.CompactionScheduler = turns
	o.Logger = zaplog.Pebble{L: log.Named("pebble"), Fatal: fault}
	o.EventListener = &pebble.EventListener{
		// Pebble must not go on when it cannot flush: without a log of its own it would take writes until
		// memory is full.
		BackgroundError: func(err error) {
			turns.failed.Store(true)
			fault(fmt.Errorf("pebble in %s: %w", dir, err))
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			fault(fmt.Errorf("file %s: %w: %w", i.Path, chaterr.ErrCorrupt, i.Details))
		},
		FlushEnd:        func(pebble.FlushInfo) { turns.flushed() },
		CompactionBegin: turns.begun,
	}
	db, err := openPebble(dir, o)
	if pebble.IsCorruptionError(err) || errors.Is(err, pebble.ErrDBDoesNotExist) {
		err = fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err)
	}
	if err == nil {
		turns.begin()
	}
	return db, err
}

// compactions begin one at a time, as by default, and the next one when it is done. But nobody looks ten times a second
// whether there might be two, which is half of what wakes an idle node's processor. And none begins while Pebble opens:
// the last step of that, to look for files that nobody needs, waits for the end of all that have
// (obsolete_files.go, scanObsoleteFiles), seconds with a large state. Nor does one begin when one has failed, on a damaged
// table: Pebble would try again, at once and for ever (compaction.go, handleCompactFailure), for as long as the process of
// the node that has this fault lives.
type compactions struct {
	*pebble.ConcurrencyLimitScheduler
	hold    *Hold
	open    atomic.Bool
	failed  atomic.Bool
	flushes atomic.Int32 // since level 0 was last compacted
}

// Hold is for what matters more than compactions do: none begins while it lasts, unless maxHeld memtables have been
// written to tables since level 0 was last compacted. Its zero value holds nothing; it is safe for concurrent use.
type Hold struct {
	mu    sync.Mutex // guards what follows
	count int
	wait  map[*compactions]bool // those that are to look again when it is over
}

// maxHeld is far below what writes would have to wait for (L0StopWritesThreshold).
const maxHeld = 16

// Begin holds until end is called, once.
func (h *Hold) Begin() (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	return h.end
}

func (h *Hold) end() {
	h.mu.Lock()
	var wait map[*compactions]bool
	if h.count--; h.count == 0 {
		wait, h.wait = h.wait, nil
	}
	h.mu.Unlock()
	for c := range wait {
		c.look()
	}
}

// holds reports whether compactions are to wait, and sees to it that they go on.
func (h *Hold) holds(c *compactions) bool {
	if h == nil || c.flushes.Load() >= maxHeld {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count == 0 {
		return false
	}
	if h.wait == nil {
		h.wait = map[*compactions]bool{}
	}
	h.wait[c] = true
	return true
}

// Register is told by Pebble where it asks what waits for a turn.
func (c *compactions) Register(goroutines int, db pebble.DBForCompaction) {
	c.ConcurrencyLimitScheduler.Register(goroutines, waiting{db, c})
}

// TrySchedule is asked whether a compaction may begin now.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !c.open.Load() || c.failed.Load() || c.hold.holds(c) {
		return false, nil
	}
	return c.ConcurrencyLimitScheduler.TrySchedule()
}

// begin is called when Pebble is open.
func (c *compactions) begin() {
	c.open.Store(true)
	c.look()
}

// flushed is told of each memtable that has become a table, by Pebble with its locks held.
func (c *compactions) flushed() {
	if c.flushes.Add(1) == maxHeld {
		go c.look() // Pebble does not ask again when it was told to wait
	}
}

// begun is told of each compaction.
func (c *compactions) begun(i pebble.CompactionInfo) {
	if len(i.Input) > 0 && i.Input[0].Level == 0 {
		c.flushes.Store(0)
	}
}

// look begins what waits.
func (c *compactions) look() {
	if ok, turn := c.TrySchedule(); ok {
		turn.Done() // gives the turn to one that waits
	}
}

// waiting are the compactions that wait for a turn: none once one has failed, and none while there is a Hold.
type waiting struct {
	pebble.DBForCompaction
	c *compactions
}

func (w waiting) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	if w.c.failed.Load() || w.c.hold.holds(w.c) {
		return false, pebble.WaitingCompaction{}
	}
	return w.DBForCompaction.GetWaitingCompaction()
}

// openPebble opens a Pebble on a goroutine that may be ended.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	err = errors.New("the disk has failed")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		db, err = pebble.Open(dir, o)
	}()
	<-done
	return db, err
}
