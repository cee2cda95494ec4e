package state

import (
	"crypto/sha256"
	"encoding/binary"

	"example.com/chat/fsm/fsmpb"
)

// createSession logs in. The password was checked by the node that took the call; if it was
// changed since, that check is worth nothing.
func (t *tx) createSession(c *CreateSession) *Result {
	a := t.liveAccount(c.Account)
	switch {
	case len(c.TokenHash) != sha256.Size:
		return refused(fsmpb.Reason_REASON_INVALID)
	case a == nil:
		return refused(fsmpb.Reason_REASON_NO_SUCH_USER)
	case a.PasswordVersion != c.PasswordVersion:
		return refused(fsmpb.Reason_REASON_PASSWORD_CHANGED)
	case t.has(append([]byte{keyToken}, c.TokenHash...)):
		return refused(fsmpb.Reason_REASON_INVALID)
	}
	if have := t.sessionsOf(c.Account); len(have) >= MaxSessions {
		for _, s := range have[:len(have)-MaxSessions+1] {
			t.endSession(c.Account, s)
		}
	}
	id := t.newID()
	t.set(key(keySession, c.Account, id), append(key(0, uint64(t.b.meta.TimeMs))[1:], c.TokenHash...))
	t.put(append([]byte{keyToken}, c.TokenHash...), &fsmpb.Session{Account: c.Account, Session: id, CreateTimeMs: t.b.meta.TimeMs})
	a.LoginTimeMs = t.b.meta.TimeMs
	t.put(key(keyAccount, c.Account), a)
	return &Result{Account: c.Account, Session: id}
}

// revokeSession logs out.
func (t *tx) revokeSession(c *RevokeSession) *Result {
	if c.All {
		t.endSessions(t.account, 0)
	} else {
		t.endSession(t.account, t.session)
	}
	return &Result{Account: t.account}
}

// sessionsOf lists the sessions of an account, the oldest first.
func (t *tx) sessionsOf(account uint64) (sessions []uint64) {
	t.scanPrefix(key(keySession, account), func(k, _ []byte) bool {
		sessions = append(sessions, number(k, 1))
		return true
	})
	return sessions
}

// endSessions ends all sessions of an account but one.
func (t *tx) endSessions(account, but uint64) {
	for _, s := range t.sessionsOf(account) {
		if s != but {
			t.endSession(account, s)
		}
	}
}

func (t *tx) endSession(account, session uint64) {
	k := key(keySession, account, session)
	var token []byte
	t.value(k, func(v []byte) error {
		token = append([]byte{keyToken}, v[8:]...)
		return nil
	})
	t.remove(token)
	t.remove(k)
	t.emit(Event{Kind: SessionEnded, Account: account, Session: session})
}

// alive reports whether a session may act: it has not ended, and is not too old in log time.
func (r *reader) alive(a Actor, nowMS int64) (ok bool) {
	r.value(r.at(keySession, a.Account, a.Session), func(v []byte) error {
		ok = !expired(int64(binary.BigEndian.Uint64(v)), nowMS)
		return nil
	})
	return ok
}

func expired(createdMS, nowMS int64) bool { return nowMS > createdMS+SessionLifetime.Milliseconds() }

// Session finds who holds a token, by the token's SHA-256. It is not ok for a session that has
// ended or expired.
func (v *View) Session(tokenHash []byte) (a Actor, ok bool, err error) {
	var s fsmpb.Session
	if !v.get(append([]byte{keyToken}, tokenHash...), &s) || expired(s.CreateTimeMs, v.meta.TimeMs) {
		return a, false, v.err
	}
	return Actor{s.Account, s.Session}, true, v.err
}

// Alive reports whether a session that was found once is still there.
func (v *View) Alive(a Actor) (bool, error) { return v.alive(a, v.meta.TimeMs), v.err }
