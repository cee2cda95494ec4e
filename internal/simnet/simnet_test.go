package simnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects a to b.
func pair(t *testing.T, n *Net) (a, b net.Conn) {
	t.Helper()
	l := n.Listen("b")
	got := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	a, err := n.Dialer("a")(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	return a, <-got
}

// arrival is how long a byte takes from one end to the other; 0 when it has not come after a minute.
func arrival(t *testing.T, from, to net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	if _, err := from.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = to.SetReadDeadline(start.Add(time.Minute))
	_, err := to.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func TestNet_Modes(t *testing.T) {
	const delay = 5 * time.Millisecond
	for name, tt := range map[string]struct {
		spoil          func(*Net)
		aToB, bToA     time.Duration
		dial, dialBack error
	}{
		"whole":     {func(*Net) {}, delay, delay, nil, nil},
		"cut":       {func(n *Net) { n.Cut("a", "b") }, 0, 0, context.DeadlineExceeded, context.DeadlineExceeded},
		"one way":   {func(n *Net) { n.CutOneWay("a", "b") }, 0, delay, context.DeadlineExceeded, context.DeadlineExceeded},
		"refused":   {func(n *Net) { n.Refuse("a", "b") }, delay, delay, syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		"blackhole": {func(n *Net) { n.Blackhole("a", "b") }, 0, 0, nil, nil},
		"healed":    {func(n *Net) { n.Cut("a", "b"); n.HealAll() }, delay, delay, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New(delay)
				a, b := pair(t, n)
				defer a.Close()
				defer b.Close()
				tt.spoil(n)
				if got := arrival(t, a, b); got != tt.aToB {
					t.Errorf("a to b took %v, want %v", got, tt.aToB)
				}
				if got := arrival(t, b, a); got != tt.bToA {
					t.Errorf("b to a took %v, want %v", got, tt.bToA)
				}
				listening := n.Listen("a")
				defer listening.Close()
				go func() { _, _ = listening.Accept() }()
				again := n.Listen("b")
				defer again.Close()
				go func() { _, _ = again.Accept() }()
				for from, want := range map[string]error{"a": tt.dial, "b": tt.dialBack} {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					c, err := n.Dialer(from)(ctx, map[string]string{"a": "b", "b": "a"}[from])
					if cancel(); !errors.Is(err, want) {
						t.Errorf("%s dials: %v, want %v", from, err, want)
					}
					if err == nil {
						defer c.Close()
					}
				}
			})
		})
	}
}

// TestNet_CutLosesNothing: what is sent into a cut link, and the end behind it, arrive after Heal.
func TestNet_CutLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(0)
		a, b := pair(t, n)
		n.Cut("a", "b")
		if _, err := a.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		time.AfterFunc(time.Minute, n.HealAll)
		start := time.Now()
		got, err := io.ReadAll(b)
		if string(got) != "hello" || err != nil || time.Since(start) != time.Minute {
			t.Errorf("read %q, %v after %v", got, err, time.Since(start))
		}
		_ = b.Close()
	})
}
