package fsmpb

import "unicode/utf8"

func (m *Result) append(b []byte) ([]byte, bool) {
	b = appendNumber(b, 1, uint64(m.Reason))
	b = appendNumber(b, 2, m.Index)
	b = appendNumber(b, 3, uint64(m.Number))
	b = appendNumber(b, 4, uint64(m.TimeMs))
	b = appendBool(b, 5, m.Duplicate)
	b = appendNumber(b, 6, m.Account)
	b = appendNumber(b, 7, m.Session)
	b = appendNumber(b, 8, m.Room)
	b = appendNumber(b, 9, m.Seq)
	return b, len(m.unknownFields) == 0
}

func (m *Result) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Result) field(tag byte, n uint64, _ []byte) bool {
	switch tag {
	case 1 << 3:
		m.Reason = Reason(n)
	case 2 << 3:
		m.Index = n
	case 3 << 3:
		m.Number = uint32(n)
	case 4 << 3:
		m.TimeMs = int64(n)
	case 5 << 3:
		m.Duplicate = n != 0
	case 6 << 3:
		m.Account = n
	case 7 << 3:
		m.Session = n
	case 8 << 3:
		m.Room = n
	case 9 << 3:
		m.Seq = n
	default:
		return false
	}
	return true
}

// append writes the target last, as protobuf does with what is one of several.
func (m *SendMessage) append(b []byte) ([]byte, bool) {
	b = appendBlock(b, 3, m.Text)
	ok := true
	switch t := m.Target.(type) {
	case nil:
	case *SendMessage_Room:
		if ok = t != nil && t.Room != 0; ok { // zero is written too
			b = appendNumber(b, 1, t.Room)
		}
	case *SendMessage_Name:
		if ok = t != nil && t.Name != "" && utf8.ValidString(t.Name); ok {
			b = appendBlock(b, 2, t.Name)
		}
	default:
		ok = false
	}
	return b, ok && len(m.unknownFields) == 0 && utf8.ValidString(m.Text)
}

func (m *SendMessage) parse(b []byte) bool { return m.parseInto(b, nil) }

// parseInto is parse that puts the number of a room where the caller has a place for it.
func (m *SendMessage) parseInto(b []byte, room *SendMessage_Room) bool {
	m.Reset()
	return fields(b, func(tag byte, n uint64, v []byte) bool {
		switch tag {
		case 1 << 3:
			if room == nil {
				room = new(SendMessage_Room)
			}
			room.Room = n
			m.Target = room
		case 2<<3 | block:
			name := new(SendMessage_Name)
			m.Target = name
			return text(&name.Name, v)
		case 3<<3 | block:
			return text(&m.Text, v)
		default:
			return false
		}
		return true
	})
}

func (m *Command) append(b []byte) ([]byte, bool) {
	if m == nil {
		return b, true
	}
	b = appendNumber(b, 1, uint64(m.Kind))
	b = appendBlock(b, 2, m.OperationId)
	b = appendNumber(b, 3, m.Account)
	b = appendNumber(b, 4, m.Session)
	b = appendBlock(b, 5, m.Payload)
	return b, len(m.unknownFields) == 0
}

func (m *Command) parse(b []byte) bool {
	ok := m.alias(b)
	m.OperationId, m.Payload = append([]byte(nil), m.OperationId...), append([]byte(nil), m.Payload...)
	return ok
}

// alias is parse, but that the message's bytes are those of b.
func (m *Command) alias(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Command) field(tag byte, n uint64, v []byte) bool {
	switch tag {
	case 1 << 3:
		m.Kind = Kind(n)
	case 2<<3 | block:
		m.OperationId = v
	case 3 << 3:
		m.Account = n
	case 4 << 3:
		m.Session = n
	case 5<<3 | block:
		m.Payload = v
	default:
		return false
	}
	return true
}

func (m *Entry) append(b []byte) ([]byte, bool) {
	b = appendNumber(b, 1, uint64(m.Format))
	b = appendNumber(b, 2, uint64(m.TimeMs))
	for _, c := range m.Commands {
		b = begin(b, 3)
		at := len(b)
		var ok bool
		if b, ok = c.append(b); !ok {
			return nil, false
		}
		b = end(b, at)
	}
	return b, len(m.unknownFields) == 0
}

func (m *Entry) parse(b []byte) bool {
	m.Reset()
	return fields(b, m.field)
}

func (m *Entry) field(tag byte, n uint64, v []byte) bool {
	switch tag {
	case 1 << 3:
		m.Format = uint32(n)
	case 2 << 3:
		m.TimeMs = int64(n)
	case 3<<3 | block:
		c := new(Command)
		m.Commands = append(m.Commands, c)
		return c.parse(v)
	default:
		return false
	}
	return true
}
