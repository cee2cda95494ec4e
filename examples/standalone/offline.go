package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"example.com/chat"
	"example.com/chat/examples/internal/nearest"
)

// tool is a subcommand for an operator.
type tool struct {
	usage string // behind the command's name
	does  string
	run   func(ctx context.Context, t *toolFlags, out io.Writer) error
}

// toolFlags are those of all tools; each has its own of them.
type toolFlags struct {
	*flag.FlagSet
	usage                       string
	from, to, id, host, dataDir string
	servers                     string
	port                        int
	yes, json                   bool
}

var tools = map[string]tool{
	"status": {"--servers HOST:PORT,... [--json]", "ask nodes how they are; fails when one is not ready", status},
	"backup": {"--from HOST:PORT --to FILE", "write a backup of a running cluster", backup},
	"verify": {"PATH", "read a backup, or a stopped node's data directory, and say what is damaged", verifyData},
	"restore": {"--from FILE --id ID --port PORT --data-dir DIR", "make a node of a new cluster from a backup; start it with the same flags, " +
		"and others with --join", restore},
	"recover": {"--data-dir DIR [--yes]", "make a stopped node a cluster of its own when the other voters are lost for good; " +
		"without --yes it only says what it would do", recoverNode},
	"replay": {"--data-dir COPY", "apply a stopped node's log to its state with this version, on a copy of the directory, and print " +
		"the hashes, to try an upgrade", replay},
	"move-log": {"--data-dir DIR --to pebble|bolt", "keep a stopped node's raft log in the other store", moveLog},
}

// runTool runs the subcommand that args begin with; ok is false when there is none.
func runTool(ctx context.Context, args []string, out io.Writer) (ok bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	x, ok := tools[args[0]]
	if !ok {
		return false, nil
	}
	t := &toolFlags{FlagSet: flag.NewFlagSet(args[0], flag.ContinueOnError), usage: x.usage}
	t.SetOutput(io.Discard)
	t.StringVar(&t.from, "from", "", "a node's `address`, host:port, or a backup")
	t.StringVar(&t.to, "to", "", "the `file` for the backup, which must not be there, or the store")
	t.StringVar(&t.id, "id", "", "the node's `name`")
	t.StringVar(&t.host, "host", "localhost", "the `host` at which others will reach the node")
	t.IntVar(&t.port, "port", 0, "the `port` at which others will reach the node")
	t.StringVar(&t.dataDir, "data-dir", "", "the node's `directory`")
	t.StringVar(&t.servers, "servers", "", "the `addresses`, host:port, of nodes, with commas between")
	t.BoolVar(&t.json, "json", false, "print an object a line")
	t.BoolVar(&t.yes, "yes", false, "do it")
	err = t.Parse(args[1:])
	if errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprintf(out, "standalone %s %s\n  %s\n", args[0], x.usage, x.does)
		return true, err
	}
	if err != nil {
		err = nearest.Flag(t.FlagSet, err)
	}
	if err == nil && t.NArg() > 0 && args[0] != "verify" {
		err = fmt.Errorf("%q is no flag", t.Arg(0))
	}
	if err != nil {
		return true, usageError{fmt.Errorf("%s: %w", args[0], err)}
	}
	return true, x.run(ctx, t, out)
}

// need fails when a flag is missing.
func (t *toolFlags) need(names ...string) error {
	for _, n := range names {
		if f := t.Lookup(n); f.Value.String() == f.DefValue {
			return usageError{fmt.Errorf("%s: want --%s; usage: standalone %s %s", t.Name(), n, t.Name(), t.usage)}
		}
	}
	return nil
}

