package state

import (
	"encoding/binary"

	"example.com/chat/fsm/fsmpb"
)

// openDirectRoom finds or makes the one room of two accounts.
func (t *tx) openDirectRoom(c *OpenDirectRoom) *Result {
	id, r := t.direct(c.Name)
	if r != nil {
		return r
	}
	return &Result{Room: id}
}

// direct finds or makes the actor's direct room with whoever has a name; the result is set when
// there is none.
func (t *tx) direct(name string) (room uint64, refusal *Result) {
	peer := t.accountID(name)
	if peer == 0 {
		return 0, refused(fsmpb.Reason_REASON_NO_SUCH_USER)
	}
	k := directKey(t.account, peer)
	if id := t.id(k); id != 0 {
		return id, nil
	}
	if !t.countRoom() {
		return 0, refused(fsmpb.Reason_REASON_LIMIT)
	}
	id := t.newID()
	t.setID(k, id)
	rec := &fsmpb.Room{Kind: fsmpb.RoomKind_ROOM_KIND_DIRECT, Creator: t.account, CreateTimeMs: t.b.meta.TimeMs, Pair: []uint64{t.account}}
	if peer != t.account {
		rec.Pair = append(rec.Pair, peer)
	}
	for _, a := range rec.Pair {
		t.enter(id, rec, a)
	}
	return id, nil
}

