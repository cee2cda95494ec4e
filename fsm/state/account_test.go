package state

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"example.com/chat/internal/chaterr"
)

func TestRegisterAccount(t *testing.T) {
	m := newMachine(t)
	alice := m.must(Actor{}, &RegisterAccount{Name: "alice", PasswordHash: "h"})
	a, ok, err := m.view().AccountByName("alice")
	if err != nil || !ok || a.ID != alice.Account || a.PasswordHash != "h" || a.PasswordVersion != 1 || a.CreateTimeMS != m.nowMS {
		t.Errorf("got %+v, %v, %v", a, ok, err)
	}
	for name, want := range map[string]error{
		"alice":                           chaterr.ErrNameTaken,
		"":                                chaterr.ErrInvalid,
		strings.Repeat("a", MaxName+1):    chaterr.ErrInvalid,
		strings.Repeat("a", MaxName) + "": nil,
	} {
		if want == nil {
			m.must(Actor{}, &RegisterAccount{Name: name, PasswordHash: "h"})
			continue
		}
		m.refuses(Actor{}, nil, &RegisterAccount{Name: name, PasswordHash: "h"}, want)
	}
	m.refuses(Actor{}, nil, &RegisterAccount{Name: "bob"}, chaterr.ErrInvalid)
}

func TestChangePassword(t *testing.T) {
	m := newMachine(t)
	here := m.user("alice")
	there := m.login(here.Account, 1)
	m.refuses(here, nil, &ChangePassword{PasswordHash: "new", PasswordVersion: 2}, chaterr.ErrPasswordChanged)
	m.refuses(here, nil, &ChangePassword{PasswordVersion: 1}, chaterr.ErrInvalid)
	m.must(here, &ChangePassword{PasswordHash: "new", PasswordVersion: 1})
	m.refuses(here, nil, &ChangePassword{PasswordHash: "newer", PasswordVersion: 1}, chaterr.ErrPasswordChanged)
	m.refuses(there, nil, &RevokeSession{}, chaterr.ErrUnauthenticated)
	// A login whose password was checked before the change makes no session after it.
	m.refuses(Actor{}, nil, &CreateSession{Account: here.Account, TokenHash: tokenHash("x"), PasswordVersion: 1}, chaterr.ErrPasswordChanged)
	m.login(here.Account, 2)
	m.must(here, &RevokeSession{})
}

func TestDeleteAccount(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	lobby := m.must(alice, &CreateRoom{Name: "lobby"}).Room
	m.must(bob, &JoinRoom{Room: lobby})
	m.must(bob, &SendMessage{Target: ToRoom(lobby), Text: "in the lobby"})
	direct := m.must(bob, &SendMessage{Target: ToUser("alice"), Text: "to alice"}).Room
	m.refuses(bob, nil, &DeleteAccount{PasswordVersion: 7}, chaterr.ErrPasswordChanged)
	m.must(bob, &DeleteAccount{PasswordVersion: 1})

	m.refuses(bob, nil, &SendMessage{Target: ToRoom(lobby), Text: "a ghost"}, chaterr.ErrUnauthenticated)
	m.refuses(alice, nil, &SendMessage{Target: ToUser("bob"), Text: "to nobody"}, chaterr.ErrNoSuchUser)
	m.refuses(alice, nil, &SendMessage{Target: ToRoom(direct), Text: "to nobody"}, chaterr.ErrNoSuchUser)
	v := m.view()
	if _, ok, err := v.AccountByName("bob"); ok || err != nil {
		t.Errorf("the account is there: %v", err)
	}
	if r, err := v.Room(alice.Account, lobby); err != nil || r.Members != 1 || r.LastSeq != 1 {
		t.Errorf("the lobby is %+v, %v", r, err)
	}
	if r, err := v.Room(alice.Account, direct); err != nil || r.Peer != "" || r.LastSeq != 1 {
		t.Errorf("the direct room is %+v, %v", r, err)
	}
	var texts []string
	for _, room := range []uint64{lobby, direct} {
		if _, err := v.Messages(alice.Account, room, 1, 9, false, 9, func(msg Message) bool {
			texts = append(texts, msg.Sender+":"+msg.Text)
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{":in the lobby", ":to alice"}; !slices.Equal(texts, want) {
		t.Errorf("messages are %q, want %q", texts, want)
	}
	// Somebody else under the name is somebody else.
	other := m.user("bob")
	if _, err := m.view().Room(other.Account, direct); !errors.Is(err, chaterr.ErrNoSuchRoom) {
		t.Errorf("the new bob sees the old one's room: %v", err)
	}
	if room := m.must(alice, &OpenDirectRoom{Name: "bob"}).Room; room == direct {
		t.Error("the new bob has the old one's direct room")
	}
}

func TestView_Accounts(t *testing.T) {
	m := newMachine(t)
	for _, n := range []string{"carol", "alice", "bob", "bobby"} {
		m.user(n)
	}
	list := func(after string, limit int) (names []string) {
		if err := m.view().Accounts(after, func(a Account) bool {
			names = append(names, a.Name)
			return len(names) < limit
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got, want := list("", 9), []string{"alice", "bob", "bobby", "carol"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := list("bob", 1), []string{"bobby"}; !slices.Equal(got, want) {
		t.Errorf("after bob: got %q, want %q", got, want)
	}
}
