package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"example.com/chat/rpc/client"
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
		if code := Run(t.Context(), "cli", []string{"completion", shell}, nil, &out, io.Discard); code != 0 || !strings.Contains(out.String(), "delete_account") {
			t.Errorf("%s: %d, %q", shell, code, out.String())
		}
	}
	var out strings.Builder
	if code := Run(t.Context(), "standalone client", []string{"completion", "bash"}, nil, &out, io.Discard); code != 0 || !strings.HasPrefix(out.String(), "complete -W 'client register ") || !strings.HasSuffix(out.String(), "' standalone\n") {
		t.Errorf("a name of two words: %d, %q", code, out.String())
	}
	if code := Run(t.Context(), "cli", []string{"completion", "tcsh"}, nil, io.Discard, io.Discard); code != exitUsage {
		t.Errorf("tcsh: %d", code)
	}
}

// TestColoured: a sender has one colour, and NO_COLOR and simple terminals have none.
func TestColoured(t *testing.T) {
	if a := coloured("alice"); a != coloured("alice") || a == coloured("bob") || !strings.HasSuffix(string(a), "malice\x1b[0m") {
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

// TestKeyboard: Ctrl-C interrupts a command that runs, and is typed where none does.
func TestKeyboard(t *testing.T) {
	in, typing := io.Pipe()
	k := newKeyboard(in)
	write := func(text string) {
		t.Helper()
		if _, err := io.WriteString(typing, text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k.running(cancel)
	write("typed ahead")
	write("\x03")
	<-ctx.Done()
	k.running(nil)
	write("\x03")
	if err := typing.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(k); string(text) != "typed ahead\x03" || err != nil {
		t.Errorf("it reads %q, %v", text, err)
	}
}

// TestPrinter_Hostile: what others write does not steer the terminal, in whatever field.
func TestPrinter_Hostile(t *testing.T) {
	var out strings.Builder
	p := newPrinter(&out, false)
	p.colour = true
	const hostile = "\x1b[2Jgone\r\u009b1m\nnext"
	p.show(map[string]any{}, "%s %d", hostile, 1)
	p.message(client.Message{Sender: hostile, Text: hostile}, hostile, "", nil)
	for _, c := range escapes.ReplaceAllString(out.String(), "") {
		if c != '\n' && !unicode.IsPrint(c) {
			t.Errorf("%q is printed: %q", c, out.String())
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines: %q", n, out.String())
	}
}

// escapes are the colours of senders.
var escapes = regexp.MustCompile("\x1b\\[[0-9]{1,2}m")

// TestHelp_Alone: help for a command needs no server.
func TestHelp_Alone(t *testing.T) {
	var out strings.Builder
	if code := Run(t.Context(), "cli", []string{"help", "send"}, nil, &out, io.Discard); code != 0 || !strings.Contains(out.String(), "send NAME|#ROOM TEXT...") {
		t.Errorf("%d, %q", code, out.String())
	}
}
