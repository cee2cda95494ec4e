package replica

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// The tests of this file run the bare library alone, where our cure is elsewhere, with tests of its own, which
// each names. When one of them fails, upstream has mended the defect, and the cure may go.

// bare is a cluster of nodes that stand for election after 300 ms, the first of which leads.
type bare struct {
	wires
	ids   []string
	disks map[string]*sick
	rafts map[string]*raft.Raft
	fsms  map[string]*recorder
}

func newBare(t *testing.T, n int) *bare { return newBareWith(t, n, 300*time.Millisecond) }

// newBareWith makes all but the first stand for election after another time.
func newBareWith(t *testing.T, n int, timeout time.Duration) *bare {
	t.Helper()
	ids := []string{"a", "b", "c", "d", "e"}[:n]
	b := &bare{wires: newWires(ids...), disks: map[string]*sick{}, rafts: map[string]*raft.Raft{}, fsms: map[string]*recorder{}}
	for i, id := range ids {
		b.disks[id] = &sick{disk: history(t, false, voters(ids...), 1)}
		after := timeout
		if i == 0 {
			after = 300 * time.Millisecond
		}
		l, f := b.start(t, id, after, b.disks[id], raft.NewInmemSnapshotStore(), false)
		b.rafts[id], b.fsms[id] = l.now.Load(), f
		for _, other := range ids[:i] {
			b.connect(id, other)
		}
	}
	eventually(t, "one leads and has committed", func() bool {
		for _, id := range ids {
			if b.rafts[id].State() == raft.Leader && b.rafts[id].Barrier(time.Second).Error() == nil {
				b.ids = append([]string{id}, slices.DeleteFunc(slices.Clone(ids), func(x string) bool { return x == id })...)
			}
		}
		return b.ids != nil
	})
	for _, id := range ids {
		eventually(t, "nothing is on its way", func() bool { return b.rafts[id].AppliedIndex() == b.rafts[b.ids[0]].LastIndex() })
	}
	return b
}

// cut disconnects two nodes.
func (b *bare) cut(x, y string) {
	b.wires[x].Disconnect(raft.ServerAddress(y))
	b.wires[y].Disconnect(raft.ServerAddress(x))
}

// TestUpstream_VerifyLeader: a leader that reaches no other voter is told that it leads, as long as non-voters
// answer. Reads do not ask it: TestReplica_Isolated.
func TestUpstream_VerifyLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, 5)
		leader := b.rafts[b.ids[0]]
		for _, id := range b.ids[1:3] {
			if err := leader.DemoteVoter(raft.ServerID(id), 0, time.Second).Error(); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range b.ids[3:] {
			b.cut(b.ids[0], id)
		}
		if err := leader.VerifyLeader().Error(); err != nil {
			t.Errorf("one of three voters, with two non-voters, got %v", err)
		}
	})
}

// TestUpstream_AddressReuse: when a dead voter's address leads to another node, that one's answers count for
// the dead one too, and two of five commit. A tunnel says who it wants: TestRaft_AnotherNode (package peer).
func TestUpstream_AddressReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, 5)
		leader, alive, dead := b.ids[0], b.ids[1], b.ids[2:]
		for _, id := range dead {
			b.cut(leader, id)
			b.cut(alive, id)
			if err := b.rafts[id].Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
		b.wires[leader].Connect(raft.ServerAddress(dead[0]), b.wires[alive].InmemTransport)
		if err := b.rafts[leader].Apply([]byte("x"), time.Second).Error(); err != nil {
			t.Errorf("two of five got %v", err)
		}
	})
}

// evil has a sender who is no member send one entry to a follower, as one that is committed.
func (b *bare) evil(l raft.Log) (raft.AppendEntriesResponse, error) {
	victim := b.ids[1]
	_, from := raft.NewInmemTransport("evil")
	from.Connect(raft.ServerAddress(victim), b.wires[victim].InmemTransport)
	last, term := b.rafts[victim].LastIndex(), b.rafts[victim].CurrentTerm()
	l.Index, l.Term = last+1, 1000
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("evil"), Addr: []byte("evil")}, Term: 1000, Leader: []byte("evil"),
		PrevLogEntry: last, PrevLogTerm: term, LeaderCommitIndex: last + 1, Entries: []*raft.Log{&l},
	}
	var resp raft.AppendEntriesResponse
	err := from.AppendEntries(raft.ServerID(victim), raft.ServerAddress(victim), req, &resp)
	return resp, err
}

// TestUpstream_Stranger: a sender who is no member is obeyed: it sets the term, and its command is applied. No
// stranger gets a tunnel: TestTunnel_Stranger (package peer).
func TestUpstream_Stranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, 3)
		if resp, err := b.evil(raft.Log{Type: raft.LogCommand, Data: []byte("make me admin")}); err != nil || !resp.Success {
			t.Errorf("got %+v, %v", resp, err)
		}
		eventually(t, "the command is applied", func() bool { return b.fsms[b.ids[1]].has("make me admin") })
		if term := b.rafts[b.ids[1]].CurrentTerm(); term < 1000 {
			t.Errorf("the term is %d", term)
		}
	})
}

// TestUpstream_SickLeader: a leader that cannot write its log steps down, and may lead again and again. The
// guard ends it for good: TestReplica_Disk.
func TestUpstream_SickLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBareWith(t, 3, 10*time.Second) // the others would be as good
		sick := b.ids[0]
		failure := errors.New("input/output error")
		b.disks[sick].logs.Store(&failure)
		_ = b.rafts[sick].Apply([]byte("x"), 0).Error() // fails
		was := b.rafts[sick].CurrentTerm()
		time.Sleep(5 * time.Second)
		if led := b.rafts[sick].CurrentTerm() - was; led < 2 { // the others give it their votes
			t.Errorf("it was elected %d times more in five seconds", led)
		}
	})
}

