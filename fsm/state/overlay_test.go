package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
)

// What a batch writes is in memory until it is committed. These tests compare batches with the
// same entries one by one, where the store has everything.

// logged is an entry, with what it came to.
type logged struct {
	index   uint64
	data    []byte
	results []*Result
}

// log applies an entry to the machine, and says what it came to.
func (m *machine) log(cs ...*Command) logged {
	m.t.Helper()
	rs := m.entry(cs...)
	data, err := EncodeEntry(m.nowMS, cs)
	if err != nil {
		m.t.Fatal(err)
	}
	return logged{m.index, data, rs}
}

// batch applies entries at once.
func (m *machine) batch(log []logged) {
	m.t.Helper()
	b := m.s.NewBatch()
	for _, e := range log {
		m.index = e.index
		rs, err := b.Apply(e.index, 1, e.data)
		if err != nil {
			m.t.Fatal(err)
		}
		for i, r := range rs {
			if !proto.Equal(r, e.results[i]) {
				m.t.Fatalf("entry %d, command %d: got %v, want %v", e.index, i, r, e.results[i])
			}
		}
	}
	events, err := b.Commit()
	if err != nil {
		m.t.Fatal(err)
	}
	m.events = append(m.events, events...)
}

// alike checks that two machines hold the same and have told the same.
func alike(t *testing.T, got, want *machine) {
	t.Helper()
	if x, y := dump(t, got.db), dump(t, want.db); !bytes.Equal(x, y) {
		t.Errorf("the states differ:\n%s\nwant\n%s", x, y)
	}
	if got.s.Hash() != want.s.Hash() || want.s.Hash() == 0 {
		t.Errorf("the hash is %x, want %x", got.s.Hash(), want.s.Hash())
	}
	if x, y := fmt.Sprintf("%+v", got.events), fmt.Sprintf("%+v", want.events); x != y {
		t.Errorf("the events are\n%s\nwant\n%s", x, y)
	}
}

// babble makes commands of all kinds about few things, so that they meet.
type babble struct {
	*machine
	r        *rand.Rand
	accounts []uint64
	actors   []Actor
	rooms    []uint64
	last     *Command
}

func (x *babble) id(list []uint64) uint64 {
	if len(list) == 0 {
		return 1
	}
	return list[len(list)-1-x.r.IntN(min(len(list), 4))]
}

func (x *babble) payload() (a Actor, p proto.Message) {
	if len(x.actors) > 0 {
		a = x.actors[len(x.actors)-1-x.r.IntN(min(len(x.actors), 6))]
	}
	name, room := fmt.Sprint("user", x.r.IntN(5)), x.id(x.rooms)
	switch x.r.IntN(24) {
	case 0, 1:
		return Actor{}, &RegisterAccount{Name: name, PasswordHash: "h"}
	case 2, 3, 4, 5:
		x.ops++
		return Actor{}, &CreateSession{Account: x.id(x.accounts), TokenHash: tokenHash(fmt.Sprint(x.ops)), PasswordVersion: 1}
	case 6:
		return a, &RevokeSession{All: x.r.IntN(2) == 0}
	case 7:
		return a, &DeleteAccount{PasswordVersion: 1}
	case 8:
		return a, &ChangePassword{PasswordHash: "h2", PasswordVersion: 1 + uint64(x.r.IntN(8)/7)}
	case 9, 10:
		return a, &CreateRoom{Name: fmt.Sprint("room", x.r.IntN(9))}
	case 11, 12:
		return a, &JoinRoom{Room: room}
	case 13:
		return a, &LeaveRoom{Room: room}
	case 14:
		return a, &OpenDirectRoom{Name: name}
	case 15:
		return a, &HideMessages{Room: room, Seqs: []uint64{1 + x.r.Uint64N(5), 1 + x.r.Uint64N(5)}}
	case 16:
		return a, &MarkRead{Room: room, Seq: 1 + x.r.Uint64N(5)}
	case 17, 18:
		return a, &SendMessage{Target: ToUser(name), Text: "direct"}
	default:
		return a, &SendMessage{Target: ToRoom(room), Text: fmt.Sprint(x.r.Uint32())}
	}
}

func (x *babble) commands() (cs []*Command) {
	if x.nowMS += x.r.Int64N(1000); x.r.IntN(40) == 0 {
		x.nowMS += OperationWindow.Milliseconds() / 2
	}
	for range x.r.IntN(6) {
		if x.last == nil || x.r.IntN(8) > 0 { // else a retry
			a, p := x.payload()
			x.last = x.command(a, x.op(), p)
			if x.r.IntN(30) == 0 {
				x.last = &Command{Kind: poison, Account: a.Account, Session: a.Session, Payload: []byte{8, 1}}
			}
		}
		cs = append(cs, x.last)
	}
	return cs
}

