package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// asProgram makes the test binary be the program, so that tests have real processes of it.
const asProgram = "CHAT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	_ = os.Setenv(asProgram, "1") // for the processes that tests start
	os.Exit(m.Run())
}

// somePort is where to look for free ports: no two tests in the same place.
func somePort() int { return 10_000 + 10*rand.IntN(2000) }

// TestKill9: the leader is killed with -9 and started again, three times, while four clients send.
// Every acknowledged message is there once on every node, in one order.
func TestKill9(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := torment(ctx, t.Output(), somePort(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if r.Acked < 10 || r.Delivered < r.Acked || r.Lost != 0 || r.Duplicated != 0 {
		t.Errorf("got %+v", r)
	}
	t.Logf("%+v", r)
}

// TestShow_Orphans: the nodes end with the process that started them, also when that is killed.
func TestShow_Orphans(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) < nodes && lines.Scan(); {
		if _, text, ok := strings.Cut(lines.Text(), "  pid "); ok {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	if len(pids) != nodes {
		t.Fatalf("it started %d nodes", len(pids))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		alive := 0
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil && !zombie(pid) {
				alive++
			}
		}
		if alive == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of the nodes %v are alive", alive, pids)
		}
	}
}

// TestSmoke_Interrupted: Ctrl-C ends it with a word, also in the object that is its last line, and no node or file
// is left.
func TestSmoke_Interrupted(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	cmd := exec.Command(self, "--smoke")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var out, errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Stdout = io.MultiWriter(&out, onLine{"nodes are ready", func() { _ = cmd.Process.Signal(os.Interrupt) }}) // it runs
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 || errs.String() != "standalone: interrupted\n" {
		t.Errorf("%v: %q", err, errs.String())
	}
	var r report
	if err := json.Unmarshal(out.Bytes()[bytes.LastIndexByte(bytes.TrimSpace(out.Bytes()), '\n')+1:], &r); err != nil || r.Error == "" {
		t.Errorf("%v: %s", err, out.String())
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// zombie reports whether a process has ended and nobody has asked how: where no init process does.
func zombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return err == nil && bytes.HasPrefix(state, []byte("Z"))
}

// TestRun_Refuses: what is wrong with the flags, the file, the directory or the port is said, and
// the program ends.
func TestRun_Refuses(t *testing.T) {
	write := func(text string) string {
		name := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	busy, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	_, busyPort, err := net.SplitHostPort(busy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	other, err := chat.New(chat.Options{NodeID: "other", DataDir: foreign, Advertise: "localhost:1", BootstrapExpect: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	taken := t.TempDir()
	user, err := chat.New(chat.Options{NodeID: "a", DataDir: taken, Advertise: "localhost:1", BootstrapExpect: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = user.Close() }() // it was not started
	own := filepath.Join(t.TempDir(), "own")
	port := strconv.Itoa(somePort())
	for name, tt := range map[string]struct {
		args  []string
		want  string // in the error's text
		usage bool
	}{
		"unknown flag":           {[]string{"--prot", "1"}, "--port is near", true},
		"unknown flag of a tool": {[]string{"replay", "--datadir", "x"}, "--data-dir is near", true},
		"unknown command":        {[]string{"bakcup"}, `"backup" is near`, true},
		"a node without a name":  {[]string{"node", "--port", "1"}, "CHAT_ID", true},
		"not a flag":             {[]string{"serve"}, `"serve" is no command`, true},
		"a port without an id":   {[]string{"--port", "8001"}, "--id", true},
		"smoke with an id":       {[]string{"--smoke", "--id", "a"}, "--smoke", true},
		"no port":                {[]string{"--id", "a"}, "--port", true},
		"a port out of range":    {[]string{"--id", "a", "--port", "70000"}, "70000", true},
		"a typo in the file":     {[]string{"--id", "a", "--config-file", write(`{"severs":{"a":"localhost:1"}}`)}, `"servers" is near`, true},
		"an empty file":          {[]string{"--id", "a", "--config-file", write(`{}`)}, "no servers", true},
		"a value in the file":    {[]string{"--config-file", write(`{"id":"a","port":"x"}`)}, `"port": "x"`, true},
		"a file without an id":   {[]string{"node", "--config-file", write(`{"port":1}`)}, "no --id", true},
		"smoke with a file":      {[]string{"--smoke", "--config-file", write(`{"id":"a"}`)}, "--smoke", true},
		"a file that goes on":    {[]string{"--id", "a", "--config-file", write(`{"servers":{"a":"localhost:1"}} x`)}, "behind", true},
		"not in the file":        {[]string{"--id", "b", "--config-file", write(`{"servers":{"a":"localhost:1"}}`)}, `"b"`, true},
		"another port":           {[]string{"--id", "a", "--port", "2", "--config-file", write(`{"servers":{"a":"localhost:1"}}`)}, "port 1", true},
		"no such file":           {[]string{"--id", "a", "--config-file", filepath.Join(t.TempDir(), "none")}, "no such file", true},
		"a port in use":          {[]string{"--id", "a", "--port", busyPort, "--data-dir", own}, "in use", false},
		"another node's data":    {[]string{"--id", "a", "--port", port, "--data-dir", foreign}, `of node "other"`, false},
		"and what to do then":    {[]string{"--id", "a", "--port", port, "--data-dir", foreign}, "with the --id of that node", false},
		"data that is in use":    {[]string{"--id", "a", "--port", port, "--data-dir", taken}, "end the process that has it", false},
		"an id with a slash":     {[]string{"--id", "a/b", "--port", port, "--data-dir", own}, "NodeID", false},
		"a host without secrets": {[]string{"--id", "a", "--port", port, "--host", "0.0.0.0", "--data-dir", own}, "ClusterSecret", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), tt.args, strings.NewReader(""), io.Discard, t.Output())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want a word of %s", err, tt.want)
			}
			var usage usageError
			if errors.As(err, &usage) != tt.usage {
				t.Errorf("%v: usage error is %v, want %v", err, !tt.usage, tt.usage)
			}
		})
	}
	t.Setenv("CHAT_CLUSTER_SECRET", "short")
	if err := run(t.Context(), []string{"--id", "a", "--port", port, "--data-dir", own}, nil, io.Discard, t.Output()); err == nil || !strings.Contains(err.Error(), "want 32 or more") {
		t.Errorf("a short secret: %v", err)
	}
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was stored: %v", err)
	}
}

// TestOptions: what the flags of one node mean.
func TestOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"servers":{"a":"10.0.0.1:8001","b":"10.0.0.2:8002"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args      string
		advertise string
		expect    int
		seeds     string
	}{
		"first":         {"--id a --port 8001", "localhost:8001", 1, ""},
		"join":          {"--id b --port 8002 --join localhost:8001", "localhost:8002", 0, "localhost:8001"},
		"file":          {"--id b --config-file " + file, "10.0.0.2:8002", 2, "10.0.0.1:8001 10.0.0.2:8002"},
		"join the file": {"--id c --port 1 --config-file " + file + " --join x:1", "localhost:1", 0, "10.0.0.1:8001 10.0.0.2:8002 x:1"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := parse(strings.Fields(tt.args), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			o, err := f.options()
			if err != nil {
				t.Fatal(err)
			}
			if o.Advertise != tt.advertise || o.BootstrapExpect != tt.expect || strings.Join(o.Seeds, " ") != tt.seeds {
				t.Errorf("got %s, %d, %q", o.Advertise, o.BootstrapExpect, o.Seeds)
			}
		})
	}
}

// TestVerify finds each kind of fault, and none where there is none.
func TestVerify(t *testing.T) {
	m := func(seq uint64, text string) client.Message {
		return client.Message{Seq: seq, Sender: strings.Fields(text)[0], Text: text}
	}
	acked := map[string]client.Receipt{"a 1": {Seq: 1}, "b 1": {Seq: 2}, "a 2": {Seq: 3}}
	good := []client.Message{m(1, "a 1"), m(2, "b 1"), m(3, "a 2")}
	for name, tt := range map[string]struct {
		view []client.Message
		want [3]int // lost, duplicated, disorder
	}{
		"good":                  {good, [3]int{}},
		"lost":                  {good[:2], [3]int{1, 0, 1}},
		"doubled":               {append(good[:3:3], m(4, "a 1")), [3]int{0, 1, 1}},
		"a gap":                 {[]client.Message{m(1, "a 1"), m(2, "b 1"), m(4, "a 2")}, [3]int{0, 0, 3}},
		"not as the receipt":    {[]client.Message{m(1, "b 1"), m(2, "a 1"), m(3, "a 2")}, [3]int{0, 0, 3}},
		"not as it was sent":    {[]client.Message{m(1, "a 2"), m(2, "b 1"), m(3, "a 1")}, [3]int{0, 0, 4}},
		"nobody acknowledged x": {append(good[:3:3], m(4, "b 2")), [3]int{0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			v := verify(acked, map[string][]client.Message{"one": good, "two": tt.view})
			if got := [3]int{v.lost, v.duplicated, v.disorder}; got != tt.want || (v.err() == nil) != (tt.want == [3]int{}) {
				t.Errorf("got %v, want %v: %v", got, tt.want, v.err())
			}
		})
	}
}

// TestParse_Environment: a flag that is given counts before the environment, which counts before the file, and only
// for a node.
func TestParse_Environment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"servers":{"f":"h:1"},"id":"f","port":7001,"host":"filehost","join":"f:1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := parse([]string{"--config-file", file, "--host", "given"}, io.Discard); err != nil || f.id != "f" || f.port != 7001 || f.host != "given" {
		t.Errorf("without the environment: %+v, %v", f, err)
	}
	for name, value := range map[string]string{"CHAT_ID": "a", "CHAT_PORT": "8001", "CHAT_DATA_DIR": "there", "CHAT_JOIN": "b:1"} {
		t.Setenv(name, value)
	}
	if f, err := parse([]string{"node", "--port", "9001"}, io.Discard); err != nil || f.id != "a" || f.port != 9001 || f.dataDir != "there" || f.join != "b:1" {
		t.Errorf("got %+v, %v", f, err)
	}
	t.Setenv("CHAT_CONFIG_FILE", file)
	if f, err := parse([]string{"node", "--port", "9001"}, io.Discard); err != nil || f.id != "a" || f.port != 9001 || f.join != "b:1" || f.host != "filehost" || f.servers["f"] != "h:1" {
		t.Errorf("with a file: %+v, %v", f, err)
	}
	if f, err := parse(nil, io.Discard); err != nil || f.id != "" || f.port != 0 {
		t.Errorf("three nodes: %+v, %v", f, err)
	}
	t.Setenv("CHAT_PORT", "x")
	if _, err := parse([]string{"node"}, io.Discard); err == nil || !strings.Contains(err.Error(), `CHAT_PORT="x"`) {
		t.Errorf("got %v", err)
	}
}

// onLine does something once a word was written.
type onLine struct {
	word string
	do   func()
}

func (l onLine) Write(b []byte) (int, error) {
	if strings.Contains(string(b), l.word) {
		l.do()
	}
	return len(b), nil
}
