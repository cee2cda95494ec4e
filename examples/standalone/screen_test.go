package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// someView has everything that a frame can show.
func someView() view {
	at := time.Date(2026, 1, 2, 12, 1, 31, 0, time.UTC)
	return view{
		up: 72 * time.Second, ready: 800 * time.Millisecond, faults: 1, since: 12 * time.Second, outage: 460 * time.Millisecond,
		nodes: []nodeView{
			{id: "server1", addr: "127.0.0.1:8001", pid: 11, role: "down, back in 3 s"},
			{id: "server2", addr: "127.0.0.1:8002", pid: 12, role: "leader", term: 4, applied: 1200, up: true},
			{id: "server3", addr: "127.0.0.1:8003", pid: 13, role: "follower", term: 4, applied: 1199, lag: 1, up: true},
		},
		counts: counts{Sent: 1100, Acknowledged: 1099, Delivered: 1099, P50: 2.04, P99: 9.5},
		client: "go run ./examples/standalone client",
		addrs:  []string{"127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003"}, dir: "/tmp/chat-1",
		events: []event{
			{at: at, text: "server1, the leader, was killed (kill -9)", bad: true},
			{at: at.Add(time.Second), text: "server2 leads; no write was acknowledged for 0.46 s; 0 lost, 0 doubled"},
		},
	}
}

const frame80 = `chat: 3 nodes on this machine, ready in 0.8 s, up 1m12s

  node     address              pid  role                    term  applied  lag
  server1  127.0.0.1:8001         -  down, back in 3 s
  server2  127.0.0.1:8002        12  leader                     4     1200    0
  server3  127.0.0.1:8003        13  follower                   4     1199    1

Sent 1100  acknowledged 1099  delivered 1099
Lost 0  doubled 0
Acknowledged after 2.0 ms (p50), 9.5 ms (p99)
Leader lost 12s ago; no write for 0.46 s (1 so far)

Chat in another terminal (register, log in, send echo hello):
  go run ./examples/standalone client --servers 127.0.0.1:8001,127.0.0.1:8002
Logs: /tmp/chat-1/*.log

12:01:31 server1, the leader, was killed (kill -9)
12:01:32 server2 leads; no write was acknowledged for 0.46 s; 0 lost, 0 doubled

k kill -9 the leader   p pause it   a add a node   s status   q quit`

const frame40 = `chat: 3 nodes, ready in 0.8 s, up 1m12s

  node     role       term  applied  lag
  server1  down, back in 3 s
  server2  leader        4     1200    0
  server3  follower      4     1199    1

Sent 1100  acked 1099  came 1099
Lost 0  doubled 0
Acked after 2.0 (p99 9.5) ms
Lost 12s ago, for 0.46 s (1 so far)

Chat, with echo for one:
  go run ./examples/standalone client \
    --servers 127.0.0.1:8001
Logs: /tmp/chat-1/*.log

12:01:31 server1, the leader, was kille…
12:01:32 server2 leads; no write was ac…

k kill  p pause  a add  s status  q quit`

// TestCalledAs: a program that go run has made is called through it.
func TestCalledAs(t *testing.T) {
	const run = "/tmp/go-build1234/b001/exe/standalone"
	for arg, want := range map[string]string{
		"standalone": "standalone", "./bin/standalone": "./bin/standalone", run: "go run example.com/chat/examples/standalone@latest",
		"/home/x/.cache/go-build/ab/abcd-d/standalone": "go run example.com/chat/examples/standalone@latest",
	} {
		if got := calledAs(arg); got != want {
			t.Errorf("%s: %q, want %q", arg, got, want)
		}
	}
	t.Chdir("../..")
	if got, want := calledAs(run), "go run ./examples/standalone"; got != want {
		t.Errorf("in the tree: %q, want %q", got, want)
	}
}

// TestFrame: what is shown at three widths, and without colours nothing but text.
func TestFrame(t *testing.T) {
	frame120 := strings.ReplaceAll(frame80, "127.0.0.1:8002\nLogs", "127.0.0.1:8002,127.0.0.1:8003\nLogs")
	for width, want := range map[int]string{80: frame80, 120: frame120, 40: frame40} {
		lines := frame(someView(), width, strings.Count(want, "\n")+1, false)
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%d columns:\n%s\nwant:\n%s", width, got, want)
		}
	}
}

