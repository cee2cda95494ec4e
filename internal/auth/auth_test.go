package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"example.com/chat/internal/chaterr"
)

func TestPasswords_Verify(t *testing.T) {
	p := NewPasswords()
	phc, err := p.Hash(t.Context(), "correct horse")
	if err != nil || !strings.HasPrefix(phc, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("hash %q, %v", phc, err)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct Horse": false, "": false} {
		if got, err := p.Verify(t.Context(), password, phc); got != want || err != nil {
			t.Errorf("Verify(%q) = %v, %v, want %v", password, got, err, want)
		}
	}
	if ok, err := p.Verify(t.Context(), "anything", ""); ok || err != nil {
		t.Errorf("of an unknown user: %v, %v", ok, err)
	}
	if again, _ := p.Hash(t.Context(), "correct horse"); again == phc {
		t.Error("two hashes have one salt")
	}
}

func TestPasswords_Bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPasswords()
		hold := make(chan struct{})
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range cap(p.waiting) {
			wg.Go(func() {
				err := p.turn(ctx, func() error { <-hold; return nil })
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if len(p.running) != cap(p.running) {
			t.Errorf("%d run", len(p.running))
		}
		if _, err := p.Hash(t.Context(), "x"); !errors.Is(err, chaterr.ErrOverloaded) {
			t.Errorf("got %v", err)
		}
		cancel()
		synctest.Wait()
		if len(p.waiting) != cap(p.running) {
			t.Errorf("%d wait or run after those who waited gave up", len(p.waiting))
		}
		close(hold)
		wg.Wait()
	})
}

// TestPasswords_GivenUp: nothing is computed for a caller who has gone.
func TestPasswords_GivenUp(t *testing.T) {
	p := NewPasswords()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // a turn is free, and ctx has ended: which one is seen first is left to chance
		if err := p.turn(ctx, func() error { t.Error("computed"); return nil }); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	if len(p.waiting)+len(p.running) != 0 {
		t.Errorf("%d wait and %d run", len(p.waiting), len(p.running))
	}
}

func TestHashToken(t *testing.T) {
	token := NewToken()
	if h, ok := HashToken(token); !ok || len(h) != 32 {
		t.Errorf("%q: %d bytes, %v", token, len(h), ok)
	}
	for _, bad := range []string{"", "x", "chs", strings.Repeat("chs_", 20), "Bearer " + token} {
		if _, ok := HashToken(bad); ok {
			t.Errorf("%q is taken for a token", bad)
		}
	}
}
