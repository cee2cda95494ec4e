package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestComplete: commands first, names that were shown later, and as far as they agree.
func TestComplete(t *testing.T) {
	n := &names{}
	for _, o := range []map[string]any{{"user": "bob"}, {"sender": "bobby"}, {"sender": "zoë"}, {"room": "lobby"}, {"user": 7}, {"sender": ""}, {"user": "a b"}} {
		n.learn(o)
	}
	for line, want := range map[string]string{
		"":               "",
		"se":             "send ",
		"  se":           "  send ",
		"l":              "l", // list, login, logout, leave
		"lo":             "log",
		"send b":         "send bob",
		"send bobb":      "send bobby ",
		"send #":         "send #lobby ",
		"send z":         "send zoë ",
		"send nobody":    "send nobody",
		"messages 1 bob": "messages 1 bob",
	} {
		got, pos, ok := n.complete(line, len(line), '\t')
		if !ok || got != want || pos != len(want) {
			t.Errorf("%q becomes %q, %d, %v, want %q", line, got, pos, ok, want)
		}
	}
	if got, pos, _ := n.complete("send bobb hello", len("send bobb"), '\t'); got != "send bobby  hello" || pos != len("send bobby ") {
		t.Errorf("within a line: %q, %d", got, pos)
	}
	if _, _, ok := n.complete("se", 2, 'x'); ok {
		t.Error("x completes")
	}
	for i := range 3 * maxNames {
		n.learn(map[string]any{"user": fmt.Sprint("user", i)})
	}
	if len(n.all()) != maxNames {
		t.Errorf("%d names are kept", len(n.all()))
	}
}

// TestHistory: what was typed comes again, without passwords and without end.
func TestHistory(t *testing.T) {
	h := &history{}
	for _, l := range []string{"login bob", "login bob battery-staple", " register eve  battery-staple", "delete_account battery-staple", "", "send bob hello"} {
		h.Add(l)
	}
	if h.Len() != 2 || h.At(0) != "send bob hello" || h.At(1) != "login bob" {
		t.Errorf("got %q", h.lines)
	}
	for i := range 3 * maxLines {
		h.Add(fmt.Sprint(i))
	}
	if h.Len() != maxLines || h.At(0) != fmt.Sprint(3*maxLines-1) {
		t.Errorf("%d lines, the newest %q", h.Len(), h.At(0))
	}
}

// TestCompletion: a script for each shell names the commands, and needs no server.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out strings.Builder
		if code := run(t.Context(), []string{"completion", shell}, nil, &out, io.Discard); code != 0 || !strings.Contains(out.String(), "delete_account") {
			t.Errorf("%s: %d, %q", shell, code, out.String())
		}
	}
	if code := run(t.Context(), []string{"completion", "tcsh"}, nil, io.Discard, io.Discard); code != exitUsage {
		t.Errorf("tcsh: %d", code)
	}
}

// TestColoured: a sender has one colour, and NO_COLOR and simple terminals have none.
func TestColoured(t *testing.T) {
	if a := coloured("alice"); a != coloured("alice") || a == coloured("bob") || !strings.HasSuffix(a, "malice\x1b[0m") {
		t.Errorf("got %q and %q", a, coloured("bob"))
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if wantsColour() {
		t.Error("NO_COLOR is not obeyed")
	}
	t.Setenv("NO_COLOR", "")
	if !wantsColour() {
		t.Error("an empty NO_COLOR counts")
	}
	t.Setenv("TERM", "dumb")
	if wantsColour() {
		t.Error("a dumb terminal gets colours")
	}
}
