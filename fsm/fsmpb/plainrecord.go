package fsmpb

import (
	"encoding/binary"
	"unicode/utf8"
)

func (m *Account) append(b []byte) ([]byte, bool) {
	b = appendBlock(b, 1, m.Name)
	b = appendBlock(b, 2, m.PasswordHash)
	b = appendNumber(b, 3, m.PasswordVersion)
	b = appendNumber(b, 4, uint64(m.CreateTimeMs))
	b = appendNumber(b, 5, uint64(m.LoginTimeMs))
	b = appendBool(b, 6, m.Deleted)
	b = appendNumber(b, 7, uint64(m.Rooms))
	return b, len(m.unknownFields) == 0 && utf8.ValidString(m.Name) && utf8.ValidString(m.PasswordHash)
}

func (m *Account) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Account) field(tag byte, n uint64, v []byte) bool {
	switch tag {
	case 1<<3 | block:
		return text(&m.Name, v)
	case 2<<3 | block:
		return text(&m.PasswordHash, v)
	case 3 << 3:
		m.PasswordVersion = n
	case 4 << 3:
		m.CreateTimeMs = int64(n)
	case 5 << 3:
		m.LoginTimeMs = int64(n)
	case 6 << 3:
		m.Deleted = n != 0
	case 7 << 3:
		m.Rooms = uint32(n)
	default:
		return false
	}
	return true
}

func (m *Room) append(b []byte) ([]byte, bool) {
	b = appendNumber(b, 1, uint64(m.Kind))
	b = appendBlock(b, 2, m.Name)
	b = appendNumber(b, 3, m.Creator)
	b = appendNumber(b, 4, uint64(m.CreateTimeMs))
	b = appendNumber(b, 5, m.LastSeq)
	b = appendNumber(b, 6, m.LastIndex)
	b = appendNumber(b, 7, uint64(m.LastNumber))
	b = appendNumber(b, 8, m.Members)
	if len(m.Pair) > 0 {
		b = begin(b, 9)
		at := len(b)
		for _, n := range m.Pair {
			b = binary.AppendUvarint(b, n)
		}
		b = end(b, at)
	}
	return b, len(m.unknownFields) == 0 && utf8.ValidString(m.Name)
}

func (m *Room) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Room) field(tag byte, n uint64, v []byte) bool {
	switch tag {
	case 1 << 3:
		m.Kind = RoomKind(n)
	case 2<<3 | block:
		return text(&m.Name, v)
	case 3 << 3:
		m.Creator = n
	case 4 << 3:
		m.CreateTimeMs = int64(n)
	case 5 << 3:
		m.LastSeq = n
	case 6 << 3:
		m.LastIndex = n
	case 7 << 3:
		m.LastNumber = uint32(n)
	case 8 << 3:
		m.Members = n
	case 9<<3 | block:
		var ok bool
		m.Pair, ok = appendPacked(m.Pair, v)
		return ok
	default:
		return false
	}
	return true
}

// appendPacked appends the numbers of a packed field.
func appendPacked(to []uint64, v []byte) ([]uint64, bool) {
	for len(v) > 0 {
		n, size := binary.Uvarint(v)
		if size <= 0 {
			return nil, false
		}
		to, v = append(to, n), v[size:]
	}
	return to, true
}

func (m *Member) append(b []byte) ([]byte, bool) {
	b = appendBool(b, 1, m.Left)
	b = appendNumber(b, 2, m.Index)
	b = appendNumber(b, 3, uint64(m.Number))
	b = appendNumber(b, 4, m.ReadSeq)
	b = appendNumber(b, 5, m.ReadIndex)
	b = appendNumber(b, 6, uint64(m.ReadNumber))
	b = appendNumber(b, 7, uint64(m.ReadTimeMs))
	return b, len(m.unknownFields) == 0
}

func (m *Member) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Member) field(tag byte, n uint64, _ []byte) bool {
	switch tag {
	case 1 << 3:
		m.Left = n != 0
	case 2 << 3:
		m.Index = n
	case 3 << 3:
		m.Number = uint32(n)
	case 4 << 3:
		m.ReadSeq = n
	case 5 << 3:
		m.ReadIndex = n
	case 6 << 3:
		m.ReadNumber = uint32(n)
	case 7 << 3:
		m.ReadTimeMs = int64(n)
	default:
		return false
	}
	return true
}

func (m *Message) append(b []byte) ([]byte, bool) {
	b = appendNumber(b, 1, m.Index)
	b = appendNumber(b, 2, uint64(m.Number))
	b = appendNumber(b, 3, uint64(m.TimeMs))
	b = appendNumber(b, 4, m.Sender)
	b = appendBlock(b, 5, m.Text)
	return b, len(m.unknownFields) == 0 && utf8.ValidString(m.Text)
}

func (m *Message) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Message) field(tag byte, n uint64, v []byte) bool {
	switch tag {
	case 1 << 3:
		m.Index = n
	case 2 << 3:
		m.Number = uint32(n)
	case 3 << 3:
		m.TimeMs = int64(n)
	case 4 << 3:
		m.Sender = n
	case 5<<3 | block:
		return text(&m.Text, v)
	default:
		return false
	}
	return true
}

func (m *Operation) append(b []byte) ([]byte, bool) {
	b = appendBlock(b, 1, m.Intent)
	ok := true
	if m.Result != nil {
		b = begin(b, 2)
		at := len(b)
		b, ok = m.Result.append(b)
		b = end(b, at)
	}
	return b, ok && len(m.unknownFields) == 0
}

func (m *Operation) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Operation) field(tag byte, _ uint64, v []byte) bool {
	switch {
	case tag == 1<<3|block:
		m.Intent = append([]byte{}, v...)
	case tag == 2<<3|block && m.Result == nil: // a second one would be merged into the first
		m.Result = new(Result)
		return m.Result.parse(v)
	default:
		return false
	}
	return true
}
