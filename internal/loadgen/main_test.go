package main

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"
)

func TestSummarise(t *testing.T) {
	var took []time.Duration
	for i := 100; i >= 1; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	r := summarise(took, 10*time.Second)
	if r.N != 100 || r.Ops != 10 || r.P50 != 50_000 || r.P99 != 99_000 || r.Max != 100_000 {
		t.Errorf("got %+v", r)
	}
	if r := summarise(nil, time.Second); r.N != 0 || r.P99 != 0 {
		t.Errorf("of nothing: got %+v", r)
	}
}

func TestStamped(t *testing.T) {
	text := stamped(200)
	if d, ok := age(text); len(text) != 200 || !ok || d < 0 || d > time.Minute {
		t.Errorf("a message of %d bytes, %v old, %v", len(text), d, ok)
	}
	if _, ok := age("hello, this is no message of ours"); ok {
		t.Error("any text says when it was sent")
	}
}

// TestRun: every profile gets through, on a cluster of one.
func TestRun(t *testing.T) {
	for _, profile := range []string{"send", "deliver", "fanout"} {
		t.Run(profile, func(t *testing.T) {
			args := []string{"-profile", profile, "-nodes", "1", "-n", "2", "-clients", "2", "-rooms", "2", "-warm", "10ms", "-for", "50ms", "-every", "1ms", "-dir", t.TempDir()}
			var out bytes.Buffer
			if err := run(t.Context(), args, &out); err != nil || !json.Valid(out.Bytes()) {
				t.Errorf("%v, %q", err, out.String())
			}
		})
	}
	if run(t.Context(), []string{"-profile", "none"}, io.Discard) == nil || run(t.Context(), []string{"-size", "1"}, io.Discard) == nil {
		t.Error("nonsense was accepted")
	}
}
