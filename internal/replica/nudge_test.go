package replica

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestNudges: followers have what is committed at once, whenever it comes, also who had it long before it was;
// and while nothing happens few messages are sent.
func TestNudges(t *testing.T) {
	t.Run("three", func(t *testing.T) { nudged(t, 3, 2, 0) })
	t.Run("five, of which three are slow", func(t *testing.T) { nudged(t, 5, 1, 15*time.Millisecond) })
}

func nudged(t *testing.T, machines, quick int, slow time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, machines, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		l := startLoad(s, 0)
		leader, r := s.leader(), rand.New(rand.NewPCG(1, 2))
		for _, m := range s.machines {
			m.disk.slow.Store(int64(700 * time.Microsecond))
		}
		for _, m := range s.followers()[quick:] {
			m.disk.slow.Store(int64(slow))
		}
		var sending, telling time.Duration
		for range 500 {
			time.Sleep(time.Duration(r.IntN(60_000)) * time.Microsecond)
			start := time.Now()
			if _, err := l.sendAt(leader, "x"); err != nil {
				t.Fatal(err)
			}
			sending = max(sending, time.Since(start))
			start = time.Now()
			for _, m := range s.followers()[:quick] {
				for m.up().replica.Applied() < leader.up().replica.Applied() {
					time.Sleep(100 * time.Microsecond)
				}
			}
			telling = max(telling, time.Since(start))
		}
		if sending > 5*time.Millisecond+slow || telling > 2*time.Millisecond {
			t.Errorf("a send took %v, and the followers had it %v later", sending, telling)
		}
		time.Sleep(time.Second)
		before := leader.up().transport.Load().appends.Load()
		time.Sleep(time.Minute)
		if n := leader.up().transport.Load().appends.Load() - before; n > int64(machines-1)*60*40 { // heartbeats included
			t.Errorf("%d messages in a minute in which nothing happened", n)
		} else {
			t.Logf("a send took up to %v, the followers had it up to %v later; %d messages in a quiet minute", sending, telling, n)
		}
	})
}

// TestNudges_OtherEntry: a follower is told of the commit of the very entry that it has, and of no other one of
// that index.
func TestNudges_OtherEntry(t *testing.T) {
	for name, tt := range map[string]struct {
		committed entryID
		stored    uint64
		nudged    bool
	}{
		"the entry":                    {entryID{10, 3}, 10, true},
		"one of another term":          {entryID{10, 4}, 10, false},
		"an earlier one":               {entryID{9, 3}, 10, false},
		"a later one":                  {entryID{11, 3}, 10, false},
		"the entry, and another comes": {entryID{10, 3}, 11, false},
	} {
		t.Run(name, func(t *testing.T) {
			sent := &sentMessages{}
			n := newNudges(sent, nil)
			n.stored = tt.stored
			a := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 9, PrevLogTerm: 2, LeaderCommitIndex: 8, Entries: []*raft.Log{{Index: 10, Term: 3}}}
			if err := n.AppendEntries("b", "b:1", a, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
			n.spawn = func(f func()) bool { sent.later = append(sent.later, f); return true }
			n.commits(tt.committed)
			n.commits(tt.committed) // once is enough
			for _, f := range sent.later {
				f()
			}
			if len(sent.all) != 1 && !tt.nudged || tt.nudged && (len(sent.all) != 2 || sent.all[1].LeaderCommitIndex != 10 || sent.all[1].PrevLogEntry != 10 || sent.all[1].PrevLogTerm != 3 || sent.all[1].Term != 3 || len(sent.all[1].Entries) > 0) {
				t.Errorf("sent %+v", sent.all)
			}
		})
	}
}

// sentMessages notes what is sent, and says that it was received.
type sentMessages struct {
	Transport
	all   []*raft.AppendEntriesRequest
	later []func()
}

func (s *sentMessages) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	s.all = append(s.all, a)
	resp.Success = true
	return nil
}