// createRoom makes a room that everybody may join, with the actor in it.
func (t *tx) createRoom(c *CreateRoom) *Result {
	if !validName(c.Name) {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	if t.has(nameKey(keyPublic, c.Name)) {
		return refused(fsmpb.Reason_REASON_NAME_TAKEN)
	}
	if !t.countRoom() {
		return refused(fsmpb.Reason_REASON_LIMIT)
	}
	id := t.newID()
	t.setID(nameKey(keyPublic, c.Name), id)
	t.enter(id, &fsmpb.Room{
		Kind: fsmpb.RoomKind_ROOM_KIND_PUBLIC, Name: c.Name, Creator: t.account, CreateTimeMs: t.b.meta.TimeMs,
	}, t.account)
	return &Result{Room: id}
}

// joinRoom makes the actor a member of a public room.
func (t *tx) joinRoom(c *JoinRoom) *Result {
	rec := t.room(c.Room)
	m := t.member(t.account, c.Room)
	switch {
	case rec == nil || rec.Kind != fsmpb.RoomKind_ROOM_KIND_PUBLIC && m == nil:
		return refused(fsmpb.Reason_REASON_NO_SUCH_ROOM)
	case m != nil && !m.Left:
		return &Result{Room: c.Room}
	case !t.countRoom():
		return refused(fsmpb.Reason_REASON_LIMIT)
	}
	t.enter(c.Room, rec, t.account)
	return &Result{Room: c.Room}
}

// leaveRoom ends the actor's membership.
func (t *tx) leaveRoom(c *LeaveRoom) *Result {
	rec, m, r := t.mine(c.Room)
	if r != nil {
		return r
	}
	if rec.Kind == fsmpb.RoomKind_ROOM_KIND_DIRECT {
		return refused(fsmpb.Reason_REASON_DIRECT_ROOM)
	}
	a := t.liveAccount(t.account)
	if a == nil {
		return refused(fsmpb.Reason_REASON_UNAUTHENTICATED)
	}
	t.leave(c.Room, rec, m, a)
	t.put(key(keyAccount, t.account), a)
	return &Result{Room: c.Room}
}

// countRoom counts one more room for the actor, if there may be one more.
func (t *tx) countRoom() bool {
	a := t.liveAccount(t.account)
	if a == nil || a.Rooms >= MaxRooms {
		return false
	}
	a.Rooms++
	t.put(key(keyAccount, t.account), a)
	return true
}

func directKey(a, b uint64) []byte { return key(keyDirect, min(a, b), max(a, b)) }

// room is nil when there is none.
func (r *reader) room(id uint64) *fsmpb.Room {
	rec := r.records.Room()
	if !r.get(r.at(keyRoom, id), rec) {
		return nil
	}
	return rec
}

func (t *tx) putRoom(id uint64, rec *fsmpb.Room, last Position) {
	rec.LastIndex, rec.LastNumber = last.Index, last.Number
	t.put(t.newKey(keyRoom, id), rec)
}

// peer is the other one of a direct room; 0 when it is no direct room.
func peer(rec *fsmpb.Room, account uint64) uint64 {
	for _, a := range rec.Pair {
		if a != account || len(rec.Pair) == 1 {
			return a
		}
	}
	return 0
}

// Room is what a View tells of a room to one of its members, or of a public room to anybody.
type Room struct {
	ID           uint64
	Direct       bool
	Name         string // of a public room
	Peer         string // the other one of a direct room, empty once that account is deleted
	CreateTimeMS int64
	Members      uint64
	LastSeq      uint64
	Member       bool   // the one who asks is in the room
	ReadSeq      uint64 // of the one who asks
}

func (v *View) tell(id uint64, rec *fsmpb.Room, account uint64, m *fsmpb.Member) Room {
	r := Room{
		ID: id, Direct: rec.Kind == fsmpb.RoomKind_ROOM_KIND_DIRECT, Name: rec.Name,
		CreateTimeMS: rec.CreateTimeMs, Members: rec.Members, LastSeq: rec.LastSeq,
	}
	if m != nil && !m.Left {
		r.Member, r.ReadSeq = true, m.ReadSeq
	}
	if r.Direct {
		r.Peer = v.nameOf(peer(rec, account))
	}
	return r
}

// Room tells of a room that an account is in; otherwise the error is chaterr.ErrNoSuchRoom or
// chaterr.ErrNotMember.
func (v *View) Room(account, id uint64) (Room, error) {
	rec, m, refusal := v.membership(account, id)
	if v.err != nil {
		return Room{}, v.err
	} else if refusal != nil {
		return Room{}, Err(refusal)
	}
	return v.tell(id, rec, account, m), v.err
}

// DirectRoom finds the room of an account with whoever has a canonical name; 0 when they have none.
// The error is chaterr.ErrNoSuchUser when nobody has the name.
func (v *View) DirectRoom(account uint64, name string) (uint64, error) {
	peer := v.accountID(name)
	if peer == 0 && v.err == nil {
		return 0, Err(refused(fsmpb.Reason_REASON_NO_SUCH_USER))
	}
	return v.id(directKey(account, peer)), v.err
}

// RoomByName finds a public room; 0 when there is none of that canonical name.
func (v *View) RoomByName(name string) (uint64, error) { return v.id(nameKey(keyPublic, name)), v.err }

// Rooms calls f for the rooms that an account is in and whose ids are above a number, in order,
// until f returns false.
func (v *View) Rooms(account, above uint64, f func(Room) bool) error {
	v.scan(key(keyMember, account, above+1), after(key(keyMember, account)), func(k, value []byte) bool {
		var m fsmpb.Member
		if !v.decode(k, value, &m) {
			return false
		}
		rec := v.room(number(k, 1))
		return m.Left || rec == nil || f(v.tell(number(k, 1), rec, account, &m))
	})
	return v.err
}

// PublicRooms calls f for the public rooms whose names come after a name, in order, until f
// returns false.
func (v *View) PublicRooms(account uint64, afterName string, f func(Room) bool) error {
	lower := append(nameKey(keyPublic, afterName), 0)
	if afterName == "" {
		lower = []byte{keyPublic}
	}
	v.scan(lower, []byte{keyPublic + 1}, func(_, value []byte) bool {
		id := binary.BigEndian.Uint64(value)
		rec := v.room(id)
		return rec == nil || f(v.tell(id, rec, account, v.member(account, id)))
	})
	return v.err
}
