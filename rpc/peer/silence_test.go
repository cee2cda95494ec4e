package peer

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilence_Blackhole: the network between two nodes loses everything from now on, without a sign.
// Both ends of a tunnel that nobody uses learn of it.
func TestSilence_Blackhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _, accepted := pair(t, nil)
		c, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		n.Blackhole("a", "b")
		start := time.Now()
		_, serverErr := (<-accepted).Read(make([]byte, 1))
		_, clientErr := c.Read(make([]byte, 1))
		if took := time.Since(start); took > silence || !errors.Is(serverErr, errSilent) || !errors.Is(clientErr, errSilent) {
			t.Errorf("got %v and %v after %v", serverErr, clientErr, took)
		}
	})
}

// TestSilence_Idle: a tunnel on which nobody says anything for an hour lives, and its users hear nothing
// of what keeps it alive.
func TestSilence_Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, accepted := pair(t, nil)
		c, err := dial(t, a, GossipPackets, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		other := <-accepted
		go func() {
			time.Sleep(time.Hour)
			_, _ = c.Write([]byte("late")) // ReadFrame shows it
		}()
		if f, err := other.ReadFrame(); string(f) != "late" || err != nil {
			t.Errorf("got %q, %v", f, err)
		}
		_ = other.Close() // never fails
		if f, err := c.ReadFrame(); !errors.Is(err, io.EOF) {
			t.Errorf("got %q, %v", f, err)
		}
	})
}

// TestSilence_SlowReader: who does not read for an hour is not silent, and finds everything that was
// written meanwhile.
func TestSilence_SlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _, accepted := pair(t, nil)
		c, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		const size = 1 << 20
		go func() {
			_, _ = c.Write(make([]byte, size)) // the reader counts
			_ = c.Close()                      // never fails
		}()
		other := <-accepted
		time.Sleep(time.Hour)
		if n, err := io.Copy(io.Discard, other); n != size || err != nil {
			t.Errorf("got %d bytes, %v", n, err)
		}
	})
}
