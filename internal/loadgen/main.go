// Command loadgen measures a cluster: by default three nodes that it starts on loopback, with real gRPC,
// every message fsynced on a majority before its receipt, and nothing switched off. It prints a line of
// JSON for each result, and on a terminal says on standard error what it is doing.
//
//	go run ./internal/loadgen -profile send -n 1,16,64,256,1024 -cpuprofile cpu.out
//	go run ./internal/loadgen -profile stream
//	go run ./internal/loadgen -profile deliver -n 1 -every 10ms
//	go run ./internal/loadgen -profile fanout -n 1000 -clients 50
//	go run ./internal/loadgen -profile mixed
//	go run ./internal/loadgen -profile load -n 1000000,10000000 -dir /disk/to/measure
//	go run ./internal/loadgen -profile failover -n 20
//	go run ./internal/loadgen -profile send -servers host1:8443,host2:8443,host3:8443
//
// The nodes are in this process, or with -processes, which load and failover always have, in processes of
// their own. DESIGN.md says what each profile does and what the fields of its result mean.
//
// Disks and machines differ, and so do minutes: compare only inside one run. peers, a module of its own,
// measures NATS JetStream and etcd in the same way; compare runs both in turn.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		exit(runNode(os.Args[2:], os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	show := io.Discard
	if term.IsTerminal(int(os.Stderr.Fd())) {
		show = os.Stderr
	}
	err := run(ctx, os.Args[1:], os.Stdout, show)
	stop()
	exit(err)
}

func exit(err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "loadgen:", err)
	os.Exit(1)
}

// run does what the arguments say, prints results to out, and shows on show what it is doing.
func run(ctx context.Context, args []string, out, show io.Writer) (err error) {
	f, err := parse(args)
	if err != nil {
		return err
	}
	c, err := open(ctx, f, show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	defer c.say("")
	if f.cpu != "" {
		file, err := os.Create(f.cpu)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for _, n := range f.counts {
		p := f.params
		p.N, p.cluster = n, c
		c.say("%s, n = %d", p.Profile, n)
		r, err := profiles[p.Profile].run(ctx, c, p)
		c.say("")
		if err == nil {
			err = r.print(out, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flags are what the command line says.
type flags struct {
	params
	counts  []int // one result for each
	servers []string
	dir     string
	cpu     string
}

// parse reads the arguments, fills in what a profile has of its own, and refuses what makes no sense.
func parse(args []string) (f flags, err error) {
	set := flag.NewFlagSet("loadgen", flag.ContinueOnError)
	set.StringVar(&f.Profile, "profile", "send", profileNames())
	n := set.String("n", "", "what is counted depends on the profile, see DESIGN.md; several numbers, by commas, make a result each")
	servers := set.String("servers", "", "addresses host:port, by commas, of a cluster that runs already")
	set.IntVar(&f.Nodes, "nodes", 3, "nodes of the cluster that is started")
	set.BoolVar(&f.Processes, "processes", false, "start each node in a process of its own")
	set.IntVar(&f.Clients, "clients", 0, "clients, each with an account and connections of its own, that senders or subscribers share")
	set.StringVar(&f.At, "at", "leader", "where clients are: leader, follower, or all for one after the other")
	set.StringVar(&f.Accounts, "accounts", "", "host: the nodes take the names that clients give, as those of a host program do; passwords: clients register; default host for nodes that are started, and passwords with -servers")
	set.IntVar(&f.Size, "size", 200, "bytes of a message")
	set.IntVar(&f.Rooms, "rooms", 0, "rooms that messages go to")
	set.IntVar(&f.Users, "users", 5000, "accounts of mixed")
	set.IntVar(&f.Conc, "conc", 2048, "sends under way while load fills the rooms")
	set.IntVar(&f.Window, "window", 1, "messages of fanout that are under way at a time")
	set.DurationVar(&f.Every, "every", 10*time.Millisecond, "how often a publisher of deliver sends")
	set.DurationVar(&f.Warm, "warm", time.Second, "not measured, at the beginning")
	set.DurationVar(&f.For, "for", 3*time.Second, "measured")
	set.StringVar(&f.dir, "dir", "", "for the nodes' data, on the disk that is to be measured, without any of an earlier run; empty for a temporary one")
	set.StringVar(&f.cpu, "cpuprofile", "", "a file for the CPU profile of this process")
	set.StringVar(&f.heap, "memprofile", "", "a file for the heap profile of the leader's process, once load has filled the rooms")
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("%q is no flag", set.Arg(0))
	}
	profile, ok := profiles[f.Profile]
	if !ok {
		return f, fmt.Errorf("-profile %q: want %s", f.Profile, profileNames())
	}
	if *servers != "" {
		f.servers = strings.Split(*servers, ",")
		f.Nodes = len(f.servers)
	}
	if *n == "" {
		*n = strconv.Itoa(profile.n)
	}
	for text := range strings.SplitSeq(*n, ",") {
		count, err := strconv.Atoi(text)
		if err != nil || count < 1 {
			return f, fmt.Errorf("-n %q: want numbers from 1", *n)
		}
		f.counts = append(f.counts, count)
	}
	f.withDefaults(profile)
	return f, f.validate(profile)
}
