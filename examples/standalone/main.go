// Command standalone is chat as a program of its own.
//
// Without flags it starts three nodes of itself on this machine, which form a cluster, and shows them; with
// --smoke it sends messages, kills the leader and checks what arrived. With --id it is one node. Subcommands
// chat in a terminal and are an operator's tools; --help lists them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"example.com/chat/examples/internal/cli"
	"example.com/chat/examples/internal/nearest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if len(os.Args) > 1 && os.Args[1] == "client" {
		code := cli.Run(ctx, "standalone client", os.Args[2:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stopped := ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
	stop()
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case stopped:
		fmt.Fprintln(os.Stderr, "standalone: interrupted")
		os.Exit(1)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "standalone: %v; --help tells more\n", err)
		os.Exit(2)
	default:
		fmt.Fprintf(os.Stderr, "standalone: %v\n", err)
		os.Exit(1)
	}
}

// usageError is one in the flags or the configuration file.
type usageError struct{ error }

// flags are those of the command line.
type flags struct {
	id, host, dataDir, join, configFile string
	port, nodes                         int
	smoke, verbose, child, json         bool
	servers                             map[string]string // in the file, addresses by id
}

const help = `standalone runs chat.

  standalone            three nodes on this machine, to try it; --nodes, --data-dir and --json change that
  standalone --smoke    the same, checked: send, kill the leader, send on; ends with a line of JSON
  standalone --id ID    one node
  standalone node       the same; flags that are not given come from CHAT_ID, CHAT_PORT, CHAT_HOST,
                        CHAT_DATA_DIR, CHAT_JOIN and CHAT_CONFIG_FILE, and then from that file

  standalone client --servers HOST:PORT,... [COMMAND]          chat in this terminal; help lists the commands
  standalone status --servers HOST:PORT,...                    ask nodes how they are
  standalone backup --from HOST:PORT --to FILE                 write a backup of a running cluster
  standalone verify PATH                                       say what is damaged in a backup or data directory
  standalone restore --from FILE --id ID --port P --data-dir D begin a new cluster with a backup
  standalone recover --data-dir D [--yes]                      go on alone when the quorum is lost for good
  standalone replay --data-dir COPY                            try an upgrade on a copied directory
  standalone move-log --data-dir DIR --to pebble|bolt          keep a stopped node's log in the other store

Examples:
  standalone --id server1 --port 8001                          forms a cluster, and goes on with it the next time
  standalone --id server2 --port 8002 --join localhost:8001    joins it
  standalone node --config-file server1.json                   {"id":"server1","port":8001,"data-dir":"data"}
  standalone client --servers localhost:8001 register alice
  standalone backup --from localhost:8001 --to monday.backup

Environment:
  CHAT_CLUSTER_SECRET   32 bytes or more that all nodes share; without it a node speaks only to
                        nodes on its own machine

Flags:
`

func parse(args []string, output io.Writer) (flags, error) {
	var f flags
	s := flag.NewFlagSet("standalone", flag.ContinueOnError)
	s.SetOutput(io.Discard)
	s.StringVar(&f.id, "id", "", "the node's `name`, unique in the cluster; there is one node then")
	s.IntVar(&f.port, "port", 0, "the `port` on which the node serves clients and other nodes")
	s.StringVar(&f.host, "host", "", "the `host` name or address at which the others reach the node (default localhost)")
	s.StringVar(&f.dataDir, "data-dir", "", "the `directory` in which the node keeps everything (default ./data/ID); without --id, in which the nodes do, to go on with the next time")
	s.StringVar(&f.join, "join", "", "the `address`, host:port, of a node of the cluster to join; several with commas")
	s.StringVar(&f.configFile, "config-file", "", "a JSON `file`, {\"servers\":{\"ID\":\"host:port\"}}, with the nodes that form the cluster, and with flags that are not given")
	s.IntVar(&f.nodes, "nodes", nodes, "how `many` nodes to start on this machine, at most 7")
	s.BoolVar(&f.json, "json", false, "without --id: print what happens as JSON, an object a line")
	s.BoolVar(&f.smoke, "smoke", false, "start three nodes, send, kill the leader, send on, and check what arrived")
	s.BoolVar(&f.verbose, "verbose", false, "log more")
	s.BoolVar(&f.child, "stop-with-stdin", false, "stop when standard input ends, as the three nodes do when their parent is gone")
	node := len(args) > 0 && args[0] == "node"
	if node {
		args = args[1:]
	}
	err := s.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(output, help)
		s.SetOutput(output)
		s.PrintDefaults()
		return f, err
	}
	switch {
	case err != nil:
		err = nearest.Flag(s, err)
	case s.NArg() > 0:
		err = noCommand(s.Arg(0))
	case node:
		err = fromEnvironment(s)
	}
	if err == nil && f.configFile != "" {
		err = f.fromFile(s)
	}
	if err == nil && node && f.id == "" {
		err = errors.New("node: no --id, and no CHAT_ID: want one, such as server1")
	}
	one := f.port != 0 || f.host != "" || f.join != "" || f.configFile != "" || f.child
	if err == nil && f.id == "" && one {
		err = errors.New("a flag for one node came without --id")
	}
	if err == nil && (f.nodes < 1 || f.nodes > maxNodes) {
		err = fmt.Errorf("--nodes %d: want 1 to %d", f.nodes, maxNodes)
	}
	if err == nil && f.id != "" && (f.nodes != nodes || f.json) {
		err = errors.New("--nodes and --json are for several nodes on this machine: want them without --id")
	}
	if err == nil && f.smoke && (f.nodes != nodes || f.dataDir != "" || f.json) {
		err = errors.New("--smoke starts three nodes of its own, and ends with JSON: want it alone")
	}
	if err == nil && f.id != "" && f.smoke {
		err = errors.New("--smoke starts nodes of its own: want it without --id")
	}
	if err != nil {
		return f, usageError{err}
	}
	return f, nil
}

// run is the program. It ends with ctx.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	if ok, err := runTool(ctx, args, out); ok {
		return advise(err)
	}
	f, err := parse(args, out)
	switch {
	case err != nil:
		return err
	case f.id != "":
		err = serve(ctx, f, in, out, log)
	case f.smoke:
		err = smoke(ctx, out)
	default:
		err = show(ctx, f, in, out)
	}
	return advise(err)
}
