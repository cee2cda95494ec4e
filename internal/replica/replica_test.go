package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// TestClock: a clock that jumps is not believed, one that drifts is.
func TestClock(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		elapsed, wall, want time.Duration // since the start
	}{
		"in time":       {time.Hour, time.Hour, time.Hour},
		"a little fast": {time.Hour, time.Hour + time.Minute, time.Hour + time.Minute},
		"a little slow": {time.Hour, time.Hour - time.Minute, time.Hour - time.Minute},
		"ten years on":  {time.Hour, 87_600 * time.Hour, time.Hour},
		"a day back":    {time.Hour, -24 * time.Hour, time.Hour},
	} {
		wall := start
		c := newClock(func() time.Time { return wall }, func() time.Duration { return tt.elapsed })
		wall = start.Add(tt.wall)
		if got, want := c.stampMS(), start.Add(tt.want).UnixMilli(); got != want || (c.stepped() == 0) != (tt.want == tt.wall) {
			t.Errorf("%s: got %d, want %d; stepped %v", name, got, want, c.stepped())
		}
	}
}

// inSim runs f on a cluster of three that has a room and no load.
func inSim(t *testing.T, f func(s *sim, l *load)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, 0, bugs{})
		f(s, startLoad(s, 0))
		for _, fault := range s.faults {
			t.Error(fault)
		}
	})
}

// send sends one message through one node.
func (l *load) sendAt(m *machine, text string) (*state.Result, error) {
	c, err := state.NewCommand(l.actor, nil, &state.SendMessage{Target: state.ToRoom(l.room), Text: text})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return m.up().replica.Propose(ctx, c)
}

func (s *sim) followers() (f []*machine) {
	for _, m := range s.machines {
		if m != s.leader() {
			f = append(f, m)
		}
	}
	return f
}

// TestReplica_Disk: a leader, or a follower, whose disk fails or hangs is given up, says why, and
// the others go on; the host's process lives, and the node can be started again.
func TestReplica_Disk(t *testing.T) {
	for name, tt := range map[string]struct {
		breaks func(*simDisk)
		leader bool
		says   string
		within time.Duration
	}{
		"a leader's write fails":   {func(d *simDisk) { d.fails.Store(1) }, true, "input/output error", 3 * time.Second},
		"a follower's write fails": {func(d *simDisk) { d.fails.Store(1) }, false, "input/output error", 3 * time.Second},
		"a leader's write hangs":   {func(d *simDisk) { d.slow.Store(int64(30 * time.Second)) }, true, "has waited for the disk", 5 * time.Second},
		"a follower's write hangs": {func(d *simDisk) { d.slow.Store(int64(30 * time.Second)) }, false, "has waited for the disk", 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inSim(t, func(s *sim, l *load) {
				sick := s.leader()
				if !tt.leader {
					sick = s.followers()[0]
				}
				well := s.followers()[1]
				tt.breaks(sick.disk)
				start := time.Now()
				_, _ = l.sendAt(well, "first") // its outcome may be unknown
				for {
					if _, err := l.sendAt(well, "next"); err == nil {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(start); took > tt.within {
					t.Errorf("the next acknowledgement came after %v", took)
				}
				<-sick.up().replica.Done()
				if err := sick.up().replica.Err(); !errors.Is(err, chaterr.ErrFault) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v", err)
				}
				if _, err := l.sendAt(sick, "no"); !errors.Is(err, chaterr.ErrFault) {
					t.Errorf("the node that has failed says %v", err)
				}
				if err := sick.up().replica.Linearizable(context.Background()); !errors.Is(err, chaterr.ErrFault) {
					t.Errorf("the node that has failed says %v", err)
				}
				time.Sleep(time.Minute) // what hangs comes back
				s.converge()
			})
		})
	}
}

// TestBootstrap: nodes begin a cluster when they start, or when they hear of it later; one whose disk fails meanwhile
// says so, whichever write it is.
func TestBootstrap(t *testing.T) {
	for _, late := range []bool{false, true} {
		for writes := range int64(8) {
			t.Run(fmt.Sprint(late, writes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := makeSim(t, 3, 0, bugs{})
					s.late = late
					sick := s.machines[0]
					sick.disk.fails.Store(writes) // 0 for never
					s.run()
					err := sick.refused
					for _, m := range s.machines {
						if n := m.up(); n != nil && late {
							if err := n.dir.Adopt(s.cluster()); err != nil {
								t.Fatal(err)
							}
							if e := n.replica.Bootstrap(); m == sick {
								err = errors.Join(err, e)
							} else if e != nil {
								t.Error(e)
							}
						}
					}
					if err != nil && !errors.Is(err, errSick) {
						t.Error(err)
					}
					startLoad(s, 0) // waits for a leader
				})
			})
		}
	}
}

// TestReplica_Vote: a vote or a term that cannot be written ends the node, and not the process:
// raft itself panics (raft.go, setCurrentTerm).
func TestReplica_Vote(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		leader := s.leader()
		for _, m := range s.followers() {
			m.disk.fails.Store(1)
		}
		leader.crash()
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			failed := 0
			for _, m := range s.machines {
				if n := m.up(); n != nil && n.replica.Err() != nil {
					failed++
				}
			}
			if failed > 0 {
				break
			}
			if time.Since(start) > time.Minute {
				t.Fatal("nobody has tried to write a vote")
			}
		}
		s.converge()
		if _, err := l.sendAt(s.machines[0], "on"); err != nil {
			t.Error(err)
		}
	})
}

