package state

import "encoding/binary"

// Keys begin with one letter that says what is kept there. Numbers are eight bytes, big endian, so
// that records stand in the order in which they are listed. DESIGN.md has the table.
const (
	keyMeta       = 'm' //                      Meta
	keyAccount    = 'a' // account              Account
	keyName       = 'n' // name                 account
	keySession    = 's' // account, session     when made, hash of its token
	keyToken      = 't' // hash of a token      Session
	keyRoom       = 'r' // room                 Room
	keyPublic     = 'p' // name                 room
	keyDirect     = 'd' // lower, upper account room
	keyMember     = 'b' // account, room        Member
	keyRoster     = 'B' // room, account        empty
	keyMessage    = 'M' // room, seq            Message
	keyRoomEvent  = 'E' // room, position       RoomEvent
	keyHide       = 'h' // account, room, seq   empty
	keyHidden     = 'H' // account, position    Hidden
	keyOperation  = 'o' // ULID, account        Operation
	keyQuarantine = 'q' // number modulo 64    Quarantine
)

// key makes a key of a letter and numbers.
func key(letter byte, numbers ...uint64) []byte {
	return appendKey(make([]byte, 0, 1+8*len(numbers)+12), letter, numbers...)
}

func appendKey(b []byte, letter byte, numbers ...uint64) []byte {
	b = append(b, letter)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func nameKey(letter byte, name string) []byte { return append([]byte{letter}, name...) }

func positionKey(letter byte, number uint64, p Position) []byte { return p.Append(key(letter, number)) }

func operationKey(id []byte, account uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte{keyOperation}, id...), account)
}

// number reads the i-th number of a key.
func number(k []byte, i int) uint64 { return binary.BigEndian.Uint64(k[1+8*i:]) }

// after is the end of the range of all keys that begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
