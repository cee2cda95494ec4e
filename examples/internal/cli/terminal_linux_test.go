package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal: what a person types into keyboard, the program reads from tty.
func openTerminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return keyboard, tty
}

// TestRun_Interrupted: who is asked for a password is not echoed; Ctrl-C there ends the program, and the terminal echoes
// again.
func TestRun_Interrupted(t *testing.T) {
	addr := startNode(t)
	keyboard, tty := openTerminal(t)
	var out screen
	go func() { _, _ = io.Copy(&out, keyboard) }() // ends with the terminal
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, "cli", []string{"--servers", addr, "--session", filepath.Join(t.TempDir(), "s"), "login", "alice"}, tty, tty, tty)
	}()
	out.wait(t, "password: ")
	echoes := func() bool {
		t.Helper()
		state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO != 0
	}
	if echoes() {
		t.Error("it echoes")
	}
	interrupt()
	if code := <-done; code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	out.wait(t, "cli: interrupted")
	if !echoes() {
		t.Error("it does not echo")
	}
}

// TestRun_Terminal: a message that comes in while a line is being typed stands above it, and the
// line is there again below. A password is not shown.
func TestRun_Terminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	node := startRelay(t)
	addr := node.addr
	keyboard, tty := openTerminal(t)
	var out screen
	go func() { _, _ = io.Copy(&out, keyboard) }() // ends with the terminal
	done := make(chan int, 1)
	go func() { done <- Run(t.Context(), "cli", []string{"--servers", addr}, tty, tty, tty) }()
	typed := func(text, want string) {
		t.Helper()
		if _, err := io.WriteString(keyboard, text); err != nil {
			t.Fatal(err)
		}
		out.wait(t, want)
	}
	out.wait(t, "(chat) ")
	typed("register alice\r", "password: ")
	typed("correct horse\r", "again: ")
	typed("correct horse\r", "registered alice")
	typed("register bob\r", "password: ")
	typed("battery-staple\r", "again: ")
	typed("battery-staple\r", "registered bob")
	typed("login alice\r", "password: ")
	typed("correct horse\r", "(alice) ")
	typed("half a li", "half a li")
	file := filepath.Join(t.TempDir(), "s")
	if code, _, errs := one(t, "battery-staple", "--servers", addr, "--session", file, "login", "bob"); code != 0 {
		t.Fatal(errs)
	}
	if code, _, errs := one(t, "", "--servers", addr, "--session", file, "send", "alice", "are you there?"); code != 0 {
		t.Fatal(errs)
	}
	out.wait(t, string(coloured("bob"))+": are you there?")
	out.wait(t, "(alice) half a li")
	typed("\x15send b\t", "send b")
	out.wait(t, "ob ") // by Tab
	typed("hello\r", "sent ")
	out.wait(t, "(alice) ")
	typed("\x1b[A", "send bob hello") // the line again
	typed("\x15half a li", "half a li")
	node.breaks(true)
	out.wait(t, "(alice, reconnecting) half a li")
	node.breaks(false)
	out.wait(t, "(alice) half a li")
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 40}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil { // which comes to who has this terminal
		t.Fatal(err)
	}
	out.wait(t, "(alice) half a li")
	typed("ne\x15quit\r", "logged out")
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	if text := out.text.String(); strings.Contains(text, "correct horse") {
		t.Errorf("the password is on the screen: %q", text)
	}
}

// TestRun_Left: Ctrl-C in a line that is half typed ends the program below that line, and leaves no prompt behind.
func TestRun_Left(t *testing.T) {
	addr := startNode(t)
	keyboard, tty := openTerminal(t)
	var out screen
	go func() { _, _ = io.Copy(&out, keyboard) }() // ends with the terminal
	done := make(chan int, 1)
	go func() { done <- Run(t.Context(), "cli", []string{"--servers", addr}, tty, tty, tty) }()
	for _, step := range [][2]string{
		{"", "(chat) "}, {"register alice\r", "password: "}, {"correct horse\r", "again: "}, {"correct horse\r", "(chat) "},
		{"login alice\r", "password: "}, {"correct horse\r", "(alice) "}, {"half", "half"}, {"\x03", "\r\nlogged out\r\n"},
	} {
		if _, err := io.WriteString(keyboard, step[0]); err != nil {
			t.Fatal(err)
		}
		out.wait(t, step[1])
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := io.WriteString(tty, "END"); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "END")
	out.mu.Lock()
	defer out.mu.Unlock()
	if text := out.text.String(); !strings.HasSuffix(text, "logged out\r\nEND") {
		t.Errorf("behind it stands something: %q", text)
	}
}
