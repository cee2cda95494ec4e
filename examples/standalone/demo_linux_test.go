package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// console is a program in a pseudo-terminal, as a person has it.
type console struct {
	t        *testing.T
	keyboard *os.File
	tmp      string
	cmd      *exec.Cmd
	ended    chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

// openConsole starts the demo in a terminal of a size.
func openConsole(t *testing.T, width, height int, env ...string) *console {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, keyboard: keyboard, tmp: t.TempDir(), ended: make(chan struct{})}
	c.resize(width, height)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command(self)
	c.cmd.Args[0], c.cmd.Dir = "/tmp/go-build1/b001/exe/standalone", "../.." // as after go run ./examples/standalone
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = tty, tty, tty
	c.cmd.Env = append(append(os.Environ(), "TERM=xterm", "NO_COLOR=", "TMPDIR="+c.tmp), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close() // the program has its own
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(c, keyboard) // ends with the last process at the terminal
	}()
	go func() {
		_ = c.cmd.Wait() // the state says how
		<-read           // what it has said last
		close(c.ended)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		<-c.ended
		_ = keyboard.Close()
	})
	return c
}

func (c *console) resize(width, height int) {
	c.t.Helper()
	if err := unix.IoctlSetWinsize(int(c.keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(b)
}

func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := io.WriteString(c.keyboard, keys); err != nil {
		c.t.Fatal(err)
	}
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// frame is the newest whole one.
func (c *console) frame() string {
	frames := strings.Split(c.all(), "\x1b[H")
	for i := len(frames) - 1; i > 0; i-- {
		if f, whole := strings.CutSuffix(frames[i], "\x1b[K\x1b[J"); whole {
			return strings.ReplaceAll(f, "\x1b[K\r\n", "\n")
		}
	}
	return ""
}

// wait waits for a frame in which a pattern is, and returns it; colours do not count.
func (c *console) wait(pattern string) string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if f := c.frame(); re.MatchString(escapes.ReplaceAllString(f, "")) {
			return f
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no frame has %q; the last one is\n%s", pattern, c.frame())
		}
	}
}

// ends waits for the program, and returns its exit code.
func (c *console) ends() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		c.t.Fatal("it does not end")
	}
	return c.cmd.ProcessState.ExitCode()
}

// TestDemo: the leader is killed and paused and a node added, at a terminal of 80, 120 and 40 columns; messages
// go on, none is lost or doubled, and nothing stays behind. With -update the screens become the picture.
func TestDemo(t *testing.T) {
	const width, height = 80, 24
	c := openConsole(t, width, height)
	whole := c.wait(`leader .*\n(.*\n)*Sent \d{3,}`)
	c.press("k")
	dead := c.wait(`down, back in`)
	again := c.wait(`leads; no write was acknowledged for [0-9.]+ s; 0 lost, 0 doubled`)
	back := c.wait(`is up and has everything`)
	for _, f := range []string{dead, again, back} {
		for line := range strings.Lines(escapes.ReplaceAllString(f, "")) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("a line of %d columns: %q", n, line)
			}
		}
	}
	if *update {
		for _, f := range []*string{&whole, &dead, &again, &back} {
			*f = strings.ReplaceAll(*f, c.tmp, "/tmp")
		}
		drawPicture(t, width, height, []string{whole, dead, again, back})
	}
	t.Logf("\n%s\n%s\n%s", dead, again, back)
	c.resize(120, 30)
	c.press("a")
	t.Logf("\n%s", c.wait(`server4 +127.0.0.1:\d+ +\d+ +follower`))
	c.press("p")
	c.wait(`paused, on in`)
	c.wait(`(?s)leads; no write.*leads; no write`)
	c.resize(40, 15)
	t.Logf("\n%s", c.wait(`(?m)^  node +role +term +applied`))
	c.wait(`(?m)^  server1 +(leader|follower) `) // it may be the one that was paused
	addr := regexp.MustCompile(`127.0.0.1:\d+`).FindString(whole)
	if code, out := program(t, "status", "--servers", addr); code != 0 || !strings.Contains(out, "server1") {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	if code, out := program(t, "status", "--json", "--servers", addr+",127.0.0.1:1"); code != 1 || !strings.Contains(out, `"address":"127.0.0.1:1","role":"silent"`) || !strings.Contains(out, "1 of 2 nodes are ready") {
		t.Errorf("status with a node that is not there: exit code %d\n%s", code, out)
	}
	final := c.wait(`Lost 0  doubled 0`)
	if n := strings.Count(final, "\n") + 1; n > 15 {
		t.Errorf("%d lines where 15 are", n)
	}
	pids := children(t, c.cmd.Process.Pid)
	if len(pids) != 4 {
		t.Errorf("it has the processes %v", pids)
	}
	c.press("q")
	if code := c.ends(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, c.all())
	}
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil && !zombie(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if end := c.all(); !strings.HasSuffix(strings.TrimSpace(end), "0 lost, 0 doubled") || !strings.Contains(end, "\x1b[?1049l") {
		t.Errorf("it ends with %q", end[max(len(end)-300, 0):])
	}
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(s, &child); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// TestDemo_Interrupted: Ctrl-C ends it whenever it comes, without a trace of the nodes or of the program's insides.
func TestDemo_Interrupted(t *testing.T) {
	for _, after := range []string{`starting`, `Lost 0`} {
		c := openConsole(t, 80, 24)
		for deadline := time.Now().Add(time.Minute); !strings.Contains(c.all(), after); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it does not say %q: %q", after, c.all())
			}
		}
		c.press("\x03")
		if code := c.ends(); code != 0 || strings.Contains(c.all(), "goroutine ") {
			t.Errorf("after %q: exit code %d, %q", after, code, c.all())
		}
	}
}

// TestShow_ClosedInput: without a terminal and without input it goes on until it is told to end.
func TestShow_ClosedInput(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		text := closedInput(t, asJSON)
		if !strings.Contains(text, "0 lost, 0 doubled") || strings.Contains(text, "\x1b") {
			t.Errorf("JSON %v:\n%s", asJSON, text)
		}
		for line := range strings.Lines(text) {
			if json.Valid([]byte(line)) != asJSON {
				t.Errorf("JSON %v: %q", asJSON, line)
			}
		}
	}
}

// closedInput is what the demo of one node says without any input, until it has said how to chat.
func closedInput(t *testing.T, asJSON bool) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error)
	go func() {
		err := show(ctx, flags{nodes: 1, json: asJSON, dataDir: filepath.Join(t.TempDir(), "kept")}, strings.NewReader(""), in)
		_ = in.Close() // never fails
		done <- err
	}()
	text, err := io.ReadAll(io.TeeReader(out, onLine{"chat in other terminals", cancel}))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	return string(text)
}
