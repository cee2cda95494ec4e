package state

import (
	"crypto/sha256"
	"fmt"
	"runtime/debug"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// Audit is what there is to know for who compares the states of nodes.
type Audit struct {
	Level    uint32
	Applied  uint64 // the last entry that the state holds
	Hash     uint64 // of the state after it; 0 before level 2
	Mark     uint64 // the entry with the last mark, 0 for none
	MarkHash uint64 // of the state before that entry
	Changes  uint64 // commands since that mark, audits left out
	Verified uint64 // the last mark that was found to be like that of most voters
	// Quarantined is how many commands were left out because they panicked, and QuarantinedAt the entry
	// of the last one, 0 for none.
	Quarantined, QuarantinedAt uint64
}

// Compared reports whether the cluster's level is one at which states are compared.
func (a Audit) Compared() bool { return a.Level >= hashLevel }

// Pending reports whether the last mark waits to be verified.
func (a Audit) Pending() bool { return a.Mark > a.Verified }

// Doubtful reports whether a command was left out after the last mark: nodes that have carried it out
// are to be found.
func (a Audit) Doubtful() bool { return a.QuarantinedAt > a.Mark }

func auditOf(m *fsmpb.Meta) Audit {
	return Audit{
		Level: m.Level, Applied: m.Index, Hash: m.Hash, Mark: m.GetMark().GetIndex(), MarkHash: m.GetMark().GetHash(), Changes: m.Changes - m.GetMark().GetChanges(),
		Verified: m.VerifiedIndex, Quarantined: m.Quarantined, QuarantinedAt: m.QuarantineIndex,
	}
}

// Audit says how the state compares with that of other nodes.
func (s *State) Audit() Audit { return auditOf(s.meta) }

// Audit says how the state compares with that of other nodes.
func (v *View) Audit() Audit { return auditOf(v.meta) }

// Hash is a hash over all changes since the cluster reached level 2, in their order; 0 before.
func (s *State) Hash() uint64 { return s.meta.Hash }

// raiseLevel moves the cluster to a level. To one that it has reached it does nothing.
func (t *tx) raiseLevel(c *RaiseLevel) *Result {
	if c.Level > CurrentLevel {
		t.stop(fmt.Errorf("the cluster goes to level %d, this binary supports level %d: %w", c.Level, CurrentLevel, chaterr.ErrUpgradeNeeded))
	}
	t.b.meta.Level = max(t.b.meta.Level, c.Level)
	return &Result{}
}

// markState notes the hash of what came before this entry.
func (t *tx) markState(*MarkState) *Result {
	m := t.b.meta
	m.Mark = &fsmpb.Mark{Index: m.Index, Hash: m.Hash, Changes: m.Changes}
	return &Result{}
}

// verifyState compares, on every node.
func (t *tx) verifyState(c *VerifyState) *Result {
	m := t.b.meta
	if c.Index == 0 || c.Index != m.GetMark().GetIndex() {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	if c.Hash != m.Mark.Hash {
		t.stop(fmt.Errorf("%w: before entry %d the hash of this node's state is %016x, and that of most voters %016x",
			chaterr.ErrDiverged, c.Index, m.Mark.Hash, c.Hash))
	}
	m.VerifiedIndex = c.Index
	return &Result{}
}

// stop makes the entry one that cannot be applied here.
func (t *tx) stop(err error) {
	if t.err == nil {
		t.err = err
	}
}

// quarantined is how many of the last commands that were left out are kept in the state.
const quarantined = 64

// Panic is a command that panicked and was left out.
type Panic struct {
	Entry, Command uint64
	Kind           fsmpb.Kind
	Cause          string // with the stack; it may differ between nodes
}

// guarded is run, but that a command that panics is left out, with the same result on every node. A
// node on which alone it panics, because a record is damaged or its memory is bad, is found by the
// next audit. Panics of the store are errors by the time they get here (reader.go).
func (t *tx) guarded(s step) (r *Result, p *Panic) {
	if !t.b.hashes() { // binaries before that stopped
		return t.run(s), nil
	}
	defer func() {
		if cause := recover(); cause != nil {
			r = refused(fsmpb.Reason_REASON_QUARANTINED)
			p = &Panic{Entry: t.b.meta.Index, Kind: s.command.Kind, Cause: fmt.Sprintf("%v\n%s", cause, debug.Stack())}
		}
	}()
	return t.run(s), nil
}

// quarantine notes a command that was left out.
func (b *Batch) quarantine(number int, s step, p *Panic) error {
	p.Command = uint64(number)
	b.panics = append(b.panics, *p)
	b.meta.Quarantined++
	b.meta.QuarantineIndex = b.meta.Index
	hash := sha256.Sum256(s.command.Payload)
	v, err := proto.Marshal(&fsmpb.Quarantine{Index: b.meta.Index, Command: uint32(number), Kind: s.command.Kind, Hash: hash[:]})
	if err != nil {
		return err
	}
	return b.write(change{key(keyQuarantine, b.meta.Quarantined%quarantined), v})
}
