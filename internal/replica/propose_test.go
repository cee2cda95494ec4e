package replica

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
)

// TestQueue_Limits: what does not fit is refused at once, and room comes back.
func TestQueue_Limits(t *testing.T) {
	told := map[string]error{}
	command := func(text string) *proposal {
		c, err := state.NewCommand(state.Actor{}, nil, &state.CreateRoom{Name: text})
		if err != nil {
			t.Fatal(err)
		}
		return &proposal{command: c, tell: func(o outcome) { told[text] = o.err }}
	}
	q := newQueue(3, 1000)
	if err := q.put(command("a"), command("b")); err != nil {
		t.Fatal(err)
	}
	if err := q.put(command("c"), command("d")); !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("too many: got %v", err)
	}
	if err := q.put(command(strings.Repeat("x", 1000))); !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("too large: got %v", err)
	}
	batch := q.take()
	if len(batch) != 2 {
		t.Fatalf("took %d", len(batch))
	}
	if err := q.put(command("c"), command("d")); !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("under way: got %v", err)
	}
	if n, err := q.putSome([]*proposal{command("c"), command("d")}); n != 1 || !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("some of too many: took %d, %v", n, err)
	}
	if n, err := q.putSome([]*proposal{command("e")}); n != 0 || !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("some when it is full: took %d, %v", n, err)
	}
	q.finish(batch, func(int) outcome { return outcome{err: errSick} })
	if !errors.Is(told["a"], errSick) || !errors.Is(told["b"], errSick) {
		t.Errorf("told %v", told)
	}
	if n, err := q.putSome([]*proposal{command("f"), command(strings.Repeat("x", 1000)), command("g")}); n != 1 || !errors.Is(err, chaterr.ErrOverloaded) {
		t.Errorf("some that are too large: took %d, %v", n, err)
	}
	if q.count != 2 || len(q.waiting) != 2 {
		t.Errorf("%d are counted, %d wait", q.count, len(q.waiting))
	}
	q.close()
	if !errors.Is(told["c"], chaterr.ErrClosed) || !errors.Is(told["f"], chaterr.ErrClosed) || len(told) != 4 || q.count != 0 || q.bytes != 0 {
		t.Errorf("at the end: told %v, %d are counted, of %d bytes", told, q.count, q.bytes)
	}
	if err := q.put(command("d")); !errors.Is(err, chaterr.ErrClosed) {
		t.Errorf("after the end: got %v", err)
	}
}

// TestQueue_Take: what waits goes when nothing is under way, when it is as much as that, or fills an entry.
func TestQueue_Take(t *testing.T) {
	q := newQueue(4*maxBatch, 4*maxBatch)
	underWay := map[int][]*proposal{}
	for i, step := range []struct {
		put, finish, want int // how many wait more, which step's are done before, how many are taken
	}{
		{put: 1, want: 1},
		{put: 1, want: 1},
		{put: 1},             // beside two
		{put: 1, want: 2},    // two beside two
		{put: 3},             // beside four
		{finish: 1, want: 3}, // beside three
		{put: maxBatch - 1, want: maxBatch - 1},
		{put: maxBatch - 1},
		{put: 2, want: maxBatch}, // full
		{finish: 7},
		{finish: 9},
		{finish: 2},
		{finish: 4},
		{finish: 6, want: 1}, // beside none
	} {
		if step.finish > 0 {
			q.finish(underWay[step.finish-1], func(int) outcome { return outcome{} })
		}
		for range step.put {
			if err := q.put(&proposal{command: &state.Command{}, tell: func(outcome) {}}); err != nil {
				t.Fatal(err)
			}
		}
		if underWay[i] = q.take(); len(underWay[i]) != step.want {
			t.Errorf("step %d: took %d, want %d", i, len(underWay[i]), step.want)
		}
	}
}

// TestReplica_Joins: what comes while the leader writes is joined into one entry, or as many as it fills, and is done
// soon after.
func TestReplica_Joins(t *testing.T) {
	const slow = 10 * time.Millisecond
	for _, tt := range []struct {
		commands, entries int
		took              time.Duration // at most
	}{
		{1, 1, 3 * slow / 2},
		{40, 2, 5 * slow / 2}, // raft takes the second when the first is written
		{maxBatch, 2, 5 * slow / 2},
		{3*maxBatch + 10, 5, 5 * slow}, // raft writes what it has been given meanwhile as one
	} {
		t.Run(fmt.Sprint(tt.commands), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := makeSim(t, 3, 0, bugs{})
				s.auditEvery = 24 * time.Hour
				s.tune = func(o *Options) { o.MaxPending, o.MaxPendingBytes = 4096, 4<<20 }
				s.run()
				l := startLoad(s, 0)
				leader := s.leader()
				time.Sleep(time.Second)
				for _, m := range s.machines {
					m.disk.slow.Store(int64(slow))
				}
				r, first := rand.New(rand.NewPCG(1, 2)), make(chan *state.Result, 1)
				submit := func(done func(*state.Result, error)) {
					c, err := state.NewCommand(l.actor, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: "x"})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := leader.up().replica.Submit([]*state.Command{c}, func(_ int, res *state.Result, err error) { done(res, err) }); err != nil {
						t.Fatal(err)
					}
				}
				submit(func(res *state.Result, _ error) { first <- res })
				synctest.Wait() // it is under way
				results := make(chan *state.Result, tt.commands)
				for i := range tt.commands {
					submit(func(res *state.Result, err error) {
						if err != nil {
							t.Error(err)
						}
						results <- res
					})
					if i < 10 {
						synctest.Wait()
					}
				}
				before, start := (<-first).Index, time.Now()
				entries := map[uint64]bool{}
				for range tt.commands {
					entries[(<-results).Index] = true
				}
				if took := time.Since(start); len(entries) != tt.entries || entries[before] || took > tt.took {
					t.Errorf("%d entries, %v after the first, want %d, at most %v", len(entries), took, tt.entries, tt.took)
				}
			})
		})
	}
}

