package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// view is what the screen shows at one moment.
type view struct {
	up, ready time.Duration // since the start; from the start until all could serve
	nodes     []nodeView
	counts    counts
	faults    int           // how many leaders were killed or paused
	since     time.Duration // the last fault
	outage    time.Duration // how long no write was acknowledged then; 0 while none is
	client    string        // what to type in another terminal
	addrs     []string
	dir       string
	events    []event // the newest last
}

// nodeView is one node.
type nodeView struct {
	id, addr string
	pid      int
	role     string // or what has become of the process
	term     uint64
	applied  uint64
	lag      uint64
	up       bool // it answers
}

// ANSI colours.
const (
	bold, dim, red, green, yellow, plain = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
)

const (
	keyHelp   = "k kill -9 the leader   p pause it   a add a node   s status   q quit"
	shortHelp = "k kill  p pause  a add  s status  q quit"
	// wideFrom is the width from which on there is room for everything.
	wideFrom = 72
)

// frame draws a view in lines of at most width columns, as many as height at most.
func frame(v view, width, height int, colour bool) []string {
	d := drawing{width: width, wide: width >= wideFrom, colour: colour}
	d.line(bold, d.pick("chat: %d nodes on this machine, ready in %.1f s, up %v", "chat: %d nodes, ready in %.1f s, up %v"),
		len(v.nodes), v.ready.Seconds(), v.up.Round(time.Second))
	d.line("", "")
	d.nodes(v.nodes)
	d.line("", "")
	d.verifier(v)
	d.line("", "")
	d.chat(v.client, v.addrs)
	d.line(dim, "Logs: %s/*.log", v.dir)
	d.line("", "")
	room := max(height-len(d.lines)-2, 1)
	for _, e := range v.events[max(len(v.events)-room, 0):] {
		style := ""
		if e.bad {
			style = yellow
		}
		d.line(style, "%s %s", e.at.Format(time.TimeOnly), e.text)
	}
	for len(d.lines) < height-2 {
		d.line("", "")
	}
	d.line("", "")
	d.line(bold, "%s", d.pick(keyHelp, shortHelp))
	if len(d.lines) > height {
		keys := d.lines[len(d.lines)-1]
		d.lines = append(d.lines[:height-1], keys)
	}
	return d.lines
}

// drawing is the lines of a frame.
type drawing struct {
	width  int
	wide   bool
	colour bool
	lines  []string
}

// pick is the first text where there is room for it.
func (d *drawing) pick(wide, narrow string) string {
	if d.wide {
		return wide
	}
	return narrow
}

// line adds one, cut to the width.
func (d *drawing) line(style, format string, args ...any) {
	text := cut(fmt.Sprintf(format, args...), d.width)
	if d.colour && style != "" && text != "" {
		text = style + text + plain
	}
	d.lines = append(d.lines, text)
}

// nodes is the table of nodes. On a narrow screen it lacks what can be seen elsewhere.
func (d *drawing) nodes(nodes []nodeView) {
	if d.wide {
		d.line(dim, "  %-8s %-15s %8s  %-22s %5s %8s %4s", "node", "address", "pid", "role", "term", "applied", "lag")
	} else {
		d.line(dim, "  %-8s %-10s %4s %8s %4s", "node", "role", "term", "applied", "lag")
	}
	for _, n := range nodes {
		style := ""
		switch {
		case !n.up:
			style = red
		case n.role == "leader":
			style = green
		}
		switch {
		case !n.up && d.wide:
			d.line(style, "  %-8s %-15s %8s  %s", n.id, n.addr, "-", n.role)
		case !n.up:
			d.line(style, "  %-8s %s", n.id, n.role)
		case d.wide:
			d.line(style, "  %-8s %-15s %8d  %-22s %5d %8d %4d", n.id, n.addr, n.pid, n.role, n.term, n.applied, n.lag)
		default:
			d.line(style, "  %-8s %-10s %4d %8d %4d", n.id, n.role, n.term, n.applied, n.lag)
		}
	}
}

// verifier is what became of the messages, and of the last fault.
func (d *drawing) verifier(v view) {
	c, style := v.counts, green
	if c.Lost+c.Doubled > 0 {
		style = red
	}
	d.line("", d.pick("Sent %d  acknowledged %d  delivered %d", "Sent %d  acked %d  came %d"), c.Sent, c.Acknowledged, c.Delivered)
	d.line(style, "Lost %d  doubled %d", c.Lost, c.Doubled)
	d.line("", d.pick("Acknowledged after %.1f ms (p50), %.1f ms (p99)", "Acked after %.1f (p99 %.1f) ms"), c.P50, c.P99)
	switch {
	case v.faults == 0:
		d.line("", "No leader was lost yet: press k")
	case v.outage == 0:
		d.line(yellow, "The leader is gone; no write for %.1f s", v.since.Seconds())
	default:
		d.line("", d.pick("Leader lost %v ago; no write for %.2f s (%d so far)", "Lost %v ago, for %.2f s (%d so far)"),
			v.since.Round(time.Second), v.outage.Seconds(), v.faults)
	}
}

// chat says how to.
func (d *drawing) chat(program string, addrs []string) {
	d.line("", d.pick("Chat in another terminal (register, log in, send %s hello):", "Chat, with %s for one:"), botName)
	line := "  " + program + " --servers "
	if len(line)+len(addrs[0]) <= d.width {
		d.line(bold, "%s%s", line, fitting(addrs, d.width-len(line)))
		return
	}
	d.line(bold, "  %s \\", program)
	d.line(bold, "    --servers %s", addrs[0])
}

// fitting joins as many addresses as have room, but one at least: the others are learned from it.
func fitting(addrs []string, width int) string {
	for n := len(addrs); n > 1; n-- {
		if text := strings.Join(addrs[:n], ","); len(text) <= width {
			return text
		}
	}
	return addrs[0]
}

// cut shortens a text to a number of columns, and says that it did.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}
