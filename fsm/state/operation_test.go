package state

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"example.com/chat/internal/chaterr"
)

// TestOperation_Once: the same id is carried out once, and gets the first result again, also inside
// one entry.
func TestOperation_Once(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	m.user("bob")
	op, hello := m.op(), &SendMessage{Target: ToUser("bob"), Text: "hello"}
	rs := m.entry(m.command(alice, op, hello), m.command(alice, op, hello))
	m.nowMS += 1000
	rs = append(rs, m.do(alice, op, hello))
	for i, r := range rs {
		want := proto.CloneOf(rs[0])
		want.Duplicate = i > 0
		if !proto.Equal(r, want) {
			t.Errorf("result %d is %v, want %v", i, r, want)
		}
	}
	if r, err := m.view().Room(alice.Account, rs[0].Room); err != nil || r.LastSeq != 1 {
		t.Errorf("the room has %d messages, %v", r.LastSeq, err)
	}
}

func TestOperation_Mismatch(t *testing.T) {
	m := newMachine(t)
	alice, bob := m.user("alice"), m.user("bob")
	op := m.op()
	if err := Err(m.do(alice, op, &SendMessage{Target: ToUser("bob"), Text: "one"})); err != nil {
		t.Fatal(err)
	}
	m.refuses(alice, op, &SendMessage{Target: ToUser("bob"), Text: "two"}, chaterr.ErrOperationMismatch)
	m.refuses(alice, op, &CreateRoom{Name: "one"}, chaterr.ErrOperationMismatch)
	// Ids belong to an account: another one's is another operation.
	if r := m.do(bob, op, &CreateRoom{Name: "one"}); Err(r) != nil || r.Duplicate {
		t.Errorf("got %v", r)
	}
}

// TestOperation_Secrets: a retry hashes the password anew, and is a retry all the same.
func TestOperation_Secrets(t *testing.T) {
	m := newMachine(t)
	op := m.op()
	first := m.do(Actor{}, op, &RegisterAccount{Name: "alice", PasswordHash: "salt one"})
	again := m.do(Actor{}, op, &RegisterAccount{Name: "alice", PasswordHash: "salt two"})
	if Err(first) != nil || Err(again) != nil || !again.Duplicate || again.Account != first.Account {
		t.Errorf("got %v, %v", first, again)
	}
	m.refuses(Actor{}, op, &RegisterAccount{Name: "bob", PasswordHash: "salt three"}, chaterr.ErrOperationMismatch)
	alice := m.login(first.Account, 1)
	op = m.op()
	for i := range 2 {
		r := m.do(alice, op, &ChangePassword{PasswordHash: fmt.Sprint("salt ", i), PasswordVersion: uint64(1 + i)})
		if Err(r) != nil || r.Duplicate != (i > 0) {
			t.Errorf("change %d: %v", i, r)
		}
	}
	if done, err := m.view().CarriedOut(alice.Account, op); !done || err != nil {
		t.Errorf("carried out: %v, %v", done, err)
	}
	if done, err := m.view().CarriedOut(alice.Account, m.op()); done || err != nil {
		t.Errorf("another one was carried out: %v, %v", done, err)
	}
}

// TestOperation_Refused: what was refused may be tried again under the same id.
func TestOperation_Refused(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	op, hello := m.op(), &SendMessage{Target: ToUser("bob"), Text: "hello"}
	m.refuses(alice, op, hello, chaterr.ErrNoSuchUser)
	m.user("bob")
	if r := m.do(alice, op, hello); Err(r) != nil || r.Duplicate {
		t.Errorf("got %v", r)
	}
}

// TestOperation_Window: for any retry at any time, the first result or a refusal, never a second
// message.
func TestOperation_Window(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	m.user("bob")
	op, hello := m.op(), &SendMessage{Target: ToUser("bob"), Text: "hello"}
	room := m.do(alice, op, hello).Room
	start := m.nowMS
	for _, age := range []int64{0, 1, OperationWindow.Milliseconds() - 1, OperationWindow.Milliseconds()} {
		m.nowMS = start + age
		if r := m.do(alice, op, hello); Err(r) != nil || !r.Duplicate {
			t.Errorf("after %d ms: %v", age, r)
		}
	}
	for _, age := range []int64{1, 1000, 10 * OperationWindow.Milliseconds()} {
		m.nowMS = start + OperationWindow.Milliseconds() + age
		m.entry() // which may forget operations
		m.refuses(alice, op, hello, chaterr.ErrOperationTooOld)
	}
	if ops := m.count(keyOperation); ops != 0 {
		t.Errorf("%d operations are remembered", ops)
	}
	m.nowMS = start // the clock of a new leader is behind: log time is not
	m.refuses(alice, op, hello, chaterr.ErrOperationTooOld)
	if r, err := m.view().Room(alice.Account, room); err != nil || r.LastSeq != 1 {
		t.Errorf("the room has %d messages, %v", r.LastSeq, err)
	}
}

func TestOperation_FromFuture(t *testing.T) {
	m := newMachine(t)
	alice := m.user("alice")
	id := func(ahead int64) []byte { return firstULID(m.nowMS + ahead) }
	if r := m.do(alice, id(OperationSkew.Milliseconds()), &CreateRoom{Name: "a"}); Err(r) != nil {
		t.Error(Err(r))
	}
	m.refuses(alice, id(OperationSkew.Milliseconds()+1), &CreateRoom{Name: "b"}, chaterr.ErrOperationFromFuture)
	m.refuses(alice, []byte("short"), &CreateRoom{Name: "b"}, chaterr.ErrInvalid)
}

// count is how many records there are of a kind.
func (m *machine) count(letter byte) (n int) {
	m.t.Helper()
	v := m.view()
	v.scanPrefix([]byte{letter}, func(_, _ []byte) bool { n++; return true })
	if v.err != nil {
		m.t.Fatal(v.err)
	}
	return n
}
