package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

// power is what a machine's disk hangs on. It sees every write and every fsync of the node's files
// and of its log, and knows at each what would be left if it were cut there: what was synced, and
// of the rest any part, down to a sector.
type power struct {
	fs   *vfs.MemFS
	path string // of the log's file

	linking sync.Mutex // held for a link, and while the files are cloned

	mu    sync.Mutex // guards what follows
	r     *rand.Rand
	count int
	log   []byte // the log's file, as of its last transaction
	head  head   // what it holds
	next  head   // what else it may hold
	found head   // what it held when it was opened
	acked uint64 // the last entry that somebody was told of
	cuts  []cut
	wrote map[uint64]*raft.Log
	keep  bool          // note all cuts
	hang  string        // writes to files with this in their name
	hung  chan struct{} // until this is closed
	at    int           // cut the power at this count; 0 for never
	dead  *cut          // after that
}

// cut is what a power cut leaves.
type cut struct {
	op         string // that it came after, or in
	fs         *vfs.MemFS
	log        []byte
	head, next head   // what the log must hold, and what else it may
	acked      uint64 // the last entry that somebody was told of
}

// links makes no link while the files are cloned: vfs.MemFS takes its locks in another order there, and
// both would wait for ever.
type links struct {
	vfs.FS
	p *power
}

func (l links) Link(from, to string) error {
	l.p.linking.Lock()
	defer l.p.linking.Unlock()
	return l.FS.Link(from, to)
}

// write is called before each operation on the files.
func (p *power) write(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpLock {
		return nil
	}
	if hung := p.hangs(op.Path); hung != nil {
		<-hung
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil {
		p.log, _ = os.ReadFile(p.path) // there may be none yet
	}
	// After the cut, what is written here is on a disk that nobody reads again; only the log must fail,
	// so that the node says nothing more. A Pebble that fails leaves goroutines behind.
	_ = p.point(fmt.Sprintf("before operation %d on %s", op.Kind, op.Path), p.log, p.next)
	return nil
}

// on has a log hang on the power.
func (p *power) on(l *logFile) *logFile {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.head, p.next, p.found = l.now(), l.now(), l.now()
	l.disk = &powered{l.disk, p, l.pebble == nil}
	return l
}

// point is a place to cut the power at. mu is held.
func (p *power) point(op string, log []byte, next head) error {
	if p.dead != nil {
		return errPower
	}
	p.count++
	if !p.keep && p.count != p.at {
		return nil
	}
	percent := []int{0, 100, 50, 20}[p.r.IntN(4)]
	p.linking.Lock()
	defer p.linking.Unlock()
	c := cut{
		op: fmt.Sprintf("%d: %s, %d %% of what was not synced", p.count, op, percent), log: log, head: p.head, next: next, acked: p.acked,
		fs: p.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: p.r}),
	}
	if p.keep {
		p.cuts = append(p.cuts, c)
		return nil
	}
	p.dead = &c
	return errPower
}

// tell notes that somebody was told of an entry.
func (p *power) tell(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acked = max(p.acked, index)
}

// powered is a log that hangs on a power.
type powered struct {
	disk
	p    *power
	bolt bool // has the entries
}

func (d *powered) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *powered) StoreLogs(l []*raft.Log) error {
	next, err := d.p.now().with(l)
	if err != nil {
		return err
	}
	d.p.mu.Lock()
	for _, e := range l {
		d.p.wrote[e.Index] = e // a copy of the layer above
	}
	d.p.mu.Unlock()
	return d.entries("a transaction of entries", next, func() error { return d.disk.StoreLogs(l) })
}

func (d *powered) DeleteRange(from, to uint64) error {
	next, err := d.p.now().without(from, to)
	if err != nil {
		return err
	}
	return d.entries("a transaction of deletions", next, func() error { return d.disk.DeleteRange(from, to) })
}

func (d *powered) Set(k, v []byte) error {
	return d.change("a transaction of "+string(k), d.p.now().having(k, v), func() error { return d.disk.Set(k, v) })
}

// now is what the log holds.
func (p *power) now() head {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.head
}

// entries makes one transaction of the store that has the entries.
func (d *powered) entries(op string, next head, f func() error) error {
	if d.bolt {
		return d.change(op, next, f)
	}
	d.p.mu.Lock()
	d.p.next = next
	d.p.mu.Unlock()
	err := f() // the files of Pebble are those of the file system
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if d.p.dead != nil {
		return errPower
	}
	if err == nil {
		d.p.head = next
	}
	return err
}

// change makes one transaction of bbolt's: pages, fsync, a meta page, fsync. The images before and
// after it tell which pages; they are those that were free before, so that it does not matter what is
// in them until the meta page is there.
func (d *powered) change(op string, next head, f func() error) error {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if d.p.dead != nil {
		return errPower
	}
	if err := f(); err != nil {
		return err
	}
	before, beforeHead := d.p.log, d.p.head
	if len(before) == 0 {
		return fmt.Errorf("%s is empty", d.p.path)
	}
	after, err := os.ReadFile(d.p.path)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		log  []byte
		next head
	}{
		{"before the fsync of the pages", tear(before, after, d.p.r, 50), beforeHead},
		{"after the fsync of the pages", tear(before, after, d.p.r, 100), beforeHead},
	} {
		if err := d.p.point(op+", "+step.what, step.log, step.next); err != nil {
			return err
		}
	}
	if err := d.p.point(op+", before the fsync of the meta page", after, next); err != nil {
		return err
	}
	d.p.log, d.p.head, d.p.next = after, next, next
	return d.p.point(op+", done", after, next)
}

const (
	pageSize   = 4096
	sectorSize = 512
)

// tear is a file of which a percentage of the sectors were written, and of the meta pages none. A
// file that grows is made longer, and that is synced, before anything is written.
func tear(before, after []byte, r *rand.Rand, percent int) []byte {
	torn := make([]byte, len(after))
	copy(torn, before)
	for at := 2 * pageSize; at < len(after); at += sectorSize {
		if r.IntN(100) < percent {
			copy(torn[at:min(at+sectorSize, len(after))], after[at:])
		}
	}
	return torn
}

// plug has a machine's disk hang on a power.
func (m *machine) plug(seed uint64) *power {
	m.power = &power{fs: m.fs, path: filepath.Join(m.path, boltFile), r: rand.New(rand.NewPCG(seed, 6)), wrote: map[uint64]*raft.Log{}}
	return m.power
}

// restore puts a cut's disk into a machine.
func (m *machine) restore(c *cut) error {
	m.fs = c.fs
	if err := os.MkdirAll(m.path, 0o700); err != nil {
		return err
	}
	name := filepath.Join(m.path, boltFile)
	if len(c.log) == 0 {
		return os.RemoveAll(name)
	}
	return os.WriteFile(name, bytes.Clone(c.log), 0o600)
}

// cutIn cuts the power after so many writes.
func (p *power) cutIn(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.count + n
}

// left is what is left after the cut, nil before it.
func (p *power) left() *cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// freeze has all writes hang to files with a part in their name, until the machine thaws.
func (p *power) freeze(part string) (thaw func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hang, p.hung = part, make(chan struct{})
	return sync.OnceFunc(func() { close(p.hung) })
}

func (p *power) hangs(path string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung == nil || !strings.Contains(path, p.hang) {
		return nil
	}
	return p.hung
}
