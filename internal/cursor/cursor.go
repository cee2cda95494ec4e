// Package cursor is places in the log, as nodes and clients keep them.
package cursor

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"example.com/chat/internal/chaterr"
)

// Position is the place of an event in the log: the raft index of its entry, and its number among
// the events of that entry. It is the same on every node. The zero Position is before everything.
type Position struct {
	Index  uint64
	Number uint32
}

// At is the position of an event in an entry.
func At(index uint64, number uint32) Position { return Position{index, number} }

// EndOf is the position behind all events of the entry at index.
func EndOf(index uint64) Position { return Position{index, math.MaxUint32} }

// Compare orders positions as the log does.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Index, q.Index), cmp.Compare(p.Number, q.Number))
}

// After reports whether p comes later than q.
func (p Position) After(q Position) bool { return p.Compare(q) > 0 }

// Before is a position that only p and what comes later are after; the zero Position has none.
func (p Position) Before() (Position, bool) {
	switch {
	case p.Number > 0:
		return Position{p.Index, p.Number - 1}, true
	case p.Index > 0:
		return EndOf(p.Index - 1), true
	default:
		return p, false
	}
}

// Append adds 12 bytes that sort as positions do; Decode reads them.
func (p Position) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, p.Index), p.Number)
}

// Decode reads the 12 bytes that Append has made.
func Decode(b []byte) Position {
	return Position{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}
}

// Cursor is a position in the log of one cluster. It says where a reader of events goes on, on
// any node.
type Cursor struct {
	Cluster string
	Position
}

// String is the form in which clients keep a cursor. Parse reads it.
func (c Cursor) String() string { return fmt.Sprintf("%s.%d.%d", c.Cluster, c.Index, c.Number) }

// Parse reads what String has made; its error is chaterr.ErrBadCursor.
func Parse(s string) (Cursor, error) {
	rest, number, ok1 := cutLast(s)
	cluster, index, ok2 := cutLast(rest)
	n, err1 := strconv.ParseUint(number, 10, 32)
	i, err2 := strconv.ParseUint(index, 10, 64)
	if !ok1 || !ok2 || cluster == "" || err1 != nil || err2 != nil {
		return Cursor{}, chaterr.ErrBadCursor
	}
	return Cursor{cluster, Position{i, uint32(n)}}, nil
}

// cutLast splits at the last dot: cluster ids have dots of their own.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}
