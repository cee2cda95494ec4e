package state

import (
	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/cursor"
)

// ToRoom is the target of a SendMessage to a room.
func ToRoom(id uint64) *fsmpb.SendMessage_Room { return &fsmpb.SendMessage_Room{Room: id} }

// ToUser is the target of a SendMessage to the direct room with whoever has a canonical name.
func ToUser(name string) *fsmpb.SendMessage_Name { return &fsmpb.SendMessage_Name{Name: name} }

// sendMessage appends a message. The sender has read the room up to it, then.
func (t *tx) sendMessage(c *SendMessage) *Result {
	if !validText(c.Text) {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	room := c.GetRoom()
	if to, ok := c.Target.(*fsmpb.SendMessage_Name); ok {
		var r *Result
		if room, r = t.direct(to.Name); r != nil {
			return r
		}
	}
	rec, m, r := t.mine(room)
	if r != nil {
		return r
	}
	if p := peer(rec, t.account); p != 0 && t.liveAccount(p) == nil {
		return refused(fsmpb.Reason_REASON_NO_SUCH_USER)
	}
	rec.LastSeq++
	p := t.emit(Event{Kind: MessageSent, Room: room, Account: t.account, Name: t.nameOf(t.account), Seq: rec.LastSeq, Text: c.Text})
	msg := &t.message
	msg.Index, msg.Number, msg.TimeMs, msg.Sender, msg.Text = p.Index, p.Number, t.b.meta.TimeMs, t.account, c.Text
	t.put(t.newKey(keyMessage, room, rec.LastSeq), msg)
	t.putRoom(room, rec, p)
	m.ReadSeq = rec.LastSeq
	t.put(t.newKey(keyMember, t.account, room), m)
	return t.answer(room, rec.LastSeq)
}

// hideMessages takes messages out of the actor's own view.
func (t *tx) hideMessages(c *HideMessages) *Result {
	rec, _, r := t.mine(c.Room)
	if r != nil {
		return r
	}
	if len(c.Seqs) == 0 || len(c.Seqs) > MaxHide {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	var hidden []uint64
	for _, seq := range c.Seqs {
		if seq == 0 || seq > rec.LastSeq {
			return refused(fsmpb.Reason_REASON_NO_SUCH_MESSAGE)
		}
		if k := key(keyHide, t.account, c.Room, seq); !t.has(k) {
			t.set(k, nil)
			hidden = append(hidden, seq)
		}
	}
	if len(hidden) > 0 {
		p := t.emit(Event{Kind: MessagesHidden, Account: t.account, Room: c.Room, Seqs: hidden})
		t.put(positionKey(keyHidden, t.account, p), &fsmpb.Hidden{Room: c.Room, Seqs: hidden, TimeMs: t.b.meta.TimeMs})
	}
	return &Result{Room: c.Room}
}

// Message is what a View tells of a message.
type Message struct {
	Position
	Room   uint64
	Seq    uint64
	Sender string // empty once the account is deleted
	Text   string
	TimeMS int64
}

// message is nil when the room has no message of that number.
func (r *reader) message(room, seq uint64) *fsmpb.Message {
	m := new(fsmpb.Message)
	if !r.get(key(keyMessage, room, seq), m) {
		return nil
	}
	return m
}

// Messages calls f for the messages of a room with numbers from first to last, upwards or
// downwards, without those that the account has hidden, until f returns false. It passes at most
// scan messages, hidden ones included, and returns the number of the one to go on with, 0 when
// there is none.
func (v *View) Messages(account, room, first, last uint64, down bool, scan int, f func(Message) bool) (next uint64, err error) {
	names := map[uint64]string{}
	seq, step := first, uint64(1)
	if down {
		seq, step = last, ^uint64(0) // minus one
	}
	hidden := v.walk(key(keyHide, account, room), first, last, down)
	messages := v.walk(key(keyMessage, room), first, last, down)
	defer func() {
		hidden.close()
		messages.close()
		err = v.err
	}()
	var m fsmpb.Message
	for ; first <= seq && seq <= last && v.err == nil; seq += step {
		if scan--; scan < 0 {
			return seq, v.err
		}
		if _, ok := hidden.to(seq); ok {
			continue
		}
		value, ok := messages.to(seq)
		if !ok || !v.decode(key(keyMessage, room, seq), value, &m) {
			continue
		}
		name, ok := names[m.Sender]
		if !ok {
			name = v.nameOf(m.Sender)
			names[m.Sender] = name
		}
		if !f(Message{cursor.At(m.Index, m.Number), room, seq, name, m.Text, m.TimeMs}) {
			return seq, v.err
		}
	}
	return 0, v.err
}
