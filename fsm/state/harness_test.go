package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
)

// machine is a state with a log of one command an entry.
type machine struct {
	t      testing.TB
	db     *pebble.DB
	s      *State
	index  uint64
	nowMS  int64
	events []Event // of all entries
	ops    uint64
}

func openDB(t testing.TB) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func newMachine(t testing.TB) *machine {
	t.Helper()
	db := openDB(t)
	s, err := Open(db)
	if err != nil {
		t.Fatal(err)
	}
	s.cache.limit, s.recent.limit = 2000, 10 // so small that records come and go
	m := &machine{t: t, db: db, s: s, nowMS: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()}
	m.must(Actor{}, &FormCluster{ClusterId: "c"})
	m.must(Actor{}, &RaiseLevel{Level: CurrentLevel})
	return m
}

// entry applies commands as one entry.
func (m *machine) entry(cs ...*Command) []*Result {
	m.t.Helper()
	data, err := EncodeEntry(m.nowMS, cs)
	if err != nil {
		m.t.Fatal(err)
	}
	m.index++
	b := m.s.NewBatch()
	rs, err := b.Apply(m.index, 1, data)
	if err != nil {
		m.t.Fatal(err)
	}
	events, err := b.Commit()
	if err != nil {
		m.t.Fatal(err)
	}
	m.events = append(m.events, events...)
	return rs
}

func (m *machine) command(a Actor, op []byte, p proto.Message) *Command {
	m.t.Helper()
	c, err := NewCommand(a, op, p)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *machine) do(a Actor, op []byte, p proto.Message) *Result {
	m.t.Helper()
	return m.entry(m.command(a, op, p))[0]
}

// must is do for a command that has to succeed.
func (m *machine) must(a Actor, p proto.Message) *Result {
	m.t.Helper()
	r := m.do(a, nil, p)
	if err := Err(r); err != nil {
		m.t.Fatalf("%T: %v", p, err)
	}
	return r
}

// op makes an operation id as of now.
func (m *machine) op() []byte {
	m.ops++
	id := firstULID(m.nowMS)
	binary.BigEndian.PutUint64(id[8:], m.ops)
	return id
}

func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// user registers somebody and logs him in.
func (m *machine) user(name string) Actor {
	m.t.Helper()
	r := m.must(Actor{}, &RegisterAccount{Name: name, PasswordHash: "hash of " + name})
	return m.login(r.Account, 1)
}

func (m *machine) login(account, version uint64) Actor {
	m.t.Helper()
	m.ops++
	r := m.must(Actor{}, &CreateSession{Account: account, TokenHash: tokenHash(fmt.Sprint(m.ops)), PasswordVersion: version})
	return Actor{account, r.Session}
}

// view reads the state; it ends with the test.
func (m *machine) view() *View {
	m.t.Helper()
	v, err := NewView(m.db, func() {})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := v.Close(); err != nil {
			m.t.Error(err)
		}
	})
	return v
}

// refuses checks that a command changes nothing but the applied index, and why.
func (m *machine) refuses(a Actor, op []byte, p proto.Message, want error) {
	m.t.Helper()
	before, events := dump(m.t, m.db), len(m.events)
	if got := Err(m.do(a, op, p)); !errors.Is(got, want) {
		m.t.Errorf("%T: got %v, want %v", p, got, want)
	}
	if after := dump(m.t, m.db); !bytes.Equal(before, after) {
		m.t.Errorf("%T: the state has changed", p)
	}
	if len(m.events) != events {
		m.t.Errorf("%T: there were events", p)
	}
}

// dump is every record but the meta record, of which only what commands change.
func dump(t testing.TB, db *pebble.DB) []byte {
	t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var b bytes.Buffer
	for ok := it.First(); ok; ok = it.Next() {
		v := it.Value()
		if it.Key()[0] == keyMeta {
			var meta fsmpb.Meta
			if err := proto.Unmarshal(v, &meta); err != nil {
				t.Fatal(err)
			}
			v = fmt.Appendf(nil, "%d %s", meta.LastId, meta.ClusterId)
		}
		fmt.Fprintf(&b, "%x=%x\n", it.Key(), v)
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
