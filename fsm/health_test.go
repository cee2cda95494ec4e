package fsm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// diverged is a machine that has stopped because it differs, one that has not, and the log.
func diverged(t *testing.T) (bad, good *machine, logs []*raft.Log) {
	t.Helper()
	logs = makeLog(t, 40)[:20]
	logs = append(logs, entry(t, 21, epoch, command(t, state.Actor{}, nil, &state.RaiseLevel{Level: 2})))
	bad, good = newMachine(t), newMachine(t)
	for _, m := range []*machine{bad, good} {
		m.apply(logs, 10)
		m.snapshot(logs[20])
	}
	session := []byte("s\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02")
	bad.damage(session, []byte("short"))
	send := command(t, actors[0], nil, &state.SendMessage{Target: state.ToUser("user1"), Text: "x"})
	logs = append(logs, entry(t, 22, epoch, send), entry(t, 23, epoch, command(t, state.Actor{}, nil, &state.MarkState{})))
	for _, m := range []*machine{bad, good} {
		m.apply(logs[21:], 10)
		m.snapshot(logs[22])
	}
	a := good.Audit()
	logs = append(logs, entry(t, 24, epoch, command(t, state.Actor{}, nil, &state.VerifyState{Index: a.Mark, Hash: a.MarkHash})))
	good.apply(logs[23:], 1)
	if _, err := Results(bad.Apply(logs[23])); !errors.Is(err, chaterr.ErrDiverged) {
		t.Fatalf("got %v", err)
	}
	return bad, good, append(logs, entry(t, 25, epoch, send))
}

// TestMend: a state that differs goes over to one from another node, and on from there. It is kept
// aside, and no snapshot of its kind is left.
func TestMend(t *testing.T) {
	bad, good, logs := diverged(t)
	before := dump(t, bad.FSM)
	if err := bad.Snapshots().Import(onlyReader{bytes.NewReader(second(good.stream(good.snapshot(logs[23]))))}); err != nil {
		t.Fatal(err)
	}
	if err := bad.Mend(); err != nil {
		t.Fatal(err)
	}
	if bad.Err() != nil || bad.skipped != 1 {
		t.Errorf("%v, skipped %d times", bad.Err(), bad.skipped)
	}
	same(t, bad, good)
	if got := names(t, bad.dir, "snapshots"); len(got) != 1 {
		t.Errorf("snapshots left: %v", got)
	}
	for _, m := range []*machine{bad, good} {
		m.apply(logs[24:], 1)
	}
	same(t, bad, good)
	if err := bad.Close(); err != nil {
		t.Fatal(err)
	}
	aside := glob(t, bad.dir, asideDirs+"*")
	old, err := openStore(disk, aside, true, bad.o.Logger, nil, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump(t, &FSM{store: old}), before) {
		t.Error("the state aside is another one")
	}
	old.release()
	same(t, reopen(t, bad.dir), good)
	if _, err := os.Stat(aside); err != nil {
		t.Error(err)
	}
}

func second[A, B any](_ A, b B) B { return b }

// TestMend_Crash: a process that dies between the two steps finds the other node's state at its start.
func TestMend_Crash(t *testing.T) {
	bad, good, logs := diverged(t)
	if err := bad.Mend(); err == nil {
		t.Error("went over to its own snapshot")
	}
	if err := bad.Snapshots().Import(bytes.NewReader(second(good.stream(good.snapshot(logs[23]))))); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, copyDir(t, bad.dir))
	same(t, again, good)
	if again.Err() != nil {
		t.Error(again.Err())
	}
}

// TestImport_Damaged: a stream that is cut or damaged anywhere leaves nothing behind.
func TestImport_Damaged(t *testing.T) {
	_, good, logs := diverged(t)
	_, stream := good.stream(good.snapshot(logs[23]))
	m := newMachine(t)
	for at := 0; at < len(stream); at += 1 + len(stream)/50 {
		if err := m.Snapshots().Import(bytes.NewReader(stream[:at])); !errors.Is(err, chaterr.ErrCorrupt) {
			t.Errorf("cut at %d: got %v", at, err)
		}
		flipped := bytes.Clone(stream)
		flipped[at] ^= 4
		if err := m.Snapshots().Import(bytes.NewReader(flipped)); err == nil {
			t.Errorf("damaged at %d: no error", at)
		}
		if got := names(t, m.dir, "snapshots"); len(got) > 0 {
			t.Fatalf("at %d: left are %v", at, got)
		}
	}
	if got, err := filepath.Glob(filepath.Join(m.dir, asideDirs+"*")); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}
