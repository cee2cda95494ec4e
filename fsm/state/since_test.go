package state

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/cursor"
)

// concerns reports whether an account is to be told of an event, given the rooms it is in.
func concerns(e Event, account uint64, rooms map[uint64]bool) bool {
	switch {
	case e.Kind == SessionEnded:
		return false
	case e.Kind.Private():
		return e.Account == account
	case e.Account == account:
		return true
	default:
		return rooms[e.Room]
	}
}

// live is what a subscriber who was there all the time has been told.
func (m *machine) live(account uint64) (events []Event) {
	rooms := map[uint64]bool{}
	for _, e := range m.events {
		if e.Kind == MemberJoined && e.Account == account {
			rooms[e.Room] = true
		}
		if concerns(e, account, rooms) {
			events = append(events, e)
		}
		if e.Kind == MemberLeft && e.Account == account {
			delete(rooms, e.Room)
		}
	}
	return events
}

// since reads events in pages of some size.
func (m *machine) since(account uint64, from Position, page int) (events []Event) {
	m.t.Helper()
	for more := true; more; {
		var part []Event
		var err error
		if part, from, more, err = m.view().EventsSince(account, from, page); err != nil {
			m.t.Fatal(err)
		}
		events = append(events, part...)
	}
	if from != cursor.EndOf(m.index) {
		m.t.Errorf("ends at %v, want the end of entry %d", from, m.index)
	}
	return events
}

// TestEventsSince_EqualsLive: from every cursor that somebody may hold, the events that are read
// are those that he would have been told, in the same order. A marker that moved several times is
// told once, and rooms that were left meanwhile are silent but for that.
func TestEventsSince_EqualsLive(t *testing.T) {
	m := newMachine(t)
	r := rand.New(rand.NewPCG(1, 2))
	var users []Actor
	for i := range 4 {
		users = append(users, m.user(fmt.Sprintf("user%d", i)))
	}
	var rooms []uint64
	for i := range 3 {
		rooms = append(rooms, m.must(users[i], &CreateRoom{Name: fmt.Sprint("room ", i)}).Room)
	}
	for range 300 {
		var cs []*Command
		for range 1 + r.IntN(4) {
			cs = append(cs, m.command(users[r.IntN(len(users))], nil, randomChange(r, rooms)))
		}
		m.nowMS += int64(r.IntN(1000))
		m.entry(cs...)
	}
	for _, u := range users {
		all := m.live(u.Account)
		for i := 0; i < len(all); i += 1 + r.IntN(20) {
			from := all[i].Position
			want := m.expect(u.Account, from, all[i+1:])
			got := m.since(u.Account, from, 1+r.IntN(50))
			if !slices.EqualFunc(got, want, sameEvent) {
				t.Fatalf("%d from %v:\ngot  %v\nwant %v", u.Account, from, describe(got), describe(want))
			}
		}
	}
}

func randomChange(r *rand.Rand, rooms []uint64) proto.Message {
	room := rooms[r.IntN(len(rooms))]
	switch r.IntN(10) {
	case 0:
		return &JoinRoom{Room: room}
	case 1:
		return &LeaveRoom{Room: room}
	case 2:
		return &MarkRead{Room: room, Seq: 1 + r.Uint64N(50)}
	case 3:
		return &HideMessages{Room: room, Seqs: []uint64{1 + r.Uint64N(20)}}
	case 4, 5:
		return &SendMessage{Target: ToUser(fmt.Sprintf("user%d", r.IntN(4))), Text: fmt.Sprint(r.Uint32())}
	default:
		return &SendMessage{Target: ToRoom(room), Text: fmt.Sprint(r.Uint32())}
	}
}

