// Command loadgen measures a cluster: three nodes in this process on loopback, with real gRPC, every
// message fsynced on a majority before its receipt, and nothing switched off. It prints a line of JSON
// for each result.
//
//	go run ./internal/loadgen -profile send -n 64
//	go run ./internal/loadgen -profile send -n 1,16,64,256,1024 -cpuprofile cpu.out
//	go run ./internal/loadgen -profile deliver -n 1 -every 10ms
//	go run ./internal/loadgen -profile fanout -n 1000 -clients 50
//
// Disks and machines differ, and so do minutes: compare only inside one run. peers, a module of its
// own, measures NATS JetStream and etcd in the same way, in turn with this.
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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

// sessionStreams is how many subscriptions a session may have.
const sessionStreams = 32

// params say what is measured. They stand in each result.
type params struct {
	Profile string        `json:"profile"`
	N       int           `json:"n"`
	Nodes   int           `json:"nodes"`
	Clients int           `json:"clients"`
	At      string        `json:"at"`
	Size    int           `json:"size"`
	Rooms   int           `json:"rooms"`
	Window  int           `json:"window,omitempty"`
	Every   time.Duration `json:"every_ns,omitempty"`
	Warm    time.Duration `json:"-"`
	For     time.Duration `json:"for_ns"`
}

var profiles = map[string]func(context.Context, *cluster, params) (result, error){
	"send": send, "deliver": deliver, "fanout": fanout,
}

// run does what the arguments say, and prints to out.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var p params
	f := flag.NewFlagSet("loadgen", flag.ContinueOnError)
	f.StringVar(&p.Profile, "profile", "send", "send, deliver or fanout")
	n := f.String("n", "64", "senders at a time, publishers of deliver, or subscribers of fanout; several, by commas")
	f.IntVar(&p.Nodes, "nodes", 3, "nodes")
	f.IntVar(&p.Clients, "clients", 4, "clients, each with connections of its own, that the senders or subscribers share")
	f.StringVar(&p.At, "at", "leader", "where clients are: leader, follower, or all for one after the other")
	f.IntVar(&p.Size, "size", 200, "bytes of a message")
	f.IntVar(&p.Rooms, "rooms", 100, "rooms that messages go to")
	f.IntVar(&p.Window, "window", 1, "messages of fanout that are under way at a time")
	f.DurationVar(&p.Every, "every", 10*time.Millisecond, "how often a publisher of deliver sends")
	f.DurationVar(&p.Warm, "warm", time.Second, "not measured, at the beginning")
	f.DurationVar(&p.For, "for", 3*time.Second, "measured")
	dir := f.String("dir", "", "for the nodes' data, on the disk that is to be measured; empty for a temporary one")
	cpu := f.String("cpuprofile", "", "a file for the CPU profile of all that is measured")
	if err := f.Parse(args); err != nil {
		return err
	}
	if profiles[p.Profile] == nil {
		return fmt.Errorf("no profile %q", p.Profile)
	}
	if p.Profile == "fanout" { // they are all in one room
		p.Rooms = p.Clients
	}
	if p.Size < stampSize || p.Clients < 1 || p.Rooms < p.Clients || p.Window < 1 {
		return fmt.Errorf("want %d bytes or more, a client or more, a room for each, and a window", stampSize)
	}
	c, err := startCluster(ctx, *dir, p.Nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if *cpu != "" {
		file, err := os.Create(*cpu)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for text := range strings.SplitSeq(*n, ",") {
		if p.N, err = strconv.Atoi(text); err != nil || p.N < 1 {
			return fmt.Errorf("-n %q: want numbers from 1", *n)
		}
		if p.Profile == "fanout" && p.N > sessionStreams*p.Clients {
			return fmt.Errorf("-n %d -clients %d: a session may have %d subscriptions: want -clients %d or more", p.N, p.Clients, sessionStreams,
				(p.N+sessionStreams-1)/sessionStreams)
		}
		r, err := profiles[p.Profile](ctx, c, p)
		if err == nil {
			err = r.print(out, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
