package readmetest

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/chat/rpc/client"
)

// notRun are the commands that this test leaves to others.
var notRun = map[string]string{
	"go run ./examples/standalone":   "TestDemo",
	"go test ./...":                  "what runs this test",
	"go get example.com/chat":        "TestGoGet",
	"go build ./examples/standalone": "below, once for all",
}

// shell runs the README's commands with a program that was built once, in a directory of its own, with free
// ports in place of those in the README.
type shell struct {
	t     *testing.T
	dir   string
	ports map[string]string
	work  sync.WaitGroup
	nodes []*exec.Cmd
}

// TestCommands: every command of the README does what is said of it, in its order: nodes in three terminals, chat
// in a fourth, and the tools of an operator.
func TestCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a program")
	}
	s := &shell{t: t, dir: t.TempDir(), ports: map[string]string{}}
	defer s.work.Wait()
	defer func() { s.kill(len(s.nodes)) }()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(s.dir, "standalone"), module+"/examples/standalone").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	servers := ""
	for _, b := range blocks(t) {
		if b.language == "text" {
			s.chat(servers, b.text)
		}
		if b.language != "sh" {
			continue
		}
		for line := range strings.Lines(b.text) {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			switch {
			case notRun[line] != "":
			case strings.Contains(line, "standalone --id"):
				s.node(line)
			case strings.Contains(line, "standalone client --servers") && servers == "":
				servers = line // for the block of text that comes next
			case strings.Contains(line, "recover"):
				s.voters(3)
				s.kill(1)
				s.fails(line, "another voter lives")
				s.kill(len(s.nodes))
				s.fails(line, "nothing was done; add --yes to do it")
			case strings.Contains(line, "replay"):
				if out, err := exec.Command("cp", "-a", filepath.Join(s.dir, "data", "server2"), filepath.Join(s.dir, "copy-of-data")).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				s.run(line)
			default:
				s.run(line)
			}
		}
	}
}

// command makes a command of a line of the README.
func (s *shell) command(line string) *exec.Cmd {
	s.t.Helper()
	line = regexp.MustCompile(`\b[89]00\d\b`).ReplaceAllStringFunc(line, s.port)
	line = strings.ReplaceAll(line, "go run ./examples/", "./")
	words := strings.Fields(line)
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, filepath.Join(s.dir, words[0]), words[1:]...)
	c.Dir, c.Env = s.dir, append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	return c
}

// port is a free one for one of the README.
func (s *shell) port(named string) string {
	if s.ports[named] == "" {
		l, err := net.Listen("tcp", "localhost:0")
		if err != nil {
			s.t.Fatal(err)
		}
		_, s.ports[named], _ = net.SplitHostPort(l.Addr().String()) // it has one
		_ = l.Close()
	}
	return s.ports[named]
}

// node starts a node, and waits until it says that it is ready.
func (s *shell) node(line string) {
	s.t.Helper()
	c := s.command(line)
	out, err := c.StdoutPipe()
	c.Stderr = s.t.Output()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.nodes = append(s.nodes, c)
	ready := make(chan struct{})
	s.work.Go(func() {
		_, _ = io.Copy(&waiter{word: "is ready; the leader is", found: ready}, out) // until the node ends
	})
	select {
	case <-ready:
	case <-time.After(time.Minute):
		s.t.Fatalf("not ready: %s", line)
	}
}

// waiter closes found when a word was written.
type waiter struct {
	word  string
	found chan struct{}
	text  bytes.Buffer
	done  bool
}

func (w *waiter) Write(b []byte) (int, error) {
	w.text.Write(b)
	if !w.done && strings.Contains(w.text.String(), w.word) {
		w.done = true
		close(w.found)
	}
	return len(b), nil
}

// kill ends the first n nodes that run, as kill -9 does.
func (s *shell) kill(n int) {
	for _, c := range s.nodes[:n] {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	}
	s.nodes = s.nodes[n:]
}

// voters waits until so many nodes vote: newcomers have to keep up for a while before.
func (s *shell) voters(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, []string{"localhost:" + s.port("8001")})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // it has nothing to lose
	if _, err := c.Login(ctx, "bob", "battery-staple"); err != nil {
		s.t.Fatal(err)
	}
	for vote := 0; vote < n; time.Sleep(20 * time.Millisecond) {
		status, err := c.Status(ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		vote = 0
		for _, server := range status.Servers {
			if server.Voter {
				vote++
			}
		}
	}
}

func (s *shell) run(line string) {
	s.t.Helper()
	s.runWith("", line)
}

// runWith types something meanwhile.
func (s *shell) runWith(typed, line string) {
	s.t.Helper()
	c := s.command(line)
	c.Stdin = strings.NewReader(typed)
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v\n%s", line, err, out)
	}
}

func (s *shell) fails(line, want string) {
	s.t.Helper()
	if out, err := s.command(line).CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
		s.t.Errorf("%s: %v, want %q\n%s", line, err, want, out)
	}
}

// chat types what stands behind the prompts, with bob there to be written to.
func (s *shell) chat(servers, text string) {
	s.t.Helper()
	s.runWith("battery-staple", servers+" register bob")
	const password = "correct-horse"
	var typed strings.Builder
	for line := range strings.Lines(text) {
		_, command, _ := strings.Cut(line, ") ")
		typed.WriteString(command)
		if name, _, _ := strings.Cut(command, " "); name == "register" || name == "login" {
			typed.WriteString(password + "\n") // once, as it is no terminal
		}
	}
	c := s.command(servers)
	c.Stdin = strings.NewReader(typed.String() + "messages\n")
	out, err := c.CombinedOutput()
	for _, w := range []string{"hello", "hello all"} {
		if err != nil || !strings.Contains(string(out), w) {
			s.t.Errorf("%q: %v, want %q\n%s", typed.String(), err, w, out)
		}
	}
	s.runWith(password, servers+" login alice") // for the command that follows
}
