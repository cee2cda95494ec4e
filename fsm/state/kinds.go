package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"example.com/chat/fsm/fsmpb"
)

// The payloads of commands, for those who propose them.
type (
	FormCluster     = fsmpb.FormCluster
	RegisterAccount = fsmpb.RegisterAccount
	ChangePassword  = fsmpb.ChangePassword
	DeleteAccount   = fsmpb.DeleteAccount
	CreateSession   = fsmpb.CreateSession
	RevokeSession   = fsmpb.RevokeSession
	OpenDirectRoom  = fsmpb.OpenDirectRoom
	CreateRoom      = fsmpb.CreateRoom
	JoinRoom        = fsmpb.JoinRoom
	LeaveRoom       = fsmpb.LeaveRoom
	SendMessage     = fsmpb.SendMessage
	HideMessages    = fsmpb.HideMessages
	MarkRead        = fsmpb.MarkRead
	RaiseLevel      = fsmpb.RaiseLevel
	MarkState       = fsmpb.MarkState
	VerifyState     = fsmpb.VerifyState
)

// Command is one change of the state, as it stands in the log.
type Command = fsmpb.Command

// Actor is who proposes a command. The zero Actor is nobody, which is enough for kinds that need
// no session.
type Actor struct{ Account, Session uint64 }

// NewCommand makes a command of a payload, which is one of the types above. operationID is a
// 16-byte ULID, or empty when a retry need not be recognised.
func NewCommand(a Actor, operationID []byte, payload proto.Message) (*Command, error) {
	number, ok := numbers[payload.ProtoReflect().Descriptor().FullName()]
	if !ok {
		return nil, fmt.Errorf("%T is not the payload of a command", payload)
	}
	p, err := fsmpb.Append(nil, payload)
	if err != nil {
		return nil, err
	}
	return &Command{Kind: number, OperationId: operationID, Account: a.Account, Session: a.Session, Payload: p}, nil
}

// kind is what there is to know of a kind of command.
type kind struct {
	since     uint32 // the level that it came with
	anonymous bool   // needs no session
	audits    bool   // is no change that would be worth an audit
	empty     func() proto.Message
	apply     func(*tx, proto.Message) *Result
	asks      func(proto.Message) string // what a retry asks again; nil for the whole payload
}

// kinds is the whole list. A kind stays in it for as long as a log with it may be read.
var kinds = map[fsmpb.Kind]*kind{
	fsmpb.Kind_KIND_FORM_CLUSTER:     on((*tx).formCluster).anybody(),
	fsmpb.Kind_KIND_REGISTER_ACCOUNT: on((*tx).registerAccount).anybody().asking(accountName),
	fsmpb.Kind_KIND_CHANGE_PASSWORD:  on((*tx).changePassword).asking(nothing),
	fsmpb.Kind_KIND_DELETE_ACCOUNT:   on((*tx).deleteAccount).asking(nothing),
	fsmpb.Kind_KIND_CREATE_SESSION:   on((*tx).createSession).anybody(),
	fsmpb.Kind_KIND_REVOKE_SESSION:   on((*tx).revokeSession),
	fsmpb.Kind_KIND_OPEN_DIRECT_ROOM: on((*tx).openDirectRoom),
	fsmpb.Kind_KIND_CREATE_ROOM:      on((*tx).createRoom),
	fsmpb.Kind_KIND_JOIN_ROOM:        on((*tx).joinRoom),
	fsmpb.Kind_KIND_LEAVE_ROOM:       on((*tx).leaveRoom),
	fsmpb.Kind_KIND_SEND_MESSAGE:     on((*tx).sendMessage),
	fsmpb.Kind_KIND_HIDE_MESSAGES:    on((*tx).hideMessages),
	fsmpb.Kind_KIND_MARK_READ:        on((*tx).markRead),
	fsmpb.Kind_KIND_RAISE_LEVEL:      on((*tx).raiseLevel).anybody(),
	fsmpb.Kind_KIND_MARK_STATE:       on((*tx).markState).anybody().auditing(),
	fsmpb.Kind_KIND_VERIFY_STATE:     on((*tx).verifyState).anybody().auditing(),
}

// numbers finds the kind of a payload.
var numbers = func() map[protoreflect.FullName]fsmpb.Kind {
	m := map[protoreflect.FullName]fsmpb.Kind{}
	for number, k := range kinds {
		m[k.empty().ProtoReflect().Descriptor().FullName()] = number
	}
	return m
}()

// on is a kind of level 1 that needs a session.
func on[P proto.Message](apply func(*tx, P) *Result) *kind {
	var p P
	return &kind{
		since: 1,
		empty: func() proto.Message { return p.ProtoReflect().New().Interface() },
		apply: func(t *tx, m proto.Message) *Result { return apply(t, m.(P)) },
	}
}

// auditing is for kinds that compare states and change nothing that users see.
func (k *kind) auditing() *kind {
	k.since, k.audits = hashLevel, true
	return k
}

func (k *kind) anybody() *kind {
	k.anonymous = true
	return k
}

// asking is for payloads in which a retry differs, because a password is hashed anew each time.
func (k *kind) asking(f func(proto.Message) string) *kind {
	k.asks = f
	return k
}

func accountName(m proto.Message) string { return m.(*RegisterAccount).Name }
func nothing(proto.Message) string       { return "" }

// Since is the level that a kind came with, 0 for a kind that this binary does not know.
func Since(k fsmpb.Kind) uint32 {
	if k := kinds[k]; k != nil {
		return k.since
	}
	return 0
}
