package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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
		if n := leader.up().transport.Load().appends.Load() - before; n > int64(machines-1)*60*14 { // heartbeats included
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
			f := newFollowers(sent, 300*time.Millisecond, nil)
			f.stored = tt.stored
			a := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 9, PrevLogTerm: 2, LeaderCommitIndex: 8, Entries: []*raft.Log{{Index: 10, Term: 3}}}
			if err := f.AppendEntries("b", "b:1", a, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
			f.spawn = func(do func()) bool { sent.later = append(sent.later, do); return true }
			f.commits(tt.committed)
			f.commits(tt.committed) // once is enough
			for _, do := range sent.later {
				do()
			}
			if len(sent.all) != 1 && !tt.nudged || tt.nudged && (len(sent.all) != 2 || sent.all[1].LeaderCommitIndex != 10 || sent.all[1].PrevLogEntry != 10 || sent.all[1].PrevLogTerm != 3 || sent.all[1].Term != 3 || len(sent.all[1].Entries) > 0) {
				t.Errorf("sent %+v", sent.all)
			}
		})
	}
}

// TestNudges_Lost: a follower that a nudge has not reached hears of the commit from raft, as soon as it would without
// nudges.
func TestNudges_Lost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, h := met(t)
		f.stores(logsFrom(11, 11, 3))
		(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
		synctest.Wait()
		f.commits(entryID{11, 3})
		nudge := <-h.sent
		if len(nudge.Entries) > 0 || nudge.LeaderCommitIndex != 11 {
			t.Fatalf("sent %+v", nudge.AppendEntriesRequest)
		}
		nudge.answer <- nil
		time.Sleep(2 * commitTimeout)
		start := time.Now()
		done := raftSends(f, &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 11, PrevLogTerm: 3, LeaderCommitIndex: 11})
		(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
		if waited := time.Since(start); waited > 0 {
			t.Errorf("raft's message waited %v", waited)
		}
		<-done

		time.Sleep(2 * commitTimeout)
		start = time.Now()
		done = raftSends(f, &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 11, PrevLogTerm: 3, LeaderCommitIndex: 11})
		(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
		if waited := time.Since(start); waited != emptyHold {
			t.Errorf("a message that says nothing new waited %v, want %v", waited, emptyHold)
		}
		<-done
	})
}

// TestHeartbeats: heartbeats go to all followers together, each as often as it must, also when one follower does
// not answer; none is held back once the transport is closed.
func TestHeartbeats(t *testing.T) {
	const timeout = 300 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		h := &heartbeats{mute: make(chan struct{}), at: map[raft.ServerID][]time.Time{}}
		f := newFollowers(h, timeout, nil)
		start := time.Now()
		end := start.Add(time.Minute)
		var all sync.WaitGroup
		for _, id := range []raft.ServerID{"b", "c", "d", "mute"} {
			all.Go(func() {
				for time.Now().Before(end) {
					time.Sleep(timeout/10 + rand.N(timeout/10))                                                  // as raft does
					_ = f.AppendEntries(id, "", new(raft.AppendEntriesRequest), new(raft.AppendEntriesResponse)) // the mute one fails
				}
			})
		}
		time.Sleep(time.Until(end))
		close(h.mute)
		all.Wait()
		n, times := 0, map[time.Time]bool{}
		for _, id := range []raft.ServerID{"b", "c", "d"} {
			last := start
			for _, when := range h.at[id] {
				times[when] = true
				if when.Sub(last) > 2*timeout/10+heartbeatHold(timeout) {
					t.Errorf("%s waited %v for a heartbeat", id, when.Sub(last))
				}
				last = when
			}
			if last.Before(end) {
				t.Errorf("%s had its last heartbeat %v before the end", id, end.Sub(last))
			}
			n += len(h.at[id])
		}
		if n > 3*60*14 || len(times) > n/2 {
			t.Errorf("%d heartbeats at %d times", n, len(times))
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		closed := time.Now()
		if err := f.AppendEntries("b", "", new(raft.AppendEntriesRequest), new(raft.AppendEntriesResponse)); err != nil || time.Since(closed) > 0 {
			t.Errorf("after Close a heartbeat waited %v: %v", time.Since(closed), err)
		}
	})
}

