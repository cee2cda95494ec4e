package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// poison is a kind that only tests have.
const poison = fsmpb.Kind(1000)

// poisoned makes a command that does what f does, for the time of a test.
func poisoned(t *testing.T, m *machine, a Actor, f func(*tx)) *Command {
	t.Helper()
	kinds[poison] = on(func(x *tx, _ *fsmpb.Quarantine) *Result {
		f(x)
		return &Result{}
	})
	t.Cleanup(func() { delete(kinds, poison) })
	return &Command{Kind: poison, Account: a.Account, Session: a.Session, OperationId: m.op(), Payload: []byte{8, 1}}
}

// TestQuarantine: a command that panics changes nothing, is not remembered as done, and the commands
// around it take effect. The state says that there was one.
func TestQuarantine(t *testing.T) {
	m, want := newMachine(t), newMachine(t)
	alice := m.user("alice")
	want.user("alice")
	bad := poisoned(t, m, alice, func(x *tx) {
		x.put(nameKey(keyName, "half"), &fsmpb.Account{Name: "half"})
		x.newID()
		x.emit(Event{Kind: MessageSent})
		var none *fsmpb.Mark
		none.Index++
	})
	before := m.command(alice, m.op(), &CreateRoom{Name: "before"})
	after := m.command(alice, m.op(), &CreateRoom{Name: "after"})
	for i := range 2 {
		rs := m.entry(before, bad, after)
		if Err(rs[0]) != nil || Err(rs[2]) != nil || !errors.Is(Err(rs[1]), chaterr.ErrQuarantined) || rs[1].Duplicate {
			t.Fatalf("round %d: got %v", i, rs)
		}
		want.entry(before, after)
		if a := m.s.Audit(); a.Quarantined != uint64(i+1) || a.QuarantinedAt != m.index || !a.Doubtful() {
			t.Errorf("the state says %+v", a)
		}
	}
	quarantine := fmt.Sprintf("%x", keyQuarantine)
	var rest []string
	for line := range strings.Lines(string(dump(t, m.db))) {
		if !strings.HasPrefix(line, quarantine) {
			rest = append(rest, line)
		}
	}
	if got := strings.Join(rest, ""); got != string(dump(t, want.db)) {
		t.Error("it has left a trace")
	}
	if len(m.events) != len(want.events) {
		t.Errorf("%d events, want %d", len(m.events), len(want.events))
	}
	var q fsmpb.Quarantine
	x := reader{r: m.db}
	if !x.get(key(keyQuarantine, 2), &q) || q.Index != m.index || q.Command != 1 || q.Kind != poison || len(q.Hash) != 32 {
		t.Errorf("the record is %v, %v", &q, x.err)
	}
}

// TestQuarantine_Limit: a user who has found a command that panics cannot fill the disk with it.
func TestQuarantine_Limit(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	bad := poisoned(t, m, alice, func(*tx) { panic("again") })
	for range quarantined + 10 {
		m.entry(bad)
	}
	n := 0
	x := reader{r: m.db}
	x.scanPrefix([]byte{keyQuarantine}, func(_, _ []byte) bool { n++; return true })
	if n != quarantined || m.s.Audit().Quarantined != quarantined+10 {
		t.Errorf("%d records of %d", n, m.s.Audit().Quarantined)
	}
}

// TestQuarantine_Level: binaries of level 1 stopped at a panic, and so do all until none is left.
func TestQuarantine_Level(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	bad := poisoned(t, m, alice, func(*tx) { panic("bad") })
	m.s.meta.Level = 1
	defer func() {
		if recover() == nil {
			t.Error("it was left out")
		}
	}()
	m.entry(bad)
}

// broken is a store that panics.
type broken struct{ pebble.Reader }

func (broken) Get([]byte) ([]byte, io.Closer, error) { panic("of the store") }

// TestQuarantine_Store: a panic of the store says nothing about the command, and stops the node.
func TestQuarantine_Store(t *testing.T) {
	r := reader{r: broken{}}
	if r.has([]byte("k")) || !errors.Is(r.err, chaterr.ErrCorrupt) || !strings.Contains(r.err.Error(), "of the store") {
		t.Errorf("got %v", r.err)
	}
}

// marked marks a machine's state, and says what there is to compare.
func marked(m *machine) Audit {
	m.t.Helper()
	m.must(Actor{}, &MarkState{})
	return m.s.Audit()
}

