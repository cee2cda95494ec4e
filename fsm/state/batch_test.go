package state

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// newer is bytes of a field that no message of this version has.
var newer = protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1)

// TestApply_Halts: an entry of a newer version is not skipped, not half applied, and not guessed at.
// What came before it in the batch is kept.
func TestApply_Halts(t *testing.T) {
	room, err := proto.Marshal(&fsmpb.CreateRoom{Name: "room"})
	if err != nil {
		t.Fatal(err)
	}
	entry := func(format uint32, cs ...*Command) []byte {
		data, err := proto.Marshal(&fsmpb.Entry{Format: format, TimeMs: 1, Commands: cs})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, tt := range map[string]struct {
		data func(Actor) []byte
		want error
	}{
		"another format": {func(Actor) []byte { return entry(2) }, chaterr.ErrUpgradeNeeded},
		"a field of the entry": {func(Actor) []byte {
			return append(entry(1), newer...)
		}, chaterr.ErrUpgradeNeeded},
		"an unknown kind, behind a known one": {func(a Actor) []byte {
			return entry(1, &Command{Kind: fsmpb.Kind_KIND_CREATE_ROOM, Account: a.Account, Session: a.Session, Payload: room}, &Command{Kind: 999})
		}, chaterr.ErrUpgradeNeeded},
		"a field of the payload": {func(a Actor) []byte {
			return entry(1, &Command{Kind: fsmpb.Kind_KIND_CREATE_ROOM, Account: a.Account, Session: a.Session, Payload: append(room, newer...)})
		}, chaterr.ErrUpgradeNeeded},
		"garbage": {func(Actor) []byte { return []byte{0xff, 0xff, 0xff} }, chaterr.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			alice := m.user("alice")
			b := m.s.NewBatch()
			before, err := EncodeEntry(m.nowMS, []*Command{m.command(alice, nil, &CreateRoom{Name: "before"})})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Apply(m.index+1, 1, before); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Apply(m.index+2, 1, tt.data(alice)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			if m.s.Applied() != m.index+1 {
				t.Errorf("applied %d, want %d", m.s.Applied(), m.index+1)
			}
			for name, want := range map[string]bool{"before": true, "room": false} {
				if id, err := m.view().RoomByName(name); err != nil || (id != 0) != want {
					t.Errorf("room %q is %d, %v", name, id, err)
				}
			}
		})
	}
}

// TestApply_Malformed: a payload that is no message of its kind is refused, alike on every node.
func TestApply_Malformed(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	c := m.command(alice, nil, &CreateRoom{Name: "room"})
	c.Payload = []byte{0xff}
	after := m.command(alice, nil, &CreateRoom{Name: "room"})
	rs := m.entry(c, after)
	if !errors.Is(Err(rs[0]), chaterr.ErrInvalid) || Err(rs[1]) != nil {
		t.Errorf("got %v", rs)
	}
}

// TestApply_LogTime never goes back, whatever a leader's clock says.
func TestApply_LogTime(t *testing.T) {
	m := newMachine(t)
	now := m.nowMS
	m.nowMS -= 1000
	if r := m.must(Actor{}, &RegisterAccount{Name: "alice", PasswordHash: "h"}); r.TimeMs != now || m.s.TimeMS() != now {
		t.Errorf("registered at %d, log time is %d, want %d", r.TimeMs, m.s.TimeMS(), now)
	}
}

func TestFormCluster(t *testing.T) {
	m := newMachine(t)
	m.refuses(Actor{}, nil, &FormCluster{ClusterId: "other"}, chaterr.ErrOtherCluster)
	m.refuses(Actor{}, nil, &FormCluster{}, chaterr.ErrInvalid)
	m.must(Actor{}, &FormCluster{ClusterId: "c"})
	if m.s.ClusterID() != "c" {
		t.Errorf("got %q", m.s.ClusterID())
	}
}

// TestOpen_Newer: a state of a newer version is not touched.
func TestOpen_Newer(t *testing.T) {
	for name, meta := range map[string]*fsmpb.Meta{
		"format": {Format: format + 1, Level: 1},
		"level":  {Format: format, Level: CurrentLevel + 1},
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t)
			v, err := proto.Marshal(meta)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Set([]byte{keyMeta}, v, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(db); !errors.Is(err, chaterr.ErrUpgradeNeeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzApply: no bytes make Apply panic, and what it refuses leaves no trace.
func FuzzApply(f *testing.F) {
	m := newMachine(f)
	alice := m.user("alice")
	for _, p := range []proto.Message{
		&RegisterAccount{Name: "bob", PasswordHash: "h"}, &CreateRoom{Name: "room"}, &SendMessage{Target: ToUser("alice"), Text: "x"},
		&HideMessages{Room: 4, Seqs: []uint64{1}}, &DeleteAccount{PasswordVersion: 1}, &RevokeSession{All: true},
	} {
		data, err := EncodeEntry(m.nowMS, []*Command{m.command(alice, m.op(), p)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := dump(t, m.db)
		b := m.s.NewBatch()
		defer func() { _ = b.Close() }()
		if _, err := b.Apply(m.index+1, 1, data); err == nil {
			return
		}
		if _, err := b.Commit(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, dump(t, m.db)) {
			t.Error("a refused entry has left a trace")
		}
	})
}
