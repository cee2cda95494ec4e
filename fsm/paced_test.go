package fsm

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestPaced: a fast receiver gets what the rate allows, also after a pause of its own.
func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paced{w: io.Discard, rate: 1 << 20}
		send := func() time.Duration {
			start := time.Now()
			if _, err := io.Copy(onlyWriter{p}, onlyReader{bytes.NewReader(make([]byte, 4<<20))}); err != nil {
				t.Error(err)
			}
			return time.Since(start)
		}
		for range 2 {
			if d := send(); d < 4*time.Second-leastPause || d > 4*time.Second {
				t.Errorf("4 MiB at 1 MiB a second took %v", d)
			}
			time.Sleep(time.Minute)
		}
	})
}

// TestSend_Paced: a snapshot is sent at the rate, whole.
func TestSend_Paced(t *testing.T) {
	m, meta, want := sender(t)
	synctest.Test(t, func(t *testing.T) {
		m.Snapshots().rate = float64(meta.Size)
		_, r, err := m.Snapshots().Open(meta.ID)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		got, err := io.ReadAll(r)
		if d := time.Since(start); err != nil || !bytes.Equal(got, want) || d < time.Second-2*leastPause || d > 2*time.Second {
			t.Errorf("%d of %d bytes in %v, %v; want it to take a second", len(got), len(want), d, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// onlyWriter hides what else a writer can do.
type onlyWriter struct{ io.Writer }
