package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's program be a node, as loadgen is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		main()
	}
	os.Exit(m.Run())
}

func TestSummarise(t *testing.T) {
	var took []time.Duration
	for i := 100; i >= 1; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	r := summarise(took, 10*time.Second)
	if r.N != 100 || r.Ops != 10 || r.P50 != 50_000 || r.P99 != 99_000 || r.Max != 100_000 {
		t.Errorf("got %+v", r)
	}
	if r := summarise(nil, time.Second); r.N != 0 || r.P99 != 0 {
		t.Errorf("of nothing: got %+v", r)
	}
}

// TestVersion: a result says of which commit it is, also where the build does not know.
func TestVersion(t *testing.T) {
	commit, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		t.Skipf("not in a clone: %v", err)
	}
	t.Chdir(t.TempDir()) // it is the commit of the source, wherever it runs
	var out bytes.Buffer
	if err := (result{}).print(&out, params{}); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || !strings.Contains(r.Version, string(bytes.TrimSpace(commit))) {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestStamped(t *testing.T) {
	text := stamped(200)
	if d, ok := age(text); len(text) != 200 || !ok || d < 0 || d > time.Minute {
		t.Errorf("a message of %d bytes, %v old, %v", len(text), d, ok)
	}
	if _, ok := age("hello, this is no message of ours"); ok {
		t.Error("any text says when it was sent")
	}
}

// TestBeat: a gap counts for a snapshot when it touches it.
func TestBeat(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	b := beat{gaps: []gap{{at(1), at(3)}, {at(5), at(6)}, {at(10), at(14)}}}
	during, others := b.longest([]event{{From: at(2), To: at(4)}, {From: at(6), To: at(7)}})
	if during != 2*time.Second || others != 4*time.Second {
		t.Errorf("got %v and %v", during, others)
	}
}

// quick are arguments with which a profile is over at once.
func quick(t *testing.T, profile string, args ...string) []string {
	return append([]string{"-profile", profile, "-warm", "10ms", "-for", "50ms", "-dir", filepath.Join(t.TempDir(), "new")}, args...)
}

// TestRun: every profile gets through, most of them on a cluster of one.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		profile string
		args    []string
		extra   []string // fields that must be there
	}{
		{"send", []string{"-nodes", "1", "-n", "1,2", "-clients", "2", "-rooms", "3"}, []string{"cpu_cores"}},
		{"send", []string{"-nodes", "1", "-n", "2", "-clients", "2", "-rooms", "3", "-accounts", "passwords"}, nil},
		{"send", []string{"-n", "2", "-clients", "3", "-rooms", "3", "-at", "all", "-processes"}, []string{"rss_mib_node"}},
		{"stream", []string{"-nodes", "1", "-n", "64", "-rooms", "4"}, nil},
		{"deliver", []string{"-nodes", "1", "-n", "2", "-clients", "2", "-rooms", "2", "-every", "1ms"}, nil},
		{"fanout", []string{"-nodes", "1", "-n", "9"}, []string{"deliveries_per_s"}},
		{"mixed", []string{"-nodes", "1", "-n", "4", "-clients", "2", "-rooms", "4", "-users", "20"}, []string{"deliveries_per_s"}},
		{"load", []string{"-n", "200,300", "-conc", "8", "-rooms", "3"}, []string{
			"disk_state_mib", "disk_log_mib", "page_p99_us", "snapshot_ms", "restart_clean_ms", "restart_kill_ms",
			"restart_all_kill_ms", "restart_to_write_ms", "catchup_ms", "live_ops_per_s", "live_p99_us",
		}},
		{"load", []string{"-nodes", "1", "-n", "100", "-conc", "4", "-rooms", "2"}, []string{"restart_kill_ms"}},
		{"failover", []string{"-n", "1"}, []string{"median_ms"}},
	} {
		t.Run(strings.Join(append([]string{tt.profile}, tt.args...), "_"), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := run(t.Context(), quick(t, tt.profile, tt.args...), &out, io.Discard); err != nil {
				t.Fatalf("%v, %q", err, out.String())
			}
			for line := range strings.Lines(out.String()) {
				var r result
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.Params.Profile != tt.profile {
					t.Errorf("%v, %q", err, line)
				}
				for _, name := range tt.extra {
					if _, ok := r.Extra[name]; !ok { // a slow machine does nothing in the time
						t.Errorf("no %s in %q", name, line)
					}
				}
			}
		})
	}
}

