package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/chaterr"
)

// model is the rules in the plainest words: maps, and no thought of speed or disks.
type model struct {
	accounts map[string]*modelAccount // by name
	rooms    map[string]*modelRoom    // by name; direct ones under "a,b"
	done     map[string]string        // operation to what it did
}

type modelAccount struct {
	name     string
	password string
	sessions map[string]bool
	gone     bool
}

type modelRoom struct {
	members map[*modelAccount]*modelMember
	direct  bool
	log     []string // sender: text
}

type modelMember struct {
	in     bool
	read   int
	hidden map[int]bool
}

func newModel() *model {
	return &model{accounts: map[string]*modelAccount{}, rooms: map[string]*modelRoom{}, done: map[string]string{}}
}

func (m *model) register(name string) error {
	if m.accounts[name] != nil {
		return chaterr.ErrNameTaken
	}
	m.accounts[name] = &modelAccount{name: name, sessions: map[string]bool{}}
	return nil
}

func (m *model) remove(a *modelAccount) {
	a.gone = true
	clear(a.sessions)
	delete(m.accounts, a.name)
	for _, r := range m.rooms {
		if x := r.members[a]; x != nil && !r.direct {
			x.in = false
		}
	}
}

func (r *modelRoom) enter(a *modelAccount) {
	x := r.members[a]
	if x == nil {
		x = &modelMember{hidden: map[int]bool{}}
		r.members[a] = x
	}
	if !x.in {
		x.in, x.read = true, len(r.log)
	}
}

func (r *modelRoom) member(a *modelAccount) (*modelMember, error) {
	if r == nil || r.direct && r.members[a] == nil {
		return nil, chaterr.ErrNoSuchRoom
	}
	if x := r.members[a]; x != nil && x.in {
		return x, nil
	}
	return nil, chaterr.ErrNotMember
}

// direct is the room of two accounts; it is made when there is none.
func (m *model) direct(a *modelAccount, name string) (*modelRoom, error) {
	b := m.accounts[name]
	if b == nil {
		return nil, chaterr.ErrNoSuchUser
	}
	key := fmt.Sprintf("%p,%p", a, b)
	if fmt.Sprintf("%p", b) < fmt.Sprintf("%p", a) {
		key = fmt.Sprintf("%p,%p", b, a)
	}
	r := m.rooms[key]
	if r == nil {
		r = &modelRoom{members: map[*modelAccount]*modelMember{}, direct: true}
		m.rooms[key] = r
		r.enter(a)
		r.enter(b)
	}
	return r, nil
}

func (r *modelRoom) send(a *modelAccount, text string) (int, error) {
	x, err := r.member(a)
	if err != nil {
		return 0, err
	}
	for b := range r.members {
		if r.direct && b.gone {
			return 0, chaterr.ErrNoSuchUser
		}
	}
	r.log = append(r.log, a.name+": "+text)
	x.read = len(r.log)
	return x.read, nil
}

// run is one random walk through model and machine side by side.
type run struct {
	*machine
	r     *rand.Rand
	m     *model
	actor map[*modelAccount]Actor
	ids   map[*modelRoom]uint64
	log   [][]*Command // what was applied, for a second machine
	times []int64
}

func newRun(t *testing.T, seed uint64) *run {
	return &run{
		machine: newMachine(t), r: rand.New(rand.NewPCG(seed, 0)), m: newModel(),
		actor: map[*modelAccount]Actor{}, ids: map[*modelRoom]uint64{},
	}
}

// apply is do, with a note for the second machine.
func (x *run) apply(a Actor, op []byte, p proto.Message) *Result {
	c := x.command(a, op, p)
	x.log, x.times = append(x.log, []*Command{c}), append(x.times, x.nowMS)
	return x.entry(c)[0]
}

func (x *run) check(what string, got *Result, want error) bool {
	x.t.Helper()
	if err := Err(got); !errors.Is(err, want) || (err == nil) != (want == nil) {
		x.t.Fatalf("%s: got %v, want %v", what, err, want)
	}
	return want == nil
}

func (x *run) name() string { return fmt.Sprintf("user%d", x.r.IntN(6)) }

// somebody is an account of the model, perhaps a deleted one; nil when there is none.
func (x *run) somebody() *modelAccount {
	i := x.r.IntN(len(x.actor) + 1)
	for a := range x.actor { // map order is one more randomness; the checks hold for any
		if i--; i < 0 {
			return a
		}
	}
	return nil
}