// backup has a name only once it is whole, durable, and was read again.
func backup(ctx context.Context, t *toolFlags, out io.Writer) (err error) {
	if err := t.need("from", "to"); err != nil {
		return err
	}
	if _, err := os.Lstat(t.to); err == nil {
		return fmt.Errorf("%s is there already", t.to)
	}
	f, err := os.CreateTemp(filepath.Dir(t.to), filepath.Base(t.to)+".*.tmp") // its own: nobody else can read it, or writes it
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // err says more
		}
	}()
	o := chat.BackupOptions{Address: t.from, ClusterSecret: []byte(os.Getenv("CHAT_CLUSTER_SECRET"))}
	if err := errors.Join(chat.Backup(ctx, o, f), f.Sync(), f.Close()); err != nil {
		return err
	}
	v, err := chat.Verify(f.Name())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), t.to); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s has cluster %s up to entry %d, %d records\n", t.to, v.ClusterID, v.Applied, v.Records)
	return err
}

func verifyData(_ context.Context, t *toolFlags, out io.Writer) error {
	if t.NArg() != 1 {
		return usageError{errors.New("verify: want one backup or data directory")}
	}
	v, err := chat.Verify(t.Arg(0))
	if err != nil {
		return err
	}
	if v.Backup {
		_, err = fmt.Fprintf(out, "sound: a backup of cluster %s up to entry %d, %d records\n", v.ClusterID, v.Applied, v.Records)
	} else {
		_, err = fmt.Fprintf(out, "sound: node %s of cluster %s, a log of entries %d to %d, %d snapshots, a state up to entry %d with %d records\n",
			v.NodeID, v.ClusterID, v.FirstEntry, v.LastEntry, v.Snapshots, v.Applied, v.Records)
	}
	return err
}

func restore(_ context.Context, t *toolFlags, out io.Writer) error {
	if err := t.need("from", "id", "port", "data-dir"); err != nil {
		return err
	}
	f, err := os.Open(t.from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	o := chat.RestoreOptions{NodeID: t.id, DataDir: t.dataDir, Advertise: net.JoinHostPort(t.host, strconv.Itoa(t.port))}
	if err := chat.Restore(f, o); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s is node %s of a new cluster; start it with\n  standalone --id %s --host %s --port %d --data-dir %s\nand others with --join %s; all users log in again\n",
		t.dataDir, t.id, t.id, t.host, t.port, t.dataDir, o.Advertise)
	return err
}

// errNotConfirmed stops a recovery that was only asked for its plan.
var errNotConfirmed = errors.New("nothing was done; add --yes to do it")

func recoverNode(ctx context.Context, t *toolFlags, out io.Writer) error {
	if err := t.need("data-dir"); err != nil {
		return err
	}
	_, err := chat.Recover(ctx, t.dataDir, func(r chat.Recovery) error {
		_, _ = fmt.Fprintf(out, "node %s at %s becomes the whole of a new cluster, %s\n", r.NodeID, r.Address, r.NewClusterID)
		for _, s := range r.Lost {
			what := "does not answer"
			if !s.Voter {
				what = "does not vote, and was not asked"
			}
			_, _ = fmt.Fprintf(out, "  server %s at %s is given up; it %s\n", s.ID, s.Address, what)
		}
		_, _ = fmt.Fprintf(out, "  its state ends at entry %d, and its log at entry %d: all of that is kept, also what was never acknowledged\n", r.Applied, r.Last)
		_, _ = fmt.Fprintf(out, "  what was acknowledged without this node is lost\n")
		_, _ = fmt.Fprintf(out, "  the directory of before is kept as %s\n", filepath.Base(r.Aside))
		if !t.yes {
			return errNotConfirmed
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "done: start it as before, and the others anew, with empty directories and --join")
	return err
}

func replay(_ context.Context, t *toolFlags, out io.Writer) error {
	if err := t.need("data-dir"); err != nil {
		return err
	}
	r, err := chat.Replay(t.dataDir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "entries %d to %d applied; level %d, hash %016x, records %x\n", r.From+1, r.To, r.Level, r.Hash, r.Content)
	return err
}

func moveLog(_ context.Context, t *toolFlags, out io.Writer) error {
	if err := t.need("data-dir", "to"); err != nil {
		return err
	}
	if err := chat.MoveLog(t.dataDir, chat.LogStore(t.to)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s has its log in %s\n", t.dataDir, t.to)
	return err
}
