package state

import (
	"time"
	"unicode/utf8"
)

// Limits that Apply itself holds. They are part of the replicated rules: to change one is to
// change what an entry means, and needs a new level.
const (
	// MaxName is how many bytes a canonical name may have.
	MaxName = 64
	// MaxText is how many bytes a message may have.
	MaxText = 16 << 10
	// MaxPasswordHash is how many bytes a PHC string may have.
	MaxPasswordHash = 512
	// MaxSessions is how many sessions an account may have; one more ends the oldest.
	MaxSessions = 32
	// MaxRooms is how many rooms an account may have opened, made or joined.
	MaxRooms = 1000
	// MaxHide is how many messages one command may hide.
	MaxHide = 100

	// OperationWindow is how long, in log time, an operation id is remembered. An older id is
	// refused, so there is no time at which a retry could be carried out twice.
	OperationWindow = 24 * time.Hour
	// OperationSkew is how far ahead of log time the clock that made an operation id may be.
	OperationSkew = 5 * time.Minute
	// SessionLifetime is how long, in log time, a session lives.
	SessionLifetime = 90 * 24 * time.Hour
)

// forgetEvery is how much log time passes between two removals of old operations.
const forgetEvery = time.Minute

// CurrentLevel is the highest feature level that this binary supports.
const CurrentLevel = 2

// firstLevel is that of a state without entries, on every binary.
const firstLevel = 1

// hashLevel is the level from which on the state has a hash, and a command that panics is left out
// and does not stop the node.
const hashLevel = 2

// format is the format of keys and records that this binary writes.
const format = 1

func validName(s string) bool         { return s != "" && len(s) <= MaxName && utf8.ValidString(s) }
func validPasswordHash(s string) bool { return s != "" && len(s) <= MaxPasswordHash }
func validText(s string) bool         { return s != "" && len(s) <= MaxText && utf8.ValidString(s) }