func (x *run) step() {
	x.nowMS += int64(x.r.IntN(10_000))
	a := x.somebody()
	if a == nil || x.r.IntN(20) == 0 {
		x.register()
		return
	}
	actor := x.actor[a]
	alive := func(want error) error {
		if a.gone || !a.sessions["s"] {
			return chaterr.ErrUnauthenticated
		}
		return want
	}
	switch x.r.IntN(20) {
	case 0:
		if x.check("delete", x.apply(actor, nil, &DeleteAccount{PasswordVersion: 1}), alive(nil)) {
			x.m.remove(a)
		}
	case 1:
		if x.check("log out", x.apply(actor, nil, &RevokeSession{}), alive(nil)) {
			clear(a.sessions)
		}
	case 2, 3:
		if !a.gone {
			x.actor[a] = x.login(actor.Account, 1)
			x.log, x.times = append(x.log, nil), append(x.times, x.nowMS)
			a.sessions["s"] = true
		}
	case 4, 5:
		x.createRoom(a, actor, alive)
	case 6, 7, 8:
		x.joinOrLeave(a, actor, alive)
	case 9, 10:
		x.markOrHide(a, actor, alive)
	default:
		x.send(a, actor, alive)
	}
}

func (x *run) register() {
	name := x.name()
	r := x.apply(Actor{}, nil, &RegisterAccount{Name: name, PasswordHash: "h"})
	if x.check("register "+name, r, x.m.register(name)) {
		x.actor[x.m.accounts[name]] = Actor{Account: r.Account}
	}
}

func (x *run) createRoom(a *modelAccount, actor Actor, alive func(error) error) {
	name := fmt.Sprintf("room%d", x.r.IntN(5))
	var want error
	if x.m.rooms[name] != nil {
		want = chaterr.ErrNameTaken
	}
	r := x.apply(actor, nil, &CreateRoom{Name: name})
	if x.check("create "+name, r, alive(want)) {
		room := &modelRoom{members: map[*modelAccount]*modelMember{}}
		room.enter(a)
		x.m.rooms[name], x.ids[room] = room, r.Room
	}
}

func (x *run) room() *modelRoom {
	for r := range x.ids {
		return r
	}
	return nil
}

func (x *run) joinOrLeave(a *modelAccount, actor Actor, alive func(error) error) {
	room := x.room()
	if room == nil {
		return
	}
	if x.r.IntN(2) == 0 {
		var want error
		if room.direct && room.members[a] == nil {
			want = chaterr.ErrNoSuchRoom
		}
		if x.check("join", x.apply(actor, nil, &JoinRoom{Room: x.ids[room]}), alive(want)) {
			room.enter(a)
		}
		return
	}
	m, want := room.member(a)
	if want == nil && room.direct {
		want = chaterr.ErrDirectRoom
	}
	if x.check("leave", x.apply(actor, nil, &LeaveRoom{Room: x.ids[room]}), alive(want)) {
		m.in = false
	}
}

func (x *run) markOrHide(a *modelAccount, actor Actor, alive func(error) error) {
	room := x.room()
	if room == nil {
		return
	}
	seq := x.r.IntN(len(room.log) + 2)
	m, want := room.member(a)
	if want == nil && (seq == 0 || seq > len(room.log)) {
		want = chaterr.ErrNoSuchMessage
	}
	if x.r.IntN(2) == 0 {
		if x.check("mark", x.apply(actor, nil, &MarkRead{Room: x.ids[room], Seq: uint64(seq)}), alive(want)) {
			m.read = max(m.read, seq)
		}
	} else if x.check("hide", x.apply(actor, nil, &HideMessages{Room: x.ids[room], Seqs: []uint64{uint64(seq)}}), alive(want)) {
		m.hidden[seq] = true
	}
}

func (x *run) send(a *modelAccount, actor Actor, alive func(error) error) {
	op := x.op()
	text := fmt.Sprint(x.r.Uint32())
	c := &SendMessage{Text: text}
	var room *modelRoom
	var want error
	if x.r.IntN(2) == 0 {
		name := x.name()
		c.Target = ToUser(name)
		if alive(nil) == nil {
			room, want = x.m.direct(a, name)
		}
	} else if room = x.room(); room == nil {
		return
	} else {
		c.Target = ToRoom(x.ids[room])
	}
	seq := 0
	if want == nil && alive(nil) == nil {
		seq, want = room.send(a, text)
	}
	for i := range 1 + x.r.IntN(3) { // and retries
		r := x.apply(actor, op, c)
		if !x.check("send", r, alive(want)) {
			continue
		}
		if x.ids[room] == 0 {
			x.ids[room] = r.Room
		}
		if r.Seq != uint64(seq) || r.Room != x.ids[room] || r.Duplicate != (i > 0) {
			x.t.Fatalf("sent %v, want number %d in room %d", r, seq, x.ids[room])
		}
	}
}

