package state

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.com/chat/internal/chaterr"
)

func TestOpenDirectRoom(t *testing.T) {
	m := newMachine(t)
	alice, bob, carol := m.user("alice"), m.user("bob"), m.user("carol")
	room := m.must(alice, &OpenDirectRoom{Name: "bob"}).Room
	if again := m.must(bob, &OpenDirectRoom{Name: "alice"}).Room; again != room {
		t.Errorf("bob's room is %d, alice's %d", again, room)
	}
	m.refuses(alice, nil, &OpenDirectRoom{Name: "nobody"}, chaterr.ErrNoSuchUser)
	m.refuses(alice, nil, &LeaveRoom{Room: room}, chaterr.ErrDirectRoom)
	// For others it does not exist.
	m.refuses(carol, nil, &JoinRoom{Room: room}, chaterr.ErrNoSuchRoom)
	m.refuses(carol, nil, &SendMessage{Target: ToRoom(room), Text: "x"}, chaterr.ErrNoSuchRoom)
	m.refuses(carol, nil, &LeaveRoom{Room: room}, chaterr.ErrNoSuchRoom)
	if _, err := m.view().Room(carol.Account, room); !errors.Is(err, chaterr.ErrNoSuchRoom) {
		t.Errorf("carol sees it: %v", err)
	}
	r, err := m.view().Room(bob.Account, room)
	if err != nil || !r.Direct || r.Peer != "alice" || r.Members != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
	self := m.must(alice, &OpenDirectRoom{Name: "alice"}).Room
	if r, err := m.view().Room(alice.Account, self); err != nil || r.Peer != "alice" || r.Members != 1 {
		t.Errorf("notes to oneself: %+v, %v", r, err)
	}
}

func TestCreateRoom(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	lobby := m.must(alice, &CreateRoom{Name: "lobby"}).Room
	if id, err := m.view().RoomByName("lobby"); id != lobby || err != nil {
		t.Errorf("got %d, %v", id, err)
	}
	m.refuses(alice, nil, &CreateRoom{Name: "lobby"}, chaterr.ErrNameTaken)
	m.refuses(alice, nil, &CreateRoom{}, chaterr.ErrInvalid)
	m.refuses(alice, nil, &CreateRoom{Name: strings.Repeat("x", MaxName+1)}, chaterr.ErrInvalid)
	m.refuses(Actor{}, nil, &CreateRoom{Name: "bar"}, chaterr.ErrUnauthenticated)
}

func TestJoinAndLeaveRoom(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	lobby := m.must(alice, &CreateRoom{Name: "lobby"}).Room
	m.must(alice, &SendMessage{Target: ToRoom(lobby), Text: "before"})
	m.refuses(bob, nil, &LeaveRoom{Room: lobby}, chaterr.ErrNotMember)
	m.refuses(bob, nil, &SendMessage{Target: ToRoom(lobby), Text: "x"}, chaterr.ErrNotMember)
	m.refuses(bob, nil, &JoinRoom{Room: 77}, chaterr.ErrNoSuchRoom)
	m.must(bob, &JoinRoom{Room: lobby})
	events := len(m.events)
	m.must(bob, &JoinRoom{Room: lobby})
	if len(m.events) != events {
		t.Error("joining again is an event")
	}
	if r, err := m.view().Room(bob.Account, lobby); err != nil || r.Members != 2 || r.ReadSeq != 1 {
		t.Errorf("after joining: %+v, %v", r, err)
	}
	var names []string
	if err := m.view().Members(lobby, 0, func(x Member) bool { names = append(names, x.Name); return true }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"alice", "bob"}; !slices.Equal(names, want) {
		t.Errorf("members %q, want %q", names, want)
	}
	m.must(bob, &LeaveRoom{Room: lobby})
	m.refuses(bob, nil, &LeaveRoom{Room: lobby}, chaterr.ErrNotMember)
	m.refuses(bob, nil, &MarkRead{Room: lobby, Seq: 1}, chaterr.ErrNotMember)
	if r, err := m.view().Room(alice.Account, lobby); err != nil || r.Members != 1 {
		t.Errorf("after leaving: %+v, %v", r, err)
	}
	if rooms, err := m.view().RoomsOf(bob.Account); len(rooms) != 0 || err != nil {
		t.Errorf("bob is in %v, %v", rooms, err)
	}
}

// TestRooms_Limit: it counts what the account did itself, not what others open with it.
func TestRooms_Limit(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	var cs []*Command
	for i := range MaxRooms {
		cs = append(cs, m.command(alice, nil, &CreateRoom{Name: fmt.Sprintf("room %d", i)}))
	}
	rooms := m.entry(cs...)
	m.refuses(alice, nil, &CreateRoom{Name: "one more"}, chaterr.ErrLimit)
	m.refuses(alice, nil, &OpenDirectRoom{Name: "bob"}, chaterr.ErrLimit)
	m.refuses(alice, nil, &SendMessage{Target: ToUser("bob"), Text: "x"}, chaterr.ErrLimit)
	m.must(bob, &OpenDirectRoom{Name: "alice"})
	m.must(alice, &SendMessage{Target: ToUser("bob"), Text: "x"})
	m.must(alice, &LeaveRoom{Room: rooms[0].Room})
	m.must(alice, &CreateRoom{Name: "one more"})
}

func TestView_Rooms(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	a := m.must(alice, &CreateRoom{Name: "a"}).Room
	b := m.must(alice, &CreateRoom{Name: "b"}).Room
	c := m.must(bob, &CreateRoom{Name: "c"}).Room
	d := m.must(bob, &OpenDirectRoom{Name: "alice"}).Room
	m.must(alice, &LeaveRoom{Room: b})
	list := func(above uint64) (ids []uint64) {
		if err := m.view().Rooms(alice.Account, above, func(r Room) bool { ids = append(ids, r.ID); return true }); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got, want := list(0), []uint64{a, d}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := list(a), []uint64{d}; !slices.Equal(got, want) {
		t.Errorf("above %d: got %v, want %v", a, got, want)
	}
	var public []Room
	if err := m.view().PublicRooms(alice.Account, "a", func(r Room) bool { public = append(public, r); return true }); err != nil {
		t.Fatal(err)
	}
	if len(public) != 2 || public[0].ID != b || public[0].Member || public[1].ID != c {
		t.Errorf("public rooms after a: %+v", public)
	}
}
