package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/protowire"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// TestApply: every entry has an answer: the results of its commands, nothing for an entry of raft's
// own, an error for one that was applied before. Events come in the order of the log.
func TestApply(t *testing.T) {
	logs := makeLog(t, 100)
	m := newMachine(t)
	for _, l := range logs[:setup] {
		m.Apply(l)
		if m.Applied() != l.Index {
			t.Errorf("after entry %d the state is at entry %d", l.Index, m.Applied())
		}
	}
	m.apply(logs[:40], 7)
	for i, a := range m.ApplyBatch(logs[20:60]) {
		l := logs[20+i]
		rs, err := Results(a)
		switch {
		case l.Index <= 40 && (err == nil || rs != nil):
			t.Errorf("entry %d again: %v", l.Index, rs)
		case l.Index > 40 && l.Type == raft.LogCommand && (err != nil || len(rs) == 0 || rs[0].Index > l.Index):
			t.Errorf("entry %d: %v, %v", l.Index, rs, err)
		case l.Index > 40 && l.Type != raft.LogCommand && a != nil && err == nil:
			t.Errorf("entry %d of raft's: %v", l.Index, a)
		}
	}
	for _, l := range logs[60:] {
		m.Apply(l)
	}
	want := newMachine(t)
	want.apply(logs, 1)
	same(t, m, want)
	if !slices.EqualFunc(m.events, want.events, func(a, b state.Event) bool { return a.Position == b.Position && a.Text == b.Text }) {
		t.Errorf("got %d events, want %d", len(m.events), len(want.events))
	}
	if !slices.IsSortedFunc(m.events, func(a, b state.Event) int { return a.Compare(b.Position) }) {
		t.Error("events are out of order")
	}
}

// TestApply_Halts: an entry that this binary cannot apply stops the machine right before it. What
// came before is applied and published; nothing after it is, now or later, and a restart stands at
// the same place.
func TestApply_Halts(t *testing.T) {
	good := makeLog(t, 40)
	send := command(t, actors[0], nil, &state.SendMessage{Target: state.ToUser("user1"), Text: "half of an entry"})
	unknownField := protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)
	for name, tt := range map[string]struct {
		bad    func() *raft.Log
		damage func(m *machine) // to the state itself
		want   error
	}{
		"unknown kind": {func() *raft.Log {
			return entry(t, 31, epoch, send, &state.Command{Kind: 1000})
		}, nil, chaterr.ErrUpgradeNeeded},
		"unknown field of a command": {func() *raft.Log {
			c := command(t, actors[0], nil, &state.CreateRoom{Name: "room"})
			c.Payload = append(c.Payload, unknownField...)
			return entry(t, 31, epoch, send, c)
		}, nil, chaterr.ErrUpgradeNeeded},
		"unknown field of an entry": {func() *raft.Log {
			l := entry(t, 31, epoch, send)
			l.Data = append(l.Data, unknownField...)
			return l
		}, nil, chaterr.ErrUpgradeNeeded},
		"garbage": {func() *raft.Log {
			return &raft.Log{Index: 31, Term: 1, Type: raft.LogCommand, Data: []byte("\xff\xff\xff")}
		}, nil, chaterr.ErrCorrupt},
		"damaged record": {func() *raft.Log {
			return entry(t, 31, epoch, send, command(t, actors[1], nil, &state.SendMessage{Target: state.ToRoom(1 << 40), Text: "x"}))
		}, func(m *machine) {
			room := append([]byte{'r'}, 0, 0, 1, 0, 0, 0, 0, 0)
			m.damage(room, []byte("\xff\xff\xff"))
		}, chaterr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			m, want := newMachine(t), newMachine(t)
			want.apply(good[:30], 10)
			m.apply(good[:20], 10)
			if tt.damage != nil {
				tt.damage(want)
				tt.damage(m)
			}
			batch := append(slices.Clone(good[20:30]), tt.bad())
			batch = append(batch, good[31:]...)
			for i, a := range m.ApplyBatch(batch) {
				if _, err := Results(a); !errors.Is(err, chaterr.ErrFault) {
					t.Errorf("entry %d of the batch: got %v", i, a)
				}
			}
			halted := func(when string, m *machine) {
				t.Helper()
				if m.Applied() != 30 {
					t.Errorf("%s: the state is at entry %d, want 30", when, m.Applied())
				}
				same(t, m, want)
			}
			halted("at once", m)
			if err := m.Err(); !errors.Is(err, chaterr.ErrFault) || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "entry 31") {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if len(m.events) != len(want.events) || len(m.faults) != 1 || !errors.Is(m.faults[0], tt.want) {
				t.Errorf("%d events, want %d; faults %v", len(m.events), len(want.events), m.faults)
			}
			if _, err := Results(m.Apply(good[30])); !errors.Is(err, chaterr.ErrFault) {
				t.Errorf("the next entry: got %v", err)
			}
			halted("after more", m)
			if _, err := m.Snapshot(); !errors.Is(err, chaterr.ErrFault) {
				t.Errorf("snapshot: got %v", err)
			}
			if _, err := m.View(); !errors.Is(err, chaterr.ErrFault) {
				t.Errorf("view: got %v", err)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if tt.damage != nil {
				return // what was not flushed was not kept, the damage included
			}
			again := reopen(t, m.dir)
			again.apply(good[:30], 10)
			halted("after a restart", again)
			if _, err := Results(again.Apply(tt.bad())); !errors.Is(err, tt.want) {
				t.Errorf("the entry again: got %v", err)
			}
			halted("at the entry again", again)
			// The binary that knows the entry goes on.
			newer := reopen(t, copyDir(t, m.dir))
			newer.apply(good, 10)
			want.apply(good, 10)
			same(t, newer, want)
		})
	}
}