// TestRun_Servers: a cluster that runs already is measured, again and again, and lives on.
func TestRun_Servers(t *testing.T) {
	f, err := parse(quick(t, "send", "-nodes", "1"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(t.Context(), f, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		args := []string{"-servers", c.addrs[0], "-accounts", "host", "-warm", "1ms", "-for", "20ms", "-n", "2", "-clients", "1", "-rooms", "1"}
		var out bytes.Buffer
		if err := run(t.Context(), args, &out, io.Discard); err != nil || !json.Valid(out.Bytes()) {
			t.Errorf("%v, %q", err, out.String())
		}
	}
}

// TestRun_Dir: the nodes of an earlier run, which would look for each other in vain, are not started again.
func TestRun_Dir(t *testing.T) {
	args := []string{"-dir", t.TempDir(), "-nodes", "1", "-accounts", "host", "-warm", "1ms", "-for", "20ms", "-n", "1", "-clients", "1", "-rooms", "1"}
	if err := run(t.Context(), args, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "earlier run") {
		t.Errorf("%v", err)
	}
}

// TestParse_Refuses: what makes no sense is refused with a sentence that says what does.
func TestParse_Refuses(t *testing.T) {
	for _, tt := range []struct{ args, says string }{
		{"-profile none", `-profile "none": want deliver, failover`},
		{"send", `"send" is no flag`},
		{"-n 0", "want numbers from 1"},
		{"-n 1,x", "want numbers from 1"},
		{"-nodes 2", "want an odd number"},
		{"-size 1", "want 16 to 16384 bytes"},
		{"-clients -1", "want one or more"},
		{"-clients 5 -rooms 4", "a room for each client"},
		{"-rooms 5000", "-clients 5 or more"},
		{"-at moon", "want leader, follower, all"},
		{"-accounts none", "want host or passwords"},
		{"-processes -servers a:1", "no nodes are started"},
		{"-profile load -servers a:1", "it ends nodes"},
		{"-profile failover -nodes 1", "want others that go on"},
		{"-profile fanout -n 65 -clients 2", "want -clients 3 or more"},
		{"-profile stream -n 4096 -clients 3", "want -clients 4 or more"},
		{"-profile mixed -servers a:1", "thousands of accounts"},
		{"-profile mixed -users 2 -clients 3 -rooms 3", "a user for each client"},
		{"-profile mixed -rooms 900", "want at most 495"},
		{"-profile load -conc 5000", "want 1 to 4096"},
		{"-profile load -n 2,1", "rising numbers"},
		{"-memprofile f", "it is for load"},
		{"-profile load -n 1,2 -memprofile f", "want one"},
	} {
		if _, err := parse(strings.Fields(tt.args)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.says)
		}
	}
}

// TestChooser: four in five messages are direct, nobody writes to himself, and a few rooms have most of the rest.
func TestChooser(t *testing.T) {
	all := population{small: [][]string{{"s1", "s2", "s3"}}, big: []string{"b1", "b2"}, active: []*user{{}}}
	for i := range 1000 {
		all.accounts = append(all.accounts, fmt.Sprint("one", i))
	}
	s := newChooser(all, 0)
	count := map[string]int{}
	for range 10_000 {
		count[fmt.Sprint(s.target())]++
	}
	rooms := 0
	for _, r := range []string{"s1", "s2", "s3", "b1", "b2"} {
		rooms += count[fmt.Sprintf("{%s }", r)]
	}
	if rooms < 1500 || rooms > 2500 || count["{s1 }"] < count["{s3 }"] || count["{ one0}"] > 0 || count["{ one1}"] < count["{ one400}"] {
		t.Errorf("%d of 10,000 to rooms; %v", rooms, count)
	}
}
