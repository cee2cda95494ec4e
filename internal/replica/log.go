package replica

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
	"example.com/chat/internal/memdisk"
)

// logFile is what keeps raft's entries, and raft-boltdb, which keeps its term and vote, with a witness.
// bbolt has no checksums below its two meta pages: a bit that flips in a page can take entries away, the
// last ones too, or the vote, and nothing shows that they were there. Pebble takes damage at the end of a
// segment for a write that a power cut has torn. So a file beside them says what there must be.
//
// It costs no fsync: it is written after the transaction, so a power cut leaves one that promises less,
// never more. Only before what it promises is taken back it is lowered and synced. logFile is safe for
// concurrent use.
type logFile struct {
	disk    // the stores below; a test puts something around them
	bolt    boltStore
	pebble  *pebbleLog // nil when the other has the entries
	witness vfs.File

	write sync.Mutex // held for a change
	mu    sync.Mutex // guards what follows
	head  head       // what there is
}

var _ disk = (*logFile)(nil)

// boltStore is raft-boltdb, or what stands in for it in memory.
type boltStore interface {
	disk
	io.Closer // unlocks it
}

var (
	_ boltStore = (*raftboltdb.BoltStore)(nil)
	_ boltStore = (*memdisk.Log)(nil)
)

// LogStore is what keeps raft's entries.
type LogStore string

// The stores. raft-boltdb keeps term and vote in either case.
const (
	LogStoreBolt   LogStore = "bolt"
	LogStorePebble LogStore = "pebble"
)

// DefaultLogStore is that of a directory that is made for nobody who says another one.
const DefaultLogStore = LogStorePebble

// witnessFile has the head, of at most a sector, which a disk writes as a whole.
const witnessFile = "raft.head"

// logBucket is where raft-boltdb keeps entries, by index (bolt_store.go, dbLogs).
var logBucket = []byte("logs")

// head is what the log holds.
type head struct {
	Format int               `json:"format"`
	First  uint64            `json:"first"` // 0 when there are no entries
	Last   uint64            `json:"last"`
	Values map[string][]byte `json:"values,omitempty"` // raft's term and vote, with their sums
}

const headFormat = 1

// kept are the values that raft relies on. Both begin with a term, and grow with it.
var kept = []string{termKey, voteKey}

func (h head) has(index uint64) bool { return h.First != 0 && h.First <= index && index <= h.Last }

func (h head) encode() ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// decodeHead reads what encode has made; what was there before may follow.
func decodeHead(b []byte) (h head, ok bool) {
	if len(b) < 4 {
		return h, false
	}
	n := 4 + int(binary.BigEndian.Uint32(b))
	if n < 4 || n > len(b)-crc32.Size || binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return h, false
	}
	return h, json.Unmarshal(b[4:n], &h) == nil && h.Format == headFormat
}

// keeps reports whether a log keeps what a witness of before has promised.
func (h head) keeps(promised head) error {
	if promised.Last > h.Last {
		return fmt.Errorf("the log ends with entry %d, and had entry %d: %w", h.Last, promised.Last, chaterr.ErrCorrupt)
	}
	for _, k := range kept {
		is, was := h.Values[k], promised.Values[k]
		if len(was) < 8 {
			continue
		}
		if len(is) < 8 || bytes.Compare(is[:8], was[:8]) < 0 || bytes.Equal(is[:8], was[:8]) && !bytes.Equal(is, was) {
			return fmt.Errorf("raft's %s is an older one than it was: %w", k, chaterr.ErrCorrupt)
		}
	}
	return nil
}

// ends reads which entries there are, by their keys alone: they must follow each other.
func ends(path string, readOnly bool) (first, last uint64, err error) {
	db, err := openBolt(path, readOnly)
	if err != nil {
		return 0, 0, err
	}
	err = safely(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket(logBucket)
			if b == nil {
				return fmt.Errorf("no log: %w", chaterr.ErrCorrupt)
			}
			c := b.Cursor()
			for k, _ := c.First(); k != nil && err == nil; k, _ = c.Next() {
				first, last, err = follows(first, last, k)
			}
			return err
		})
	})
	return first, last, errors.Join(err, safely(db.Close))
}

