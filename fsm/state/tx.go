package state

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/cursor"
)

// scratch is memory that the next entry or command uses again.
type scratch struct {
	entry   fsmpb.Scratch
	steps   []step
	records fsmpb.Records
}

// payload decodes what a command asks for.
func (s *scratch) payload(k *kind, c *Command) (proto.Message, error) {
	if c.Kind == fsmpb.Kind_KIND_SEND_MESSAGE {
		return s.entry.Send(c.Payload)
	}
	p := k.empty()
	return p, fsmpb.Unmarshal(c.Payload, p)
}

// tx is one command at work. What it writes is kept aside until the command has succeeded; it sees
// its own writes in get, has and id, and not in scan. The next command uses its memory again.
type tx struct {
	reader
	b       *Batch
	scratch *scratch
	account uint64 // who acts
	session uint64
	before  int // events of the commands before
	lastID  uint64
	results []Result // of the entry's commands from this one on
	buf     []byte   // keys and values of own
	op      operationID
	intent  [intentSize]byte

	operation fsmpb.Operation // memory for the record, and so is this
	message   fsmpb.Message
}

func (t *tx) begin(s step) {
	t.account, t.session, t.lastID, t.before = s.command.Account, s.command.Session, t.b.meta.LastId, len(t.b.events)
	t.own, t.buf = t.own[:0], t.buf[:0]
	t.records.Again()
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
	t.hashIntent(s)
	if first := t.firstResult(c); first != nil {
		return first
	}
	r := t.do(s)
	if r.Reason == fsmpb.Reason_REASON_UNSPECIFIED {
		t.operation.Intent, t.operation.Result = t.intent[:], r
		t.put(t.newOperationKey(), &t.operation)
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
	at := len(t.buf)
	b, err := fsmpb.Append(t.buf, m)
	if t.check(k, err) {
		t.buf = b
		t.set(k, b[at:len(b):len(b)])
	}
}

// set writes bytes; nil stands for no bytes, not for removal.
func (t *tx) set(k, v []byte) {
	if v == nil {
		v = []byte{}
	}
	t.own = append(t.own, change{k, v})
}

// newKey makes a key that is good until the command is over.
func (t *tx) newKey(letter byte, numbers ...uint64) []byte {
	at := len(t.buf)
	t.buf = appendKey(t.buf, letter, numbers...)
	return t.buf[at:len(t.buf):len(t.buf)]
}

// answer makes the result of a command that has done something in a room.
func (t *tx) answer(room, seq uint64) *Result {
	r := &t.results[0]
	t.results = t.results[1:]
	r.Room, r.Seq = room, seq
	return r
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
	e.Position = cursor.At(t.b.meta.Index, t.b.number+uint32(len(t.b.events)-t.before))
	e.TimeMS = t.b.meta.TimeMs
	t.b.events = append(t.b.events, e)
	return e.Position
}
