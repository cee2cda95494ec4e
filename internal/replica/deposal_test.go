package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
	"example.com/chat/rpc/peer"
)

// asked is how a node asks others, and can get its answers in wrong ways.
type asked struct {
	*peer.Calls
	s *sim

	mu      sync.Mutex // guards what follows
	answers map[string]answer
}

type answer struct {
	term uint64
	at   time.Time
}

// CurrentTerm asks a voter, or, when that bug is on, somebody else, or nobody.
func (a *asked) CurrentTerm(ctx context.Context, id, addr string) (uint64, error) {
	if a.s.bugs.nonvoters && (id == "n1" || id == "n2" || id == "n3") {
		for _, m := range a.s.machines[3:] { // see demote
			if term, err := a.Calls.CurrentTerm(ctx, m.id, m.addr); err == nil {
				return term, nil
			}
		}
	}
	a.mu.Lock()
	old, known := a.answers[id]
	a.mu.Unlock()
	if a.s.bugs.oldAnswers && known && time.Since(old.at) < time.Second {
		return old.term, nil
	}
	term, err := a.Calls.CurrentTerm(ctx, id, addr)
	if err == nil {
		a.mu.Lock()
		a.answers[id] = answer{term, time.Now()}
		a.mu.Unlock()
	}
	return term, err
}

// deposals is a schedule of deposed leaders, and of nothing else.
func deposals(s *sim, l *load) {
	r := rand.New(rand.NewPCG(s.seed, 5))
	s.demote()
	for i := range 5 {
		l.work.Go(func() {
			r := rand.New(rand.NewPCG(s.seed, uint64(300+i)))
			for !l.stop.Load() {
				time.Sleep(15 * time.Millisecond)
				l.readAt(s.machines[r.IntN(3)].up())
			}
		})
	}
	for i := 0; i < 12 && !s.broken(); i++ {
		time.Sleep(time.Duration(200+r.IntN(600)) * time.Millisecond)
		if next := s.machines[r.IntN(3)]; next != s.leader() && next.up() != nil {
			s.depose(next, l)
		}
	}
}

// demote leaves the first three machines a vote.
func (s *sim) demote() {
	for len(s.machines) > 3 {
		demoted := true
		for _, m := range s.machines[3:] {
			leader := s.leader()
			if leader == nil || leader.up().replica.raft.Load().DemoteVoter(raft.ServerID(m.id), 0, time.Second).Error() != nil {
				demoted = false
			}
		}
		if demoted {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// depose has another voter elected while the leader hears nothing of it, and has its lease for a while
// yet. It is cut off from the voters, together with those who do not vote. Then it is asked, while
// the other one acknowledges messages.
func (s *sim) depose(next *machine, l *load) {
	old := s.leader()
	if old == nil || slices.Contains(s.machines[3:], old) {
		return
	}
	id, was := raft.ServerID(old.id), old.up()
	elect := next.up()
	elect.transport.Load().lost.Store(&id)
	defer elect.transport.Load().lost.Store(nil)
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(old.id), Addr: []byte(old.addr)}}
	_ = was.transport.Load().TimeoutNow(raft.ServerID(next.id), raft.ServerAddress(next.addr), req, new(raft.TimeoutNowResponse)) // it shows in what follows
	for i, m := range s.machines {
		if m == old || i >= 3 {
			for _, o := range s.machines[:3] {
				if o != old && o != m {
					s.net.Cut(m.addr, o.addr)
				}
			}
		}
	}
	var work sync.WaitGroup
	start := time.Now()
	over := func() bool { return time.Since(start) > 400*time.Millisecond || s.broken() }
	for i := range 6 {
		work.Go(func() {
			for !over() {
				l.readAt([]*running{was, elect}[i%2])
				time.Sleep(time.Millisecond)
			}
		})
	}
	work.Go(func() {
		for i := 0; !over(); i++ {
			l.writeAt(elect, fmt.Sprintf("deposal %d %d", start.UnixNano(), i))
			time.Sleep(5 * time.Millisecond)
		}
	})
	time.Sleep(400 * time.Millisecond)
	s.net.HealAll()
	work.Wait()
}

// writeAt sends one message at a node, if that can do it itself.
func (l *load) writeAt(n *running, text string) {
	if !n.replica.Leading() {
		return
	}
	c, err := state.NewCommand(l.actor, nil, &state.SendMessage{Target: state.ToRoom(l.room), Text: text})
	if err != nil {
		l.s.t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if res, err := n.replica.Propose(ctx, c); err == nil && state.Err(res) == nil {
		l.acknowledged(text, res.Seq)
	}
}

// TestSim_Reads: ten thousand reads and more while leaders are deposed that do not know it, and links
// break and deliver late, and none is stale.
func TestSim_Reads(t *testing.T) {
	reads := 0
	for seed := range uint64(max(*seeds/6, 1)) {
		faults, n := count(t, 3+2*int(seed%2), seed, bugs{}, deposals)
		for _, f := range faults {
			t.Errorf("seed %d: %s", seed, f)
		}
		reads += n
	}
	if want := 250 * min(*seeds, 40); reads < want {
		t.Errorf("%d reads, want %d", reads, want)
	}
	t.Logf("%d reads", reads)
}
