package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/fsm/state"
)

// writeGolden makes the log and the directory of a level that has none yet. What was released is
// never made anew: it is what other people's disks hold.
var writeGolden = flag.Bool("write-golden", false, "make the golden log and directory of the current level, if it has none")

// golden is a log of one level, and what every build makes of it.
type golden struct {
	level  int
	logs   []*raft.Log
	hashes []string // of the state after each entry
}

func goldenPath(level int, what string) string {
	return filepath.Join("testdata", fmt.Sprintf("level%d-%s", level, what))
}

// readGolden reads lines of index, term, type, data and the hash of the state after it.
func readGolden(t *testing.T, level int) *golden {
	t.Helper()
	f, err := os.Open(goldenPath(level, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g := &golden{level: level}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l, hash := &raft.Log{}, ""
		var data string
		if _, err := fmt.Sscan(lines.Text(), &l.Index, &l.Term, &l.Type, &hash, &data); err != nil {
			t.Fatal(err)
		}
		if l.Data, err = hex.DecodeString(strings.TrimPrefix(data, "x")); err != nil {
			t.Fatal(err)
		}
		g.logs, g.hashes = append(g.logs, l), append(g.hashes, hash)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *golden) write(t *testing.T) {
	t.Helper()
	m := newMachine(t)
	var b bytes.Buffer
	for _, l := range g.logs {
		m.apply([]*raft.Log{l}, 1)
		fmt.Fprintln(&b, l.Index, l.Term, uint8(l.Type), hashOf(t, m), fmt.Sprintf("x%x", l.Data))
	}
	if err := os.MkdirAll("testdata", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenPath(g.level, "log"), b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	half := newMachine(t)
	half.apply(g.logs[:len(g.logs)/2], 7)
	half.snapshot(g.logs[len(g.logs)/2-1])
	half.apply(g.logs[len(g.logs)/2:len(g.logs)*3/4], 7)
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(goldenPath(g.level, "dir"), os.DirFS(half.dir)); err != nil {
		t.Fatal(err)
	}
}

// hashOf is one of every byte of the state.
func hashOf(t testing.TB, m *machine) string {
	t.Helper()
	sum := sha256.Sum256(dump(t, m.FSM))
	return hex.EncodeToString(sum[:8])
}

// TestGolden: a log of each level, applied by this build, gives the same state after each entry as
// with the build that wrote the log first, however it is joined into batches and wherever a
// snapshot divides it. The directory that the first build left behind opens, and goes on.
func TestGolden(t *testing.T) {
	if *writeGolden {
		makeGolden(t)
	}
	for level := 1; level <= state.CurrentLevel; level++ {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			g := readGolden(t, level)
			done := map[fsmpb.Kind]bool{}
			one := newMachine(t)
			for i, l := range g.logs {
				answer := one.Apply(l)
				for j, k := range kindsIn(t, l) {
					rs, err := Results(answer)
					if err != nil {
						t.Fatal(err)
					}
					done[k] = done[k] || state.Err(rs[j]) == nil
				}
				if got := hashOf(t, one); got != g.hashes[i] {
					t.Fatalf("after entry %d the state is %s, was %s", l.Index, got, g.hashes[i])
				}
			}
			for k := range fsmpb.Kind_name {
				if k := fsmpb.Kind(k); k != 0 && state.Since(k) <= uint32(level) && !done[k] && (k != fsmpb.Kind_KIND_RAISE_LEVEL || level > 1) {
					t.Errorf("no %v in the log is carried out", k)
				}
			}
			t.Run("divided", func(t *testing.T) { g.divided(t) })
			t.Run("directory", func(t *testing.T) { g.directory(t) })
		})
	}
}

// divided applies a part, has a snapshot travel, and applies the rest after it.
func (g *golden) divided(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	from := newMachine(t)
	for at := 1; at < len(g.logs); at += 1 + r.IntN(len(g.logs)/12) {
		from.apply(g.logs[from.Applied():at], 1+r.IntN(9))
		to := newMachine(t)
		to.apply(g.logs[:r.IntN(at)], 5)
		to.install(from.stream(from.snapshot(g.logs[at-1])))
		to.apply(g.logs[at:], 1+r.IntN(20))
		if got, want := hashOf(t, to), g.hashes[len(g.hashes)-1]; got != want {
			t.Errorf("divided at entry %d: the state is %s, was %s", at, got, want)
		}
		if err := to.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (g *golden) directory(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(goldenPath(g.level, "dir"))); err != nil {
		t.Fatal(err)
	}
	m := reopen(t, dir)
	at := m.Applied()
	if at == 0 || at >= uint64(len(g.logs)) {
		t.Fatalf("the state is at entry %d of %d", at, len(g.logs))
	}
	if got, want := hashOf(t, m), g.hashes[at-1]; got != want {
		t.Errorf("at entry %d the state is %s, was %s", at, got, want)
	}
	m.apply(g.logs[at:], 10)
	if got, want := hashOf(t, m), g.hashes[len(g.hashes)-1]; got != want {
		t.Errorf("at the end the state is %s, was %s", got, want)
	}
	newest, ok := m.Snapshots().Newest()
	if !ok {
		t.Fatal("no snapshot")
	}
	other := newMachine(t)
	other.install(m.stream(newest.ID))
	other.apply(g.logs[other.Applied():], 10)
	if got, want := hashOf(t, other), g.hashes[len(g.hashes)-1]; got != want {
		t.Errorf("from the snapshot the state is %s, was %s", got, want)
	}
}

func kindsIn(t *testing.T, l *raft.Log) (kinds []fsmpb.Kind) {
	t.Helper()
	if l.Type != raft.LogCommand {
		return nil
	}
	var e fsmpb.Entry
	if err := proto.Unmarshal(l.Data, &e); err != nil {
		t.Fatal(err)
	}
	for _, c := range e.Commands {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// makeGolden makes the files of the current level from commands of all kinds at random, most of
// which succeed.
func makeGolden(t *testing.T) {
	if _, err := os.Stat(goldenPath(state.CurrentLevel, "log")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("level %d has its files: %v", state.CurrentLevel, err)
	}
	g := &goldenMaker{r: rand.New(rand.NewPCG(state.CurrentLevel, 0)), now: epoch, accounts: map[uint64]uint64{}}
	m := newMachine(t)
	var logs []*raft.Log
	for len(logs) < 400 {
		i := uint64(len(logs) + 1)
		l := &raft.Log{Index: i, Term: 1 + i/50, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)}
		var cs []*state.Command
		if i > 1 && g.r.IntN(30) > 0 {
			cs = g.commands(t, i)
			l = entry(t, i, g.now, cs...)
		}
		logs = append(logs, l)
		answer := m.Apply(l)
		g.seen = m.Audit()
		if l.Type != raft.LogCommand {
			continue
		}
		rs, err := Results(answer)
		if err != nil {
			t.Fatal(err)
		}
		for j, r := range rs {
			g.learn(cs[j], r)
		}
	}
	(&golden{level: state.CurrentLevel, logs: logs}).write(t)
}

// goldenMaker remembers what there is, so that commands are about it.
type goldenMaker struct {
	r        *rand.Rand
	now      int64
	accounts map[uint64]uint64 // and a session
	rooms    []uint64
	last     *state.Command
	seen     state.Audit
}

// audit now and then marks or verifies.
func (g *goldenMaker) audit() proto.Message {
	switch {
	case g.seen.Level < 2 || g.r.IntN(20) > 0:
		return nil
	case g.seen.Pending():
		return &state.VerifyState{Index: g.seen.Mark, Hash: g.seen.MarkHash}
	default:
		return &state.MarkState{}
	}
}

func (g *goldenMaker) commands(t *testing.T, index uint64) (cs []*state.Command) {
	if index == 2 {
		return []*state.Command{command(t, state.Actor{}, nil, &state.FormCluster{ClusterId: "golden"})}
	}
	if index == 3 && state.CurrentLevel > 1 {
		return []*state.Command{command(t, state.Actor{}, nil, &state.RaiseLevel{Level: state.CurrentLevel})}
	}
	if g.now += g.r.Int64N(60_000); g.r.IntN(100) == 0 {
		g.now += state.OperationWindow.Milliseconds() / 2
	}
	for range 1 + g.r.IntN(3) {
		if g.last == nil || g.r.IntN(12) > 0 {
			op := binary.BigEndian.AppendUint64(nil, uint64(g.now)<<16)
			op = binary.BigEndian.AppendUint64(op, g.r.Uint64())
			a, p := g.payload()
			if q := g.audit(); q != nil {
				a, p = state.Actor{}, q
			}
			g.last = command(t, a, op, p)
		}
		cs = append(cs, g.last)
	}
	return cs
}

func (g *goldenMaker) learn(c *state.Command, r *state.Result) {
	switch {
	case state.Err(r) != nil:
	case c.Kind == fsmpb.Kind_KIND_REGISTER_ACCOUNT:
		g.accounts[r.Account] = 0
	case c.Kind == fsmpb.Kind_KIND_CREATE_SESSION:
		g.accounts[r.Account] = r.Session
	case c.Kind == fsmpb.Kind_KIND_CREATE_ROOM, c.Kind == fsmpb.Kind_KIND_OPEN_DIRECT_ROOM:
		g.rooms = append(g.rooms, r.Room)
	}
}

func (g *goldenMaker) payload() (state.Actor, proto.Message) {
	ids := make([]uint64, 0, len(g.accounts))
	for id := range uint64(2000) { // not a range over the map: the same log each time
		if _, ok := g.accounts[id]; ok {
			ids = append(ids, id)
		}
	}
	name := fmt.Sprint("user", g.r.IntN(12))
	if len(ids) < 3 || g.r.IntN(25) == 0 {
		return state.Actor{}, &state.RegisterAccount{Name: name, PasswordHash: "hash of " + name}
	}
	id := ids[g.r.IntN(len(ids))]
	a := state.Actor{Account: id, Session: g.accounts[id]}
	if a.Session == 0 || g.r.IntN(25) == 0 {
		token := sha256.Sum256(binary.BigEndian.AppendUint64(nil, g.r.Uint64()))
		return state.Actor{}, &state.CreateSession{Account: id, TokenHash: token[:], PasswordVersion: 1}
	}
	room := g.r.Uint64N(5)
	if len(g.rooms) > 0 {
		room = g.rooms[g.r.IntN(len(g.rooms))]
	}
	text := strings.Repeat(fmt.Sprint(g.r.Uint32()), 1+g.r.IntN(9))
	switch g.r.IntN(20) {
	case 0:
		return a, &state.ChangePassword{PasswordHash: "another hash", PasswordVersion: 1}
	case 1:
		if g.r.IntN(5) == 0 {
			return a, &state.DeleteAccount{PasswordVersion: 1}
		}
		return a, &state.RevokeSession{All: g.r.IntN(2) == 0}
	case 2:
		return a, &state.OpenDirectRoom{Name: name}
	case 3:
		return a, &state.CreateRoom{Name: fmt.Sprint("room", g.r.IntN(9))}
	case 4, 5, 6:
		return a, &state.JoinRoom{Room: room}
	case 7:
		return a, &state.LeaveRoom{Room: room}
	case 8:
		return a, &state.HideMessages{Room: room, Seqs: []uint64{1 + g.r.Uint64N(3), 1 + g.r.Uint64N(3)}}
	case 9:
		return a, &state.MarkRead{Room: room, Seq: 1 + g.r.Uint64N(3)}
	case 10, 11, 12:
		return a, &state.SendMessage{Target: state.ToUser(name), Text: text}
	default:
		return a, &state.SendMessage{Target: state.ToRoom(room), Text: text}
	}
}