// TestReplica_Beside: while followers write, what comes goes beside what is under way as soon as it is as much, and the
// rest when an entry is done.
func TestReplica_Beside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, 3, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		l := startLoad(s, 0)
		time.Sleep(time.Second)
		for _, m := range s.followers() {
			m.disk.slow.Store(int64(10 * time.Millisecond))
		}
		const commands = 40
		r, results := rand.New(rand.NewPCG(1, 2)), make(chan *state.Result, commands)
		for range commands {
			c, err := state.NewCommand(l.actor, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: "x"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.leader().up().replica.Submit([]*state.Command{c}, func(_ int, res *state.Result, err error) {
				if err != nil {
					t.Error(err)
				}
				results <- res
			}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		in := map[uint64]int{} // commands by entry
		for range commands {
			in[(<-results).Index]++
		}
		var sizes []int
		for _, index := range slices.Sorted(maps.Keys(in)) {
			sizes = append(sizes, in[index])
		}
		if want := []int{1, 1, 2, 4, 32}; !slices.Equal(sizes, want) {
			t.Errorf("entries of %v commands, want %v", sizes, want)
		}
	})
}

// TestReplica_Submit: of many commands that are submitted at once, through the leader or a follower,
// each has one outcome, whatever happens to the leader meanwhile; those that are acknowledged are there
// under their numbers, and while nothing happens to a leader they are in the order in which it was given
// them.
func TestReplica_Submit(t *testing.T) {
	const n = 1000 // is the machines' MaxPending
	for name, tt := range map[string]struct {
		leader bool
		breaks func(s *sim, leader *machine)
	}{
		"leader":                {true, nil},
		"follower":              {false, nil},
		"leader, cut off":       {true, cutOff},
		"follower, leader cut":  {false, cutOff},
		"leader, closed":        {true, func(_ *sim, m *machine) { m.stop() }},
		"follower, leader ends": {false, func(_ *sim, m *machine) { m.crash() }},
	} {
		t.Run(name, func(t *testing.T) {
			inSim(t, func(s *sim, l *load) {
				m := s.leader()
				if !tt.leader {
					m = s.followers()[0]
				}
				r := rand.New(rand.NewPCG(1, 2))
				var commands []*state.Command
				for i := range n + 200 {
					c, err := state.NewCommand(l.actor, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: fmt.Sprint(i)})
					if err != nil {
						t.Fatal(err)
					}
					commands = append(commands, c)
				}
				var mu sync.Mutex
				outcomes, times := make([]outcome, n), make([]int, n)
				taken, err := m.up().replica.Submit(commands, func(i int, r *state.Result, err error) {
					mu.Lock()
					defer mu.Unlock()
					outcomes[i] = outcome{result: r, err: err}
					times[i]++
				})
				if taken != n || !errors.Is(err, chaterr.ErrOverloaded) {
					t.Fatalf("took %d of %d: %v", taken, n, err)
				}
				if tt.breaks != nil {
					time.Sleep(time.Millisecond)
					tt.breaks(s, s.leader())
				}
				time.Sleep(30 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				last := uint64(0)
				for i, o := range outcomes {
					if times[i] != 1 {
						t.Fatalf("command %d has %d outcomes", i, times[i])
					}
					if o.err != nil {
						if tt.breaks == nil {
							t.Errorf("command %d: %v", i, o.err)
						}
						continue
					}
					if o.result.Seq <= last && tt.breaks == nil && tt.leader {
						t.Errorf("command %d has the number %d, after %d", i, o.result.Seq, last)
					}
					last = o.result.Seq
					l.acked[fmt.Sprint(i)] = o.result.Seq
				}
				s.net.HealAll()
				for _, m := range s.machines {
					if m.up() == nil {
						m.start()
					}
				}
				l.end() // looks for what was acknowledged
			})
		})
	}
}

// cutOff cuts a node off from the others.
func cutOff(s *sim, of *machine) {
	for _, m := range s.machines {
		if m != of {
			s.net.Cut(of.addr, m.addr)
		}
	}
}
