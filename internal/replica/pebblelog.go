package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// pebbleLog keeps raft's entries in a Pebble, by index. A batch of entries is one fsync into a segment
// that was used before, where bbolt makes two and writes whole pages. It keeps no values: raft-boltdb
// does that. It is safe for concurrent use.
type pebbleLog struct {
	db    *pebble.DB
	fault atomic.Pointer[error] // of Pebble's own goroutines
}

var _ raft.LogStore = (*pebbleLog)(nil)

// segmentSize is after how many bytes Pebble begins another segment, and writes the entries of one that
// are still there to a table: chosen anew each time that a log is opened, so that not all logs of a cluster do it at the
// same moments (see storeOptions of package fsm).
func segmentSize() uint64 { return 6<<20 + rand.Uint64N(4<<20) }

// openPebbleLog opens the log in a directory, or makes one there if create is set.
func openPebbleLog(fs files.FS, dir string, create, readOnly bool) (*pebbleLog, error) {
	p := &pebbleLog{}
	db, err := files.OpenPebble(fs, dir, &pebble.Options{
		ReadOnly: readOnly, ErrorIfNotExists: !create, MemTableSize: segmentSize(), CacheSize: 1 << 20,
	}, zap.NewNop(), nil, func(err error) { p.fault.CompareAndSwap(nil, &err) })
	if err != nil {
		return nil, fmt.Errorf("open raft's log in %s: %w", dir, err)
	}
	p.db = db
	return p, nil
}

// ends reads which entries there are: they must follow each other.
func (p *pebbleLog) ends() (first, last uint64, err error) {
	it, err := p.db.NewIter(nil)
	if err != nil {
		return 0, 0, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		first, last, err = follows(first, last, it.Key())
	}
	return first, last, errors.Join(err, it.Error(), it.Close())
}

// follows reads a key that must come after the entries from first to last.
func follows(first, last uint64, key []byte) (uint64, uint64, error) {
	if len(key) != 8 || first != 0 && binary.BigEndian.Uint64(key) != last+1 {
		return first, last, fmt.Errorf("the log has %x after entry %d: %w", key, last, chaterr.ErrCorrupt)
	}
	if last = binary.BigEndian.Uint64(key); first == 0 {
		first = last
	}
	return first, last, nil
}

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// end reads the first or last index.
func (p *pebbleLog) end(move func(*pebble.Iterator) bool) (index uint64, err error) {
	it, err := p.db.NewIter(nil)
	if err != nil {
		return 0, err
	}
	if move(it) && len(it.Key()) == 8 {
		index = binary.BigEndian.Uint64(it.Key())
	}
	return index, errors.Join(it.Error(), it.Close())
}

// FirstIndex is 0 when there are no entries.
func (p *pebbleLog) FirstIndex() (uint64, error) { return p.end((*pebble.Iterator).First) }

// LastIndex is 0 when there are no entries.
func (p *pebbleLog) LastIndex() (uint64, error) { return p.end((*pebble.Iterator).Last) }

// GetLog reads an entry.
func (p *pebbleLog) GetLog(index uint64, l *raft.Log) error {
	b, closer, err := p.db.Get(logKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	return errors.Join(decodeEntry(b, index, l), closer.Close())
}

// StoreLog stores one entry.
func (p *pebbleLog) StoreLog(l *raft.Log) error { return p.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, all or none, durably.
func (p *pebbleLog) StoreLogs(logs []*raft.Log) error {
	return p.commit(func(b *pebble.Batch) error {
		for _, l := range logs {
			op := b.SetDeferred(8, entrySize(l))
			binary.BigEndian.PutUint64(op.Key, l.Index)
			encodeEntry(op.Value[:0], l)
			if err := op.Finish(); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange deletes the entries from one index to another, both of them too.
func (p *pebbleLog) DeleteRange(low, high uint64) error {
	return p.commit(func(b *pebble.Batch) error { return b.DeleteRange(logKey(low), logKey(high+1), nil) })
}

func (p *pebbleLog) commit(fill func(*pebble.Batch) error) error {
	if err := p.fault.Load(); err != nil {
		return *err
	}
	b := p.db.NewBatch()
	if err := fill(b); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	return b.Close()
}

// Close closes the files.
func (p *pebbleLog) Close() error { return p.db.Close() }

// An entry is its format (1), its type (1), its term (8), when it was appended in ns since 1970, 0 for
// never (8), the length of its data (4), its data, and its extensions. Format 1.
const (
	entryFormat = 1
	entryHead   = 1 + 1 + 8 + 8 + 4
)

func entrySize(l *raft.Log) int { return entryHead + len(l.Data) + len(l.Extensions) }

func encodeEntry(b []byte, l *raft.Log) []byte {
	at := int64(0)
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = append(b, entryFormat, byte(l.Type))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Data)))
	return append(append(b, l.Data...), l.Extensions...)
}

func decodeEntry(b []byte, index uint64, l *raft.Log) error {
	if len(b) < entryHead {
		return fmt.Errorf("an entry of %d bytes: %w", len(b), chaterr.ErrCorrupt)
	}
	if b[0] != entryFormat {
		return fmt.Errorf("an entry of format %d, this binary knows format %d: %w", b[0], entryFormat, chaterr.ErrUpgradeNeeded)
	}
	n := int64(binary.BigEndian.Uint32(b[18:]))
	if n > int64(len(b)-entryHead) {
		return fmt.Errorf("an entry of %d bytes with %d bytes of data: %w", len(b), n, chaterr.ErrCorrupt)
	}
	rest := append([]byte(nil), b[entryHead:]...)
	*l = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b[2:]), Type: raft.LogType(b[1]), Data: rest[:n:n]}
	if at := int64(binary.BigEndian.Uint64(b[10:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	if int64(len(rest)) > n {
		l.Extensions = rest[n:]
	}
	return nil
}
