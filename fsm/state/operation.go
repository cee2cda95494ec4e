package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
)

// operation looks whether a command was carried out before, and whether its id may still be used.
// It is nil when the command is to be carried out now. This is the only place where operation ids
// are checked: a check before the log could be wrong by the time the command is applied.
func (t *tx) operation(c *fsmpb.Command, intent []byte) *Result {
	if len(c.OperationId) != 16 {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	var o fsmpb.Operation
	switch made, now := ulidTime(c.OperationId), t.b.meta.TimeMs; {
	case made < now-OperationWindow.Milliseconds():
		return refused(fsmpb.Reason_REASON_OPERATION_TOO_OLD)
	case made > now+OperationSkew.Milliseconds():
		return refused(fsmpb.Reason_REASON_OPERATION_FROM_FUTURE)
	case t.b.s.recent.fresh(operationKey(c.OperationId, c.Account)):
		return nil
	case !t.get(operationKey(c.OperationId, c.Account), &o):
		return nil
	case !bytes.Equal(o.Intent, intent):
		return refused(fsmpb.Reason_REASON_OPERATION_MISMATCH)
	}
	o.Result.Duplicate = true
	return o.Result
}

// CarriedOut reports whether an operation of an account is remembered as done.
func (v *View) CarriedOut(account uint64, id []byte) (bool, error) {
	return len(id) > 0 && v.has(operationKey(id, account)), v.err
}

// intentOf is a hash of what a command asks for, as far as a retry asks for the same.
func (k *kind) intentOf(c *fsmpb.Command, payload proto.Message) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(c.Kind)))
	if k.asks == nil {
		h.Write(c.Payload)
	} else {
		h.Write([]byte(k.asks(payload)))
	}
	return h.Sum(nil)[:16]
}

// ulidTime is when an operation id was made, in milliseconds since 1970. See github.com/ulid/spec.
func ulidTime(id []byte) int64 {
	return int64(binary.BigEndian.Uint64(append([]byte{0, 0}, id[:6]...)))
}

// firstULID is the least operation id made at a time.
func firstULID(ms int64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(ms, 0)))[2:], make([]byte, 10)...)
}
