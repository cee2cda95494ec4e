package state

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// entryFormat is the format of entries that this binary writes, and the only one it reads.
const entryFormat = 1

// EncodeEntry makes the data of a log entry from commands that NewCommand has made. timeMS is the
// leader's clock.
func EncodeEntry(timeMS int64, commands []*fsmpb.Command) ([]byte, error) {
	return fsmpb.Append(nil, &fsmpb.Entry{Format: entryFormat, TimeMs: timeMS, Commands: commands})
}

// Batch collects what several entries change, and writes it at once: data, operations and the
// applied index together, so that after a crash the state is that of some entry and never half of
// one. A new Batch is begun when the last one is committed or closed.
type Batch struct {
	s      *State
	b      *pebble.Batch // what commands never read, and operations; the rest waits in the cache
	meta   *fsmpb.Meta
	tx     tx // the command at work
	sum    sum
	events []Event
	panics []Panic
	number uint32 // of the entry's next event
	done   done
}

// NewBatch begins a batch.
func (s *State) NewBatch() *Batch {
	if s.begun { // and given up: what it wrote is not so
		s.cache.clear()
	}
	s.begun = true
	b := &Batch{s: s, b: s.db.NewBatch(), meta: proto.CloneOf(s.meta)}
	b.tx = tx{reader: reader{r: s.db, cache: s.cache, records: &s.scratch.records}, b: b, scratch: &s.scratch}
	return b
}

// Apply carries out the commands of one entry and returns a result for each.
//
// An error means that the entry cannot be applied here: with chaterr.ErrUpgradeNeeded, a newer
// version wrote it; with chaterr.ErrCorrupt, it or a record that it reads is damaged; any other one
// is a failure of the store. After an error the batch is to be closed, for it may hold half of the
// entry.
func (b *Batch) Apply(index, term uint64, data []byte) ([]*Result, error) {
	steps, timeMS, err := b.decode(index, data)
	if err != nil {
		return nil, err
	}
	b.sum.begin(b.meta.Hash)
	b.pass(index, term)
	b.meta.TimeMs = max(b.meta.TimeMs, timeMS)
	b.number = 0
	if err := b.forget(); err != nil {
		return nil, err
	}
	b.events = slices.Grow(b.events, len(steps))
	b.tx.results = make([]Result, len(steps))
	results := make([]*Result, len(steps))
	for i, s := range steps {
		if results[i], err = b.run(i, s); err != nil {
			return nil, fmt.Errorf("entry %d, command %d: %w", index, i, err)
		}
		b.sum.number(uint64(results[i].Reason))
	}
	b.seal()
	return results, nil
}

// Pass counts an entry as applied that has no commands, such as a change of raft's configuration.
func (b *Batch) Pass(index, term uint64) { b.pass(index, term) }

func (b *Batch) pass(index, term uint64) { b.meta.Index, b.meta.Term = index, term }

// Commit writes the batch and returns its events in order. It does not wait for the disk: the raft
// log is what survives a crash.
func (b *Batch) Commit() ([]Event, error) {
	v, err := proto.Marshal(b.meta)
	if err != nil {
		return nil, err
	}
	if err := b.set(change{[]byte{keyMeta}, v}); err != nil {
		return nil, err
	}
	for _, e := range b.s.cache.written {
		if err := b.set(change{[]byte(e.key), e.value}); err != nil {
			return nil, err
		}
	}
	if err := b.b.Commit(pebble.NoSync); err != nil {
		return nil, fmt.Errorf("commit a batch of the state: %w", err)
	}
	b.s.cache.committed()
	b.s.meta, b.s.begun = b.meta, false
	return b.events, b.b.Close()
}

// Panics are the commands that were left out because they panicked.
func (b *Batch) Panics() []Panic { return b.panics }

// Close ends a batch that was not committed.
func (b *Batch) Close() error { return b.b.Close() }

// step is a command that was decoded.
type step struct {
	command *fsmpb.Command
	kind    *kind
	payload proto.Message // nil when it is no message of its kind
}

// decode reads all of an entry before any of it is applied. Fields that this binary does not know
// are the work of a newer one, which would apply the entry differently.
func (b *Batch) decode(index uint64, data []byte) ([]step, int64, error) {
	e, err := b.s.scratch.entry.Entry(data)
	if err != nil {
		return nil, 0, fmt.Errorf("entry %d: %w: %w", index, chaterr.ErrCorrupt, err)
	}
	if e.Format != entryFormat || unknown(e) {
		return nil, 0, fmt.Errorf("entry %d has format %d, this binary knows format %d: %w", index, e.Format, entryFormat, chaterr.ErrUpgradeNeeded)
	}
	steps := b.s.scratch.steps[:0]
	for i, c := range e.Commands {
		k := kinds[c.Kind]
		if k == nil || k.since > b.meta.Level || unknown(c) {
			return nil, 0, fmt.Errorf("entry %d, command %d is of kind %d, this binary supports level %d and the cluster is at level %d: %w",
				index, i, c.Kind, CurrentLevel, b.meta.Level, chaterr.ErrUpgradeNeeded)
		}
		p, err := b.s.scratch.payload(k, c)
		if err != nil {
			p = nil // the same on every node
		} else if unknown(p) {
			return nil, 0, fmt.Errorf("entry %d, command %d: a %v with unknown fields: %w", index, i, c.Kind, chaterr.ErrUpgradeNeeded)
		}
		steps = append(steps, step{c, k, p})
	}
	b.s.scratch.steps = steps
	return steps, e.TimeMs, nil
}

func unknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

// run carries out one command. A command that is refused leaves no trace.
func (b *Batch) run(number int, s step) (*Result, error) {
	t := &b.tx
	t.begin(s)
	r, p := t.guarded(s)
	if t.err != nil {
		return nil, t.err
	}
	if p != nil || r.Reason != fsmpb.Reason_REASON_UNSPECIFIED || r.Duplicate {
		b.events = b.events[:t.before]
	}
	if p != nil {
		return r, b.quarantine(number, s, p)
	}
	if r.Reason != fsmpb.Reason_REASON_UNSPECIFIED || r.Duplicate {
		return r, nil
	}
	for _, c := range t.own {
		if err := b.write(c); err != nil {
			return nil, err
		}
	}
	if len(s.command.OperationId) > 0 {
		b.carriedOut(t, r)
	}
	b.number += uint32(len(b.events) - t.before)
	b.meta.LastId = t.lastID
	if b.hashes() && !s.kind.audits {
		b.meta.Changes++
	}
	return r, nil
}

// write takes over what a command has written, for good: its memory is used again.
func (b *Batch) write(c change) error {
	b.sum.change(c)
	if caches(c.key) {
		b.s.cache.write(c.key, bytes.Clone(c.value))
		return nil
	}
	return b.set(c)
}

func (b *Batch) set(c change) error {
	if c.value == nil {
		return b.b.Delete(c.key, nil)
	}
	return b.b.Set(c.key, c.value, nil)
}

// forget removes the operations that are older than the window. Since their age alone refuses
// them, their records have nothing more to say.
func (b *Batch) forget() error {
	cutoff := b.meta.TimeMs - OperationWindow.Milliseconds()
	if cutoff < b.meta.ForgottenMs+forgetEvery.Milliseconds() {
		return nil
	}
	from := b.meta.ForgottenMs // not the first operation: ranges that nest cost with their square
	b.meta.ForgottenMs = cutoff
	return b.b.DeleteRange(operationKey(firstULID(from), 0), operationKey(firstULID(cutoff), 0), nil)
}
