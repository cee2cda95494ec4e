package state

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/cursor"
)

// tx is one command at work. What it writes is kept aside until the command has succeeded; it sees
// its own writes in get, has and id, and not in scan.
type tx struct {
	reader
	b       *Batch
	account uint64 // who acts
	session uint64
	events  []Event
	lastID  uint64
}

func (t *tx) run(s step) *Result {
	if s.payload == nil {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	c := s.command
	if !s.kind.anonymous && !t.alive(Actor{c.Account, c.Session}, t.b.meta.TimeMs) {
		return refused(fsmpb.Reason_REASON_UNAUTHENTICATED)
	}
	if len(c.OperationId) == 0 {
		return t.do(s)
	}
	intent := s.kind.intentOf(c, s.payload)
	if first := t.operation(c, intent); first != nil {
		return first
	}
	r := t.do(s)
	if r.Reason == fsmpb.Reason_REASON_UNSPECIFIED {
		t.put(operationKey(c.OperationId, c.Account), &fsmpb.Operation{Intent: intent, Result: r})
	}
	return r
}

// do carries the command out and says where.
func (t *tx) do(s step) *Result {
	r := s.kind.apply(t, s.payload)
	r.Index, r.Number, r.TimeMs = t.b.meta.Index, t.b.number, t.b.meta.TimeMs
	return r
}

// put writes a record.
func (t *tx) put(k []byte, m proto.Message) {
	v, err := fsmpb.Append(nil, m)
	if t.check(k, err) {
		t.set(k, v)
	}
}

// set writes bytes; nil stands for no bytes, not for removal.
func (t *tx) set(k, v []byte) {
	if v == nil {
		v = []byte{}
	}
	t.own = append(t.own, change{k, v})
}

func (t *tx) setID(k []byte, id uint64) { t.set(k, binary.BigEndian.AppendUint64(nil, id)) }

func (t *tx) remove(k []byte) { t.own = append(t.own, change{key: k}) }

// newID gives the next number to an account, a session or a room.
func (t *tx) newID() uint64 {
	t.lastID++
	return t.lastID
}

// emit adds an event and gives it its position.
func (t *tx) emit(e Event) Position {
	e.Position = cursor.At(t.b.meta.Index, t.b.number+uint32(len(t.events)))
	e.TimeMS = t.b.meta.TimeMs
	t.events = append(t.events, e)
	return e.Position
}