// TestAudit_Diverged: whatever record differs, once the difference has had an effect the next audit
// finds it, and the node that has it stops at that entry.
func TestAudit_Diverged(t *testing.T) {
	set := func(k []byte, m proto.Message) func(*machine) {
		return func(x *machine) {
			v, err := proto.Marshal(m)
			if err == nil {
				err = x.db.Set(k, v, pebble.NoSync)
			}
			if err != nil {
				x.t.Fatal(err)
			}
		}
	}
	remove := func(k []byte) func(*machine) {
		return func(x *machine) {
			if err := x.db.Delete(k, pebble.NoSync); err != nil {
				x.t.Fatal(err)
			}
		}
	}
	first := append(firstULID(1767225600000), make([]byte, 0)...)
	for name, damage := range map[string]func(*machine){
		"another last number": set(key(keyRoom, 5), &fsmpb.Room{Kind: fsmpb.RoomKind_ROOM_KIND_PUBLIC, Name: "room", LastSeq: 7, Members: 1}),
		"no room":             remove(key(keyRoom, 5)),
		"no member":           remove(key(keyMember, 1, 5)),
		"no session": func(x *machine) {
			remove(append([]byte{keyToken}, tokenHash("1")...))(x)
			remove(key(keySession, 1, 2))(x)
		},
		"a name that is not":      func(x *machine) { set(nameKey(keyName, "carol"), nil)(x) },
		"an operation not known":  func(x *machine) { remove(operationKey(append(first[:8:8], 0, 0, 0, 0, 0, 0, 0, 3), 1))(x) },
		"a command that panicked": func(x *machine) { _ = x.db.Set(key(keySession, 1, 2), []byte("x"), pebble.NoSync) },
		"a counter":               func(x *machine) { x.s.meta.LastId++ },
		"log time":                func(x *machine) { x.s.meta.TimeMs += 1000_000 },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newMachine(t), newMachine(t)
			var send *Command
			for _, m := range []*machine{a, b} {
				alice := m.user("alice")
				m.user("bob")
				m.must(alice, &CreateRoom{Name: "room"})
				m.ops = 2
				send = m.command(alice, m.op(), &SendMessage{Target: ToRoom(5), Text: "once"})
				m.entry(send)
			}
			damage(b)
			b.s.cache.clear() // the damage is found when a record is read, and here all are
			if x, y := marked(a), marked(b); name != "a counter" && name != "log time" && x != y {
				t.Errorf("differ before there was an effect: %+v, %+v", x, y)
			}
			for _, m := range []*machine{a, b} {
				alice := Actor{1, 2}
				m.entry(send, m.command(alice, m.op(), &SendMessage{Target: ToRoom(5), Text: "again"}),
					m.command(Actor{}, nil, &RegisterAccount{Name: "carol", PasswordHash: "h"}))
				m.entry(m.command(Actor{3, 4}, nil, &MarkRead{Room: 99, Seq: 1})) // is refused everywhere
			}
			x, y := marked(a), marked(b)
			if x.MarkHash == y.MarkHash || x.MarkHash == 0 || x.Mark != y.Mark {
				t.Fatalf("the audits are %+v, %+v", x, y)
			}
			verify := &VerifyState{Index: x.Mark, Hash: x.MarkHash}
			a.must(Actor{}, verify)
			if got := a.s.Audit(); got.Verified != x.Mark || got.Pending() {
				t.Errorf("verified is %+v", got)
			}
			data, err := EncodeEntry(b.nowMS, []*Command{b.command(Actor{}, nil, verify)})
			if err != nil {
				t.Fatal(err)
			}
			batch := b.s.NewBatch()
			defer func() { _ = batch.Close() }()
			if _, err := batch.Apply(b.index+1, 1, data); !errors.Is(err, chaterr.ErrDiverged) || !strings.Contains(err.Error(), fmt.Sprintf("before entry %d ", y.Mark)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestAudit: marks and verifications count as no change, so that an idle cluster has no more of them; one
// that comes late verifies nothing.
func TestAudit(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	m.refuses(Actor{}, nil, &VerifyState{}, chaterr.ErrInvalid)
	first := marked(m)
	if first.Changes != 0 || !first.Pending() || first.MarkHash == 0 {
		t.Errorf("at the mark: %+v", first)
	}
	m.must(Actor{}, &VerifyState{Index: first.Mark, Hash: first.MarkHash})
	if a := m.s.Audit(); a.Changes != 0 || a.Pending() || a.Verified != first.Mark {
		t.Errorf("verified: %+v", a)
	}
	m.must(alice, &CreateRoom{Name: "room"})
	m.do(alice, nil, &CreateRoom{Name: "room"}) // refused
	if a := m.view().Audit(); a.Changes != 1 || a != m.s.Audit() {
		t.Errorf("after a change: %+v", a)
	}
	second := marked(m)
	m.refuses(Actor{}, nil, &VerifyState{Index: first.Mark, Hash: first.MarkHash}, chaterr.ErrInvalid)
	if a := m.s.Audit(); a.Mark != second.Mark || a.Verified != first.Mark || !a.Pending() {
		t.Errorf("after a late verification: %+v", a)
	}
}

// TestRaiseLevel: the level goes up and not down, and a binary that does not know it stops.
func TestRaiseLevel(t *testing.T) {
	m := newMachine(t)
	m.must(Actor{}, &RaiseLevel{Level: 1})
	if m.s.Level() != CurrentLevel {
		t.Errorf("the level is %d", m.s.Level())
	}
	data, err := EncodeEntry(m.nowMS, []*Command{m.command(Actor{}, nil, &RaiseLevel{Level: CurrentLevel + 1})})
	if err != nil {
		t.Fatal(err)
	}
	before := dump(t, m.db)
	b := m.s.NewBatch()
	if _, err := b.Apply(m.index+1, 1, data); !errors.Is(err, chaterr.ErrUpgradeNeeded) {
		t.Errorf("got %v", err)
	}
	if err := b.Close(); err != nil || !bytes.Equal(before, dump(t, m.db)) {
		t.Error("a refused level has left a trace")
	}
	m.s.meta.Level = 1
	if _, err := m.s.NewBatch().Apply(m.index+1, 1, mustEncode(m, &MarkState{})); !errors.Is(err, chaterr.ErrUpgradeNeeded) {
		t.Errorf("a kind above the level: got %v", err)
	}
}

func mustEncode(m *machine, p proto.Message) []byte {
	data, err := EncodeEntry(m.nowMS, []*Command{m.command(Actor{}, nil, p)})
	if err != nil {
		m.t.Fatal(err)
	}
	return data
}
