package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// Refound makes the state that of another cluster, with all sessions ended if so wanted: one that was ended
// after the state was backed up would live again. It is for a state to which no log belongs.
func (s *State) Refound(cluster string, endSessions bool) error {
	s.cache.clear()
	b := s.db.NewBatch()
	if endSessions {
		for _, letter := range []byte{keySession, keyToken} {
			if err := b.DeleteRange([]byte{letter}, []byte{letter + 1}, nil); err != nil {
				return errors.Join(err, b.Close())
			}
		}
	}
	meta := proto.CloneOf(s.meta)
	meta.ClusterId = cluster
	v, err := proto.Marshal(meta)
	if err == nil {
		err = b.Set([]byte{keyMeta}, v, nil)
	}
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.meta = meta
	return nil
}

// shape is what a record looks like.
type shape struct {
	key   int                  // bytes behind the letter; -1 for any number
	value func() proto.Message // nil for bytes, of which there are size
	size  int
}

// shapes is DESIGN.md's table of records.
var shapes = map[byte]shape{
	keyMeta:       {0, func() proto.Message { return new(fsmpb.Meta) }, 0},
	keyAccount:    {8, func() proto.Message { return new(fsmpb.Account) }, 0},
	keyName:       {-1, nil, 8},
	keySession:    {16, nil, 40},
	keyToken:      {32, func() proto.Message { return new(fsmpb.Session) }, 0},
	keyRoom:       {8, func() proto.Message { return new(fsmpb.Room) }, 0},
	keyPublic:     {-1, nil, 8},
	keyDirect:     {16, nil, 8},
	keyMember:     {16, func() proto.Message { return new(fsmpb.Member) }, 0},
	keyRoster:     {16, nil, 0},
	keyMessage:    {16, func() proto.Message { return new(fsmpb.Message) }, 0},
	keyRoomEvent:  {20, func() proto.Message { return new(fsmpb.RoomEvent) }, 0},
	keyHide:       {24, nil, 0},
	keyHidden:     {20, func() proto.Message { return new(fsmpb.Hidden) }, 0},
	keyOperation:  {24, func() proto.Message { return new(fsmpb.Operation) }, 0},
	keyQuarantine: {8, func() proto.Message { return new(fsmpb.Quarantine) }, 0},
}

// Check reads every record of a store, and so every block of its tables, and says how many there are. The
// first one that is not of its kind is chaterr.ErrCorrupt, and so is a block with a wrong checksum.
func Check(db pebble.Reader) (records int, err error) {
	r := reader{r: db}
	r.scan(nil, nil, func(k, v []byte) bool {
		records++
		if err := checkRecord(k, v); err != nil {
			r.fail(k, fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err))
		}
		return r.err == nil
	})
	if pebble.IsCorruptionError(r.err) {
		r.err = fmt.Errorf("%w: %w", chaterr.ErrCorrupt, r.err)
	}
	return records, r.err
}

func checkRecord(k, v []byte) error {
	if len(k) == 0 {
		return errors.New("no key")
	}
	s, ok := shapes[k[0]]
	switch {
	case !ok:
		return errors.New("an unknown kind of record")
	case s.key >= 0 && len(k) != 1+s.key:
		return fmt.Errorf("a key of %d bytes", len(k))
	case s.value != nil:
		return proto.Unmarshal(v, s.value())
	case len(v) != s.size:
		return fmt.Errorf("a value of %d bytes", len(v))
	}
	return nil
}