func (x *babble) learn(cs []*Command, rs []*Result) {
	for i, r := range rs {
		switch c := cs[i]; {
		case Err(r) != nil || r.Duplicate:
		case c.Kind == fsmpb.Kind_KIND_REGISTER_ACCOUNT:
			x.accounts = append(x.accounts, r.Account)
		case c.Kind == fsmpb.Kind_KIND_CREATE_SESSION:
			x.actors = append(x.actors, Actor{r.Account, r.Session})
		case r.Room != 0:
			x.rooms = append(x.rooms, r.Room)
		}
	}
}

// TestBatch_Cuts: however entries are joined into batches, with batches that are given up, restarts
// and caches of any size between, results, events, records and hash are the same.
func TestBatch_Cuts(t *testing.T) {
	poisoned(t, newMachine(t), Actor{}, func(x *tx) {
		for _, room := range x.roomsOf(x.account) {
			rec, m, _ := x.mine(room)
			rec.LastSeq, m.ReadSeq = 77, 77
			x.putRoom(room, rec, Position{})
			x.put(key(keyMember, x.account, room), m)
		}
		x.newID()
		x.emit(Event{Kind: MessageSent})
		panic("on purpose")
	})
	done := map[fsmpb.Kind]int{}
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			x := &babble{machine: newMachine(t), r: rand.New(rand.NewPCG(seed, 1))}
			b := newMachine(t)
			var log []logged
			for range 800 {
				cs := x.commands()
				e := x.log(cs...)
				x.learn(cs, e.results)
				log = append(log, e)
				for i, r := range e.results {
					if Err(r) == nil {
						done[cs[i].Kind]++
					}
				}
			}
			for rest := log; len(rest) > 0; {
				n := min(1+x.r.IntN(1+x.r.IntN(60)), len(rest))
				if x.r.IntN(4) == 0 {
					lost := b.s.NewBatch()
					for _, e := range rest[:x.r.IntN(n+1)] {
						if _, err := lost.Apply(e.index, 1, e.data); err != nil {
							t.Fatal(err)
						}
					}
					if err := lost.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if x.r.IntN(8) == 0 {
					var err error
					if b.s, err = Open(b.db); err != nil {
						t.Fatal(err)
					}
					b.s.cache.limit, b.s.recent.limit = 100<<x.r.IntN(12), 10<<x.r.IntN(6)
				}
				b.batch(rest[:n])
				rest = rest[n:]
			}
			alike(t, b, x.machine)
		})
	}
	for k := fsmpb.Kind_KIND_REGISTER_ACCOUNT; k < fsmpb.Kind_KIND_RAISE_LEVEL; k++ {
		if done[k] < 5 {
			t.Errorf("%v was carried out %d times", k, done[k])
		}
	}
}

// TestBatch_NoTrace: a command that has changed records in memory and is refused then, or panics, leaves
// no trace in them, whether the store has them or the batch has changed them before.
func TestBatch_NoTrace(t *testing.T) {
	for name, end := range map[string]func() *Result{
		"refused":  func() *Result { return refused(fsmpb.Reason_REASON_LIMIT) },
		"panicked": func() *Result { panic("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			got, want := newMachine(t), newMachine(t)
			var room uint64
			alice := Actor{1, 2}
			for _, m := range []*machine{got, want} {
				m.user("alice")
				room = m.must(alice, &CreateRoom{Name: "room"}).Room
			}
			kinds[poison] = on(func(x *tx, _ *fsmpb.Quarantine) *Result {
				rec, m, _ := x.mine(room)
				a := x.reader.account(alice.Account)
				rec.LastSeq, rec.Name, m.ReadSeq, m.Left, a.Rooms, a.Name = 99, "other", 99, true, 99, "other"
				x.put(key(keyAccount, alice.Account), a)
				x.put(key(keyMember, alice.Account, room), m)
				x.putRoom(room, rec, Position{Index: 99})
				x.remove(key(keySession, alice.Account, alice.Session))
				x.emit(Event{Kind: MessageSent, Text: "lost"})
				x.newID()
				x.answer(room, 99)
				return end()
			})
			t.Cleanup(func() { delete(kinds, poison) })
			bad := &Command{Kind: poison, Account: alice.Account, Session: alice.Session, OperationId: got.op(), Payload: []byte{8, 1}}
			send := func(m *machine) *Command {
				return m.command(alice, m.op(), &SendMessage{Target: ToRoom(room), Text: "x"})
			}
			want.op()
			for _, m := range []*machine{got, want} {
				one, two, three := send(m), send(m), send(m)
				if m == got {
					m.entry(bad, one, bad, two, bad)
				} else {
					m.entry(one, two)
				}
				for i, r := range m.entry(three, m.command(alice, nil, &CreateRoom{Name: "second"})) {
					if Err(r) != nil || i == 0 && r.Seq != 3 {
						t.Errorf("got %v", r)
					}
				}
			}
			if len(got.events) != len(want.events) {
				t.Errorf("%d events, want %d", len(got.events), len(want.events))
			}
			v, w := got.view(), want.view()
			if x, y := fmt.Sprint(v.room(room), v.member(1, room), v.account(1)), fmt.Sprint(w.room(room), w.member(1, room), w.account(1)); x != y {
				t.Errorf("got %s, want %s", x, y)
			}
		})
	}
}