// place is where a log is.
type place struct {
	dir    string        // of raft.db, on the machine
	memory *memdisk.Disk // what has its part instead; nil for a place with a raft.db
	files  files.FS      // of everything else
	path   string        // there
	store  LogStore
}

func (p place) bolt() string    { return filepath.Join(p.dir, boltFile) }
func (p place) pebble() string  { return filepath.Join(p.path, pebbleDir) }
func (p place) witness() string { return filepath.Join(p.path, witnessFile) }

// load opens a log whose pages are whole, and compares it with its witness, which it goes on with.
func (p place) load(create bool) (*logFile, error) {
	l, err := p.read(create, false)
	if err != nil {
		return nil, err
	}
	if err := safely(func() error { return l.callWitness(p.files, p.witness()) }); err != nil {
		return nil, errors.Join(err, safely(l.Close))
	}
	return l, nil
}

// read opens a log, and compares it with its witness.
func (p place) read(create, readOnly bool) (*logFile, error) {
	s, first, last, err := p.lock(readOnly)
	if err != nil {
		return nil, err
	}
	l := &logFile{disk: s, bolt: s}
	err = safely(func() (err error) {
		if p.store == LogStorePebble {
			first, last, err = l.usePebble(p, create, readOnly)
		}
		l.head = head{Format: headFormat, First: first, Last: last, Values: map[string][]byte{}}
		return errors.Join(err, l.compare(p.files, p.witness()))
	})
	if err != nil {
		return nil, errors.Join(err, safely(l.Close))
	}
	return l, nil
}

// lock opens raft-boltdb, or what stands in for it, and reads which entries it has.
func (p place) lock(readOnly bool) (s boltStore, first, last uint64, err error) {
	if p.memory != nil {
		l, err := p.memory.Lock()
		if err != nil {
			return nil, 0, 0, err
		}
		first, _ = l.FirstIndex() // neither fails
		last, _ = l.LastIndex()
		return l, first, last, nil
	}
	if first, last, err = ends(p.bolt(), readOnly); err != nil {
		return nil, 0, 0, err
	}
	db, err := openStore(p.bolt(), readOnly)
	if err != nil {
		return nil, 0, 0, err
	}
	return db, first, last, nil
}

// usePebble has the log keep its entries in a Pebble.
func (l *logFile) usePebble(p place, create, readOnly bool) (first, last uint64, err error) {
	if create {
		if err := p.files.MakeDir(p.pebble()); err != nil {
			return 0, 0, err
		}
	}
	if l.pebble, err = openPebbleLog(p.files, p.pebble(), create, readOnly); err != nil {
		return 0, 0, err
	}
	l.disk = struct {
		raft.LogStore
		raft.StableStore
	}{l.pebble, l.bolt}
	return l.pebble.ends()
}

// compare reads the witness. One that is missing or damaged promises nothing.
func (l *logFile) compare(on files.FS, name string) error {
	for _, k := range kept {
		if v, err := l.disk.Get([]byte(k)); err == nil {
			l.head.Values[k] = v
		} else if !isNotFound(err) {
			return err
		}
	}
	b, err := on.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if promised, ok := decodeHead(b); ok {
		return l.head.keeps(promised)
	}
	return err
}

// callWitness opens the witness, or makes one.
func (l *logFile) callWitness(on files.FS, name string) error {
	if _, err := on.Stat(name); errors.Is(err, fs.ErrNotExist) {
		text, err := l.head.encode()
		if err = errors.Join(err, on.Write(name, text), on.SyncDir(filepath.Dir(name))); err != nil {
			return err
		}
	}
	f, err := on.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	l.witness = f
	return l.testify(l.head)
}