// compare reads everything that a user can see, and counts what the state has counted.
func (x *run) compare() {
	x.t.Helper()
	v := x.view()
	for room, id := range x.ids {
		members := 0
		for a, m := range room.members {
			if !m.in && !room.direct {
				continue
			}
			members++
			account := x.actor[a].Account
			got, err := v.Room(account, id)
			if err != nil {
				x.t.Fatal(err)
			}
			if got.LastSeq != uint64(len(room.log)) || got.ReadSeq != uint64(m.read) {
				x.t.Fatalf("room %d for %s: %+v, want %d messages, read to %d", id, a.name, got, len(room.log), m.read)
			}
			x.compareMessages(v, account, id, room, m)
		}
		n := 0
		if err := v.Members(id, 0, func(Member) bool { n++; return true }); err != nil || n != members {
			x.t.Fatalf("room %d has %d members, %v, want %d", id, n, err, members)
		}
		if rec := v.room(id); rec.Members != uint64(members) {
			x.t.Fatalf("room %d counts %d members, has %d", id, rec.Members, members)
		}
	}
}

func (x *run) compareMessages(v *View, account, id uint64, room *modelRoom, m *modelMember) {
	x.t.Helper()
	seen := map[uint64]string{}
	last := uint64(len(room.log)) + 1
	if _, err := v.Messages(account, id, 1, last, false, len(room.log)+1, func(msg Message) bool {
		seen[msg.Seq] = msg.Text
		return true
	}); err != nil {
		x.t.Fatal(err)
	}
	for i, line := range room.log {
		text, ok := seen[uint64(i+1)]
		if ok == m.hidden[i+1] || ok && line[len(line)-len(text):] != text {
			x.t.Fatalf("room %d, message %d is %q, hidden %v, want %q", id, i+1, text, m.hidden[i+1], line)
		}
	}
}

// TestModel walks at random through all commands, with retries, and compares with the model.
func TestModel(t *testing.T) {
	seeds := 20
	if testing.Short() {
		seeds = 3
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			x := newRun(t, seed)
			for i := range 600 {
				x.step()
				if i%100 == 99 {
					x.compare()
				}
			}
		})
	}
}

// TestDeterminism applies one log twice: entry by entry, and joined into batches and entries with
// interruptions. Nothing may differ, down to the last byte.
func TestDeterminism(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	type logged struct {
		data  []byte
		index uint64
	}
	var log []logged
	a := newMachine(t)
	users := []Actor{}
	for i := range 3 {
		users = append(users, a.user(fmt.Sprintf("user%d", i)))
	}
	start := a.index
	rooms := []uint64{a.must(users[0], &CreateRoom{Name: "room"}).Room}
	b := newMachine(t)
	for i := range 3 {
		b.user(fmt.Sprintf("user%d", i))
	}
	b.must(users[0], &CreateRoom{Name: "room"})
	if start+1 != b.index {
		t.Fatal("the machines begin differently")
	}
	for range 200 {
		var cs []*Command
		for range 1 + r.IntN(5) {
			cs = append(cs, a.command(users[r.IntN(3)], a.op(), randomChange(r, rooms)))
		}
		a.nowMS += int64(r.IntN(100_000_000)) // now and then operations are forgotten
		data, err := EncodeEntry(a.nowMS, cs)
		if err != nil {
			t.Fatal(err)
		}
		a.entry(cs...)
		log = append(log, logged{data, a.index})
	}
	for len(log) > 0 {
		n := min(1+r.IntN(10), len(log))
		if r.IntN(3) == 0 { // a batch that was never committed, as before a crash
			lost := b.s.NewBatch()
			if _, err := lost.Apply(log[0].index, 1, log[0].data); err != nil {
				t.Fatal(err)
			}
			if err := lost.Close(); err != nil {
				t.Fatal(err)
			}
		}
		batch := b.s.NewBatch()
		for _, e := range log[:n] {
			if _, err := batch.Apply(e.index, 1, e.data); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := batch.Commit(); err != nil {
			t.Fatal(err)
		}
		log = log[n:]
	}
	if x, y := dump(t, a.db), dump(t, b.db); !bytes.Equal(x, y) {
		t.Error("the states differ")
	}
	if a.s.Hash() != b.s.Hash() || a.s.Hash() == 0 {
		t.Errorf("the hashes are %x and %x", a.s.Hash(), b.s.Hash())
	}
}
