// Package auth checks passwords and makes tokens.
package auth

import (
	"context"
	"runtime"

	"github.com/alexedwards/argon2id"

	"example.com/chat/internal/chaterr"
)

// params are OWASP's minimum for argon2id: 19 MiB, two passes, one lane.
var params = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// dummy is the hash of a password that nobody knows, with the same parameters: checking a password
// of an unknown user takes as long as any other check.
const dummy = "$argon2id$v=19$m=19456,t=2,p=1$jTaLI1k0DOkjEcN2Nf4SaQ$NfYn5JdzJIqxyNtbHyFVlaYZUYK6ICbwdsrhHnWzX9w"

// NoPassword stands where a hash would for an account that nobody enters with a password.
const NoPassword = "!"

// maxWaiting is how many hashes may wait for their turn.
const maxWaiting = 64

// Passwords hashes passwords, few at a time: a hash takes a core and 19 MiB for a good while, and
// raft must have its share. It is safe for concurrent use.
type Passwords struct {
	waiting chan struct{} // a place for each that runs or waits
	running chan struct{}
}

// NewPasswords makes a Passwords that uses at most half of the cores.
func NewPasswords() *Passwords {
	n := max(1, runtime.GOMAXPROCS(0)/2)
	return &Passwords{waiting: make(chan struct{}, n+maxWaiting), running: make(chan struct{}, n)}
}

// Hash makes a PHC string with a fresh salt. It blocks until it is its turn; the error is
// chaterr.ErrOverloaded when too many wait, or that of ctx.
func (p *Passwords) Hash(ctx context.Context, password string) (phc string, err error) {
	err = p.turn(ctx, func() error {
		phc, err = argon2id.CreateHash(password, params)
		return err
	})
	return phc, err
}

// Verify reports whether a password belongs to a PHC string; with an empty one and with
// NoPassword it takes its time and says no. It blocks and fails as Hash does.
func (p *Passwords) Verify(ctx context.Context, password, phc string) (ok bool, err error) {
	known := phc != "" && phc != NoPassword
	if !known {
		phc = dummy
	}
	err = p.turn(ctx, func() error {
		ok, err = argon2id.ComparePasswordAndHash(password, phc)
		return err
	})
	return ok && known, err
}

func (p *Passwords) turn(ctx context.Context, f func() error) error {
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return chaterr.ErrOverloaded
	}
	select {
	case p.running <- struct{}{}:
		defer func() { <-p.running }()
		if ctx.Err() != nil { // both came at once: nobody waits for the result
			return context.Cause(ctx)
		}
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
