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
	for len(b) > 0 {
		tag, n, v, rest, ok := next(b)
		switch {
		case !ok:
			return false
		case tag == 1<<3|block:
			ok = text(&m.Name, v)
		case tag == 2<<3|block:
			ok = text(&m.PasswordHash, v)
		case tag == 3<<3:
			m.PasswordVersion = n
		case tag == 4<<3:
			m.CreateTimeMs = int64(n)
		case tag == 5<<3:
			m.LoginTimeMs = int64(n)
		case tag == 6<<3:
			m.Deleted = n != 0
		case tag == 7<<3:
			m.Rooms = uint32(n)
		default:
			return false
		}
		if b = rest; !ok {
			return false
		}
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
	for len(b) > 0 {
		tag, n, v, rest, ok := next(b)
		switch {
		case !ok:
			return false
		case tag == 1<<3:
			m.Kind = RoomKind(n)
		case tag == 2<<3|block:
			ok = text(&m.Name, v)
		case tag == 3<<3:
			m.Creator = n
		case tag == 4<<3:
			m.CreateTimeMs = int64(n)
		case tag == 5<<3:
			m.LastSeq = n
		case tag == 6<<3:
			m.LastIndex = n
		case tag == 7<<3:
			m.LastNumber = uint32(n)
		case tag == 8<<3:
			m.Members = n
		case tag == 9<<3|block:
			m.Pair, ok = appendPacked(m.Pair, v)
		default:
			return false
		}
		if b = rest; !ok {
			return false
		}
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
	for len(b) > 0 {
		tag, n, _, rest, ok := next(b)
		switch {
		case !ok:
			return false
		case tag == 1<<3:
			m.Left = n != 0
		case tag == 2<<3:
			m.Index = n
		case tag == 3<<3:
			m.Number = uint32(n)
		case tag == 4<<3:
			m.ReadSeq = n
		case tag == 5<<3:
			m.ReadIndex = n
		case tag == 6<<3:
			m.ReadNumber = uint32(n)
		case tag == 7<<3:
			m.ReadTimeMs = int64(n)
		default:
			return false
		}
		b = rest
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
	for len(b) > 0 {
		tag, n, v, rest, ok := next(b)
		switch {
		case !ok:
			return false
		case tag == 1<<3:
			m.Index = n
		case tag == 2<<3:
			m.Number = uint32(n)
		case tag == 3<<3:
			m.TimeMs = int64(n)
		case tag == 4<<3:
			m.Sender = n
		case tag == 5<<3|block:
			ok = text(&m.Text, v)
		default:
			return false
		}
		if b = rest; !ok {
			return false
		}
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
	for len(b) > 0 {
		tag, _, v, rest, ok := next(b)
		switch {
		case !ok:
			return false
		case tag == 1<<3|block:
			m.Intent = append([]byte{}, v...)
		case tag == 2<<3|block && m.Result == nil: // a second one would be merged into the first
			m.Result = new(Result)
			ok = m.Result.parse(v)
		default:
			return false
		}
		if b = rest; !ok {
			return false
		}
	}
	return true
}
