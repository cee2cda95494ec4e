package rpc

import (
	"context"
	"errors"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/auth"
	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// accounts is chat.v1.AccountService.
type accounts struct {
	chatpb.UnsafeAccountServiceServer
	*Service
}

var _ chatpb.AccountServiceServer = accounts{}

func (s accounts) Register(ctx context.Context, r *chatpb.RegisterRequest) (*chatpb.RegisterResponse, error) {
	name, err := newName("name", r.Name)
	if err != nil {
		return nil, err
	}
	if err := checkPassword("password", r.Password); err != nil {
		return nil, err
	}
	hash, err := s.o.Passwords.Hash(ctx, r.Password)
	if err != nil {
		return nil, err
	}
	done, err := s.propose(ctx, r.OperationId, &state.RegisterAccount{Name: name, PasswordHash: hash})
	if err != nil {
		return nil, err
	}
	return &chatpb.RegisterResponse{Account: &chatpb.Account{Name: name, CreateTime: timestamp(done.TimeMs)}}, nil
}

func (s accounts) Login(ctx context.Context, r *chatpb.LoginRequest) (*chatpb.LoginResponse, error) {
	if err := s.linearizable(ctx); err != nil {
		return nil, err
	}
	var a state.Account
	name, err := canonicalName("name", r.Name)
	if err == nil { // else it is nobody's name
		if a, err = s.account(func(v *state.View) (state.Account, bool, error) { return v.AccountByName(name) }); err != nil {
			return nil, err
		}
	}
	if err := s.verify(ctx, a, r.Password); err != nil {
		return nil, err
	}
	token := auth.NewToken()
	hash, _ := auth.HashToken(token)
	done, err := s.propose(ctx, "", &state.CreateSession{Account: a.ID, TokenHash: hash, PasswordVersion: a.PasswordVersion})
	if errors.Is(err, chaterr.ErrPasswordChanged) || errors.Is(err, chaterr.ErrNoSuchUser) {
		return nil, chaterr.ErrBadCredentials
	}
	if err != nil {
		return nil, err
	}
	a.LoginTimeMS = done.TimeMs
	return &chatpb.LoginResponse{Token: token, Account: toAccount(a), ServerTime: timestamp(done.TimeMs)}, nil
}

func (s accounts) Logout(ctx context.Context, r *chatpb.LogoutRequest) (*chatpb.LogoutResponse, error) {
	_, err := s.propose(ctx, r.OperationId, &state.RevokeSession{All: r.All})
	return &chatpb.LogoutResponse{}, err
}

func (s accounts) ChangePassword(ctx context.Context, r *chatpb.ChangePasswordRequest) (*chatpb.ChangePasswordResponse, error) {
	if err := checkPassword("new_password", r.NewPassword); err != nil {
		return nil, err
	}
	version, err := s.confirm(ctx, r.OperationId, r.OldPassword)
	if err != nil {
		return nil, err
	}
	hash, err := s.o.Passwords.Hash(ctx, r.NewPassword)
	if err != nil {
		return nil, err
	}
	_, err = s.propose(ctx, r.OperationId, &state.ChangePassword{PasswordHash: hash, PasswordVersion: version})
	return &chatpb.ChangePasswordResponse{}, err
}

func (s accounts) DeleteAccount(ctx context.Context, r *chatpb.DeleteAccountRequest) (*chatpb.DeleteAccountResponse, error) {
	version, err := s.confirm(ctx, r.OperationId, r.Password)
	if err != nil {
		return nil, err
	}
	_, err = s.propose(ctx, r.OperationId, &state.DeleteAccount{PasswordVersion: version})
	return &chatpb.DeleteAccountResponse{}, err
}

func (s accounts) ListAccounts(_ context.Context, r *chatpb.ListAccountsRequest) (*chatpb.ListAccountsResponse, error) {
	p, err := newPage(r.PageSize, r.PageToken)
	if err != nil {
		return nil, err
	}
	match, err := newPattern(r.Pattern)
	if err != nil {
		return nil, err
	}
	resp, seen := &chatpb.ListAccountsResponse{}, 0
	err = s.view(func(v *state.View) error {
		return v.Accounts(p.after, func(a state.Account) bool {
			if len(resp.Accounts) == p.size || seen == maxScan {
				resp.NextPageToken = pageToken(p.after)
				return false
			}
			seen++
			p.after = a.Name
			if match.matches(a.Name) {
				resp.Accounts = append(resp.Accounts, toAccount(a))
			}
			return true
		})
	})
	return resp, err
}

// confirm checks the caller's password again, and returns its version. A retry of an operation that
// was carried out is let through to its first answer: the password may be another one by now.
func (s accounts) confirm(ctx context.Context, operationID, password string) (version uint64, err error) {
	if err := s.linearizable(ctx); err != nil {
		return 0, err
	}
	id, err := parseOperationID(operationID)
	if err != nil {
		return 0, err
	}
	var done bool
	a, err := s.account(func(v *state.View) (a state.Account, ok bool, err error) {
		if done, err = v.CarriedOut(caller(ctx).Account, id); err != nil {
			return a, false, err
		}
		return v.Account(caller(ctx).Account)
	})
	if _, local := localUser(ctx); err != nil || done || local {
		return a.PasswordVersion, err // the process itself needs no password
	}
	return a.PasswordVersion, s.verify(ctx, a, password)
}

// account is the zero Account when there is none.
func (s *Service) account(find func(*state.View) (state.Account, bool, error)) (a state.Account, err error) {
	err = s.view(func(v *state.View) (err error) {
		a, _, err = find(v)
		return err
	})
	return a, err
}

// verify takes as long for an account that does not exist.
func (s *Service) verify(ctx context.Context, a state.Account, password string) error {
	if len(password) > maxPassword {
		return chaterr.ErrBadCredentials
	}
	ok, err := s.o.Passwords.Verify(ctx, password, a.PasswordHash)
	if err == nil && !ok {
		err = chaterr.ErrBadCredentials
	}
	return err
}
