package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
)

// startNode runs a cluster of one, and returns its address.
func startNode(t *testing.T) string {
	t.Helper()
	lis := listen(t)
	serve(t, lis, lis.Addr().String())
	return lis.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

// serve runs a cluster of one that clients reach at an address.
func serve(t *testing.T, lis net.Listener, advertise string) {
	t.Helper()
	node, err := chat.New(chat.Options{NodeID: "server1", DataDir: t.TempDir(), Advertise: advertise, BootstrapExpect: 1})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	node.Register(server)
	go func() { _ = server.Serve(lis) }() // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := node.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// relay is a node that clients reach through something that breaks.
type relay struct {
	addr, to string
	mu       sync.Mutex // guards what follows
	down     bool
	conns    []net.Conn
}

func startRelay(t *testing.T) *relay {
	t.Helper()
	front, lis := listen(t), listen(t)
	r := &relay{addr: front.Addr().String(), to: lis.Addr().String()}
	serve(t, lis, r.addr)
	go func() { // ends with its listener
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			r.carry(c)
		}
	}()
	t.Cleanup(func() { r.breaks(true) })
	return r
}

func (r *relay) carry(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down { // and the node hears nothing of it: its server would wait two minutes for a connection that says nothing
		_ = c.Close()
		return
	}
	to, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = c.Close()
		return
	}
	r.conns = append(r.conns, c, to)
	go func() { _, _ = io.Copy(c, to) }() // both end when it breaks
	go func() { _, _ = io.Copy(to, c) }()
}

func (r *relay) breaks(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// stdin is a file with some text.
func stdin(t *testing.T, text string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// one calls the program once.
func one(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), "cli", args, stdin(t, in), &o, &e)
	return code, o.String(), e.String()
}

// TestRun_NoServer: when no server takes a connection it is said at once, with the reason of each and the next step;
// to programs, too. One that is slow is waited for.
func TestRun_NoServer(t *testing.T) {
	const servers = "127.0.0.1:1,localhost:1"
	const each, step = "127.0.0.1:1: connection refused, localhost:1: connection refused", "want --servers with the addresses of nodes that run"
	start := time.Now()
	for _, command := range []string{"", "list"} {
		args := append([]string{"--servers", servers, "--session", filepath.Join(t.TempDir(), "s")}, strings.Fields(command)...)
		code, out, errs := one(t, "", args...)
		if code != 1 || out != "" || errs != "cli: not connected: "+each+"; "+step+"\n" {
			t.Errorf("%q: exit code %d, %q, %q", command, code, out, errs)
		}
		code, _, errs = one(t, "", append([]string{"--json"}, args...)...)
		if want := `{"error":{"message":"not connected: ` + each + `","next":"` + step + `","reason":"NO_LEADER"}}` + "\n"; code != 1 || errs != want {
			t.Errorf("%q with --json: exit code %d, %s, want %s", command, code, errs, want)
		}
	}
	if took := time.Since(start); took > dialTime {
		t.Errorf("four calls took %v", took)
	}
	r := newRefusals([]string{"127.0.0.1:1", "127.0.0.1:2"}, func() { t.Error("it has not asked the second") })
	if _, err := r.dial(t.Context(), "127.0.0.1:1"); err == nil || r.all() != nil {
		t.Errorf("one of two: %v, %v", err, r.all())
	}
}

