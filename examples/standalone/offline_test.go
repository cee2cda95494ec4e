package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/chat/rpc/client"
)

// program runs the program to its end.
func program(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := exec.CommandContext(t.Context(), self, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return code, string(b)
}

// server is a node in a process of its own.
func server(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

func dial(t *testing.T, addr string) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, []string{addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestTools: a node is backed up while it runs, killed, verified, replayed on a copy, recovered, and restored
// from the backup, each by the program's own subcommand; the message is there each time.
func TestTools(t *testing.T) {
	ports, err := freePorts(somePort(), 1)
	if err != nil {
		t.Fatal(err)
	}
	port := ports[0]
	addr := "localhost:" + strconv.Itoa(port)
	dir := t.TempDir()
	data, backup := filepath.Join(dir, "data"), filepath.Join(dir, "backup")
	node := []string{"--id", "one", "--port", strconv.Itoa(port), "--data-dir", data}
	want := func(code int, text string, args ...string) {
		t.Helper()
		got, out := program(t, args...)
		if got != code || !strings.Contains(out, text) {
			t.Errorf("%v: exit %d\n%s", args, got, out)
		}
	}
	running := server(t, node...)
	c := dial(t, addr)
	for _, name := range []string{"alice", "bob"} {
		if _, err := c.Register(t.Context(), name, "correct horse"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Login(t.Context(), "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "kept"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backup+".tmp", nil, 0o644); err != nil { // which others may read
		t.Fatal(err)
	}
	want(0, "backup has cluster", "backup", "--from", addr, "--to", backup)
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	if left, err := filepath.Glob(backup + ".*"); err != nil || len(left) > 1 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	want(1, "is there already", "backup", "--from", addr, "--to", backup)
	want(1, "in use", "verify", data)
	want(1, "in use", "recover", "--data-dir", data)
	if err := running.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = running.Wait()
	want(0, "sound: a backup", "verify", backup)
	want(0, "sound: node one", "verify", data)
	copied := filepath.Join(dir, "copy")
	if err := errors.Join(os.CopyFS(copied, os.DirFS(data)), os.Chmod(copied, 0o700)); err != nil {
		t.Fatal(err)
	}
	want(0, "applied; level", "replay", "--data-dir", copied)
	want(1, "add --yes", "recover", "--data-dir", data)
	want(0, "done: start it as before", "recover", "--data-dir", data, "--yes")

	found := func(what string) {
		t.Helper()
		c := dial(t, addr)
		if _, err := c.Login(t.Context(), "bob", "correct horse"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for m, err := range c.History(t.Context(), client.ToUser("alice"), client.Query{}) {
			if err != nil || m.Text != "kept" {
				t.Errorf("%s: %+v, %v", what, m, err)
			}
		}
	}
	running = server(t, node...)
	found("recovered")
	if err := running.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = running.Wait()

	node[5] = filepath.Join(dir, "restored")
	want(0, "of a new cluster", "restore", "--from", backup, "--id", "one", "--port", strconv.Itoa(port), "--data-dir", node[5])
	want(1, "not empty", "restore", "--from", backup, "--id", "one", "--port", strconv.Itoa(port), "--data-dir", node[5])
	server(t, node...)
	found("restored")

	b, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Clone(b)
	b[len(b)/2] ^= 8
	if err := os.WriteFile(backup, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want(1, "damaged data", "verify", backup)
	for _, bad := range [][]string{{"verify"}, {"backup"}, {"restore", "--from", "x"}, {"recover"}, {"replay", "x"}, {"backup", "--nope"}} {
		want(2, "--help tells more", bad...)
	}
}