// heartbeats notes when they went to whom; one follower does not answer.
type heartbeats struct {
	Transport
	mute chan struct{}
	mu   sync.Mutex // guards at
	at   map[raft.ServerID][]time.Time
}

func (h *heartbeats) AppendEntries(id raft.ServerID, _ raft.ServerAddress, _ *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	if id == "mute" {
		<-h.mute
		return errors.New("no answer")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at[id] = append(h.at[id], time.Now())
	return nil
}

func (*heartbeats) Close() error { return nil }

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

// TestFollowers_Parallel: a follower writes an entry while the leader does, so a send takes as long as one disk,
// and with several under way each disk works all the time.
func TestFollowers_Parallel(t *testing.T) {
	const slow = 10 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, 3, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		l := startLoad(s, 0)
		leader := s.leader()
		for _, m := range s.machines {
			m.disk.slow.Store(int64(slow))
		}
		for i := range 20 {
			start := time.Now()
			if _, err := l.sendAt(leader, "x"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > slow+slow/2 && i > 0 { // the first may meet an audit's entry
				t.Errorf("send %d took %v", i, took)
			}
			time.Sleep(30 * time.Millisecond)
		}
	})
}

// heldMessages keeps what is sent, to be answered by the test.
type heldMessages struct {
	Transport
	sent chan *heldMessage
}

type heldMessage struct {
	*raft.AppendEntriesRequest
	answer chan *raft.AppendEntriesResponse // nil for an error
}

func (h *heldMessages) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	m := &heldMessage{a, make(chan *raft.AppendEntriesResponse)}
	h.sent <- m
	answer := <-m.answer
	if answer == nil {
		return errors.New("the connection broke")
	}
	*resp = *answer
	return nil
}

func logsFrom(from, to, term uint64) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: term})
	}
	return logs
}

// after is raft's message with entries that follow one of term 2.
func after(prev uint64, logs []*raft.Log) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: prev, PrevLogTerm: 3, LeaderCommitIndex: prev, Entries: logs}
}

// met is followers of which b has confirmed entry 10 of term 3, and what it is sent.
func met(t *testing.T) (*followers, *heldMessages) {
	h := &heldMessages{sent: make(chan *heldMessage)}
	f := newFollowers(h, 300*time.Millisecond, func(do func()) bool { go do(); return true })
	done := raftSends(f, after(9, logsFrom(10, 10, 3)))
	(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
	if a := <-done; a.err != nil || !a.Success {
		t.Fatalf("%+v", a)
	}
	f.stored = 10
	return f, h
}

type raftAnswer struct {
	raft.AppendEntriesResponse
	err error
}

func raftSends(f *followers, a *raft.AppendEntriesRequest) chan raftAnswer {
	done := make(chan raftAnswer, 1)
	go func() {
		var answer raftAnswer
		answer.err = f.AppendEntries("b", "b:1", a, &answer.AppendEntriesResponse)
		done <- answer
	}()
	return done
}

// TestFollowers_Answers: raft's message is answered when the follower has confirmed all of its entries, and not
// before; if it does not, the message itself is sent.
func TestFollowers_Answers(t *testing.T) {
	yes := &raft.AppendEntriesResponse{Term: 3, Success: true}
	for name, tt := range map[string]struct {
		answer *raft.AppendEntriesResponse // to what was sent ahead
		asks   *raft.AppendEntriesRequest
		sent   []uint64 // the entries of each message that follows
	}{
		"confirmed":                {yes, after(10, logsFrom(11, 12, 3)), nil},
		"less is asked for":        {yes, after(10, logsFrom(11, 11, 3)), nil},
		"one was confirmed before": {yes, after(9, logsFrom(10, 12, 3)), nil},
		"more is asked for":        {yes, after(10, logsFrom(11, 13, 3)), []uint64{3}},
		"the follower refuses":     {&raft.AppendEntriesResponse{Term: 3}, after(10, logsFrom(11, 12, 3)), []uint64{2}},
		"there is a later leader":  {&raft.AppendEntriesResponse{Term: 4}, after(10, logsFrom(11, 12, 3)), []uint64{2}},
		"the connection breaks":    {nil, after(10, logsFrom(11, 12, 3)), []uint64{2}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, h := met(t)
				f.stores(logsFrom(11, 12, 3))
				ahead := <-h.sent
				if ahead.Term != 3 || ahead.PrevLogEntry != 10 || ahead.PrevLogTerm != 3 || len(ahead.Entries) != 2 || ahead.LeaderCommitIndex > 10 {
					t.Errorf("sent ahead %+v", ahead.AppendEntriesRequest)
				}
				done := raftSends(f, tt.asks)
				synctest.Wait()
				select {
				case a := <-done:
					t.Fatalf("answered %+v before the follower has", a)
				case m := <-h.sent:
					t.Fatalf("sent %+v twice", m.AppendEntriesRequest)
				default:
				}
				ahead.answer <- tt.answer
				for _, n := range tt.sent {
					m := <-h.sent
					if uint64(len(m.Entries)) != n {
						t.Errorf("sent %d entries, want %d", len(m.Entries), n)
					}
					m.answer <- yes
				}
				if a := <-done; a.err != nil || !a.Success || a.Term != 3 && len(tt.sent) == 0 {
					t.Errorf("answered %+v", a)
				}
			})
		})
	}
}