// TestApply_Panic: a panic is a fault and not the end of the process, and leaves no half of a batch.
func TestApply_Panic(t *testing.T) {
	logs := makeLog(t, 40)
	m := newMachine(t)
	m.apply(logs[:20], 10)
	session := []byte("s\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02")
	m.damage(session, []byte("short"))
	before := dump(t, m.FSM)
	for _, a := range m.ApplyBatch(logs[20:]) {
		if _, err := Results(a); !errors.Is(err, chaterr.ErrFault) {
			t.Errorf("got %v", a)
		}
	}
	if m.Applied() != 20 || !bytes.Equal(dump(t, m.FSM), before) || len(m.faults) != 1 || !strings.Contains(m.Err().Error(), "panicked") {
		t.Errorf("the state is at entry %d, faults %v", m.Applied(), m.faults)
	}
}

// TestApply_Quarantine: from level 2 on a command that panics is left out, alike on every node, and
// the machine goes on. A node on which alone it panics, since a record there is damaged, stops when the
// states are compared.
func TestApply_Quarantine(t *testing.T) {
	logs := makeLog(t, 40)
	session := []byte("s\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02")
	send := command(t, actors[0], nil, &state.SendMessage{Target: state.ToUser("user1"), Text: "x"})
	var ms []*machine
	for range 3 {
		m := newMachine(t)
		m.apply(logs[:20], 10)
		m.apply([]*raft.Log{entry(t, 21, epoch, command(t, state.Actor{}, nil, &state.RaiseLevel{Level: 2}))}, 1)
		ms = append(ms, m)
	}
	for _, m := range ms[:2] {
		m.damage(session, []byte("short"))
	}
	for i, m := range ms {
		rs, err := Results(m.Apply(entry(t, 22, epoch, send)))
		if bad := i < 2; err != nil || errors.Is(state.Err(rs[0]), chaterr.ErrQuarantined) != bad || m.Audit().Doubtful() != bad {
			t.Errorf("node %d: got %v, %v, %+v", i, rs, err, m.Audit())
		}
		m.apply([]*raft.Log{entry(t, 23, epoch, command(t, state.Actor{}, nil, &state.MarkState{}))}, 1)
	}
	same(t, ms[0], ms[1])
	a := ms[0].Audit()
	verify := entry(t, 24, epoch, command(t, state.Actor{}, nil, &state.VerifyState{Index: a.Mark, Hash: a.MarkHash}))
	for i, m := range ms {
		_, err := Results(m.Apply(verify))
		if well := i < 2; well && err != nil || !well && !(errors.Is(err, chaterr.ErrDiverged) && errors.Is(m.Err(), chaterr.ErrFault)) {
			t.Errorf("node %d: got %v", i, err)
		}
	}
	if ms[2].Applied() != 23 || len(ms[2].faults) != 1 {
		t.Errorf("the node that differs is at entry %d, with faults %v", ms[2].Applied(), ms[2].faults)
	}
}

