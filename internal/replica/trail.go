package replica

import (
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// raft counts entries: it takes a snapshot after so many, and keeps so many behind it for followers that lag. An
// entry here may have a hundred bytes or 256 KiB. So the log could have gigabytes, which are read when a node
// starts, and which an empty follower is sent where a snapshot has less; or it could be cut behind a follower while
// that installs a snapshot, so that it needs another one, for ever. So bytes count.
const (
	logBytes    = 64 << 20
	keepPart    = 8       // of the state stays at least: the larger it is, the longer a follower installs it
	keepEntries = 1 << 16 // and no more
)

// trail knows how large the newest entries are. It is safe for concurrent use.
type trail struct {
	mu          sync.Mutex          // guards what follows
	sizes       [keepEntries]uint32 // by index, modulo
	first, last uint64              // whose size is known; first is after last when none is
}

// add notes the sizes of entries, which may take the place of others.
func (t *trail) add(logs []*raft.Log) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range logs {
		if l.Index > t.last+1 || l.Index < t.first || t.first == 0 {
			t.first = l.Index
		}
		t.last = l.Index
		t.first = max(t.first, t.last-min(t.last, keepEntries)+1)
		t.sizes[l.Index%keepEntries] = uint32(entrySize(l))
	}
}

// after is how many bytes the entries after one have, as far as that is known.
func (t *trail) after(index uint64) (bytes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := max(index+1, t.first); i <= t.last && t.first > 0; i++ {
		bytes += uint64(t.sizes[i%keepEntries])
	}
	return bytes
}

// keep is how many of the newest entries may stay. Those of an earlier start, whose size is not known, were
// within the bounds then.
func (t *trail) keep(bytes, entries uint64) (n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := t.last; i >= t.first && i > 0 && n < entries; i-- {
		size := uint64(t.sizes[i%keepEntries])
		if size > bytes {
			return n
		}
		bytes -= size
		n++
	}
	return entries
}

// trim bounds the log by bytes; the supervisor calls it. tried is the last entry when it took a snapshot.
func (r *Replica) trim(e *engine, tried uint64) uint64 {
	c := e.ReloadableConfig()
	newest, ok := r.o.FSM.Snapshots().Newest()
	bytes := r.o.KeepBytes
	if ok {
		size := uint64(newest.Size)
		bytes = max(bytes, size/keepPart)
		if e.transport.installing() { // until another snapshot would be shorter than the log behind this one
			bytes += max(r.o.SnapshotBytes, size)
		}
		tried = max(tried, newest.Index)
	}
	if keep := r.trail.keep(bytes, r.config.TrailingLogs); keep != c.TrailingLogs {
		c.TrailingLogs = keep
		if err := e.ReloadConfig(c); err != nil {
			r.log.Error("cannot bound the log", zap.Error(err))
		}
	}
	if r.trail.after(tried) < r.o.SnapshotBytes {
		return tried
	}
	r.spawn(func() { _ = r.wait(e, e.Snapshot()) }) // raft logs what fails, and tries again by itself
	return e.LastIndex()
}
