package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/chat/rpc/client"
)

// smallDisk mounts a file system of some MiB. The test is skipped where that cannot be.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no file system can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// refused wants a program that ends with one sentence, in which words are, and no more.
func refused(t *testing.T, code int, out string, words ...string) {
	t.Helper()
	if code != 1 || strings.Count(out, "standalone: ") != 1 || strings.Contains(out, "goroutine ") {
		t.Errorf("exit code %d, %q", code, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("got %q, want %q in it", out, w)
		}
	}
}

// TestRun_ReadOnly: a directory that cannot be written to is named, by a node, by the demo and by a tool, and what
// to do is said.
func TestRun_ReadOnly(t *testing.T) {
	dir, step := t.TempDir(), "run it as a user that may"
	if os.Getuid() == 0 { // who may write anywhere else
		dir, step = smallDisk(t, "1m"), "choose a directory that can be written to"
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	for _, args := range [][]string{
		{"--id", "a", "--port", strconv.Itoa(somePort()), "--data-dir", data},
		{"--nodes", "1", "--data-dir", data},
	} {
		code, out := program(t, args...)
		refused(t, code, out, data, step)
	}
}

// TestRun_Full: a node whose disk is full ends with a sentence, at its start as later; and when there is space again
// it has all that was acknowledged.
func TestRun_Full(t *testing.T) {
	const step = "free some space there and start it again"
	dir := smallDisk(t, "16m")
	ports, err := freePorts(somePort(), 1)
	if err != nil {
		t.Fatal(err)
	}
	addr := "localhost:" + strconv.Itoa(ports[0])
	node := []string{"--id", "a", "--port", strconv.Itoa(ports[0]), "--data-dir", filepath.Join(dir, "data")}
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	code, out := program(t, node...)
	refused(t, code, out, "no space left", step)

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(self, node...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_ = cmd.Wait() // its output says how
		cancel()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test has failed
		<-ctx.Done()
	})
	c := dial(t, addr)
	if _, err := c.Register(t.Context(), "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login(t.Context(), "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	acked := map[uint64]bool{}
	for text := strings.Repeat("x", 16<<10); ; {
		r, err := c.Send(ctx, client.ToUser("alice"), client.Draft{Text: text})
		if err != nil {
			break
		}
		acked[r.Seq] = true
	}
	<-ctx.Done()
	_, last, _ := strings.Cut(said.String(), "standalone: ")
	refused(t, cmd.ProcessState.ExitCode(), "standalone: "+last, "no space left", step)
	if n := strings.Count(last, "no space left"); n != 1 {
		t.Errorf("the fault is named %d times: %s", n, last)
	}

	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	server(t, node...)
	c = dial(t, addr)
	if _, err := c.Login(t.Context(), "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages were acknowledged", len(acked))
	for m, err := range c.History(t.Context(), client.ToUser("alice"), client.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		delete(acked, m.Seq)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged messages are lost", len(acked))
	}
}

// TestServe_Mute: a connection that says nothing does not keep a node from ending.
func TestServe_Mute(t *testing.T) {
	ports, err := freePorts(somePort(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, in := io.Pipe()
	done := make(chan error, 1)
	port := strconv.Itoa(ports[0])
	go func() {
		err := run(ctx, []string{"--id", "a", "--port", port, "--data-dir", t.TempDir()}, strings.NewReader(""), in, t.Output())
		_ = in.Close() // never fails
		done <- err
	}()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !strings.Contains(lines.Text(), "is ready") {
			continue
		}
		mute, err := net.Dial("tcp", "localhost:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		interrupt()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
