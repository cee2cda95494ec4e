package fsmpb

import (
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
)

// Protobuf's own code finds each field by reflection, which is most of what a small record costs. What
// is read or written for every message has code of its own here, for the plain case alone: known
// fields of the expected kind. It answers false to whatever else there is, and then protobuf's
// code decides. So there is one meaning of bytes, and one encoding of a value (TestWire).

// plain is a message with code of its own.
type plain interface {
	// append appends the message's encoding.
	append(b []byte) ([]byte, bool)
	// parse replaces the message by what b encodes. Nothing of b is kept.
	parse(b []byte) bool
}

// Append appends what proto.Marshal makes of a message.
func Append(b []byte, m proto.Message) ([]byte, error) {
	if m, ok := m.(plain); ok {
		if b, ok := m.append(b); ok {
			return b, nil
		}
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}

// Unmarshal is proto.Unmarshal.
func Unmarshal(b []byte, m proto.Message) error {
	if m, ok := m.(plain); ok && m.parse(b) {
		return nil
	}
	return proto.Unmarshal(b, m)
}

// The kinds of fields that there are.
const (
	number = 0 // a varint
	block  = 2 // a length and so many bytes
)

// appendNumber appends a field, unless it is zero.
func appendNumber(b []byte, field byte, n uint64) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, field<<3|number), n)
}

func appendBool(b []byte, field byte, v bool) []byte {
	if !v {
		return b
	}
	return append(b, field<<3|number, 1)
}

// appendBlock appends a field, unless it is empty.
func appendBlock[T string | []byte](b []byte, field byte, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return append(binary.AppendUvarint(append(b, field<<3|block), uint64(len(v))), v...)
}

// begin begins a field of unknown length; end ends the one that began where begin's result ends.
func begin(b []byte, field byte) []byte { return append(b, field<<3|block, 0) }

func end(b []byte, at int) []byte {
	n := len(b) - at
	if n < 1<<7 {
		b[at-1] = byte(n)
		return b
	}
	var length [binary.MaxVarintLen64]byte
	more := binary.PutUvarint(length[:], uint64(n)) - 1
	b = append(b, length[:more]...) // room, whatever is in it
	copy(b[at+more:], b[at:at+n])
	copy(b[at-1:], length[:more+1])
	return b
}

// next reads a field: its tag, and its number or bytes. It is not ok for what only protobuf's own code
// knows, and for what nobody does.
func next(b []byte) (tag byte, n uint64, v, rest []byte, ok bool) {
	tag, b = b[0], b[1:]
	if tag&7 != number && tag&7 != block {
		return 0, 0, nil, nil, false
	}
	if len(b) > 0 && b[0] < 1<<7 {
		n, b = uint64(b[0]), b[1:]
	} else {
		size := 0
		if n, size = binary.Uvarint(b); size <= 0 {
			return 0, 0, nil, nil, false
		}
		b = b[size:]
	}
	if tag&7 == number {
		return tag, n, nil, b, true
	}
	if n > uint64(len(b)) {
		return 0, 0, nil, nil, false
	}
	return tag, n, b[:n:n], b[n:], true
}

// fields calls f with each field of a message, until f says no: it is false then, and for what is no message.
func fields(b []byte, f func(tag byte, n uint64, v []byte) bool) bool {
	for len(b) > 0 {
		tag, n, v, rest, ok := next(b)
		if !ok || !f(tag, n, v) {
			return false
		}
		b = rest
	}
	return true
}

// text sets a string, which has to be UTF-8.
func text(to *string, v []byte) bool {
	if !utf8.Valid(v) {
		return false
	}
	*to = string(v)
	return true
}
