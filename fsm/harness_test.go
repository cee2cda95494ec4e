package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
)

// machine is an FSM and what it has told.
type machine struct {
	*FSM
	t   testing.TB
	dir string

	mu      sync.Mutex // guards what follows
	events  []state.Event
	skipped int
	faults  []error
}

// openIn opens the FSM of a directory; it is closed at the end of the test, if not before.
func openIn(t testing.TB, dir string) (*machine, error) {
	t.Helper()
	m := &machine{t: t, dir: dir}
	var err error
	m.FSM, err = Open(Options{
		Dir: dir, Logger: zap.NewNop(),
		Publish: func(e []state.Event) { m.tell(func() { m.events = append(m.events, e...) }) },
		Skipped: func() { m.tell(func() { m.skipped++ }) },
		Fault:   func(err error) { m.tell(func() { m.faults = append(m.faults[:min(len(m.faults), 9)], err) }) },
	})
	if err == nil {
		t.Cleanup(func() { _ = m.Close() }) // who cares calls it before
	}
	return m, err
}

func (m *machine) tell(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	return reopen(t, t.TempDir())
}

// damage writes a record past the state, which does not have it in memory afterwards.
func (m *machine) damage(k, v []byte) {
	m.t.Helper()
	given := m.state.NewBatch() // and given up
	if err := errors.Join(m.store.db.Set(k, v, pebble.NoSync), given.Close()); err != nil {
		m.t.Fatal(err)
	}
}

func reopen(t testing.TB, dir string) *machine {
	t.Helper()
	m, err := openIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// apply applies entries in batches of at most size.
func (m *machine) apply(logs []*raft.Log, size int) {
	m.t.Helper()
	for len(logs) > 0 {
		n := min(size, len(logs))
		applied := m.Applied()
		for i, a := range m.ApplyBatch(logs[:n]) {
			_, isErr := a.(error)
			if skip := logs[i].Index <= applied; skip != isErr {
				m.t.Fatalf("entry %d after entry %d: got %v", logs[i].Index, applied, a)
			}
		}
		logs = logs[n:]
	}
	if err := m.Err(); err != nil {
		m.t.Fatal(err)
	}
}

// snapshot is what raft does for one, from one goroutine.
func (m *machine) snapshot(at *raft.Log) string {
	m.t.Helper()
	s, err := m.Snapshot()
	if err != nil {
		m.t.Fatal(err)
	}
	defer s.Release()
	return m.persist(s, at)
}

func (m *machine) persist(s raft.FSMSnapshot, at *raft.Log) string {
	m.t.Helper()
	sink := m.create(at)
	if err := s.Persist(sink); err != nil {
		m.t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		m.t.Fatal(err)
	}
	return sink.ID()
}

func (m *machine) create(at *raft.Log) raft.SnapshotSink {
	m.t.Helper()
	sink, err := m.Snapshots().Create(1, at.Index, at.Term, servers, 1, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return sink
}

var servers = raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a:1"}, {ID: "b", Address: "b:1"}}}

// stream is a snapshot as it travels.
func (m *machine) stream(id string) (*raft.SnapshotMeta, []byte) {
	m.t.Helper()
	meta, r, err := m.Snapshots().Open(id)
	if err != nil {
		m.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		m.t.Fatal(err)
	}
	if int64(len(b)) != meta.Size {
		m.t.Fatalf("a stream of %d bytes, announced were %d", len(b), meta.Size)
	}
	return meta, b
}

// install is what raft does with a leader's stream.
func (m *machine) install(meta *raft.SnapshotMeta, stream []byte) {
	m.t.Helper()
	sink := m.create(&raft.Log{Index: meta.Index, Term: meta.Term})
	if err := errors.Join(take(sink, stream), sink.Close()); err != nil {
		m.t.Fatal(err)
	}
	m.restore(sink.ID())
}

// take has a sink take a leader's stream, as raft does.
func take(sink raft.SnapshotSink, stream []byte) error {
	n, err := io.Copy(sink, onlyReader{bytes.NewReader(stream)})
	if err == nil && n != int64(len(stream)) { // raft would cancel it
		err = fmt.Errorf("took %d bytes of %d", n, len(stream))
	}
	return err
}

func (m *machine) restore(id string) {
	m.t.Helper()
	_, r, err := m.Snapshots().Open(id)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := errors.Join(m.Restore(r), r.Close()); err != nil {
		m.t.Fatal(err)
	}
}

// onlyReader hides WriteTo, so that a stream comes in parts.
type onlyReader struct{ io.Reader }

func (r onlyReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1000)]) }

