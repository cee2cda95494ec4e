package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// Account is a user as others see it.
type Account struct {
	Name       string
	CreateTime time.Time
	LoginTime  time.Time // zero before the first login
}

// Register makes an account. Names are folded, so that Alice and alice are one, and have 1 to 64
// bytes; passwords have 8 to 1,024 bytes. It needs no session, and makes none. Errors:
// ErrNameTaken, ErrInvalid.
func (c *Client) Register(ctx context.Context, name, password string) (Account, error) {
	a, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.Register,
		&chatpb.RegisterRequest{OperationId: c.NewOperationID(), Name: name, Password: password})
	return toAccount(a.GetAccount()), err
}

// Login begins a session, which all later calls of this client use, and learns the cluster's nodes.
// An account has at most 32 sessions; one more ends the oldest. Errors: ErrBadCredentials.
func (c *Client) Login(ctx context.Context, name, password string) (Account, error) {
	a, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.Login,
		&chatpb.LoginRequest{Name: name, Password: password})
	if err != nil {
		return Account{}, err
	}
	c.setToken(a.Token)
	c.skew.Store(time.Until(a.ServerTime.AsTime()).Milliseconds())
	_, _ = c.Status(ctx) // the nodes that are known already do without it
	return toAccount(a.Account), nil
}

// Logout ends the session, on all nodes at once; nothing is accepted or delivered for it afterwards.
// It is no error that the session had ended already.
func (c *Client) Logout(ctx context.Context) error { return c.logout(ctx, false) }

// LogoutAll ends all sessions of the account. Errors: ErrUnauthenticated when this session had ended
// already; the others have not, then.
func (c *Client) LogoutAll(ctx context.Context) error { return c.logout(ctx, true) }

func (c *Client) logout(ctx context.Context, all bool) error {
	_, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.Logout,
		&chatpb.LogoutRequest{OperationId: c.NewOperationID(), All: all})
	if !all && errors.Is(err, chaterr.ErrUnauthenticated) {
		err = nil
	}
	return c.loggedOut(err)
}

// loggedOut forgets the token when the session is over. Of calls that end the session, it is the sign
// that an attempt has succeeded when the session has ended since.
func (c *Client) loggedOut(err error) error {
	if errors.Is(err, errMeanwhile) {
		err = nil
	}
	if err == nil {
		c.setToken("")
	}
	return err
}

// ChangePassword ends all other sessions of the account. Errors: ErrBadCredentials, ErrInvalid,
// ErrPasswordChanged.
func (c *Client) ChangePassword(ctx context.Context, old, new string) error {
	_, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.ChangePassword,
		&chatpb.ChangePasswordRequest{OperationId: c.NewOperationID(), OldPassword: old, NewPassword: new})
	return err
}

// DeleteAccount deletes the account of the session. Its messages stay, without a sender's name; the
// name is free. Errors: ErrBadCredentials, ErrUnauthenticated.
func (c *Client) DeleteAccount(ctx context.Context, password string) error {
	_, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.DeleteAccount,
		&chatpb.DeleteAccountRequest{OperationId: c.NewOperationID(), Password: password})
	return c.loggedOut(err)
}

// Users lists the accounts whose names contain a pattern, in which * stands for any characters, by
// name. An error ends the sequence.
func (c *Client) Users(ctx context.Context, pattern string) iter.Seq2[Account, error] {
	return pages(func(token string) ([]*chatpb.Account, string, error) {
		a, err := call(ctx, c, chatpb.NewAccountServiceClient, chatpb.AccountServiceClient.ListAccounts,
			&chatpb.ListAccountsRequest{Pattern: pattern, PageToken: token})
		return a.GetAccounts(), a.GetNextPageToken(), err
	}, toAccount)
}

// pages makes one sequence of the pages of a listing.
func pages[P, T any](get func(token string) ([]P, string, error), convert func(P) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			items, next, err := get(token)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, i := range items {
				if !yield(convert(i), nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

func toAccount(a *chatpb.Account) Account {
	return Account{Name: a.GetName(), CreateTime: toTime(a.GetCreateTime()), LoginTime: toTime(a.GetLoginTime())}
}

func toTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