// testify writes the witness, and does not wait for the disk.
func (l *logFile) testify(h head) error {
	text, err := h.encode()
	if err == nil {
		_, err = l.witness.WriteAt(text, 0)
	}
	return err
}

// change makes a change of the store, after which there is to.
func (l *logFile) change(to head, f func() error) error {
	if to.keeps(l.now()) != nil { // a power cut must not find less than the witness promises
		if err := errors.Join(l.testify(to), l.witness.SyncData()); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	l.set(to)
	return l.testify(to)
}

func (l *logFile) set(h head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = h
}

func (l *logFile) now() head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// FirstIndex is 0 when there are no entries.
func (l *logFile) FirstIndex() (uint64, error) { return l.now().First, nil }

// LastIndex is 0 when there are no entries.
func (l *logFile) LastIndex() (uint64, error) { return l.now().Last, nil }

// GetLog reads an entry. One that must be there and is not is chaterr.ErrCorrupt, of which raft must
// not hear as raft.ErrLogNotFound: it takes that for an entry that a snapshot has replaced, or panics.
func (l *logFile) GetLog(index uint64, e *raft.Log) error {
	had := l.now().has(index)
	err := l.disk.GetLog(index, e)
	if errors.Is(err, raft.ErrLogNotFound) && had && l.now().has(index) {
		return fmt.Errorf("it is not there: %w", chaterr.ErrCorrupt)
	}
	return err
}

// StoreLog stores one entry.
func (l *logFile) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs stores entries that follow the last one.
func (l *logFile) StoreLogs(logs []*raft.Log) error {
	l.write.Lock()
	defer l.write.Unlock()
	h, err := l.now().with(logs)
	if err != nil {
		return err
	}
	return l.change(h, func() error { return l.disk.StoreLogs(logs) })
}

// with is what there is after entries were stored.
func (h head) with(logs []*raft.Log) (head, error) {
	for _, e := range logs {
		if h.First == 0 {
			h.First, h.Last = e.Index, e.Index-1
		}
		if h.Last++; e.Index != h.Last {
			return h, fmt.Errorf("entry %d comes where entry %d must", e.Index, h.Last)
		}
	}
	return h, nil
}

// DeleteRange deletes entries at one end of the log, or all.
func (l *logFile) DeleteRange(low, high uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	h, err := l.now().without(low, high)
	if err != nil {
		return err
	}
	return l.change(h, func() error {
		l.set(h) // before, or GetLog would take what has gone for lost
		return l.disk.DeleteRange(low, high)
	})
}

// without is what there is after entries were deleted.
func (h head) without(low, high uint64) (head, error) {
	from, to := max(low, h.First), min(high, h.Last)
	switch {
	case h.First == 0 || from > to:
	case from == h.First && to == h.Last:
		h.First, h.Last = 0, 0
	case from == h.First:
		h.First = to + 1
	case to == h.Last:
		h.Last = from - 1
	default:
		return h, fmt.Errorf("entries %d to %d are in the middle of the log of %d to %d", low, high, h.First, h.Last)
	}
	return h, nil
}

// Set stores a value.
func (l *logFile) Set(key, value []byte) error {
	l.write.Lock()
	defer l.write.Unlock()
	return l.change(l.now().having(key, value), func() error { return l.disk.Set(key, value) })
}

// having is what there is after a value was stored.
func (h head) having(key, value []byte) head {
	if slices.Contains(kept, string(key)) {
		h.Values = maps.Clone(h.Values)
		h.Values[string(key)] = bytes.Clone(value)
	}
	return h
}

// SetUint64 is Set for a number.
func (l *logFile) SetUint64(key []byte, n uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// Close closes the files, which unlocks the log.
func (l *logFile) Close() error {
	var err error
	if l.witness != nil {
		err = l.witness.Close()
	}
	if l.pebble != nil {
		err = errors.Join(err, l.pebble.Close())
	}
	return errors.Join(err, l.bolt.Close()) // last: it has the lock
}
