package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat/fsm/state"
)

// spell is how long writes of a disk take: usually, and once in every so many.
type spell struct {
	usual, spike time.Duration
	every        int64
}

func (d spell) String() string {
	if d.every == 0 {
		return fmt.Sprint(d.usual)
	}
	return fmt.Sprintf("%v, each %d. %v", d.usual, d.every, d.spike)
}

// TestStability: slow disks, or ones that stall for longer than the lease, cost time and no term, be they
// those of one follower, of both, or of all three nodes.
func TestStability(t *testing.T) {
	const ms = time.Millisecond
	for _, d := range []spell{{usual: 5 * ms}, {usual: 50 * ms}, {usual: 200 * ms}, {5 * ms, 400 * ms, 50}} {
		for slow := 1; slow <= 3; slow++ {
			t.Run(fmt.Sprintf("%v/%d of 3", d, slow), func(t *testing.T) {
				inSim(t, func(s *sim, l *load) {
					leader := s.leader()
					term := leader.up().replica.Term()
					for i, m := range append(s.followers(), leader) {
						if i < slow {
							m.disk.spell.Store(&d)
						}
					}
					took, failed := l.steady(10*time.Second*time.Duration(min(*seeds, 40))/40, 200)
					for _, m := range s.machines {
						m.disk.spell.Store(nil)
					}
					lost := s.leader().up().replica.Term() - term
					t.Logf("lost terms %d, failed %d of %d, median %v, 99%% %v, longest %v", lost, failed, failed+len(took), at(took, 50), at(took, 99), at(took, 100))
					if lost != 0 || failed != 0 {
						t.Errorf("lost %d terms, %d proposals failed", lost, failed)
					}
				})
			})
		}
	}
}

// at is a percentile.
func at(took []time.Duration, percent int) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[(len(took)-1)*percent/100].Round(time.Millisecond)
}

// steady sends at a steady rate, to all nodes in turn, and returns how long each took.
func (l *load) steady(d time.Duration, perSecond int) (took []time.Duration, failed int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	n := 0
	for start := time.Now(); time.Since(start) < d; time.Sleep(10 * time.Millisecond) {
		for range perSecond / 100 {
			m, text := l.s.machines[n%len(l.s.machines)], fmt.Sprint("steady ", n)
			n++
			all.Go(func() {
				begin := time.Now()
				_, err := l.sendAt(m, text)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
				} else {
					took = append(took, time.Since(begin))
				}
			})
		}
	}
	all.Wait()
	return took, failed
}

// TestFailover: how long it takes from the death of a leader, or from when it is cut off without a
// sign, until another node acknowledges a message that was sent afterwards.
func TestFailover(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		for name, fail := range map[string]func(*machine){"killed": (*machine).kill, "cut off": (*machine).isolate} {
			t.Run(fmt.Sprintf("%d nodes/%s", nodes, name), func(t *testing.T) {
				var elected, acked []time.Duration
				for seed := range uint64(max(*seeds/20, 1)) {
					synctest.Test(t, func(t *testing.T) {
						s := newSim(t, nodes, 3*seed, bugs{}) // 0.2 ms from node to node
						l := startLoad(s, 0)
						r := rand.New(rand.NewPCG(seed, 6))
						for range min(*seeds, 16) {
							time.Sleep(time.Second + time.Duration(r.IntN(1000))*time.Millisecond)
							old := s.leader()
							for ; old == nil; old = s.leader() {
								time.Sleep(time.Millisecond)
							}
							e, a := s.failover(l, old, fail)
							elected, acked = append(elected, e), append(acked, a)
							old.crash()
							s.converge()
						}
						for _, f := range s.faults {
							t.Error(f)
						}
					})
				}
				slow := 0
				for _, d := range acked {
					if d > time.Second {
						slow++
					}
				}
				t.Logf("%d failovers: elected after %v, %v, %v; acknowledged after %v, %v, %v (median, 99%%, longest); %d took more than 1s",
					len(acked), at(elected, 50), at(elected, 99), at(elected, 100), at(acked, 50), at(acked, 99), at(acked, 100), slow)
				if got := at(acked, 50); got > 600*time.Millisecond && len(acked) >= 16 {
					t.Errorf("the median is %v", got)
				}
			})
		}
	}
}

// kill ends a node as kill -9 does: the others are told by TCP.
func (m *machine) kill() {
	for _, o := range m.s.machines {
		m.s.net.Refuse(m.addr, o.addr)
		m.s.net.Reset(m.addr, o.addr)
	}
}

// isolate cuts a node off, and nobody is told.
func (m *machine) isolate() {
	for _, o := range m.s.machines {
		m.s.net.Cut(m.addr, o.addr)
	}
}

// failover has the leader fail under load, and waits for another one and for what that acknowledges.
func (s *sim) failover(l *load, old *machine, fail func(*machine)) (elected, acked time.Duration) {
	others := slices.DeleteFunc(slices.Clone(s.machines), func(m *machine) bool { return m == old })
	var work sync.WaitGroup
	var first atomic.Int64
	defer work.Wait()
	var failed atomic.Int64 // when
	for i := range 8 {
		work.Go(func() {
			for n := 0; first.Load() == 0; n++ {
				begin := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				c, err := state.NewCommand(l.actor, nil, &state.SendMessage{Target: state.ToRoom(l.room), Text: fmt.Sprint("failover ", begin.UnixNano(), i, n)})
				if err == nil {
					_, err = others[i%len(others)].up().replica.Propose(ctx, c)
				}
				cancel()
				if f := failed.Load(); err == nil && f != 0 && begin.UnixNano() >= f {
					first.CompareAndSwap(0, time.Now().UnixNano())
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	fail(old)
	failed.Store(start.UnixNano())
	for elected == 0 {
		time.Sleep(time.Millisecond)
		for _, m := range others {
			if m.up().replica.Leading() {
				elected = time.Since(start)
			}
		}
	}
	for first.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	return elected, time.Unix(0, first.Load()).Sub(start)
}
