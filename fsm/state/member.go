package state

import "example.com/chat/fsm/fsmpb"

// markRead moves the actor's read marker forward.
func (t *tx) markRead(c *MarkRead) *Result {
	rec, m, r := t.mine(c.Room)
	switch {
	case r != nil:
		return r
	case c.Seq == 0 || c.Seq > rec.LastSeq:
		return refused(fsmpb.Reason_REASON_NO_SUCH_MESSAGE)
	case c.Seq <= m.ReadSeq:
		return &Result{Room: c.Room, Seq: m.ReadSeq}
	}
	p := t.emit(Event{Kind: MarkerMoved, Account: t.account, Room: c.Room, Seq: c.Seq})
	m.ReadSeq, m.ReadIndex, m.ReadNumber, m.ReadTimeMs = c.Seq, p.Index, p.Number, t.b.meta.TimeMs
	t.put(key(keyMember, t.account, c.Room), m)
	return &Result{Room: c.Room, Seq: c.Seq}
}

// enter makes an account a member, with everything said so far counted as read.
func (t *tx) enter(room uint64, rec *fsmpb.Room, account uint64) {
	p := t.emit(Event{Kind: MemberJoined, Room: room, Account: account, Name: t.nameOf(account)})
	t.put(positionKey(keyRoomEvent, room, p), &fsmpb.RoomEvent{
		What: &fsmpb.RoomEvent_Joined{Joined: account}, TimeMs: t.b.meta.TimeMs,
	})
	t.put(key(keyMember, account, room), &fsmpb.Member{
		Index: p.Index, Number: p.Number, ReadSeq: rec.LastSeq, ReadIndex: p.Index, ReadNumber: p.Number,
	})
	t.set(key(keyRoster, room, account), nil)
	rec.Members++
	t.putRoom(room, rec, p)
}

// leave ends the membership of the account a, whose record the caller writes.
func (t *tx) leave(room uint64, rec *fsmpb.Room, m *fsmpb.Member, a *fsmpb.Account) {
	p := t.emit(Event{Kind: MemberLeft, Room: room, Account: t.account, Name: a.Name})
	t.put(positionKey(keyRoomEvent, room, p), &fsmpb.RoomEvent{
		What: &fsmpb.RoomEvent_Left{Left: t.account}, TimeMs: t.b.meta.TimeMs,
	})
	m.Left, m.Index, m.Number = true, p.Index, p.Number
	t.put(key(keyMember, t.account, room), m)
	t.remove(key(keyRoster, room, t.account))
	rec.Members--
	a.Rooms--
	t.putRoom(room, rec, p)
}

// member is nil for who never was in the room.
func (r *reader) member(account, room uint64) *fsmpb.Member {
	m := r.records.Member()
	if !r.get(r.at(keyMember, account, room), m) {
		return nil
	}
	return m
}

// mine is membership for the actor.
func (t *tx) mine(room uint64) (*fsmpb.Room, *fsmpb.Member, *Result) {
	return t.membership(t.account, room)
}

// membership is the room and the account's place in it. For who is not in it the result is a
// refusal, which does not tell a direct room of others from one that does not exist.
func (r *reader) membership(account, room uint64) (*fsmpb.Room, *fsmpb.Member, *Result) {
	rec, m := r.room(room), r.member(account, room)
	switch {
	case rec != nil && m != nil && !m.Left:
		return rec, m, nil
	case rec == nil || rec.Kind != fsmpb.RoomKind_ROOM_KIND_PUBLIC:
		return nil, nil, refused(fsmpb.Reason_REASON_NO_SUCH_ROOM)
	default:
		return nil, nil, refused(fsmpb.Reason_REASON_NOT_MEMBER)
	}
}

// roomsOf lists the rooms of an account.
func (r *reader) roomsOf(account uint64) (rooms []uint64) {
	r.scanPrefix(key(keyMember, account), func(k, v []byte) bool {
		var m fsmpb.Member
		if r.decode(k, v, &m) && !m.Left {
			rooms = append(rooms, number(k, 1))
		}
		return true
	})
	return rooms
}

// RoomsOf lists the ids of the rooms that an account is in.
func (v *View) RoomsOf(account uint64) ([]uint64, error) { return v.roomsOf(account), v.err }

// Member is what a View tells of a member of a room.
type Member struct {
	Account uint64
	Name    string // empty once the account is deleted
	ReadSeq uint64
}

// Members calls f for the members of a room whose account numbers are above a number, in order,
// until f returns false.
func (v *View) Members(room, above uint64, f func(Member) bool) error {
	v.scan(key(keyRoster, room, above+1), after(key(keyRoster, room)), func(k, _ []byte) bool {
		account := number(k, 1)
		m := v.member(account, room)
		return m == nil || f(Member{account, v.nameOf(account), m.ReadSeq})
	})
	return v.err
}