// TestUpstream_StuckTransfer: hashicorp/raft#696. While the last call of a transfer that was given up hangs,
// the leader refuses all writes. TestReplica_StuckTransfer.
func TestUpstream_StuckTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, 3)
		leader, to := b.rafts[b.ids[0]], b.ids[1]
		hang := make(chan struct{})
		defer func() {
			close(hang)
			time.Sleep(time.Minute) // the call is sent, while there is somebody to answer it
		}()
		b.wires[b.ids[0]].hang.Store(&hang)
		if err := leader.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to)).Error(); err == nil {
			t.Error("the transfer has not hung")
		}
		time.Sleep(time.Minute)
		if err := leader.Apply([]byte("x"), 0).Error(); err != raft.ErrLeadershipTransferInProgress {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// tracker is the store that RestoreCommittedLogs asks for.
type tracker struct {
	*raft.InmemStore
	commit uint64
}

func (c *tracker) StageCommitIndex(i uint64) error { c.commit = i; return nil }
func (c *tracker) GetCommitIndex() (uint64, error) { return c.commit, nil }

// TestUpstream_RestoreCommittedLogs: it loses the configuration. It is never on.
func TestUpstream_RestoreCommittedLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := history(t, false, voters("a"), 1, entries(2, 100, 1, "x")).(*raft.InmemStore)
		c := raft.DefaultConfig()
		c.LocalID, c.LogOutput, c.RestoreCommittedLogs = "a", io.Discard, true
		_, w := raft.NewInmemTransport("a")
		r, err := raft.NewRaft(c, &recorder{}, &tracker{d, 100}, d, raft.NewInmemSnapshotStore(), w)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(r.GetConfiguration().Configuration().Servers); n != 0 {
			t.Errorf("%d servers are left", n)
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	})
}

// TestUpstream_SnapshotUnread: with NoSnapshotRestoreOnStart, which a state that is durable by itself needs,
// raft takes the newest snapshot's entries for applied, and never gives them to a state that is behind.
// Package fsm compares first: TestOpen_AfterCrash (package fsm).
func TestUpstream_SnapshotUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires("a")
		d, snaps := w.compacted(t, "a", false, voters("a"), 50)
		c := raft.DefaultConfig()
		c.LocalID, c.LogOutput, c.NoSnapshotRestoreOnStart = "a", io.Discard, true
		f := &recorder{}
		r, err := raft.NewRaft(c, f, d, d, snaps, w["a"])
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "it leads", func() bool { return r.Barrier(time.Second).Error() == nil })
		if n := f.count(); n >= 50 {
			t.Errorf("the state machine was given %d commands", n)
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	})
}

// TestUpstream_CorruptSnapshot: NewRaft panics when the newest snapshot is damaged and the log behind it is
// gone. Ours are read before raft starts: TestOpen_Damaged (package fsm).
func TestUpstream_CorruptSnapshot(t *testing.T) {
	dir := t.TempDir()
	snaps, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, w := raft.NewInmemTransport("a")
	for i, index := range []uint64{10, 20} {
		sink, err := snaps.Create(1, index, 1, voters("a"), 1, w)
		if err == nil {
			_, err = io.WriteString(sink, "a,b,c")
		}
		if err := errors.Join(err, sink.Close()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			time.Sleep(2 * time.Millisecond) // names of snapshots have milliseconds
		}
	}
	d := raft.NewInmemStore()
	put(t, d, entries(21, 25, 1, "x"))
	if err := d.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	newest, err := filepath.Glob(filepath.Join(dir, "snapshots", "1-20-*", "state.bin"))
	if err != nil || len(newest) != 1 {
		t.Fatalf("%v, %v", newest, err)
	}
	if err := os.WriteFile(newest[0], bytes.Repeat([]byte{0}, 5), 0o600); err != nil {
		t.Fatal(err)
	}
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput = "a", io.Discard
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r, err := raft.NewRaft(c, &recorder{}, d, d, snaps, w)
	t.Errorf("got %v", err)
	_ = r.Shutdown().Error()
}

// lethal are histories at whose end the library ends the process.
var lethal = map[string]func(t *testing.T, b *bare){
	// TestReplica_Vote
	"a failed write of the term": func(t *testing.T, b *bare) {
		failure := errors.New("input/output error")
		b.disks[b.ids[1]].err.Store(&failure)
		_, _ = b.evil(raft.Log{Type: raft.LogNoop})
	},
	// TestReplica_CorruptEntry
	"a committed entry that cannot be read": func(t *testing.T, b *bare) {
		failure := errors.New("input/output error")
		b.disks[b.ids[1]].reads.Store(&failure)
		_ = b.rafts[b.ids[0]].Apply([]byte("x"), 0).Error()
	},
	// TestCheck (package peer)
	"a configuration that is none": func(t *testing.T, b *bare) {
		_, _ = b.evil(raft.Log{Type: raft.LogConfiguration, Data: []byte("garbage")})
	},
	"an entry of no type": func(t *testing.T, b *bare) { _, _ = b.evil(raft.Log{Type: 77}) },
}

const lethalEnv = "CHAT_TEST_LETHAL"

// TestUpstream_Panics: each of these ends the process.
func TestUpstream_Panics(t *testing.T) {
	if name := os.Getenv(lethalEnv); name != "" {
		lethal[name](t, newBare(t, 3))
		time.Sleep(5 * time.Second) // of real time, if upstream is mended
		return
	}
	for name := range lethal {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestUpstream_Panics$")
			cmd.Env = append(os.Environ(), lethalEnv+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "panic: ") {
				t.Errorf("it lives: %v\n%s", err, out)
			}
		})
	}
}