// TestReplica_CorruptEntry: an entry that has changed on the disk is not applied and not sent on.
func TestReplica_CorruptEntry(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		for range 5 {
			if _, err := l.sendAt(s.machines[0], "text"); err != nil {
				t.Fatal(err)
			}
		}
		s.converge()
		m := s.followers()[0]
		m.crash()
		index, err := m.disk.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		var e raft.Log
		for e.Type != raft.LogCommand || len(e.Data) == 0 {
			if err := m.disk.GetLog(index, &e); err != nil {
				t.Fatal(err)
			}
			index--
		}
		e.Data = append([]byte{}, e.Data...)
		e.Data[len(e.Data)-1] ^= 1
		if err := m.disk.InmemStore.StoreLog(&e); err != nil {
			t.Fatal(err)
		}
		m.start()
		if m.up() != nil || !errors.Is(m.refused, chaterr.ErrCorrupt) || !strings.Contains(m.refused.Error(), fmt.Sprint("entry ", e.Index)) {
			t.Errorf("got %v", m.refused)
		}
	})
}

// TestReplica_Isolated: a leader that is cut off acknowledges nothing, and reads nothing
// linearizable, while the others go on.
func TestReplica_Isolated(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		old := s.leader()
		for _, m := range s.followers() {
			s.net.Cut(old.addr, m.addr)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := old.up().replica.Linearizable(ctx); err == nil {
			t.Error("a read was linearizable")
		}
		if _, err := l.sendAt(old, "lost"); err == nil {
			t.Error("a message was acknowledged")
		}
		time.Sleep(2 * time.Second) // another one leads
		for _, m := range s.machines {
			if m != old {
				if _, err := l.sendAt(m, "on"); err != nil {
					t.Errorf("%s: %v", m.id, err)
				}
			}
		}
	})
}

// TestReplica_LeaderVanishes: a follower that has forwarded all it may to a leader, and has asked it for
// an index, which vanishes without a sign, goes on as soon as there is another leader.
func TestReplica_LeaderVanishes(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		old, asks := s.leader(), s.followers()[0]
		if _, err := l.sendAt(asks, "connects"); err != nil {
			t.Fatal(err)
		}
		for _, m := range s.followers() {
			s.net.Cut(old.addr, m.addr)
		}
		start := time.Now()
		var work sync.WaitGroup
		for i := range 3 * inFlight {
			work.Go(func() {
				_, _ = l.sendAt(asks, fmt.Sprint("lost ", i)) // its outcome may be unknown
			})
			work.Go(func() {
				if err := asks.up().replica.Linearizable(context.Background()); err != nil && !errors.Is(err, chaterr.ErrNoLeader) {
					t.Errorf("read: got %v", err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		work.Wait()
		for {
			if _, err := l.sendAt(asks, "on"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it went on after %v", took)
		}
	})
}

// TestSupervisor: a leader that does nothing though it should is told apart from one that is idle.
func TestSupervisor(t *testing.T) {
	r := &led{state: raft.Leader, term: 1, last: 10, commit: 10}
	s := &supervisor{limit: 10 * time.Second, raft: r}
	now := time.Now()
	look := func(after time.Duration) bool {
		now = now.Add(after)
		return s.stuck(now) > 0
	}
	for _, tt := range []struct {
		what   string
		change func()
		after  time.Duration
		want   bool
	}{
		{"nothing waits", func() {}, time.Hour, false},
		{"an entry waits", func() { r.last++ }, time.Second, false},
		{"it waits for long", func() {}, 10 * time.Second, true},
		{"told once", func() {}, time.Second, false},
		{"it was committed", func() { r.commit++ }, time.Hour, false},
		{"a follower", func() { r.state = raft.Follower; r.last++ }, time.Hour, false},
		{"a new term", func() { r.state = raft.Leader; r.term++ }, time.Hour, false},
	} {
		tt.change()
		if got := look(tt.after); got != tt.want {
			t.Errorf("%s: got %v", tt.what, got)
		}
	}
}

// TestReplica_StuckTransfer: a leader whose transfer of leadership hangs takes writes again soon, by itself.
func TestReplica_StuckTransfer(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		old, to := s.leader(), s.followers()[0]
		hang := make(chan struct{})
		old.up().transport.Load().hang.Store(&hang)
		e := old.up().replica.raft.Load()
		if err := e.LeadershipTransferToServer(raft.ServerID(to.id), raft.ServerAddress(to.addr)).Error(); err == nil {
			t.Error("the transfer has not hung")
		} else {
			t.Log(err)
		}
		start := time.Now()
		waitFor(t, "a message is taken", func() bool {
			_, err := l.sendAt(old, "on")
			return err == nil
		})
		if d := time.Since(start); d > 5*time.Second || old.up().replica.raft.Load() == e {
			t.Errorf("after %v", d)
		}
		close(hang)
	})
}

type led struct {
	state              raft.RaftState
	term, last, commit uint64
}

func (l *led) State() raft.RaftState { return l.state }
func (l *led) CurrentTerm() uint64   { return l.term }
func (l *led) LastIndex() uint64     { return l.last }
func (l *led) CommitIndex() uint64   { return l.commit }
