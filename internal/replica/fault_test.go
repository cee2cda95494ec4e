package replica

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
)

var seeds = flag.Int("seeds", defaultSeeds, "how many random schedules TestSim runs")

// storm is one random schedule of faults.
func storm(s *sim, l *load) {
	const d = 15 * time.Second
	r := rand.New(rand.NewPCG(s.seed, 2))
	any := func() *machine {
		if l := s.leader(); l != nil && r.IntN(3) == 0 {
			return l
		}
		return s.machines[r.IntN(len(s.machines))]
	}
	for start := time.Now(); time.Since(start) < d && !s.broken(); {
		time.Sleep(time.Duration(50+r.IntN(1000)) * time.Millisecond)
		m := any()
		switch r.IntN(16) {
		case 0, 1: // alone
			for _, o := range s.machines {
				if o != m {
					s.net.Cut(m.addr, o.addr)
				}
			}
		case 2: // heard, but deaf
			for _, o := range s.machines {
				if o != m {
					s.net.CutOneWay(o.addr, m.addr)
				}
			}
		case 3, 4, 5:
			s.net.HealAll()
		case 6, 7:
			if m.up() != nil {
				m.crash()
			} else {
				m.start()
			}
		case 8:
			for _, o := range s.machines {
				if o.up() == nil {
					o.start()
				}
			}
		case 9:
			m.disk.slow.Store(int64(r.IntN(2)) * int64(time.Duration(r.IntN(500))*time.Millisecond))
		case 10:
			m.disk.fails.Store(int64(1 + r.IntN(20)))
		case 12:
			s.conflict(m, l, r)
		case 13: // an election, and disks that fail in it
			if m.up() != nil {
				m.crash()
			}
			for _, o := range s.machines {
				o.disk.fails.Store(int64(1 + r.IntN(4)))
			}
		case 14, 15:
			s.lateTimeoutNow(m, s.leader(), l)
		case 11:
			if n := m.up(); n != nil {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = n.replica.HandOver(ctx) // there may be nobody
				cancel()
			}
		}
		for _, m := range s.machines {
			if n := m.up(); n != nil && n.replica.Err() != nil {
				m.crash()
			}
		}
	}
}

// leader is a machine that leads, nil when there is none.
func (s *sim) leader() *machine {
	for _, m := range s.machines {
		if n := m.up(); n != nil && n.replica.Leading() {
			return m
		}
	}
	return nil
}

// lateTimeoutNow has a follower told to lead, as by a transfer that was given up. The leader, which
// is given entries all the time, hears of it from nobody but the new leader's heartbeats: its other
// requests are lost, and so is what the old leader sends.
func (s *sim) lateTimeoutNow(m, leader *machine, load *load) {
	n := m.up()
	if n == nil || leader == nil || leader == m {
		return
	}
	l, id := leader.up(), raft.ServerID(leader.id)
	if l == nil {
		return
	}
	mine, theirs := n.transport.Load(), l.transport.Load()
	mine.lost.Store(&id)
	theirs.mute.Store(true)
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.id), Addr: []byte(leader.addr)}}
	_ = theirs.TimeoutNow(raft.ServerID(m.id), raft.ServerAddress(m.addr), req, new(raft.TimeoutNowResponse)) // it may be cut off
	for range 40 {
		s.crowd(leader, load, 1)
		time.Sleep(3 * time.Millisecond)
	}
	theirs.mute.Store(false)
	mine.lost.Store(nil)
	s.crowd(m, load, 20) // under the indexes of what the old leader may have written
}

// conflict cuts one off with entries that nobody else has, while the others go on, take snapshots
// and forget how they came there. When it comes back, nothing of the time before is on its way.
func (s *sim) conflict(m *machine, l *load, r *rand.Rand) {
	for _, o := range s.machines {
		if o != m {
			s.net.Cut(m.addr, o.addr)
		}
	}
	s.crowd(m, l, 300)
	time.Sleep(time.Duration(700+r.IntN(1000)) * time.Millisecond)
	for _, o := range s.machines {
		if n := o.up(); n != nil && o != m {
			_ = n.replica.raft.Load().Snapshot().Error() // there may be nothing new
		}
	}
	if m.up() != nil {
		m.crash()
	}
	s.net.HealAll()
	m.start()
}

