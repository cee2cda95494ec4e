package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
)

// firstResult looks whether a command was carried out before, and whether its id may still be used.
// It is nil when the command is to be carried out now. This is the only place where operation ids
// are checked: a check before the log could be wrong by the time the command is applied.
func (t *tx) firstResult(c *Command) *Result {
	if len(c.OperationId) != 16 {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	t.op = operationOf(c)
	switch made, now := ulidTime(c.OperationId), t.b.meta.TimeMs; {
	case made < now-OperationWindow.Milliseconds():
		return refused(fsmpb.Reason_REASON_OPERATION_TOO_OLD)
	case made > now+OperationSkew.Milliseconds():
		return refused(fsmpb.Reason_REASON_OPERATION_FROM_FUTURE)
	case t.b.s.recent.fresh(&t.op):
		return nil
	}
	o := t.b.done.get(&t.op)
	if o == nil {
		if o = new(fsmpb.Operation); !t.get(operationKey(c.OperationId, c.Account), o) {
			return nil
		}
	}
	if !bytes.Equal(o.Intent, t.intent[:]) {
		return refused(fsmpb.Reason_REASON_OPERATION_MISMATCH)
	}
	o.Result.Duplicate = true
	return o.Result
}

// operationID is an id with its account, as in the key of the operation.
type operationID [16 + 8]byte

// operationOf is for a command with an id of 16 bytes.
func operationOf(c *Command) (id operationID) {
	copy(id[:], c.OperationId)
	binary.BigEndian.PutUint64(id[16:], c.Account)
	return id
}

func (t *tx) newOperationKey() []byte {
	at := len(t.buf)
	t.buf = append(append(t.buf, keyOperation), t.op[:]...)
	return t.buf[at:len(t.buf):len(t.buf)]
}

// carriedOut remembers an operation, which the store does not know before the batch is committed.
func (b *Batch) carriedOut(t *tx, r *Result) {
	b.s.recent.add(&t.op)
	b.done.add(operation{t.op, t.intent, r})
}

// operation is one that was carried out.
type operation struct {
	id     operationID
	intent [intentSize]byte
	result *Result
}

// done are the operations of a batch. Few of them are ever asked for, so there is an index once one is.
type done struct {
	list  []operation
	index map[operationID]int
}

func (d *done) add(o operation) {
	if d.index != nil {
		d.index[o.id] = len(d.list)
	}
	d.list = append(d.list, o)
}

// get makes the record of an operation; nil when it is not one of the batch.
func (d *done) get(id *operationID) *fsmpb.Operation {
	if d.index == nil {
		d.index = make(map[operationID]int, len(d.list))
		for i, o := range d.list {
			d.index[o.id] = i
		}
	}
	i, ok := d.index[*id]
	if !ok {
		return nil
	}
	o := &d.list[i]
	return &fsmpb.Operation{Intent: o.intent[:], Result: proto.CloneOf(o.result)}
}

// CarriedOut reports whether an operation of an account is remembered as done.
func (v *View) CarriedOut(account uint64, id []byte) (bool, error) {
	return len(id) > 0 && v.has(operationKey(id, account)), v.err
}

// intentSize is how much of a hash says what was asked for.
const intentSize = 16

// hashIntent hashes what a command asks for, as far as a retry asks for the same.
func (t *tx) hashIntent(s step) {
	b := binary.BigEndian.AppendUint32(t.buf, uint32(s.command.Kind))
	if s.kind.asks == nil {
		b = append(b, s.command.Payload...)
	} else {
		b = append(b, s.kind.asks(s.payload)...)
	}
	sum := sha256.Sum256(b[len(t.buf):])
	t.buf = b[:len(t.buf)] // the memory, if it has grown
	t.intent = [intentSize]byte(sum[:])
}

// ulidTime is when an operation id was made, in milliseconds since 1970. See github.com/ulid/spec.
func ulidTime(id []byte) int64 { return int64(binary.BigEndian.Uint64(id) >> 16) }

// firstULID is the least operation id made at a time.
func firstULID(ms int64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(ms, 0)))[2:], make([]byte, 10)...)
}
