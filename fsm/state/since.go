package state

import (
	"container/heap"
	"slices"
	"sort"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/cursor"
)

// EventsSince reads what concerns an account after a position, in the order of the log: what
// happened in its rooms since it came into them, and its own private events. A read marker that
// moved several times is told once. It stops after limit events or about a megabyte of text, and
// returns the position to go on from; more reports whether there may be more.
//
// The cost grows with the number of the account's rooms, of which one record each is read, and with
// the events that are returned; not with the length of the log or of the rooms' histories.
func (v *View) EventsSince(account uint64, from Position, limit int) (events []Event, to Position, more bool, err error) {
	h := v.sources(account, from, limit)
	names := map[uint64]string{}
	for size := 0; len(h) > 0 && v.err == nil; {
		if len(events) == limit || size > 1<<20 {
			return events, events[len(events)-1].Position, true, v.err
		}
		e := h[0].head
		if e.Account != 0 && e.Name == "" {
			name, ok := names[e.Account]
			if !ok {
				name = v.nameOf(e.Account)
				names[e.Account] = name
			}
			e.Name = name
		}
		events = append(events, e)
		size += len(e.Text)
		if h[0].advance(v) {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return events, cursor.EndOf(v.meta.Index), false, v.err
}

// source is a run of events in order; head is the next one.
type source struct {
	head  Event
	rest  []Event // of a list
	room  uint64  // of a room: where its messages and other events go on
	seq   uint64
	last  uint64
	other Position
	quiet bool // no other events after the last one seen
}

// sources begins one source for each room that changed and one for the private events, which has more than a
// limit of them if there are more.
func (v *View) sources(account uint64, from Position, limit int) (h sourceHeap) {
	private := v.hidden(account, from, limit+1)
	v.scanPrefix(key(keyMember, account), func(k, value []byte) bool {
		var m fsmpb.Member
		if !v.decode(k, value, &m) {
			return false
		}
		room := number(k, 1)
		at, read := cursor.At(m.Index, m.Number), cursor.At(m.ReadIndex, m.ReadNumber)
		if m.Left {
			if at.After(from) {
				private = append(private, Event{Position: at, Kind: MemberLeft, TimeMS: v.timeOf(room, at), Room: room, Account: account})
			}
			return true
		}
		if read.After(from) && read != at {
			private = append(private, Event{Position: read, Kind: MarkerMoved, TimeMS: m.ReadTimeMs, Room: room, Account: account, Seq: m.ReadSeq})
		}
		rec := v.room(room)
		if rec == nil || !cursor.At(rec.LastIndex, rec.LastNumber).After(from) {
			return true
		}
		s := &source{room: room, last: rec.LastSeq, other: from}
		if before, ok := at.Before(); ok && before.After(from) {
			s.other = before // events of a room count from the moment one is in it
		}
		s.seq = v.firstAfter(room, rec.LastSeq, s.other)
		if s.advance(v) {
			h = append(h, s)
		}
		return true
	})
	slices.SortFunc(private, func(a, b Event) int { return a.Compare(b.Position) })
	if s := (&source{rest: private}); s.advance(v) {
		h = append(h, s)
	}
	heap.Init(&h)
	return h
}

// advance moves to the next event, if there is one.
func (s *source) advance(v *View) bool {
	if s.room == 0 {
		if len(s.rest) == 0 {
			return false
		}
		s.head, s.rest = s.rest[0], s.rest[1:]
		return true
	}
	var next *Event
	if !s.quiet {
		next = v.roomEvent(s.room, s.other)
		s.quiet = next == nil
	}
	if s.seq <= s.last {
		m := v.message(s.room, s.seq)
		if m == nil {
			return false // the reader's error says why
		}
		if p := (cursor.At(m.Index, m.Number)); next == nil || next.After(p) {
			s.seq++
			s.head = Event{Position: p, Kind: MessageSent, TimeMS: m.TimeMs, Room: s.room, Account: m.Sender, Seq: s.seq - 1, Text: m.Text}
			return true
		}
	}
	if next == nil {
		return false
	}
	s.head, s.other = *next, next.Position
	return true
}

// firstAfter is the number of the first message of a room after a position: numbers and positions grow
// together. It is looked for from the end, in steps that double, and then by bisection: most who ask
// have missed little, and the cost is that of what they have missed.
func (v *View) firstAfter(room, last uint64, p Position) uint64 {
	after := func(seq uint64) bool {
		m := v.message(room, seq)
		return m == nil || cursor.At(m.Index, m.Number).After(p)
	}
	before, first := last, last+1 // first is after the position, and before is not, once found
	for step := uint64(1); before > 0 && after(before); step *= 2 {
		first = before
		before -= min(step, before)
	}
	return before + 1 + uint64(sort.Search(int(first-before-1), func(i int) bool { return after(before + 1 + uint64(i)) }))
}

// roomEvent is the first event of a room after a position that is not a message.
func (v *View) roomEvent(room uint64, p Position) (e *Event) {
	v.scan(append(positionKey(keyRoomEvent, room, p), 0), after(key(keyRoomEvent, room)), func(k, value []byte) bool {
		e = v.decodeRoomEvent(room, k, value)
		return false
	})
	return e
}

func (v *View) decodeRoomEvent(room uint64, k, value []byte) *Event {
	var rec fsmpb.RoomEvent
	if !v.decode(k, value, &rec) {
		return nil
	}
	e := &Event{Position: cursor.Decode(k[9:]), TimeMS: rec.TimeMs, Room: room, Kind: MemberJoined, Account: rec.GetJoined()}
	if left := rec.GetLeft(); left != 0 {
		e.Kind, e.Account = MemberLeft, left
	}
	return e
}

// timeOf is when the event of a room at a position was.
func (v *View) timeOf(room uint64, p Position) int64 {
	var rec fsmpb.RoomEvent
	v.get(positionKey(keyRoomEvent, room, p), &rec)
	return rec.TimeMs
}

// hidden lists the first n times that an account hid something after a position.
func (v *View) hidden(account uint64, from Position, n int) (events []Event) {
	v.scan(append(positionKey(keyHidden, account, from), 0), after(key(keyHidden, account)), func(k, value []byte) bool {
		var rec fsmpb.Hidden
		if !v.decode(k, value, &rec) {
			return false
		}
		events = append(events, Event{
			Position: cursor.Decode(k[9:]), Kind: MessagesHidden, TimeMS: rec.TimeMs, Room: rec.Room, Account: account, Seqs: rec.Seqs,
		})
		return len(events) < n
	})
	return events
}

// sourceHeap has the source with the earliest event first.
type sourceHeap []*source

func (h sourceHeap) Len() int           { return len(h) }
func (h sourceHeap) Less(i, j int) bool { return h[j].head.After(h[i].head.Position) }
func (h sourceHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *sourceHeap) Push(x any)        { *h = append(*h, x.(*source)) }
func (h *sourceHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