// crowd gives a node entries that nobody waits for.
func (s *sim) crowd(m *machine, l *load, n int) {
	at := m.up()
	if at == nil {
		return
	}
	for i := range n {
		text := fmt.Sprintf("crowd %d %d", time.Now().UnixNano(), i)
		c, err := state.NewCommand(l.actor, nil, &state.SendMessage{Target: state.ToRoom(l.room), Text: text})
		if err != nil {
			s.t.Error(err)
			return
		}
		data, err := state.EncodeEntry(time.Now().UnixMilli(), []*state.Command{c})
		if err != nil {
			s.t.Error(err)
			return
		}
		at.replica.raft.Load().Apply(data, time.Second)
	}
}

// simulate runs one schedule and returns what went wrong.
func simulate(t *testing.T, nodes int, seed uint64, b bugs, script func(*sim, *load)) (faults []string) {
	faults, _ = count(t, nodes, seed, b, script)
	return faults
}

// count is simulate, and counts reads.
func count(t *testing.T, nodes int, seed uint64, b bugs, script func(*sim, *load)) (faults []string, reads int) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, nodes, seed, b)
		l := startLoad(s, 3)
		script(s, l)
		l.end()
		if !s.broken() {
			s.equal()
		}
		faults, reads = s.faults, l.reads
		t.Logf("seed %d: %d terms, %d acknowledged, %d reads", seed, len(s.leaders), len(l.acked), l.reads)
		if len(l.acked) == 0 {
			t.Error("nothing was acknowledged")
		}
	})
	return faults, reads
}

// TestSim runs random schedules of partitions, crashes, slow and failing disks and transfers over
// three and five nodes, while clients send and read: one leader a term, one entry an index and
// term, one history, every acknowledged message once, no stale read, and equal states at the end.
func TestSim(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			for _, f := range simulate(t, 3+2*int(seed%2), seed, bugs{}, storm) {
				t.Error(f)
			}
		})
	}
}

// conflicts is a schedule of conflict and nothing else.
func conflicts(s *sim, l *load) {
	r := rand.New(rand.NewPCG(s.seed, 3))
	for range 5 {
		time.Sleep(time.Second)
		if m := s.leader(); m != nil && !s.broken() {
			s.conflict(m, l, r)
		}
	}
}

// usurpers is a schedule of lateTimeoutNow and nothing else.
func usurpers(s *sim, l *load) {
	r := rand.New(rand.NewPCG(s.seed, 4))
	for i := 0; i < 10 && !s.broken(); i++ {
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
		s.lateTimeoutNow(s.machines[r.IntN(len(s.machines))], s.leader(), l)
	}
}

// TestSim_FindsBugs breaks the product on purpose, and the checks find it.
func TestSim_FindsBugs(t *testing.T) {
	for name, tt := range map[string]struct {
		bugs   bugs
		nodes  int
		script func(*sim, *load)
	}{
		"acknowledged before commit":   {bugs{ackEarly: true}, 3, storm},
		"a retry is a new operation":   {bugs{freshRetry: true}, 3, storm},
		"reads without the leader":     {bugs{staleReads: true}, 3, storm},
		"reads of a new leader":        {bugs{noOwn: true}, 3, deposals},
		"answers of before the read":   {bugs{oldAnswers: true}, 3, deposals},
		"answers of who does not vote": {bugs{nonvoters: true}, 5, deposals},
		"heartbeats on a fast path":    {bugs{fastPath: true}, 3, usurpers},
		"no floor":                     {bugs{noFloor: true}, 3, conflicts},
		"votes in two writes":          {bugs{halfVotes: true}, 3, storm},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(100) {
				if faults := simulate(t, tt.nodes, seed, tt.bugs, tt.script); len(faults) > 0 {
					t.Logf("seed %d: %s", seed, faults[0])
					return
				}
			}
			t.Error("it was not found")
		})
	}
}

// TestSim_Scripts: the schedules that find bugs find none in the product.
func TestSim_Scripts(t *testing.T) {
	for seed := range uint64(2) {
		for _, f := range append(simulate(t, 3, seed, bugs{}, conflicts), simulate(t, 3, seed, bugs{}, usurpers)...) {
			t.Errorf("seed %d: %s", seed, f)
		}
	}
}
