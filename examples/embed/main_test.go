package main

import (
	"bytes"
	"testing"
)

// TestRun: the host's own service and chat work on one server.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if want := "order: placed\nchat: orders: a book is on its way\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
