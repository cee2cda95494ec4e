package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"example.com/chat"
)

// nodeCommand, as the first argument, makes this program a node. It is for startProcesses alone.
const nodeCommand = "node"

func nodeID(i int) string { return fmt.Sprintf("n%d", i+1) }

// nodeOptions are those of the i-th node of a cluster.
func nodeOptions(i int, addrs []string, dir, accounts string) chat.Options {
	o := chat.Options{
		NodeID: nodeID(i), DataDir: dir, Advertise: addrs[i], Seeds: addrs, BootstrapExpect: len(addrs),
		ClusterSecret: bytes.Repeat([]byte("s"), 32),
	}
	if accounts == hostAccounts {
		o.Authenticator = trusting
	}
	return o
}

// event is a line that a node's process prints.
type event struct {
	Kind string `json:"kind"`
	// Of snapshot: when it was made, the bytes of files that it does not share with the state, all that the
	// process has written meanwhile, and those of the files of which it consists.
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	Own     int64     `json:"own,omitempty"`
	Written int64     `json:"written,omitempty"`
	Size    int64     `json:"size,omitempty"`
}

const (
	readyEvent    = "ready"
	snapshotEvent = "snapshot"
	heapEvent     = "heap" // the profile is written
)

// runNode is the program of a node's process. It ends in good order at the end of in; a line there names a file for
// a heap profile, or is empty and makes a snapshot.
func runNode(args []string, in io.Reader, out io.Writer) error {
	set := flag.NewFlagSet(nodeCommand, flag.ContinueOnError)
	i := set.Int("i", 0, "which of the addresses is this node's")
	addrs := set.String("addrs", "", "addresses of all")
	dir := set.String("dir", "", "data directory")
	accounts := set.String("accounts", hostAccounts, "as of loadgen")
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	all := strings.Split(*addrs, ",")
	o := nodeOptions(*i, all, *dir, *accounts)
	w := &watcher{out: json.NewEncoder(out), dir: *dir}
	log, err := os.OpenFile(*dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // it is for people
	lines := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), log, zap.InfoLevel)
	o.Logger = zap.New(zapcore.NewTee(hooked{w.hear}, lines))
	l, err := net.Listen("tcp", all[*i])
	if err != nil {
		return err
	}
	n, err := startNode(ctx, l, o)
	if err != nil {
		return err
	}
	go func() { // ends with the node
		if n.Ready(ctx) == nil {
			w.print(event{Kind: readyEvent})
		}
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if name := lines.Text(); name != "" {
			err = errors.Join(err, writeHeap(name))
			w.print(event{Kind: heapEvent})
			continue
		}
		w.snapshot(ctx, n.Node)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = n.Drain(ctx) // the others may be gone
	return errors.Join(err, n.end())
}

func writeHeap(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(f), f.Close())
}

// watcher hears what the node logs, and prints what is to be measured.
type watcher struct {
	dir string

	mu      sync.Mutex // guards what follows
	out     *json.Encoder
	from    time.Time // when the snapshot that is being made was begun
	written int64     // by the process until then
	made    func()    // called when it is there; may be nil
}

func (w *watcher) print(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.out.Encode(e) // nobody is there to hear of it
}

// hear is told of each entry of the log. The messages are raft's.
func (w *watcher) hear(e zapcore.Entry) {
	switch {
	case strings.HasPrefix(e.Message, "starting snapshot"):
		w.mu.Lock()
		w.from, w.written = time.Now(), written(os.Getpid())
		w.mu.Unlock()
	case strings.HasPrefix(e.Message, "snapshot complete"):
		w.mu.Lock()
		s := event{Kind: snapshotEvent, From: w.from, To: time.Now(), Written: written(os.Getpid()) - w.written}
		made := w.made
		w.made = nil
		w.mu.Unlock()
		if made != nil {
			made()
		}
		s.Own, s.Size = snapshotSize(w.dir)
		w.print(s)
	}
}

// snapshot has raft make one: that is how a backup begins. Nobody wants the rest of it.
func (w *watcher) snapshot(ctx context.Context, n *chat.Node) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.made = cancel
	w.mu.Unlock()
	_ = n.Backup(ctx, io.Discard)
}

// snapshotSize is how large the newest snapshot of a node is, and how many bytes of that are in files that the state
// does not have.
func snapshotSize(dir string) (own, size int64) {
	names, _ := filepath.Glob(filepath.Join(dir, "fsm", "snapshots", "*")) // only fails for a bad pattern
	if len(names) == 0 {
		return 0, 0
	}
	states, _ := filepath.Glob(filepath.Join(dir, "fsm", "state-*"))
	shared := map[uint64]bool{}
	for _, s := range states {
		walk(s, func(f file) { shared[f.inode] = true })
	}
	walk(names[len(names)-1], func(f file) {
		size += f.size
		if !shared[f.inode] {
			own += f.size
		}
	})
	return own, size
}

// hooked is a logger that keeps nothing, and tells of everything from information on.
type hooked struct{ hear func(zapcore.Entry) }

var _ zapcore.Core = hooked{}

func (hooked) Enabled(l zapcore.Level) bool        { return l >= zapcore.InfoLevel }
func (h hooked) With([]zapcore.Field) zapcore.Core { return h }
func (h hooked) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if h.Enabled(e.Level) {
		return c.AddCore(e, h)
	}
	return c
}
func (h hooked) Write(e zapcore.Entry, _ []zapcore.Field) error {
	h.hear(e)
	return nil
}
func (hooked) Sync() error { return nil }