// TestBatch_Scan: a command that scans sees what earlier commands of its batch have made, changed and
// removed.
func TestBatch_Scan(t *testing.T) {
	for name, cut := range map[string]int{"one batch": 100, "batches of one": 1, "batches of three": 3} {
		t.Run(name, func(t *testing.T) {
			one, m := newMachine(t), newMachine(t)
			alice := one.user("alice")
			m.user("alice")
			var log []logged
			add := func(a Actor, p proto.Message) *Result {
				e := one.log(one.command(a, nil, p))
				log = append(log, e)
				if err := Err(e.results[0]); err != nil {
					t.Fatalf("%T: %v", p, err)
				}
				return e.results[0]
			}
			var last Actor
			for i := range MaxSessions + 5 { // more than there may be: the oldest end
				r := add(Actor{}, &CreateSession{Account: alice.Account, TokenHash: tokenHash(fmt.Sprint("t", i)), PasswordVersion: 1})
				last = Actor{alice.Account, r.Session}
			}
			var rooms []uint64
			for i := range 5 {
				rooms = append(rooms, add(last, &CreateRoom{Name: fmt.Sprint("room", i)}).Room)
			}
			add(last, &LeaveRoom{Room: rooms[1]})
			add(last, &LeaveRoom{Room: rooms[3]})
			add(last, &JoinRoom{Room: rooms[3]})
			add(last, &DeleteAccount{PasswordVersion: 1})
			add(Actor{}, &RegisterAccount{Name: "alice", PasswordHash: "h"}) // the name is free
			for rest := log; len(rest) > 0; {
				n := min(cut, len(rest))
				m.batch(rest[:n])
				rest = rest[n:]
			}
			alike(t, m, one)
			if n := m.count(keySession) + m.count(keyToken) + m.count(keyRoster); n != 0 {
				t.Errorf("%d records of the deleted account are left", n)
			}
		})
	}
}

// TestBatch_Operations: a retry in the same batch gets the first result, another request under the id a
// refusal, and what is forgotten in the batch is not there afterwards.
func TestBatch_Operations(t *testing.T) {
	one, m := newMachine(t), newMachine(t)
	alice := one.user("alice")
	m.user("alice")
	room := one.must(alice, &CreateRoom{Name: "room"}).Room
	m.must(alice, &CreateRoom{Name: "room"})
	send := func(text string) *SendMessage { return &SendMessage{Target: ToRoom(room), Text: text} }
	op, second, third := one.op(), one.op(), one.op()
	first := one.command(alice, op, send("one"))
	log := []logged{
		one.log(first, one.command(alice, second, send("two"))),
		one.log(first, first, one.command(alice, op, send("other"))),
		one.log(one.command(alice, third, send("three")), one.command(alice, third, send("three"))),
	}
	if rs := log[1].results; !rs[0].Duplicate || rs[0].Seq != 1 || !rs[1].Duplicate || rs[2].Reason != fsmpb.Reason_REASON_OPERATION_MISMATCH {
		t.Fatalf("got %v", rs)
	}
	if rs := log[2].results; rs[0].Seq != 3 || rs[0].Duplicate || !rs[1].Duplicate {
		t.Fatalf("got %v", rs)
	}
	one.nowMS += OperationWindow.Milliseconds() + 1
	log = append(log, one.log(first, one.command(alice, one.op(), send("late"))))
	m.batch(log)
	alike(t, m, one)
	if n := m.count(keyOperation); n != 1 {
		t.Errorf("%d operations are remembered", n)
	}
}
