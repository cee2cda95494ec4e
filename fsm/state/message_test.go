package state

import (
	"slices"
	"strings"
	"testing"

	"example.com/chat/internal/chaterr"
)

func TestSendMessage(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	first := m.must(alice, &SendMessage{Target: ToUser("bob"), Text: "one"})
	second := m.must(bob, &SendMessage{Target: ToUser("alice"), Text: "two"})
	third := m.must(alice, &SendMessage{Target: ToRoom(first.Room), Text: strings.Repeat("x", MaxText)})
	for i, r := range []*Result{first, second, third} {
		if r.Room != first.Room || r.Seq != uint64(i+1) || r.TimeMs != m.nowMS {
			t.Errorf("message %d: %v", i+1, r)
		}
	}
	m.refuses(alice, nil, &SendMessage{Target: ToUser("bob")}, chaterr.ErrInvalid)
	m.refuses(alice, nil, &SendMessage{Target: ToUser("bob"), Text: strings.Repeat("x", MaxText+1)}, chaterr.ErrInvalid)
	m.refuses(alice, nil, &SendMessage{Target: ToUser("nobody"), Text: "x"}, chaterr.ErrNoSuchUser)
	m.refuses(alice, nil, &SendMessage{Text: "x"}, chaterr.ErrNoSuchRoom)
	m.refuses(Actor{}, nil, &SendMessage{Target: ToUser("bob"), Text: "x"}, chaterr.ErrUnauthenticated)
	for a, unread := range map[Actor]uint64{alice: 0, bob: 1} { // sending reads
		if r, err := m.view().Room(a.Account, first.Room); err != nil || r.LastSeq-r.ReadSeq != unread {
			t.Errorf("unread %d, %v, want %d", r.LastSeq-r.ReadSeq, err, unread)
		}
	}
}

func TestView_Messages(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	m.user("bob")
	var room uint64
	for range 10 {
		room = m.must(alice, &SendMessage{Target: ToUser("bob"), Text: "x"}).Room
	}
	m.must(alice, &HideMessages{Room: room, Seqs: []uint64{3, 4, 9}})
	for name, tt := range map[string]struct {
		first, last uint64
		down        bool
		scan, stop  int
		want        []uint64
		next        uint64
	}{
		"all":             {1, 10, false, 99, 99, []uint64{1, 2, 5, 6, 7, 8, 10}, 0},
		"down":            {1, 10, true, 99, 99, []uint64{10, 8, 7, 6, 5, 2, 1}, 0},
		"down to one":     {1, 1, true, 99, 99, []uint64{1}, 0},
		"part":            {2, 6, false, 99, 99, []uint64{2, 5, 6}, 0},
		"beyond the end":  {9, 99, false, 99, 99, []uint64{10}, 0},
		"none":            {5, 4, false, 99, 99, nil, 0},
		"few looked at":   {1, 10, false, 4, 99, []uint64{1, 2}, 5},
		"few, downwards":  {1, 10, true, 2, 99, []uint64{10}, 8},
		"stopped":         {1, 10, false, 99, 3, []uint64{1, 2, 5}, 6},
		"stopped, 0 left": {1, 10, true, 99, 7, []uint64{10, 8, 7, 6, 5, 2, 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var got []uint64
			next, err := m.view().Messages(alice.Account, room, tt.first, tt.last, tt.down, tt.scan, func(msg Message) bool {
				if len(got) == tt.stop {
					return false
				}
				got = append(got, msg.Seq)
				return true
			})
			if err != nil || !slices.Equal(got, tt.want) || next != tt.next {
				t.Errorf("got %v and %d, %v; want %v and %d", got, next, err, tt.want, tt.next)
			}
		})
	}
}

func TestHideMessages(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	room := m.must(alice, &SendMessage{Target: ToUser("bob"), Text: "x"}).Room
	m.refuses(alice, nil, &HideMessages{Room: room}, chaterr.ErrInvalid)
	m.refuses(alice, nil, &HideMessages{Room: room, Seqs: make([]uint64, MaxHide+1)}, chaterr.ErrInvalid)
	m.refuses(alice, nil, &HideMessages{Room: room, Seqs: []uint64{1, 2}}, chaterr.ErrNoSuchMessage)
	m.refuses(alice, nil, &HideMessages{Room: room, Seqs: []uint64{0}}, chaterr.ErrNoSuchMessage)
	m.must(alice, &HideMessages{Room: room, Seqs: []uint64{1, 1}})
	events := len(m.events)
	m.must(alice, &HideMessages{Room: room, Seqs: []uint64{1}})
	if len(m.events) != events {
		t.Error("hiding again is an event")
	}
	seen := 0
	if _, err := m.view().Messages(bob.Account, room, 1, 1, false, 9, func(Message) bool { seen++; return true }); err != nil || seen != 1 {
		t.Errorf("bob sees %d messages, %v", seen, err)
	}
}

func TestMarkRead(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	var room uint64
	for range 5 {
		room = m.must(alice, &SendMessage{Target: ToUser("bob"), Text: "x"}).Room
	}
	m.refuses(bob, nil, &MarkRead{Room: room, Seq: 6}, chaterr.ErrNoSuchMessage)
	m.refuses(bob, nil, &MarkRead{Room: room}, chaterr.ErrNoSuchMessage)
	m.must(bob, &MarkRead{Room: room, Seq: 3})
	m.must(bob, &MarkRead{Room: room, Seq: 2}) // never back
	if r, err := m.view().Room(bob.Account, room); err != nil || r.ReadSeq != 3 {
		t.Errorf("got %+v, %v", r, err)
	}
	if e := m.events[len(m.events)-1]; e.Kind != MarkerMoved || e.Seq != 3 || e.Account != bob.Account {
		t.Errorf("the last event is %+v", e)
	}
}
