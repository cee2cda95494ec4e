package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// row is a run of the programs that are compared, and what is told of it.
type row struct {
	what     string
	args     [3][]string // of ours, NATS and etcd; none for one that cannot do it
	measures []measure
	results  [3][]*result // of the repetitions; nil where it did not run
}

// measure is one number of a result.
type measure struct {
	what  string
	of    func(*result) float64
	goals [2]string // of the ratio to NATS and to etcd; empty for none
}

var (
	ops      = func(r *result) float64 { return r.Ops }
	p50      = func(r *result) float64 { return r.P50 / 1000 }
	p99      = func(r *result) float64 { return r.P99 / 1000 }
	extra    = func(name string) func(*result) float64 { return func(r *result) float64 { return r.Extra[name] } }
	cpuPerOp = measure{what: "µs of processor for each", of: extra("cpu_us_per_op")}
)

// rows are the runs of the wanted profiles.
func (c *comparison) rows(wanted []string) (rows []row, err error) {
	length := c.length.String()
	for _, w := range wanted {
		switch w {
		case "send":
			rows = append(rows, sends(length)...)
		case "stream":
			rows = append(rows, row{what: "4,096 sends under way, NATS not fsynced", args: [3][]string{
				{"-profile", "stream", "-for", length}, {"-mode", "async", "-conc", "4096", "-sync", "default", "-d", length}, nil,
			}, measures: []measure{{"/s", ops, [2]string{"≥ 1.0", ""}}, cpuPerOp}})
		case "deliver":
			rows = append(rows, row{what: "publish to receipt on another node, 100/s", args: [3][]string{
				{"-profile", "deliver", "-for", length}, {"-mode", "deliver", "-conc", "1", "-sync", "always", "-d", length}, {"-mode", "deliver", "-conc", "1", "-d", length},
			}, measures: []measure{{"p50 ms", p50, [2]string{"≤ 1.2", ""}}, {"p99 ms", p99, [2]string{}}}})
		case "fanout":
			conns := []string{"-mode", "fanout", "-conc", "1000", "-fanconns", "50", "-d", length}
			rows = append(rows, row{what: "one message to 1,000 subscribers on 50 connections, NATS core", args: [3][]string{
				{"-profile", "fanout", "-n", "1000", "-clients", "50", "-for", length}, conns, conns,
			}, measures: []measure{{"deliveries/s", extra("deliveries_per_s"), [2]string{"≥ 1.0", ""}}, cpuPerOp}})
		case "failover":
			n := strconv.Itoa(c.rounds)
			rows = append(rows, row{what: "kill -9 of the leader to the next receipt", args: [3][]string{
				{"-profile", "failover", "-n", n}, {"-mode", "failover", "-trials", n}, {"-mode", "failover", "-trials", n},
			}, measures: []measure{{"median ms", extra("median_ms"), [2]string{"", "≤ 0.5"}}, {"longest ms", extra("max_ms"), [2]string{}}}})
		case "load":
			n := strconv.Itoa(c.messages)
			rows = append(rows, row{what: n + " messages in 1,000 rooms", args: [3][]string{
				{"-profile", "load", "-n", n}, {"-mode", "load", "-n", n, "-rooms", "1000"}, {"-mode", "load", "-n", n, "-rooms", "1000"},
			}, measures: []measure{
				{"filled, /s", ops, [2]string{}}, {"MiB of memory of a node", extra("rss_mib_node"), [2]string{}},
				{"MiB of disk of a node", extra("disk_mib_node"), [2]string{}}, {"kill -9 of all to the next receipt, ms", extra("restart_to_write_ms"), [2]string{}},
			}})
		default:
			return nil, fmt.Errorf("-only %q: want send, stream, deliver, fanout, failover or load", w)
		}
	}
	return rows, nil
}

func sends(length string) (rows []row) {
	for _, s := range []struct {
		n          int
		nats, etcd string
	}{{1, "≥ 1.0", ""}, {16, "≥ 1.5", ""}, {64, "≥ 1.5", "≥ 3"}, {256, "≥ 2.0", "≥ 3"}, {1024, "≥ 2.5", "≥ 3"}} {
		n, late := strconv.Itoa(s.n), ""
		if s.n >= 64 {
			late = "≤ 0.5"
		}
		rows = append(rows, row{what: n + " senders", args: [3][]string{
			{"-profile", "send", "-n", n, "-for", length}, {"-mode", "put", "-conc", n, "-sync", "always", "-d", length}, {"-mode", "put", "-conc", n, "-d", length},
		}, measures: []measure{{"sends/s", ops, [2]string{s.nats, s.etcd}}, {"p99 ms", p99, [2]string{late, ""}}, cpuPerOp}})
	}
	return rows
}

// table is Markdown: medians of the repetitions, and of the ratios of each.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| what | ours | NATS | etcd | ours / NATS (goal) | ours / etcd (goal) |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		for _, m := range r.measures {
			fmt.Fprintf(&b, "| %s: %s |", r.what, m.what)
			for i := range r.results {
				fmt.Fprintf(&b, " %s |", number(median(values(r.results[i], m.of))))
			}
			for i := range m.goals {
				text := number(median(ratios(r.results[0], r.results[i+1], m.of)))
				if m.goals[i] != "" {
					text += " (" + m.goals[i] + ")"
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func values(results []*result, of func(*result) float64) (v []float64) {
	for _, r := range results {
		if r != nil {
			v = append(v, of(r))
		}
	}
	return v
}

// ratios are those of a to b, of each repetition in which there is one.
func ratios(a, b []*result, of func(*result) float64) (v []float64) {
	for i := range a {
		if a[i] != nil && b[i] != nil && of(b[i]) > 0 {
			v = append(v, of(a[i])/of(b[i]))
		}
	}
	return v
}

// median is negative for nothing.
func median(v []float64) float64 {
	if len(v) == 0 {
		return -1
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// number is empty for what there is not.
func number(v float64) string {
	switch {
	case v < 0:
		return ""
	case v >= 100:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	default:
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
}

// thousands puts a comma before every three digits.
func thousands(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
