// Package grpcerr is the one table between the errors of package chaterr and gRPC statuses, in both
// directions.
package grpcerr

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/chat/internal/chaterr"
)

// Internal is the reason of an error that is in no row.
const Internal = "INTERNAL"

// Domain is that of every google.rpc.ErrorInfo of ours.
const Domain = "chat"

type row struct {
	err    error
	code   codes.Code
	reason string
	retry  time.Duration // after which a retry makes sense; 0 for never
}

// table has the more particular errors first: an error is given the first row that it wraps.
var table = []row{
	{chaterr.ErrUnknownOutcome, codes.DeadlineExceeded, "UNKNOWN_OUTCOME", 100 * time.Millisecond},
	{chaterr.ErrNoLeader, codes.Unavailable, "NO_LEADER", 100 * time.Millisecond},
	{chaterr.ErrDraining, codes.Unavailable, "DRAINING", 100 * time.Millisecond},
	{chaterr.ErrClosed, codes.Unavailable, "CLOSED", 100 * time.Millisecond},
	{chaterr.ErrOverloaded, codes.ResourceExhausted, "OVERLOADED", time.Second},
	{chaterr.ErrBadCredentials, codes.Unauthenticated, "BAD_CREDENTIALS", 0},
	{chaterr.ErrUnauthenticated, codes.Unauthenticated, "UNAUTHENTICATED", 0},
	{chaterr.ErrHostAccounts, codes.Unimplemented, "HOST_ACCOUNTS", 0},
	{chaterr.ErrNameTaken, codes.AlreadyExists, "NAME_TAKEN", 0},
	{chaterr.ErrPasswordChanged, codes.Aborted, "PASSWORD_CHANGED", 0},
	{chaterr.ErrNoSuchUser, codes.NotFound, "NO_SUCH_USER", 0},
	{chaterr.ErrNoSuchRoom, codes.NotFound, "NO_SUCH_ROOM", 0},
	{chaterr.ErrNoSuchMessage, codes.NotFound, "NO_SUCH_MESSAGE", 0},
	{chaterr.ErrNotMember, codes.PermissionDenied, "NOT_MEMBER", 0},
	{chaterr.ErrDirectRoom, codes.FailedPrecondition, "DIRECT_ROOM", 0},
	{chaterr.ErrLimit, codes.ResourceExhausted, "LIMIT", 0},
	{chaterr.ErrOperationMismatch, codes.AlreadyExists, "OPERATION_MISMATCH", 0},
	{chaterr.ErrOperationTooOld, codes.FailedPrecondition, "OPERATION_TOO_OLD", 0},
	{chaterr.ErrOperationFromFuture, codes.FailedPrecondition, "OPERATION_FROM_FUTURE", 0},
	{chaterr.ErrBadCursor, codes.InvalidArgument, "BAD_CURSOR", 0},
	{chaterr.ErrOtherCluster, codes.FailedPrecondition, "OTHER_CLUSTER", 0},
	{chaterr.ErrUpgradeNeeded, codes.FailedPrecondition, "UPGRADE_NEEDED", 0},
	{chaterr.ErrNodeIDTaken, codes.AlreadyExists, "NODE_ID_TAKEN", 0},
	{chaterr.ErrQuorumAlive, codes.FailedPrecondition, "QUORUM_ALIVE", 0},
	{chaterr.ErrPeerRefused, codes.PermissionDenied, "PEER_REFUSED", 0},
	{chaterr.ErrQuarantined, codes.Internal, "QUARANTINED", 0},
	{chaterr.ErrInvalid, codes.InvalidArgument, "INVALID", 0},
	{chaterr.ErrFault, codes.Internal, "FAULT", 100 * time.Millisecond},
	{chaterr.ErrDiverged, codes.Internal, "DIVERGED", 100 * time.Millisecond}, // comes with ErrFault
}

// ToStatus makes the error that goes over the wire. A status stays what it is. An error that is in
// no row is a defect of ours or of the disk: it becomes INTERNAL, and says nothing of what was
// inside.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, r := range table {
		if errors.Is(err, r.err) {
			return r.status(err)
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	return row{code: codes.Internal, reason: Internal}.status(errors.New("internal error"))
}

func (r row) status(err error) error {
	s := status.New(r.code, err.Error())
	info := &errdetails.ErrorInfo{Reason: r.reason, Domain: Domain}
	var with *status.Status
	var derr error
	if r.retry > 0 {
		with, derr = s.WithDetails(info, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.retry)})
	} else {
		with, derr = s.WithDetails(info)
	}
	if derr != nil {
		return s.Err() // only for details that do not marshal
	}
	return with.Err()
}

// FromStatus makes an error of package chaterr of what came over the wire, with the other side's
// text. A status without a reason of ours stays as it is.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	reason := Reason(err)
	for _, r := range table {
		if r.reason == reason {
			return &remote{sentinel: r.err, status: s}
		}
	}
	return err
}

// FromReason is FromStatus for a status whose parts came in a message.
func FromReason(code codes.Code, reason, message string) error {
	if code == codes.OK {
		code = codes.Unknown // an error is none
	}
	if reason == "" {
		return status.Error(code, message)
	}
	return FromStatus(row{code: code, reason: reason}.status(errors.New(message)))
}

// Reason is the reason that a status carries, empty when it is not one of ours.
func Reason(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return ""
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			return info.Reason
		}
	}
	return ""
}

// remote is a sentinel that came over the wire. It is also the status that brought it.
type remote struct {
	sentinel error
	status   *status.Status
}

func (e *remote) Error() string {
	if e.status.Message() == "" {
		return e.sentinel.Error()
	}
	return e.status.Message()
}

func (e *remote) Unwrap() error              { return e.sentinel }
func (e *remote) GRPCStatus() *status.Status { return e.status }

// Invalid is chaterr.ErrInvalid for one field.
func Invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s %s", chaterr.ErrInvalid, field, fmt.Sprintf(format, args...))
}
