package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	gstatus "google.golang.org/grpc/status"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
)

// maxVouched is how many users' sessions a node keeps at hand; further ones take a place of another.
const maxVouched = 100_000

// vouched are the sessions of users for whom the host vouches: through its Authenticator, or by a client
// within the process. Such a user has an account like any other, which is made at the first call, and on
// each node a session whose token nobody knows.
type vouched struct {
	mu    sync.Mutex // guards users
	users map[string]*vouchedUser
}

type vouchedUser struct {
	turn    chan struct{} // a place for who makes the session
	session atomic.Pointer[vouchedSession]
}

type vouchedSession struct {
	who   state.Actor
	until time.Time // when another one is to be made, long before the cluster ends this one
}

func (v *vouched) user(name string) *vouchedUser {
	v.mu.Lock()
	defer v.mu.Unlock()
	u := v.users[name]
	if u == nil {
		for other := range v.users {
			if len(v.users) < maxVouched {
				break
			}
			delete(v.users, other)
		}
		u = &vouchedUser{turn: make(chan struct{}, 1)}
		v.users[name] = u
	}
	return u
}

// identity is the user for whom the host vouches in this call; hosted is false when the host does not say
// who calls, so that tokens do.
func (s *Service) identity(ctx context.Context) (user string, hosted bool, err error) {
	if user, ok := localUser(ctx); ok {
		return user, true, nil
	}
	if s.o.Authenticator == nil {
		return "", false, nil
	}
	user, err = s.o.Authenticator(ctx)
	if err == nil && user == "" {
		err = chaterr.ErrUnauthenticated
	}
	if _, own := gstatus.FromError(err); err != nil && !own && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", chaterr.ErrUnauthenticated, err)
	}
	return user, true, err
}

// hosted reports whether the host says who calls.
func (s *Service) hosted(ctx context.Context) bool {
	_, local := localUser(ctx)
	return local || s.o.Authenticator != nil
}

// vouch finds the session of a user for whom the host vouches, or makes one, and an account if need be.
func (s *Service) vouch(ctx context.Context, user string) (state.Actor, error) {
	name, err := canonicalName("user", user)
	if err != nil {
		return state.Actor{}, err
	}
	u := s.vouched.user(name)
	if who, err := s.current(u); err != nil || who != (state.Actor{}) {
		return who, err
	}
	select {
	case u.turn <- struct{}{}:
		defer func() { <-u.turn }()
	case <-ctx.Done():
		return state.Actor{}, context.Cause(ctx)
	}
	if who, err := s.current(u); err != nil || who != (state.Actor{}) { // made while we waited
		return who, err
	}
	account, err := s.vouchedAccount(ctx, name)
	if err != nil {
		return state.Actor{}, err
	}
	hash, _ := auth.HashToken(auth.NewToken())
	done, err := s.propose(ctx, "", &state.CreateSession{Account: account.ID, TokenHash: hash, PasswordVersion: account.PasswordVersion})
	if err != nil {
		return state.Actor{}, err
	}
	who := state.Actor{Account: account.ID, Session: done.Session}
	u.session.Store(&vouchedSession{who, time.Now().Add(state.SessionLifetime / 2)})
	return who, nil
}

// current is the zero Actor when the user has no session, or one that has ended.
func (s *Service) current(u *vouchedUser) (who state.Actor, err error) {
	have := u.session.Load()
	if have == nil || time.Now().After(have.until) {
		return who, nil
	}
	err = s.view(func(v *state.View) error {
		ok, err := v.Alive(have.who)
		if ok {
			who = have.who
		}
		return err
	})
	return who, err
}

// vouchedAccount finds an account or makes it. One that this node does not know may be newer than the node.
func (s *Service) vouchedAccount(ctx context.Context, name string) (state.Account, error) {
	find := func(v *state.View) (state.Account, bool, error) { return v.AccountByName(name) }
	a, err := s.account(find)
	if err != nil || a.ID != 0 {
		return a, err
	}
	if err := s.linearizable(ctx); err != nil {
		return a, err
	}
	if a, err = s.account(find); err != nil || a.ID != 0 {
		return a, err
	}
	_, err = s.propose(ctx, "", &state.RegisterAccount{Name: name, PasswordHash: auth.NoPassword})
	if errors.Is(err, chaterr.ErrNameTaken) { // by another node, just now
		err = s.linearizable(ctx)
	}
	if err != nil {
		return a, err
	}
	if a, err = s.account(find); err == nil && a.ID == 0 {
		err = chaterr.ErrUnauthenticated // deleted again
	}
	return a, err
}
