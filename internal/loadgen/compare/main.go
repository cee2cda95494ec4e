// Command compare measures a cluster and its peers, NATS JetStream and etcd, in turn, and prints the table that
// RESULTS.md has: for each goal the medians, and the medians of the ratios of the repetitions.
//
//	go run ./internal/loadgen/compare -reps 3 -dir /disk/to/measure
//	go run ./internal/loadgen/compare -only send,stream -raw lines.json
//	go run ./internal/loadgen/compare -only load -messages 10000000
//
// It builds all three first, the peers from the module of their own beside it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	show := io.Discard
	if term.IsTerminal(int(os.Stderr.Fd())) {
		show = os.Stderr
	}
	err := run(ctx, os.Args[1:], os.Stdout, show)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// comparison is what the command line asks for.
type comparison struct {
	reps     int
	length   time.Duration
	messages int
	rounds   int
	dir      string
	raw      io.Writer
	programs [3]string // paths; of ours, NATS and etcd
	show     io.Writer
}

func run(ctx context.Context, args []string, out, show io.Writer) (err error) {
	c := comparison{raw: io.Discard, show: show}
	set := flag.NewFlagSet("compare", flag.ContinueOnError)
	set.IntVar(&c.reps, "reps", 3, "repetitions; in each, all programs run")
	set.DurationVar(&c.length, "for", 10*time.Second, "measured, of each timed run; at first logs grow into new files, and nothing is compacted")
	set.IntVar(&c.messages, "messages", 1_000_000, "of load")
	set.IntVar(&c.rounds, "rounds", 10, "of failover, in each repetition")
	only := set.String("only", "send,stream,deliver,fanout,failover", "which, by commas; load is there too, and takes long")
	set.StringVar(&c.dir, "dir", "", "for data, on the disk that is to be measured; empty for a temporary one")
	raw := set.String("raw", "", "a file to which all lines of results are added")
	if err := set.Parse(args); err != nil {
		return err
	}
	rows, err := c.rows(strings.Split(*only, ","))
	if err != nil {
		return err
	}
	if c.reps < 1 || set.NArg() > 0 {
		return fmt.Errorf("-reps %d: want one or more, and no arguments that are no flags", c.reps)
	}
	if c.dir, err = os.MkdirTemp(c.dir, "compare-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	if *raw != "" {
		f, err := os.OpenFile(*raw, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		c.raw = f
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	for rep := range c.reps {
		for i := range rows {
			if err := c.measure(ctx, &rows[i], rep); err != nil {
				return err
			}
		}
	}
	_, err = io.WriteString(out, table(rows))
	return err
}

// build makes the programs.
func (c *comparison) build(ctx context.Context) error {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "example.com/chat")
	root, err := list.Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	here := strings.TrimSpace(string(root))
	peers := filepath.Join(here, "internal", "loadgen", "peers")
	for i, b := range []struct{ in, pkg string }{{here, "./internal/loadgen"}, {peers, "./nats"}, {peers, "./etcd"}} {
		_, _ = fmt.Fprintf(c.show, "build %s\n", b.pkg)
		c.programs[i] = filepath.Join(c.dir, "bin", filepath.Base(b.pkg))
		cmd := exec.CommandContext(ctx, "go", "build", "-o", c.programs[i], b.pkg)
		cmd.Dir = b.in
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.pkg, err, text)
		}
	}
	return nil
}

// result is a line of any of the programs.
type result struct {
	Ops   float64            `json:"ops_per_s"`
	P50   float64            `json:"p50_us"`
	P99   float64            `json:"p99_us"`
	Extra map[string]float64 `json:"extra"`
}

// measure runs the programs of a row, one after the other. Which one is first changes.
func (c *comparison) measure(ctx context.Context, r *row, rep int) error {
	results := make([]*result, len(c.programs))
	for k := range c.programs {
		i := (k + rep) % len(c.programs)
		if len(r.args[i]) == 0 {
			continue
		}
		_, _ = fmt.Fprintf(c.show, "%d of %d: %s: %s\n", rep+1, c.reps, r.what, filepath.Base(c.programs[i]))
		line, err := c.start(ctx, i, r.args[i])
		if err != nil {
			return fmt.Errorf("%s: %w", r.what, err)
		}
		results[i] = new(result)
		if err := json.Unmarshal(line, results[i]); err != nil {
			return fmt.Errorf("%s: %w in %q", r.what, err, line)
		}
		if _, err := c.raw.Write(line); err != nil {
			return err
		}
	}
	for i, res := range results {
		r.results[i] = append(r.results[i], res)
	}
	return nil
}

// start runs one program to its end.
func (c *comparison) start(ctx context.Context, i int, args []string) ([]byte, error) {
	data := filepath.Join(c.dir, "data")
	args = append(slices.Clone(args), "-dir", data)
	if i > 0 {
		port, err := freePorts()
		if err != nil {
			return nil, err
		}
		args = append(args, "-port", strconv.Itoa(port))
	}
	cmd := exec.CommandContext(ctx, c.programs[i], args...)
	cmd.Stderr = c.show
	line, err := cmd.Output()
	return line, errors.Join(err, os.RemoveAll(data))
}

// freePorts are the first of as many as a peer wants.
func freePorts() (int, error) {
next:
	for first := 14220; first < 32000; first += 20 {
		for port := first; port < first+13; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				continue next
			}
			if err := l.Close(); err != nil {
				return 0, err
			}
		}
		return first, nil
	}
	return 0, errors.New("no free ports on 127.0.0.1")
}
