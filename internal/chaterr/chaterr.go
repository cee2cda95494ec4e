// Package chaterr holds the errors that a caller can act on. The packages chat and client give
// the same values out under the same names, so that errors.Is holds wherever an error came from:
// this process, or a node at the other end of a gRPC connection.
//
// They fall into three groups, and a caller needs to know which: the operation was not done, its
// outcome is unknown, or the cluster will never do it as asked.
package chaterr

import "errors"

// Not done. The same call may be repeated, best at another node.
var (
	// ErrNoLeader: the node that was asked knows no leader, so nothing can be committed through it.
	// Retry, on another node first.
	ErrNoLeader = errors.New("no leader is known")
	// ErrDraining: the node is going down. Retry on another node.
	ErrDraining = errors.New("the node is draining")
	// ErrOverloaded: a queue or the number of calls at work is at its limit. Retry after a pause.
	ErrOverloaded = errors.New("overloaded")
	// ErrFault: the node has failed and serves nothing until it is restarted. Retry on another node.
	ErrFault = errors.New("the node has failed")
	// ErrDiverged: the node's state has become another than that of most nodes. It serves nothing until
	// it has theirs. Retry on another node.
	ErrDiverged = errors.New("the node's state differs from that of most nodes")
	// ErrClosed: the node or client was closed by its owner. Give up.
	ErrClosed = errors.New("closed")
)

// ErrUnknownOutcome: the operation may have been done, may yet be, or not. Retry with the same
// operation id, which makes that harmless; without an id find out before you retry.
var ErrUnknownOutcome = errors.New("the outcome is unknown")

// Refused. The same call will be refused again.
var (
	// ErrInvalid: an argument is outside what is documented. Give up, or correct it.
	ErrInvalid = errors.New("invalid argument")
	// ErrUnauthenticated: there is no session, or it has ended. Log in again.
	ErrUnauthenticated = errors.New("not logged in")
	// ErrBadCredentials: no such account, or not its password. Ask for both again.
	ErrBadCredentials = errors.New("wrong name or password")
	// ErrHostAccounts: the program that chat is part of says who calls, so nobody registers or logs in here.
	ErrHostAccounts = errors.New("accounts are those of the host program")
	// ErrNameTaken: another account or room has the name. Choose another.
	ErrNameTaken = errors.New("the name is taken")
	// ErrPasswordChanged: the password was changed by another call meanwhile. Start again.
	ErrPasswordChanged = errors.New("the password was changed meanwhile")
	// ErrNoSuchUser: nobody has the name.
	ErrNoSuchUser = errors.New("no such user")
	// ErrNoSuchRoom: there is no such room, or it is not to be seen by the caller.
	ErrNoSuchRoom = errors.New("no such room")
	// ErrNotMember: the caller is not in the room. Join it first.
	ErrNotMember = errors.New("not a member of the room")
	// ErrDirectRoom: that cannot be done to the room of two users.
	ErrDirectRoom = errors.New("not possible in a direct room")
	// ErrNoSuchMessage: the room has no message with that number.
	ErrNoSuchMessage = errors.New("no such message")
	// ErrLimit: one of the documented limits is reached. Leave a room, close a stream, wait.
	ErrLimit = errors.New("limit reached")
	// ErrOperationMismatch: the operation id was used for something else. Make a new id.
	ErrOperationMismatch = errors.New("the operation id was used for another operation")
	// ErrOperationTooOld: the id is older than the time for which ids are remembered, so the cluster
	// cannot tell whether it was done, and has not done it now. Look, then decide.
	ErrOperationTooOld = errors.New("the operation id is too old")
	// ErrOperationFromFuture: the id was made by a clock that is more than five minutes ahead.
	// Correct the clock and make a new id.
	ErrOperationFromFuture = errors.New("the operation id is from the future")
	// ErrBadCursor: the cursor was not made by a cluster, or was cut. Start without one.
	ErrBadCursor = errors.New("malformed cursor")
	// ErrOtherCluster: a cursor, a data directory or a peer belongs to another cluster.
	ErrOtherCluster = errors.New("belongs to another cluster")
)

// ErrQuarantined: carrying the command out panicked, and it was left out. That is a defect of this
// library: report it, with the log. Give up; the same call is likely to end the same way.
var ErrQuarantined = errors.New("the command made the node panic, and was left out")

// What New and Start refuse. The process is to be set up differently.
var (
	// ErrDataDirInUse: another process, or another node in this one, has the data directory open.
	ErrDataDirInUse = errors.New("the data directory is in use")
	// ErrOtherNode: the data directory belongs to a node with another id.
	ErrOtherNode = errors.New("the data directory belongs to another node")
	// ErrUpgradeNeeded: the log or the state was written by a newer version than this one. Run that
	// version; nothing was changed.
	ErrUpgradeNeeded = errors.New("written by a newer version")
	// ErrQuorumAlive: another voter answers, so this node must not be recovered alone. Start the others, or make
	// sure that they are gone for good.
	ErrQuorumAlive = errors.New("another voter lives")
	// ErrCorrupt: data on disk is damaged. The error names the file.
	ErrCorrupt = errors.New("damaged data")
	// ErrNodeIDTaken: another node has the node id or the address, and lives or counts as a member.
	// Choose another id, or take the old server out first.
	ErrNodeIDTaken = errors.New("the node id or address is taken")
	// ErrPeerRefused: the other node does not accept this one: another secret, another cluster, or
	// another node than the one that was called.
	ErrPeerRefused = errors.New("refused by the peer")
)
