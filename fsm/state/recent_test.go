package state

import (
	"math/rand/v2"
	"testing"
)

// TestRecent: an id that was carried out is never called new, in whatever order ids come, by clocks that
// are right or minutes off, over restarts; and most of the new ones are.
func TestRecent(t *testing.T) {
	m := newMachine(t)
	m.s.recent.limit = 100
	alice := m.user("alice")
	room := m.must(alice, &CreateRoom{Name: "room"}).Room
	r := rand.New(rand.NewPCG(1, 2))
	type sent struct {
		op  []byte
		seq uint64
	}
	var done []sent
	told, fresh := 0, 0
	for i := range 3000 {
		m.nowMS += int64(r.IntN(2000))
		made := m.nowMS
		switch r.IntN(20) {
		case 0:
			made += OperationSkew.Milliseconds() - int64(r.IntN(1000))
		case 1, 2:
			made -= int64(r.IntN(600_000))
		default:
			made -= int64(r.IntN(3000))
		}
		op := firstULID(made)
		for i := 6; i < len(op); i++ {
			op[i] = byte(r.Uint32())
		}
		told++
		if m.fresh(op, alice) {
			fresh++
		}
		send := &SendMessage{Target: ToRoom(room), Text: "x"}
		first := m.do(alice, op, send)
		if Err(first) != nil || first.Duplicate {
			t.Fatalf("message %d: %v", i, first)
		}
		done = append(done, sent{op, first.Seq})
		for range 3 {
			again := done[r.IntN(len(done))]
			if r.IntN(2) == 0 {
				again = done[len(done)-1-r.IntN(min(len(done), 30))]
			}
			if res := m.do(alice, again.op, send); !res.Duplicate || res.Seq != again.seq {
				t.Fatalf("message %d again: %v", again.seq, res)
			}
		}
		if r.IntN(1000) == 0 {
			var err error
			if m.s, err = Open(m.db); err != nil {
				t.Fatal(err)
			}
			m.s.recent.limit = 100
		}
	}
	if fresh < told/3 || m.s.recent.count > 100 {
		t.Errorf("%d of %d new ids were known to be new", fresh, told)
	}
}

func (m *machine) fresh(op []byte, a Actor) bool {
	id := operationOf(&Command{OperationId: op, Account: a.Account})
	return m.s.recent.fresh(&id)
}

// TestRecent_Ahead: clocks that are fast do not drive out the ids of now, nor does it grow without
// limit when few ids come at a time.
func TestRecent_Ahead(t *testing.T) {
	m := newMachine(t)
	m.s.recent.limit = recentOperations
	alice := m.user("alice")
	at := func(ms int64, n uint64) *operationID {
		id := operationOf(&Command{OperationId: firstULID(ms), Account: alice.Account + n})
		return &id
	}
	r := m.s.recent
	for ms := int64(0); ms <= OperationSkew.Milliseconds(); ms += recentSpan / 2 {
		r.add(at(m.nowMS+ms, 0))
	}
	if !r.fresh(at(m.nowMS, 1)) || r.fresh(at(m.nowMS, 0)) {
		t.Error("ids of now are not known")
	}
	for ms := int64(0); ms < 10*recentSpan*recentSpans; ms += recentSpan {
		r.add(at(m.nowMS+ms, 1))
		if len(r.spans) > recentSpans || r.count > 4*recentSpans {
			t.Fatalf("%d ids in %d spans", r.count, len(r.spans))
		}
	}
	for n := range uint64(3 * recentOperations) { // all of one time
		r.add(at(m.nowMS+20*recentSpan*recentSpans, n))
	}
	if r.count >= recentOperations {
		t.Errorf("%d ids", r.count)
	}
}