// TestFollowers_Ahead: what is sent ahead, and when nothing is.
func TestFollowers_Ahead(t *testing.T) {
	t.Run("another message waits for the one before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, h := met(t)
			f.committed = entryID{12, 3}
			f.stores(logsFrom(11, 11, 3))
			first := <-h.sent
			f.stores(logsFrom(12, 12, 3))
			f.stores(logsFrom(13, 13, 3))
			synctest.Wait()
			first.answer <- &raft.AppendEntriesResponse{Success: true}
			second := <-h.sent
			if second.PrevLogEntry != 11 || len(second.Entries) != 2 || second.LeaderCommitIndex != 11 {
				t.Errorf("sent %+v", second.AppendEntriesRequest)
			}
			second.answer <- nil
		})
	})
	for name, logs := range map[string][]*raft.Log{
		"a gap": logsFrom(12, 12, 3), "another leader's entry": logsFrom(11, 11, 4), "one that it has": logsFrom(10, 11, 3),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, h := met(t)
				f.stores(logs)
				synctest.Wait()
				select {
				case m := <-h.sent:
					t.Errorf("sent %+v", m.AppendEntriesRequest)
				default:
				}
			})
		})
	}
	t.Run("a server that raft does not ask for any more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, h := met(t)
			var sent []int
			go func() {
				for m := range h.sent {
					sent = append(sent, len(m.Entries))
					m.answer <- &raft.AppendEntriesResponse{Success: true}
				}
			}()
			for i := uint64(11); i < 2000; i++ {
				f.stores(logsFrom(i, i, 3))
				synctest.Wait()
			}
			close(h.sent)
			if len(sent) != maxAhead || slices.Max(sent) != 1 {
				t.Errorf("%d messages, want %d", len(sent), maxAhead)
			}
		})
	})
	t.Run("a crowd", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, h := met(t)
			var sent []string
			f.stores(logsFrom(11, 11, 3))
			m := <-h.sent
			f.stores(logsFrom(12, 200, 3))
			for range 2 {
				m.answer <- &raft.AppendEntriesResponse{Success: true}
				m = <-h.sent
				sent = append(sent, fmt.Sprint(m.PrevLogEntry, len(m.Entries)))
			}
			m.answer <- &raft.AppendEntriesResponse{Success: true}
			if want := []string{"11 128", "139 61"}; !slices.Equal(sent, want) {
				t.Errorf("sent %v, want %v", sent, want)
			}
		})
	})
}