// expect is what of later events is to be read: of rooms that the account is in at the end, what
// came since it entered them; of rooms that it has left, the leaving; of each marker the last move.
func (m *machine) expect(account uint64, from Position, later []Event) (want []Event) {
	entered, left, marker := map[uint64]Position{}, map[uint64]Position{}, map[uint64]Position{}
	for _, e := range m.live(account) {
		mine := e.Account == account
		switch {
		case e.Kind == MemberJoined && mine:
			entered[e.Room] = e.Position
			delete(left, e.Room)
			delete(marker, e.Room)
		case e.Kind == MemberLeft && mine:
			left[e.Room] = e.Position
		case e.Kind == MarkerMoved:
			marker[e.Room] = e.Position
		}
	}
	for _, e := range later {
		gone, out := left[e.Room]
		switch {
		case e.Kind == MessagesHidden:
		case out && e.Position != gone:
			continue
		case !out && entered[e.Room].After(e.Position):
			continue
		case e.Kind == MarkerMoved && marker[e.Room] != e.Position:
			continue
		}
		want = append(want, e)
	}
	return want
}

func sameEvent(a, b Event) bool {
	if a.Kind == MarkerMoved { // sending moves the marker too, without an event of its own
		a.Seq, b.Seq = 0, 0
	}
	if a.Kind.Private() {
		a.Name, b.Name = "", ""
	}
	return fmt.Sprint(a) == fmt.Sprint(b)
}

func describe(events []Event) (lines []string) {
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("\n%d.%d kind %d room %d account %d seq %d", e.Index, e.Number, e.Kind, e.Room, e.Account, e.Seq))
	}
	return lines
}

// TestEventsSince_Hidden: whoever has hidden much reads no more of it at a time than a page, and all of it in the end.
func TestEventsSince_Hidden(t *testing.T) {
	m := newMachine(t)
	u := m.user("user")
	room := m.must(u, &CreateRoom{Name: "room"}).Room
	const n = 10
	for range n {
		m.must(u, &SendMessage{Target: ToRoom(room), Text: "x"})
	}
	from := cursor.EndOf(m.index)
	for i := range uint64(n) {
		m.must(u, &HideMessages{Room: room, Seqs: []uint64{i + 1}})
	}
	for page := 1; page <= n+1; page++ {
		got := m.since(u.Account, from, page)
		for i, e := range got {
			if e.Kind != MessagesHidden || !slices.Equal(e.Seqs, []uint64{uint64(i) + 1}) {
				t.Errorf("pages of %d: event %d is %+v", page, i, e)
			}
		}
		if len(got) != n {
			t.Errorf("pages of %d: %d events, want %d", page, len(got), n)
		}
	}
	if list := m.view().hidden(u.Account, from, 3); len(list) != 3 {
		t.Errorf("a page of 3 reads %d", len(list))
	}
}

// TestFirstAfter: from every position of a room, the first message after it, and looked for near the end when
// that is where it is.
func TestFirstAfter(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	room := m.must(alice, &CreateRoom{Name: "room"}).Room
	const last = 70
	at := []Position{{}} // of message i
	for range last {
		r := m.must(alice, &SendMessage{Target: ToRoom(room), Text: "x"})
		at = append(at, cursor.At(r.Index, r.Number))
	}
	for n := range uint64(last + 1) {
		v := m.view()
		for seq := range uint64(last + 1) {
			want := min(seq, n) + 1
			if got := v.firstAfter(room, n, at[seq]); got != want {
				t.Errorf("of %d messages, the first after number %d is %d, want %d", n, seq, got, want)
			}
		}
	}
	v := m.view()
	if err := m.db.Flush(); err != nil {
		t.Fatal(err)
	}
	reads := &counting{Reader: v.r}
	v.r = reads
	for seq, limit := range map[uint64]int{last - 1: 3, last - 8: 9, 0: 15} {
		reads.n = 0
		if got := v.firstAfter(room, last, at[seq]); got != seq+1 || reads.n > limit {
			t.Errorf("found %d after %d with %d reads", got, seq, reads.n)
		}
	}
}

// counting counts reads.
type counting struct {
	pebble.Reader
	n int
}

func (c *counting) Get(k []byte) ([]byte, io.Closer, error) {
	c.n++
	return c.Reader.Get(k)
}
