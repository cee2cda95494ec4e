package replica

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
)

var flips = flag.Int("flips", defaultFlips, "how many bits TestRot flips")

// TestRot flips one bit of the files of a node that is down, at random: half of them in files that are
// chosen by their size, half in any. Either that is found, when the node starts or when the place is
// read, or nothing of what the node says changes. Nothing panics.
func TestRot(t *testing.T) {
	for _, store := range logStores {
		t.Run(string(store), func(t *testing.T) { record(t, store, 200, 1).rot(t, *flips/len(logStores)) })
	}
}

func (h *chronicle) rot(t *testing.T, flips int) {
	r := rand.New(rand.NewPCG(*cutSeed, 9))
	found := map[string]int{}
	for range flips {
		var what, where string
		synctest.Test(t, func(t *testing.T) {
			c := h.left
			c.fs = h.left.fs.CrashClone(vfs.CrashCloneCfg{})
			where = c.rot(t, r)
			defer func() {
				if t.Failed() {
					t.Errorf("the bit was in %s", where)
				}
			}()
			what = h.use(t, &c)
		})
		found[what]++
	}
	for _, what := range slices.Sorted(maps.Keys(found)) {
		t.Logf("%5d %s", found[what], what)
	}
}

// rot flips a bit of one file.
func (c *cut) rot(t *testing.T, r *rand.Rand) string {
	c.log = bytes.Clone(c.log)
	all := map[string][]byte{boltFile: c.log}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := c.fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := filepath.Join(dir, name)
			info, err := c.fs.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			b, err := c.fs.UnsafeGetFileDataBuffer(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 0 {
				all[path] = b
			}
		}
	}
	walk(root)
	names, total := slices.Sorted(maps.Keys(all)), 0
	for _, b := range all {
		total += len(b)
	}
	name := names[r.IntN(len(names))]
	if r.IntN(2) == 0 {
		at := r.IntN(total)
		for _, name = range names {
			if at -= len(all[name]); at < 0 {
				break
			}
		}
	}
	at := r.IntN(len(all[name]))
	all[name][at] ^= 1 << r.IntN(8)
	return fmt.Sprintf("%s at %d of %d", name, at, len(all[name]))
}

// use starts a machine and reads everything that it has. It says how damage was found.
func (h *chronicle) use(t *testing.T, c *cut) string {
	s := makeSim(t, 1, 1, bugs{})
	s.auditEvery, s.logStore = 24*time.Hour, h.store
	s.votes = maps.Clone(h.votes)
	m := s.machines[0]
	if err := m.restore(c); err != nil {
		t.Fatal(err)
	}
	m.plug(1)
	if err := m.boot(); err != nil {
		return "refused by New"
	}
	defer time.Sleep(time.Minute) // what waits for a timer has its time
	if m.refused != nil {
		return "refused by Start"
	}
	defer m.crash()
	n := m.up().replica
	err := error(nil)
	for start := time.Now(); n.Err() == nil; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err = n.Linearizable(ctx)
		cancel()
		if err == nil || time.Since(start) > time.Minute {
			break
		}
	}
	if n.Err() != nil {
		return "a fault at the start"
	}
	if err != nil {
		t.Errorf("the node does not serve, and says nothing: %v", err)
		return ""
	}
	if want := h.last[len(h.log)]; n.Applied() != want {
		t.Errorf("the state is at entry %d, want %d", n.Applied(), want)
	}
	if what := h.readLog(t, n); what != "" {
		return what
	}
	if what := h.readSnapshots(t, m); what != "" {
		return what
	}
	m.stop()
	if sum, err := stateSum(m.fs); err != nil {
		return "found when the state is read"
	} else if sum != h.states[h.last[len(h.log)]] {
		t.Error("the state is another one")
	}
	return "harmless"
}

// readLog reads all entries.
func (h *chronicle) readLog(t *testing.T, n *Replica) string {
	ok := returned(func() {
		first, _ := n.store.logs.LogStore.FirstIndex()
		last, _ := n.store.logs.LogStore.LastIndex()
		if last < uint64(len(h.log)) {
			t.Errorf("the log ends at entry %d, want %d", last, len(h.log))
		}
		for i := first; i <= last; i++ {
			var l raft.Log
			if err := n.store.guard.GetLog(i, &l); err != nil {
				t.Errorf("entry %d: %v", i, err)
				return
			}
			if want := h.log[i]; want != nil && (l.Term != want.Term || l.Type != want.Type || !bytes.Equal(l.Data, want.Data)) {
				t.Errorf("entry %d is another one", i)
			}
		}
	})
	if !ok {
		return "a fault when the log is read"
	}
	return ""
}

// readSnapshots has another node install all snapshots.
func (h *chronicle) readSnapshots(t *testing.T, m *machine) string {
	from := m.up().fsm
	all, err := from.Snapshots().List()
	if err != nil || len(all) == 0 {
		t.Errorf("snapshots %v, %v", all, err)
	}
	for _, meta := range all {
		on := newFS(t)
		to, err := fsm.Open(fsm.Options{Dir: root, FS: on, Logger: zap.NewNop(), Publish: func([]state.Event) {}, Skipped: func() {}, Fault: func(error) {}})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // raft tries again
			if err = takeSnapshot(from, to, meta); err == nil || from.Err() != nil {
				break
			}
		}
		if from.Err() != nil {
			_ = to.Close()
			return "a fault when a snapshot is sent"
		}
		if err != nil {
			t.Errorf("a snapshot cannot be used, and the node that has it says nothing: %v", err)
		}
		applied := to.Applied()
		if err := to.Close(); err != nil {
			t.Error(err)
		}
		if sum, err := sumIn(on, root); err != nil || sum != h.states[applied] {
			t.Errorf("the state of the snapshot of entry %d is another one: %v", meta.Index, err)
		}
	}
	return ""
}

// takeSnapshot is what raft does with a snapshot that a leader sends.
func takeSnapshot(from, to *fsm.FSM, meta *raft.SnapshotMeta) error {
	_, stream, err := from.Snapshots().Open(meta.ID)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	sink, err := to.Snapshots().Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sink, io.LimitReader(stream, meta.Size)); err != nil {
		_ = sink.Cancel()
		return err
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return to.Install()
}