// dump is every byte of the state.
func dump(t testing.TB, f *FSM) []byte {
	t.Helper()
	it, err := f.store.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for ok := it.First(); ok; ok = it.Next() {
		fmt.Fprintf(&b, "%x=%x\n", it.Key(), it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// same checks that two machines hold the same, byte for byte.
func same(t testing.TB, got, want *machine) {
	t.Helper()
	if got.Applied() != want.Applied() || got.ClusterID() != want.ClusterID() {
		t.Errorf("got entry %d of cluster %q, want %d of %q", got.Applied(), got.ClusterID(), want.Applied(), want.ClusterID())
	}
	if !bytes.Equal(dump(t, got.FSM), dump(t, want.FSM)) {
		t.Error("the states differ")
	}
}

// epoch is when logs begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// entry is a log entry with commands.
func entry(t testing.TB, index uint64, timeMS int64, cs ...*state.Command) *raft.Log {
	t.Helper()
	data, err := state.EncodeEntry(timeMS, cs)
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: 1 + index/50, Type: raft.LogCommand, Data: data}
}

func command(t testing.TB, a state.Actor, op []byte, p proto.Message) *state.Command {
	t.Helper()
	c, err := state.NewCommand(a, op, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// actors are the users of makeLog: ids are given out in the order of the log.
var actors = []state.Actor{{Account: 1, Session: 2}, {Account: 3, Session: 4}, {Account: 5, Session: 6}}

// setup is how many entries makeLog spends on the users.
const setup = 2 + 2*3

// makeLog makes n entries: a configuration, the cluster, three users, and what they say to each
// other at random, with retries. In a long one, operations are forgotten on the way.
func makeLog(t testing.TB, n int) []*raft.Log {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(n)))
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)},
		entry(t, 2, epoch, command(t, state.Actor{}, nil, &state.FormCluster{ClusterId: "c"})),
	}
	add := func(timeMS int64, cs ...*state.Command) {
		logs = append(logs, entry(t, uint64(len(logs)+1), timeMS, cs...))
	}
	for i, a := range actors {
		token := bytes.Repeat([]byte{byte(i)}, 32)
		add(epoch, command(t, state.Actor{}, nil, &state.RegisterAccount{Name: fmt.Sprint("user", i), PasswordHash: "hash"}))
		add(epoch, command(t, state.Actor{}, nil, &state.CreateSession{Account: a.Account, TokenHash: token, PasswordVersion: 1}))
	}
	now := epoch
	var last *state.Command
	for len(logs) < n {
		if r.IntN(20) == 0 { // raft's own entries have no commands
			logs = append(logs, &raft.Log{Index: uint64(len(logs) + 1), Term: 1 + uint64(len(logs)+1)/50, Type: raft.LogConfiguration})
			continue
		}
		if now += r.Int64N(2000); r.IntN(100) == 0 { // a night
			now += state.OperationWindow.Milliseconds() / 3
		}
		var cs []*state.Command
		for range 1 + r.IntN(3) {
			op := binary.BigEndian.AppendUint64(nil, uint64(now)<<16)
			op = binary.BigEndian.AppendUint64(op, r.Uint64())
			text := strings.Repeat(fmt.Sprint(r.Uint32()), 1+r.IntN(20))
			if last == nil || r.IntN(10) > 0 { // else a retry
				last = command(t, actors[r.IntN(3)], op, &state.SendMessage{Target: state.ToUser(fmt.Sprint("user", r.IntN(3))), Text: text})
			}
			cs = append(cs, last)
		}
		add(now, cs...)
	}
	return logs
}

// copyDir copies what a process leaves on disk that dies now. Pebble may be at work in the
// background, so a copy counts when nothing has changed meanwhile.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	for range 1000 {
		to := t.TempDir()
		before := sizes(from)
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil && before == sizes(from) {
			return to
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s never rests", from)
	return ""
}

// sizes lists all files below a directory.
func sizes(dir string) string {
	var b strings.Builder
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it is gone, and will not be in the next list
		}
		if info, err := e.Info(); err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime())
		}
		return nil
	})
	return b.String()
}

// names lists a directory.
func names(t testing.TB, dir ...string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir...))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// mkdir makes a directory with a file in it.
func mkdir(t testing.TB, path ...string) {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// glob finds the one file that a pattern below a directory names.
func glob(t testing.TB, dir string, pattern ...string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(append([]string{dir}, pattern...)...))
	if err != nil || len(found) == 0 {
		t.Fatalf("%v: found %v, %v", pattern, found, err)
	}
	return found[0]
}

// hide takes a file away, and unhide puts it back.
func hide(t testing.TB, path string) {
	t.Helper()
	if err := os.Rename(path, filepath.Join(filepath.Dir(filepath.Dir(path)), "hidden")); err != nil {
		t.Fatal(err)
	}
}

func unhide(t testing.TB, path string) {
	t.Helper()
	if err := os.Rename(filepath.Join(filepath.Dir(filepath.Dir(path)), "hidden"), path); err != nil {
		t.Fatal(err)
	}
}
