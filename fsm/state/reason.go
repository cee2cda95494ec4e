package state

import (
	"fmt"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// reasons maps what stands in the log to the errors that callers see.
var reasons = map[fsmpb.Reason]error{
	fsmpb.Reason_REASON_INVALID:               chaterr.ErrInvalid,
	fsmpb.Reason_REASON_OPERATION_MISMATCH:    chaterr.ErrOperationMismatch,
	fsmpb.Reason_REASON_OPERATION_TOO_OLD:     chaterr.ErrOperationTooOld,
	fsmpb.Reason_REASON_OPERATION_FROM_FUTURE: chaterr.ErrOperationFromFuture,
	fsmpb.Reason_REASON_UNAUTHENTICATED:       chaterr.ErrUnauthenticated,
	fsmpb.Reason_REASON_NAME_TAKEN:            chaterr.ErrNameTaken,
	fsmpb.Reason_REASON_NO_SUCH_USER:          chaterr.ErrNoSuchUser,
	fsmpb.Reason_REASON_PASSWORD_CHANGED:      chaterr.ErrPasswordChanged,
	fsmpb.Reason_REASON_NO_SUCH_ROOM:          chaterr.ErrNoSuchRoom,
	fsmpb.Reason_REASON_NOT_MEMBER:            chaterr.ErrNotMember,
	fsmpb.Reason_REASON_DIRECT_ROOM:           chaterr.ErrDirectRoom,
	fsmpb.Reason_REASON_LIMIT:                 chaterr.ErrLimit,
	fsmpb.Reason_REASON_NO_SUCH_MESSAGE:       chaterr.ErrNoSuchMessage,
	fsmpb.Reason_REASON_CLUSTER_FORMED:        chaterr.ErrOtherCluster,
	fsmpb.Reason_REASON_QUARANTINED:           chaterr.ErrQuarantined,
}

// Err is the error that a result stands for: nil when the command was carried out.
func Err(r *Result) error {
	if r.Reason == fsmpb.Reason_REASON_UNSPECIFIED {
		return nil
	}
	if err, ok := reasons[r.Reason]; ok {
		return err
	}
	return fmt.Errorf("refused by a newer node for reason %d: %w", r.Reason, chaterr.ErrInvalid)
}

// refused is the result of a command that changes nothing.
func refused(r fsmpb.Reason) *Result { return &Result{Reason: r} }