// TestFrame_Fits: on whatever screen, a frame is no wider and no higher than it, the keys are there, and colours
// change nothing but colours.
func TestFrame_Fits(t *testing.T) {
	v := someView()
	for range 200 {
		v.events = append(v.events, v.events...)[:min(2*len(v.events), 200)]
	}
	for _, width := range []int{1, 10, 39, 40, 71, 72, 80, 120, 300} {
		for _, height := range []int{1, 2, 10, 24, 25, 60} {
			bare := frame(v, width, height, false)
			if len(bare) != height {
				t.Errorf("%d x %d: %d lines", width, height, len(bare))
			}
			for _, l := range bare {
				if utf8.RuneCountInString(l) > width || strings.ContainsAny(l, "\x1b\n") {
					t.Errorf("%d x %d: %q", width, height, l)
				}
			}
			if last := bare[len(bare)-1]; width >= 40 && !strings.Contains(last, "q quit") {
				t.Errorf("%d x %d: the last line is %q", width, height, last)
			}
			coloured := strings.Join(frame(v, width, height, true), "\n")
			for _, c := range []string{bold, dim, red, green, yellow, plain} {
				coloured = strings.ReplaceAll(coloured, c, "")
			}
			if coloured != strings.Join(bare, "\n") {
				t.Errorf("%d x %d: colours change the text", width, height)
			}
		}
	}
}

// TestVerifier_Counts: each way to lose or to double a message is counted, by its text and its receipt.
func TestVerifier_Counts(t *testing.T) {
	acked := func(n int, seq uint64) func(*verifier) { return func(v *verifier) { v.acknowledged(n, seq) } }
	came := func(n int, seq uint64) func(*verifier) { return func(v *verifier) { v.delivered(n, seq) } }
	for name, tt := range map[string]struct {
		do   []func(*verifier)
		want [3]int // delivered, lost, doubled
	}{
		"good":                      {[]func(*verifier){acked(1, 7), came(1, 7), came(2, 8), acked(2, 8)}, [3]int{2, 0, 0}},
		"never acknowledged":        {[]func(*verifier){came(1, 7), came(3, 8), acked(3, 8)}, [3]int{2, 0, 0}},
		"its place was given again": {[]func(*verifier){acked(1, 7), acked(2, 7), came(2, 7)}, [3]int{1, 1, 0}},
		"lost, and others come":     {[]func(*verifier){acked(1, 7), acked(2, 8), came(2, 8)}, [3]int{1, 1, 0}},
		"acknowledged too late":     {[]func(*verifier){came(2, 8), acked(1, 7), acked(2, 8)}, [3]int{1, 1, 0}},
		"lost at the end":           {[]func(*verifier){acked(1, 7), came(1, 7), acked(2, 8)}, [3]int{1, 1, 0}},
		"applied twice":             {[]func(*verifier){acked(1, 7), came(1, 7), came(1, 8)}, [3]int{1, 0, 1}},
		"delivered twice":           {[]func(*verifier){acked(1, 7), came(1, 7), acked(2, 8), came(2, 8), came(1, 7)}, [3]int{2, 0, 1}},
		"not where its receipt is":  {[]func(*verifier){acked(1, 7), came(1, 8), came(2, 9), acked(2, 10)}, [3]int{2, 0, 2}},
	} {
		synctest.Test(t, func(t *testing.T) { // finish waits for what is missing
			v := newVerifier()
			for _, do := range tt.do {
				do(v)
			}
			if c := v.finish(); [3]int{c.Delivered, c.Lost, c.Doubled} != tt.want {
				t.Errorf("%s: got %+v, want %v", name, c, tt.want)
			}
		})
	}
}

// TestVerifier_Outage: from a fault to the receipt of the first send that began after it.
func TestVerifier_Outage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		before := time.Now()
		time.Sleep(time.Second)
		v.hit()
		time.Sleep(300 * time.Millisecond)
		v.measured(before)
		if d := v.lastOutage(); d != 0 {
			t.Errorf("a send that began before it ends it: %v", d)
		}
		after := time.Now()
		time.Sleep(160 * time.Millisecond)
		v.measured(after)
		v.measured(time.Now())
		if d := v.lastOutage(); d != 460*time.Millisecond {
			t.Errorf("got %v", d)
		}
	})
}

// TestVerifier_Percentiles: they are of the newest.
func TestVerifier_Percentiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range verifierKeeps + 100 { // the oldest hundred make room
			v.measured(time.Now().Add(-time.Duration(i) * time.Millisecond))
		}
		if c := v.counted(); c.P50 != 600 || c.P99 != 1090 {
			t.Errorf("got %v and %v", c.P50, c.P99)
		}
	})
}