func TestResults(t *testing.T) {
	sick := errors.New("sick")
	rs := []*fsmpb.Result{{Seq: 1}}
	if got, err := Results(rs); err != nil || len(got) != 1 || got[0] != rs[0] {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Results(sick); err != sick {
		t.Errorf("got %v", err)
	}
	for _, answer := range []any{nil, 1, "text"} {
		if _, err := Results(answer); err == nil {
			t.Errorf("%v is no answer", answer)
		}
	}
}

// TestFSM_DiskFails: when the state's directory is lost, whoever writes a snapshot or closes the FSM
// hears of it, and does not wait for a disk that will not come back.
func TestFSM_DiskFails(t *testing.T) {
	for name, use := range map[string]func(m *machine) error{
		"snapshot": func(m *machine) error {
			s, err := m.Snapshot()
			if err != nil {
				return err
			}
			defer s.Release()
			return s.Persist(m.create(&raft.Log{Index: 20, Term: 1}))
		},
		"close": func(m *machine) error { return m.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.apply(makeLog(t, 20), 10)
			if err := os.Rename(m.store.dir, m.store.dir+"-lost"); err != nil {
				t.Fatal(err)
			}
			if err := use(m); !errors.Is(err, chaterr.ErrFault) {
				t.Errorf("got %v", err)
			}
			if err := m.Err(); !errors.Is(err, chaterr.ErrFault) || !strings.Contains(err.Error(), m.dir) {
				t.Errorf("got %v", err)
			}
			if got := names(t, m.dir, "snapshots"); len(got) > 0 {
				t.Errorf("left are %v", got)
			}
			if err := m.Close(); err != nil {
				t.Errorf("close after that: %v", err)
			}
		})
	}
}

// TestFSM_WaitApplied: it returns when the state holds the entry, and not before; who cannot get it
// hears why.
func TestFSM_WaitApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := makeLog(t, 40)
		m := newMachine(t)
		m.apply(logs[:10], 10)
		got := make(chan error, 10)
		wait := func(ctx context.Context, index uint64) {
			go func() {
				err := m.WaitApplied(ctx, index)
				if err == nil && m.Applied() < index {
					err = fmt.Errorf("back at entry %d, asked for %d", m.Applied(), index)
				}
				got <- err
			}()
			synctest.Wait()
		}
		wait(t.Context(), 10)
		if err := <-got; err != nil {
			t.Error(err)
		}
		wait(t.Context(), 20)
		m.apply(logs[10:19], 1)
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("back before the entry: %v", <-got)
		}
		m.apply(logs[19:30], 5)
		if err := <-got; err != nil {
			t.Error(err)
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		wait(ctx, 50)
		cancel(gone)
		if err := <-got; err != gone {
			t.Errorf("got %v, want %v", err, gone)
		}
		// A snapshot brings the state forward too.
		leader := newMachine(t)
		leader.apply(logs, 10)
		wait(t.Context(), 40)
		m.install(leader.stream(leader.snapshot(logs[39])))
		if err := <-got; err != nil {
			t.Error(err)
		}
		wait(t.Context(), 41)
		m.fail(gone)
		if err := <-got; !errors.Is(err, chaterr.ErrFault) || !errors.Is(err, gone) {
			t.Errorf("got %v, want %v", err, gone)
		}
		if n := len(m.applied.waiters); n > 0 {
			t.Errorf("%d are left waiting", n)
		}
		if err := errors.Join(m.Close(), leader.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestFSM_Close waits for views, also of a state that was replaced. Afterwards there is nothing to
// see, and a second call does nothing.
func TestFSM_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := makeLog(t, 40)
		leader, m := newMachine(t), newMachine(t)
		leader.apply(logs, 10)
		m.apply(logs[:20], 10)
		old, err := m.View()
		if err != nil {
			t.Fatal(err)
		}
		m.install(leader.stream(leader.snapshot(logs[39])))
		now, err := m.View()
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- m.Close() }()
		for _, v := range []*state.View{now, old} {
			synctest.Wait()
			if len(closed) > 0 {
				t.Fatalf("closed under a view: %v", <-closed)
			}
			if rooms, err := v.RoomsOf(actors[0].Account); err != nil || len(rooms) == 0 {
				t.Errorf("the view of entry %d: %v, %v", v.Applied(), rooms, err)
			}
			if _, err := m.View(); !errors.Is(err, chaterr.ErrClosed) {
				t.Errorf("a new view: got %v", err)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(<-closed, m.Close()); err != nil {
			t.Error(err)
		}
		if _, err := m.Snapshot(); err == nil {
			t.Error("a snapshot of a closed state")
		}
		if got := names(t, m.dir); len(got) != 2 {
			t.Errorf("left are %v", got)
		}
		if err := leader.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestFSM_CloseAfterFault gives up on a view that is never closed, for the process has to go on.
func TestFSM_CloseAfterFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.apply(makeLog(t, 20), 10)
		v, err := m.View()
		if err != nil {
			t.Fatal(err)
		}
		m.fail(errors.New("disk"))
		start := time.Now()
		if err := m.Close(); !errors.Is(err, chaterr.ErrFault) || time.Since(start) != closeTimeout {
			t.Errorf("after %v got %v", time.Since(start), err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}
