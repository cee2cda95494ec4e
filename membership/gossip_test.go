package membership

import (
	"errors"
	"strings"
	"testing"
)

// TestSeeds: an operator reads why a seed could not be greeted, on one line and not without end, until
// it was greeted or need not be.
func TestSeeds(t *testing.T) {
	m := &Membership{o: Options{Seeds: []string{"a:1", "b:1", "c:1"}}, refusals: map[string]string{}}
	want := func(want string) {
		t.Helper()
		if got := m.seeds(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	want("a:1, b:1, c:1")
	m.greeted("a:1", errors.New("1 error occurred:\n\t* failed to join 10.0.0.0:1: dial a:1: refused\n\n"))
	m.greeted("c:1", errors.New("the cluster\nsecrets differ"))
	m.greeted("gone:1", errors.New("no such host"))
	want("a:1 (dial a:1: refused), b:1, c:1 (the cluster secrets differ)")
	m.greeted("c:1", nil)
	want("a:1 (dial a:1: refused), b:1, c:1")
	m.forgive([]string{"b:1"})
	want("a:1, b:1, c:1")
	m.greeted("b:1", errors.New(strings.Repeat("x", 10_000)))
	if got := len(m.seeds()); got > 400 || len(m.refusals) != 1 {
		t.Errorf("%d bytes, %d refusals", got, len(m.refusals))
	}
}