// TestFollowers_Lost: a follower that a heartbeat has not reached may have been started again, and hears of all commits as
// soon as it is reached. When the next one fails, too, that is no news for the others.
func TestFollowers_Lost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, h := met(t)
		time.Sleep(time.Second)
		heartbeatFails := func() {
			done := raftSends(f, &raft.AppendEntriesRequest{Term: 3})
			m := <-h.sent
			if m.PrevLogEntry != 0 {
				t.Fatalf("sent %+v before a heartbeat failed", m.AppendEntriesRequest)
			}
			m.answer <- nil
			<-done
		}
		empty := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 10, PrevLogTerm: 3, LeaderCommitIndex: 9}
		held := raftSends(f, empty)
		heartbeatFails()
		start := time.Now()
		m := <-h.sent
		if m.PrevLogEntry != 10 || time.Since(start) > 0 {
			t.Errorf("sent %+v after %v", m.AppendEntriesRequest, time.Since(start))
		}
		m.answer <- nil
		<-held

		f.mu.Lock()
		f.all["c"] = &progress{term: 3, match: entryID{10, 3}, told: 9}
		f.mu.Unlock()
		go func() { held <- raftAnswer{err: f.AppendEntries("c", "c:1", empty, new(raft.AppendEntriesResponse))} }()
		heartbeatFails()
		start = time.Now()
		(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
		if waited := time.Since(start); waited < time.Second {
			t.Errorf("another one's message waited %v", waited)
		}
		<-held
	})
}

// TestFollowers_Idle: an empty message without news waits for news, or two seconds, or the end; one with news, or
// one that comes at once, as when a transfer of leadership asks for it, does not.
func TestFollowers_Idle(t *testing.T) {
	empty := func(prev, commit uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: prev, PrevLogTerm: 3, LeaderCommitIndex: commit}
	}
	for name, tt := range map[string]struct {
		rest  time.Duration // since raft's last message
		a     *raft.AppendEntriesRequest
		then  func(*followers)
		waits time.Duration
	}{
		"nothing new":              {time.Second, empty(10, 9), func(*followers) {}, emptyHold},
		"at once":                  {commitTimeout / 2, empty(10, 9), func(*followers) {}, 0},
		"a commit":                 {time.Second, empty(10, 10), func(*followers) {}, 0},
		"an entry it may not have": {time.Second, empty(9, 9), func(*followers) {}, 0},
		"an entry comes":           {time.Second, empty(10, 9), func(f *followers) { f.stores(logsFrom(20, 20, 3)) }, 100 * time.Millisecond},
		"the end":                  {time.Second, empty(10, 9), func(f *followers) { close(f.closed) }, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, h := met(t)
				time.Sleep(tt.rest)
				start := time.Now()
				done := raftSends(f, tt.a)
				go func() {
					time.Sleep(100 * time.Millisecond)
					tt.then(f)
				}()
				(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
				if waited := time.Since(start); waited != tt.waits {
					t.Errorf("waited %v, want %v", waited, tt.waits)
				}
				<-done
				time.Sleep(time.Second)
			})
		})
	}
}

// TestFollowers_Back: a follower that is started again hears of all commits as soon as the leader reaches it, which is when
// a connection is tried again, though nothing is committed any more.
func TestFollowers_Back(t *testing.T) {
	for away, want := range map[time.Duration]time.Duration{
		0:                      500 * time.Millisecond,
		150 * time.Millisecond: 400 * time.Millisecond,
		5 * time.Second:        1500 * time.Millisecond,
	} {
		for seed := range uint64(3) {
			synctest.Test(t, func(t *testing.T) {
				s := makeSim(t, 3, seed, bugs{})
				s.auditEvery = 24 * time.Hour
				s.run()
				l := startLoad(s, 0)
				leader := s.leader()
				if _, err := l.sendAt(leader, "x"); err != nil {
					t.Fatal(err)
				}
				for range 5 {
					time.Sleep(10*time.Second + time.Duration(s.dice.IntN(2_000_000))*time.Microsecond)
					m := s.followers()[s.dice.IntN(2)]
					m.crash()
					time.Sleep(away)
					m.start()
					start := time.Now()
					for m.up().replica.Applied() < leader.up().replica.Applied() {
						time.Sleep(time.Millisecond)
					}
					if took := time.Since(start); took > want {
						t.Errorf("seed %d: after %v away it took %v", seed, away, took)
					}
				}
			})
		}
	}
}
