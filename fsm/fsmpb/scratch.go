package fsmpb

import "google.golang.org/protobuf/proto"

// Scratch is memory for the messages of one entry, which the next one uses again. Whoever has
// messages from it must be done with them by then.
type Scratch struct {
	entry    Entry
	commands slab[Command]
	sends    slab[send]
}

type send struct {
	message SendMessage
	room    SendMessage_Room
}

// slab gives places for values; those of before stay where they are.
type slab[T any] struct {
	values []T
	used   int
}

// slabMax is how many values a slab keeps room for from one entry to the next.
const slabMax = 4096

func (s *slab[T]) next() *T {
	if s.used == len(s.values) {
		s.values, s.used = make([]T, max(16, 2*len(s.values))), 0
	}
	s.used++
	return &s.values[s.used-1]
}

func (s *slab[T]) again() {
	if s.used = 0; len(s.values) > slabMax {
		s.values = nil
	}
}

// Entry is proto.Unmarshal for an entry, of which the bytes in its commands are those of b.
func (s *Scratch) Entry(b []byte) (*Entry, error) {
	s.commands.again()
	s.sends.again()
	if s.parse(b) {
		return &s.entry, nil
	}
	e := new(Entry)
	return e, proto.Unmarshal(b, e)
}

func (s *Scratch) parse(b []byte) bool {
	e := &s.entry
	commands := e.Commands[:0]
	e.Reset()
	e.Commands = commands
	return fields(b, func(tag byte, n uint64, v []byte) bool {
		if tag != 3<<3|block {
			return e.field(tag, n, v)
		}
		c := s.commands.next()
		e.Commands = append(e.Commands, c)
		return c.alias(v)
	})
}

// Send is proto.Unmarshal for the payload of a SendMessage.
func (s *Scratch) Send(b []byte) (*SendMessage, error) {
	m := s.sends.next()
	if m.message.parseInto(b, &m.room) {
		return &m.message, nil
	}
	other := new(SendMessage)
	return other, proto.Unmarshal(b, other)
}

// Records is memory for the records that a command reads. Nil gives new memory each time.
type Records struct {
	accounts slab[Account]
	rooms    slab[Room]
	members  slab[Member]
}

// Again uses the memory of all records of before for those that follow.
func (r *Records) Again() {
	r.accounts.again()
	r.rooms.again()
	r.members.again()
}

// Account is memory for an account, with anything in it.
func (r *Records) Account() *Account {
	if r == nil {
		return new(Account)
	}
	return r.accounts.next()
}

// Room is memory for a room, with anything in it.
func (r *Records) Room() *Room {
	if r == nil {
		return new(Room)
	}
	return r.rooms.next()
}

// Member is memory for a member, with anything in it.
func (r *Records) Member() *Member {
	if r == nil {
		return new(Member)
	}
	return r.members.next()
}