// TestRun_DamagedSession: the file is named, and what to do.
func TestRun_DamagedSession(t *testing.T) {
	file := filepath.Join(t.TempDir(), "session.json")
	if err := os.WriteFile(file, []byte(`{"user":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := one(t, "", "--servers", "127.0.0.1:1", "--session", file, "list"); code != 1 || !strings.Contains(errs, file) || !strings.Contains(errs, "log in again") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

// TestRun_Commands: each command, one a call, with the session that login left.
func TestRun_Commands(t *testing.T) {
	addr := startNode(t)
	file := filepath.Join(t.TempDir(), "session.json")
	for _, step := range []struct {
		args, stdin string
		code        int
		want        string // on standard output, or as an error
	}{
		{"help", "", 0, "delete_account"},
		{"messages", "", 1, "log in first"},
		{"register alice", "correct horse\n", 0, "registered alice"},
		{"register bob", "battery-staple", 0, "registered bob"},
		{"register eve battery-staple", "", 2, "a password is asked for"},
		{"register Alice", "correct horse\n", 1, "choose another name"},
		{"register x", "short", 1, "8 to 1024"},
		{"login alice correct-horse", "correct horse\n", 2, "a password is asked for"},
		{"--password x login alice", "correct horse\n", 2, "not defined"},
		{"login alice", "", 2, "no password came"},
		{"login alice", "wrong-password", 1, "wrong name or password"},
		{"login alice", "correct horse\n", 0, "logged in as alice at server1; 0 unread"},
		{"list a*", "", 0, "alice"},
		{"list * 2 1", "", 0, "bob"},
		{"list nobody*", "", 0, "nobody"},
		{"send bob hello there", "", 0, "sent r"},
		{"send nobody hello", "", 1, "list shows who there is"},
		{"send bob", "", 2, "usage: send NAME|#ROOM TEXT..."},
		{"rooms", "", 0, "no rooms"},
		{"create", "", 2, "usage: create ROOM"},
		{"create lobby", "", 0, "you are in #lobby, of 1"},
		{"create Lobby", "", 1, "choose another name"},
		{"join attic", "", 1, "rooms * shows which there are"},
		{"send #attic hello", "", 1, "join it first"},
		{"send #lobby hello all", "", 0, "sent r"},
		{"messages 1", "", 0, "#lobby alice: hello all"},
		{"members #lobby", "", 0, "alice"},
		{"rooms lob*", "", 0, "#lobby"},
		{"leave lobby", "", 0, "left #lobby"},
		{"leave lobby", "", 1, "join it first"},
		{"members lobby", "", 1, "join it first"},
		{"join #lobby", "", 0, "you are in #lobby"},
		{"messages", "", 0, "alice: hello there"},
		{"messages x", "", 2, "usage: messages"},
		{"login bob", "battery-staple", 0, "1 unread (1 from alice)"},
		{"messages 1", "", 0, "*["},
		{"status", "", 0, "leader    voter"},
		{"--json status", "", 0, `,"voter":true}`},
		{"connect " + addr, "", 0, "connected to server1"},
		{"connect 127.0.0.1:1", "", 1, "does not answer"},
		{"read 5", "", 2, "is not the id of a message"},
		{"frobnicate", "", 2, "is no command"},
		{"mesages", "", 2, `"messages" is near`},
		{"delete_account", "wrong-password", 1, "wrong name or password"},
		{"delete_account now", "", 2, "a password is asked for"},
		{"delete_account", "battery-staple", 0, "deleted the account bob"},
		{"login bob", "battery-staple", 1, "wrong name or password"},
		{"login alice", "correct horse\n", 0, "logged in"},
		{"logout", "", 0, "logged out"},
		{"send bob hello", "", 1, "log in first"},
	} {
		args := append([]string{"--servers", addr, "--session", file}, strings.Fields(step.args)...)
		code, out, errs := one(t, step.stdin, args...)
		if code != step.code || !strings.Contains(out+errs, step.want) {
			t.Errorf("%s: exit code %d, %q, %q; want %d, %q", step.args, code, out, errs, step.code, step.want)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the session is still there: %v", err)
	}
	// Who votes is for those who are logged in.
	if code, out, errs := one(t, "", "--json", "--servers", addr, "--session", file, "status"); code != 0 || !strings.Contains(out, "server1") || strings.Contains(out, "voter") {
		t.Errorf("status of a stranger: exit code %d, %q, %q", code, out, errs)
	}
}

// TestRun_JSON: with --json every line is an object, and an error has a reason.
func TestRun_JSON(t *testing.T) {
	addr := startNode(t)
	file := filepath.Join(t.TempDir(), "session.json")
	call := func(args ...string) map[string]any {
		t.Helper()
		_, out, errs := one(t, "correct horse", append([]string{"--json", "--servers", addr, "--session", file}, args...)...)
		object := map[string]any{}
		if err := json.Unmarshal([]byte(out+errs), &object); err != nil {
			t.Fatalf("%q: %q, %q: %v", args, out, errs, err)
		}
		return object
	}
	call("register", "alice")
	call("register", "bob")
	call("login", "alice")
	sent := call("send", "bob", "hello")["sent"].(string)
	if m := call("messages"); m["id"] != sent || m["text"] != "hello" || m["sender"] != "alice" || m["unread"] != false {
		t.Errorf("got %v, sent %s", m, sent)
	}
	call("login", "bob")
	if m := call("messages"); m["unread"] != true {
		t.Errorf("got %v", m)
	}
	call("read", sent)
	if m := call("messages"); m["unread"] != false {
		t.Errorf("read: got %v", m)
	}
	call("delete", sent)
	if code, out, _ := one(t, "", "--json", "--servers", addr, "--session", file, "messages"); code != 0 || out != "" {
		t.Errorf("deleted: got %d, %q", code, out)
	}
	for reason, args := range map[string][]string{
		"NO_SUCH_USER": {"send", "nobody", "hello"}, "USAGE": {"send"}, "NO_SUCH_ROOM": {"read", "r999:1"},
	} {
		if e := call(args...)["error"].(map[string]any); e["reason"] != reason {
			t.Errorf("%q: got %v, want %s", args, e, reason)
		}
	}
}

// TestRun_Interactive: a script of commands, and a message that comes in meanwhile, also after a login that failed.
func TestRun_Interactive(t *testing.T) {
	addr := startNode(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	var out screen
	done := make(chan int, 1)
	go func() { done <- Run(t.Context(), "cli", []string{"--servers", addr}, r, &out, &out) }()
	typed := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			t.Fatal(err)
		}
		out.wait(t, want)
	}
	typed("register alice\ncorrect-horse", "registered alice")
	typed("register bob\ncorrect-horse", "registered bob")
	typed("login alice\ncorrect-horse", "logged in as alice")
	typed("login bob\nwrong-password", "wrong name or password") // alice goes on
	file := filepath.Join(t.TempDir(), "s")
	for _, args := range [][]string{{"login", "bob"}, {"send", "alice", "are", "you", "there?"}} {
		if code, _, errs := one(t, "correct-horse", append([]string{"--servers", addr, "--session", file}, args...)...); code != 0 {
			t.Fatal(errs)
		}
	}
	out.wait(t, "bob: are you there?")
	typed("send bob  yes,   here", "sent ")
	typed("messages", "alice: yes,   here")
	typed("frobnicate", "is no command")
	typed("quit", "logged out")
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestRun_Reconnects: without a terminal, a line says that no messages come at the moment, and another that they do.
func TestRun_Reconnects(t *testing.T) {
	node := startRelay(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	var out screen
	done := make(chan int, 1)
	go func() { done <- Run(t.Context(), "cli", []string{"--json", "--servers", node.addr}, r, &out, &out) }()
	if _, err := io.WriteString(w, "register alice\ncorrect-horse\nlogin alice\ncorrect-horse\n"); err != nil {
		t.Fatal(err)
	}
	out.wait(t, `"user":"alice"`)
	node.breaks(true)
	out.wait(t, `{"connection":"lost"}`)
	node.breaks(false)
	out.wait(t, `{"connection":"back"}`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// screen is what the program shows.
type screen struct {
	mu   sync.Mutex // guards what follows
	text strings.Builder
	seen int           // up to where wait has found what it wanted
	more chan struct{} // closed at the next Write; nil when nobody waits
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	return s.text.Write(p)
}

// wait waits for a text behind what the last call found, so that what was shown earlier does not count.
func (s *screen) wait(t *testing.T, want string) {
	t.Helper()
	for {
		s.mu.Lock()
		text := s.text.String()[s.seen:]
		i := strings.Index(text, want)
		if i >= 0 {
			s.seen += i + len(want)
		}
		if s.more == nil {
			s.more = make(chan struct{})
		}
		more := s.more
		s.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-more:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not shown: %q", want, text)
		}
	}
}

// TestRun_Flags: mistakes in the flags.
func TestRun_Flags(t *testing.T) {
	typo := stdin(t, `{"severs":{}}`).Name()
	for want, args := range map[string]string{
		"no servers":        "status",
		"want host:port":    "--servers localhost status",
		"--servers is near": "--sevrers x status",
		`"servers" is near`: "--config " + typo,
		"no such file":      "--config /nowhere/at/all",
		"frobnicate":        "--servers localhost:1 frobnicate",
	} {
		code, _, errs := one(t, "", strings.Fields(args)...)
		if code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: got %d, %q", args, code, errs)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := Run(ctx, "cli", []string{"--servers", "127.0.0.1:1", "status"}, stdin(t, ""), io.Discard, io.Discard); code != exitFailed {
		t.Errorf("nobody there: got %d", code)
	}
}
