package state

import "example.com/chat/internal/cursor"

// Position is the place of an event in the log.
type Position = cursor.Position

// Kind says what an event is.
type Kind uint8

const (
	// MessageSent: Account, called Name, said Text as number Seq in Room.
	MessageSent Kind = iota + 1
	// MemberJoined: Account, called Name, became a member of Room.
	MemberJoined
	// MemberLeft: Account, called Name, left Room.
	MemberLeft
	// MarkerMoved: Account has read Room up to Seq. Only for Account.
	MarkerMoved
	// MessagesHidden: Account hid Seqs in Room. Only for Account.
	MessagesHidden
	// SessionEnded: Session of Account is over. It is not kept and not sent to clients: a stream
	// that belongs to the session ends.
	SessionEnded
)

// Private reports whether an event concerns its account alone, and not the members of its room.
func (k Kind) Private() bool { return k >= MarkerMoved }

// Event is something that was committed.
type Event struct {
	Position
	Kind    Kind
	TimeMS  int64
	Room    uint64
	Account uint64
	Name    string // of Account, empty once it is deleted
	Seq     uint64
	Seqs    []uint64
	Text    string
	Session uint64
}
