package fsm

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
)

// chatter makes entries of messages of 200 bytes by a few users in many rooms, each message with an
// operation id. Log time goes on as if there were twenty messages in a millisecond.
type chatter struct {
	b     testing.TB
	m     *machine
	users []state.Actor
	rooms []uint64
	index uint64
	sent  uint64
	text  string // to take pieces of
}

func newChatter(b testing.TB, m *machine, users, rooms int) *chatter {
	r := rand.New(rand.NewPCG(1, 2))
	letters := make([]byte, 1<<16)
	for i := range letters {
		letters[i] = " abcdefghijklmnopqrstuvwxyzabcde"[r.IntN(32)]
	}
	c := &chatter{b: b, m: m, text: string(letters)}
	c.must(state.Actor{}, command(b, state.Actor{}, nil, &state.FormCluster{ClusterId: "c"}))
	c.must(state.Actor{}, command(b, state.Actor{}, nil, &state.RaiseLevel{Level: state.CurrentLevel}))
	for i := range users {
		token := [32]byte{byte(i), byte(i >> 8)}
		a := c.must(state.Actor{}, command(b, state.Actor{}, nil, &state.RegisterAccount{Name: fmt.Sprint("user", i), PasswordHash: "hash"}))
		s := c.must(state.Actor{}, command(b, state.Actor{}, nil, &state.CreateSession{Account: a.Account, TokenHash: token[:], PasswordVersion: 1}))
		c.users = append(c.users, state.Actor{Account: a.Account, Session: s.Session})
	}
	for i := range rooms {
		r := c.must(c.users[0], command(b, c.users[0], nil, &state.CreateRoom{Name: fmt.Sprint("room", i)}))
		c.rooms = append(c.rooms, r.Room)
		for _, u := range c.users[1:] {
			c.must(u, command(b, u, nil, &state.JoinRoom{Room: r.Room}))
		}
	}
	return c
}

func (c *chatter) must(a state.Actor, cmd *state.Command) *state.Result {
	c.b.Helper()
	c.index++
	rs, err := Results(c.m.Apply(entry(c.b, c.index, epoch, cmd)))
	if err != nil {
		c.b.Fatal(err)
	}
	if err := state.Err(rs[0]); err != nil {
		c.b.Fatal(err)
	}
	return rs[0]
}

// entry has n messages.
func (c *chatter) entry(n int) *raft.Log {
	c.b.Helper()
	c.index++
	now := epoch + int64(c.sent/20)
	var cs []*state.Command
	for range n {
		c.sent++
		op := binary.BigEndian.AppendUint64(nil, uint64(now)<<16|c.sent*7919%(1<<16))
		op = binary.BigEndian.AppendUint64(op, c.sent*0x9e3779b97f4a7c15)
		from := int(c.sent*0x9e3779b97f4a7c15>>32) % (len(c.text) - 200)
		send := &state.SendMessage{Target: state.ToRoom(c.rooms[c.sent*7919%uint64(len(c.rooms))]), Text: c.text[from : from+200]}
		cs = append(cs, command(c.b, c.users[c.sent%uint64(len(c.users))], op, send))
	}
	return entry(c.b, c.index, now, cs...)
}

// cpuTime is what the process has used so far.
func cpuTime(b testing.TB) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApply is all that a node does with a message once raft has committed it: on a real disk, with
// what Pebble does in the background until it is closed. cpu-ns/op is of all threads, longest-ns that
// of the batch that took longest. An operation is one message; 2,000,000 of them show compactions too
// (-benchtime 2000000x), and 10,000,000 what is behind with them.
func BenchmarkApply(b *testing.B) {
	const perEntry, perBatch = 64, 4
	m := newMachine(b)
	c := newChatter(b, m, 4, 100)
	m.o.Publish = func([]state.Event) {}
	var logs []*raft.Log
	for n := 0; n < b.N; n += perEntry {
		logs = append(logs, c.entry(min(perEntry, b.N-n)))
	}
	before, longest := cpuTime(b), time.Duration(0)
	b.ReportAllocs()
	b.ResetTimer()
	for len(logs) > 0 {
		n := min(perBatch, len(logs))
		start := time.Now()
		for _, a := range m.ApplyBatch(logs[:n]) {
			if _, err := Results(a); err != nil {
				b.Fatal(err)
			}
		}
		longest = max(longest, time.Since(start))
		logs = logs[n:]
	}
	if err := m.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(longest.Nanoseconds()), "longest-ns")
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
