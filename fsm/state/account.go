package state

import (
	"encoding/binary"

	"example.com/chat/fsm/fsmpb"
)

// registerAccount makes an account under a name that nobody has.
func (t *tx) registerAccount(c *RegisterAccount) *Result {
	if !validName(c.Name) || !validPasswordHash(c.PasswordHash) {
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	if t.has(nameKey(keyName, c.Name)) {
		return refused(fsmpb.Reason_REASON_NAME_TAKEN)
	}
	id := t.newID()
	t.setID(nameKey(keyName, c.Name), id)
	t.put(key(keyAccount, id), &fsmpb.Account{
		Name: c.Name, PasswordHash: c.PasswordHash, PasswordVersion: 1, CreateTimeMs: t.b.meta.TimeMs,
	})
	return &Result{Account: id}
}

// changePassword replaces the hash, when nobody else has since the old one was checked, and ends
// all sessions but the acting one.
func (t *tx) changePassword(c *ChangePassword) *Result {
	a := t.liveAccount(t.account)
	switch {
	case !validPasswordHash(c.PasswordHash):
		return refused(fsmpb.Reason_REASON_INVALID)
	case a == nil:
		return refused(fsmpb.Reason_REASON_UNAUTHENTICATED)
	case a.PasswordVersion != c.PasswordVersion:
		return refused(fsmpb.Reason_REASON_PASSWORD_CHANGED)
	}
	a.PasswordHash = c.PasswordHash
	a.PasswordVersion++
	t.put(key(keyAccount, t.account), a)
	t.endSessions(t.account, t.session)
	return &Result{Account: t.account}
}

// deleteAccount frees the name, ends all sessions and leaves all rooms but direct ones. What was
// sent stays; the account's record stays for it, with nothing personal in it.
func (t *tx) deleteAccount(c *DeleteAccount) *Result {
	a := t.liveAccount(t.account)
	switch {
	case a == nil:
		return refused(fsmpb.Reason_REASON_UNAUTHENTICATED)
	case a.PasswordVersion != c.PasswordVersion:
		return refused(fsmpb.Reason_REASON_PASSWORD_CHANGED)
	}
	t.endSessions(t.account, 0)
	for _, room := range t.roomsOf(t.account) {
		if rec, m, r := t.mine(room); r == nil && rec.Kind != fsmpb.RoomKind_ROOM_KIND_DIRECT {
			t.leave(room, rec, m, a)
		}
	}
	t.remove(nameKey(keyName, a.Name))
	t.put(key(keyAccount, t.account), &fsmpb.Account{CreateTimeMs: a.CreateTimeMs, Deleted: true})
	return &Result{Account: t.account}
}

// account is nil when there never was one.
func (r *reader) account(id uint64) *fsmpb.Account {
	a := r.records.Account()
	if !r.get(r.at(keyAccount, id), a) {
		return nil
	}
	return a
}

// liveAccount is nil for a deleted account too.
func (r *reader) liveAccount(id uint64) *fsmpb.Account {
	if a := r.account(id); a != nil && !a.Deleted {
		return a
	}
	return nil
}

// accountID finds an account by its canonical name; 0 when nobody has it.
func (r *reader) accountID(name string) uint64 { return r.id(nameKey(keyName, name)) }

// nameOf is empty for an account that is deleted.
func (r *reader) nameOf(account uint64) string {
	if a := r.account(account); a != nil {
		return a.Name
	}
	return ""
}

// Account is what a View tells of an account.
type Account struct {
	ID              uint64
	Name            string
	PasswordHash    string
	PasswordVersion uint64
	CreateTimeMS    int64
	LoginTimeMS     int64 // 0 before the first login
}

func newAccount(id uint64, a *fsmpb.Account) Account {
	return Account{id, a.Name, a.PasswordHash, a.PasswordVersion, a.CreateTimeMs, a.LoginTimeMs}
}

// AccountByName finds an account by its canonical name.
func (v *View) AccountByName(name string) (a Account, ok bool, err error) {
	id := v.accountID(name)
	if id == 0 {
		return a, false, v.err
	}
	return v.Account(id)
}

// Account finds an account that is not deleted.
func (v *View) Account(id uint64) (a Account, ok bool, err error) {
	rec := v.liveAccount(id)
	if rec == nil {
		return a, false, v.err
	}
	return newAccount(id, rec), true, v.err
}

// Accounts calls f for the accounts whose names come after a name, in order, until f returns false.
func (v *View) Accounts(afterName string, f func(Account) bool) error {
	lower := append(nameKey(keyName, afterName), 0)
	if afterName == "" {
		lower = []byte{keyName}
	}
	v.scan(lower, []byte{keyName + 1}, func(k, id []byte) bool {
		n := binary.BigEndian.Uint64(id)
		a := v.account(n)
		return a != nil && f(newAccount(n, a))
	})
	return v.err
}
