package state

import (
	"testing"

	"example.com/chat/internal/chaterr"
)

func TestCreateSession(t *testing.T) {
	m := newMachine(t)
	alice := m.must(Actor{}, &RegisterAccount{Name: "alice", PasswordHash: "h"}).Account
	create := func(hash []byte) *CreateSession {
		return &CreateSession{Account: alice, TokenHash: hash, PasswordVersion: 1}
	}
	first := m.must(Actor{}, create(tokenHash("t")))
	if a, ok, err := m.view().Session(tokenHash("t")); err != nil || !ok || a != (Actor{alice, first.Session}) {
		t.Errorf("got %v, %v, %v", a, ok, err)
	}
	m.refuses(Actor{}, nil, create(tokenHash("t")), chaterr.ErrInvalid)
	m.refuses(Actor{}, nil, create([]byte("short")), chaterr.ErrInvalid)
	m.refuses(Actor{}, nil, &CreateSession{Account: 99, TokenHash: tokenHash("u"), PasswordVersion: 1}, chaterr.ErrNoSuchUser)
}

// TestCreateSession_Limit: one session too many ends the oldest, and only that.
func TestCreateSession_Limit(t *testing.T) {
	m := newMachine(t)
	var all []Actor
	all = append(all, m.user("alice"))
	for range MaxSessions {
		all = append(all, m.login(all[0].Account, 1))
	}
	v := m.view()
	for i, a := range all {
		if ok, err := v.Alive(a); err != nil || ok != (i > 0) {
			t.Errorf("session %d: alive %v, %v", i, ok, err)
		}
	}
}

func TestRevokeSession(t *testing.T) {
	m := newMachine(t)
	a := m.user("alice")
	b, c, other := m.login(a.Account, 1), m.login(a.Account, 1), m.user("bob")
	m.must(a, &RevokeSession{})
	m.refuses(a, nil, &CreateRoom{Name: "lobby"}, chaterr.ErrUnauthenticated)
	m.must(b, &RevokeSession{All: true})
	for _, x := range []Actor{b, c} {
		m.refuses(x, nil, &CreateRoom{Name: "lobby"}, chaterr.ErrUnauthenticated)
	}
	m.must(other, &CreateRoom{Name: "lobby"})
	// A session number of somebody else, or none, is no session.
	m.refuses(Actor{a.Account, other.Session}, nil, &CreateRoom{Name: "bar"}, chaterr.ErrUnauthenticated)
	m.refuses(Actor{other.Account, 0}, nil, &CreateRoom{Name: "bar"}, chaterr.ErrUnauthenticated)
	ended := 0
	for _, e := range m.events {
		if e.Kind == SessionEnded {
			ended++
		}
	}
	if ended != 3 {
		t.Errorf("%d sessions ended, want 3", ended)
	}
}

// TestSession_Expires by log time, and in Apply as in a View.
func TestSession_Expires(t *testing.T) {
	m := newMachine(t)
	a := m.user("alice")
	m.nowMS += SessionLifetime.Milliseconds()
	m.must(a, &CreateRoom{Name: "lobby"})
	m.nowMS++
	m.refuses(a, nil, &CreateRoom{Name: "bar"}, chaterr.ErrUnauthenticated)
	if ok, err := m.view().Alive(a); ok || err != nil {
		t.Errorf("alive %v, %v", ok, err)
	}
	m.nowMS -= SessionLifetime.Milliseconds() // a leader whose clock is behind does not bring it back
	m.refuses(a, nil, &CreateRoom{Name: "bar"}, chaterr.ErrUnauthenticated)
}
