package replica

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func sized(index uint64, data int) []*raft.Log {
	return []*raft.Log{{Index: index, Data: make([]byte, data-entryHead)}}
}

func TestTrail(t *testing.T) {
	trail := &trail{}
	want := func(after, bytes, keepBytes, keep uint64) {
		t.Helper()
		if got := trail.after(after); got != bytes {
			t.Errorf("%d bytes after %d, want %d", got, after, bytes)
		}
		if got := trail.keep(keepBytes, 1000); got != keep {
			t.Errorf("keep %d, want %d", got, keep)
		}
	}
	want(0, 0, 0, 1000)
	trail.add(sized(500, 100)) // the log goes on where it was
	want(0, 100, 100, 1000)
	want(500, 0, 99, 0)
	trail.add(sized(501, 200))
	trail.add(sized(502, 300))
	want(500, 500, 550, 2)
	want(0, 600, 600, 1000)
	trail.add(sized(501, 50)) // another leader's
	want(0, 150, 60, 1)
	trail.add(sized(400, 70)) // all that was there is gone
	want(0, 70, 69, 0)
	trail.add(sized(900, 80)) // a snapshot stands before it
	want(0, 80, 80, 1000)
	for i := range uint64(3 * keepEntries) {
		trail.add(sized(901+i, 100))
	}
	want(0, 100*keepEntries, 100*keepEntries, 1000)
	want(900+3*keepEntries-2, 200, 100*10, 10)
}

// The bounds of the log in what follows, and the text of a message.
const (
	simLogBytes = 256 << 10
	simText     = 4000
)

// boundedSim is a cluster whose logs are bounded by bytes alone.
func boundedSim(t *testing.T, machines int) (*sim, *load) {
	s := makeSim(t, machines, 0, bugs{})
	s.tune = func(o *Options) {
		o.SnapshotEvery, o.KeepEntries, o.SnapshotBytes, o.KeepBytes = 1<<20, 0, simLogBytes, simLogBytes
	}
	s.run()
	return s, startLoad(s, 0)
}

// fill sends messages, twenty a second.
func (l *load) fill(at *machine, n int) {
	l.s.t.Helper()
	for range n {
		if _, err := l.sendAt(at, strings.Repeat("x", simText)); err != nil {
			l.s.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestReplica_LogBytes: the log of every node stays within its bytes, however large entries are and whatever is
// asked for in entries; a follower that lags behind it gets a snapshot.
func TestReplica_LogBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bytes, text = simLogBytes, simText
		s, l := boundedSim(t, 3)
		leader, behind := s.leader(), s.followers()[0]
		behind.crash()
		l.fill(leader, 300)
		s.converge()
		time.Sleep(5 * time.Second)
		for _, m := range s.machines {
			first, _ := m.disk.FirstIndex()
			last, _ := m.disk.LastIndex()
			if n := (last - first) * text; n > 5*bytes/2 { // between snapshots it may grow by as much again
				t.Errorf("the log of %s has entries %d to %d", m.id, first, last)
			}
			if newest, ok := m.up().fsm.Snapshots().Newest(); !ok || newest.Index+3*bytes/text < last {
				t.Errorf("the newest snapshot of %s is %+v, and the last entry %d", m.id, newest, last)
			}
		}
		for _, f := range s.faults {
			t.Error(f)
		}
	})
}

// TestReplica_LogBehindSnapshot: while a follower is sent a snapshot, the log behind it stays, so that the follower does not
// need another one; afterwards the log is as short as before.
func TestReplica_LogBehindSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bytes, text = simLogBytes, simText
		s, l := boundedSim(t, 3)
		leader, behind := s.leader(), s.followers()[0]
		length := func() uint64 {
			first, _ := leader.disk.FirstIndex()
			last, _ := leader.disk.LastIndex()
			return (last - first) * text
		}
		behind.crash()
		l.fill(leader, 300)
		leader.up().transport.Load().slow.Store(int64(9 * time.Second))
		behind.start()
		l.fill(leader, 3*bytes/text) // in 10 s
		if length() < 3*bytes {
			t.Errorf("%d bytes of log while a snapshot is under way", length())
		}
		s.converge()
		s.mu.Lock()
		for i, n := range s.installs {
			if i.at != behind.id || len(s.installs) > 1 || n > 1 {
				t.Errorf("%s was sent the snapshot of entry %d %d times", i.at, i.of.index, n)
			}
		}
		if len(s.installs) == 0 {
			t.Error("no snapshot was sent")
		}
		s.mu.Unlock()
		time.Sleep(9*time.Second + graceInstalled)
		l.fill(leader, 2*bytes/text)
		if n := length(); n > 5*bytes/2 {
			t.Errorf("%d bytes of log afterwards", n)
		}
		for _, f := range s.faults {
			t.Error(f)
		}
	})
}

// TestReplica_FreshSnapshot: what followers are sent is no old snapshot with much log behind it, also when two need one at
// a time.
func TestReplica_FreshSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bytes, text = simLogBytes, simText
		s, l := boundedSim(t, 5)
		leader, behind := s.leader(), s.followers()[:2]
		lag := func() uint64 {
			newest, _ := leader.up().fsm.Snapshots().Newest()
			last, _ := leader.disk.LastIndex()
			return (last - newest.Index) * text
		}
		for _, m := range behind {
			m.crash()
		}
		for l.fill(leader, 300); lag() < bytes/2; {
			l.fill(leader, 1)
		}
		for _, m := range behind {
			m.start()
		}
		last, _ := leader.disk.LastIndex()
		s.converge()
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range s.installs {
			if i.of.index < last-bytes/freshPart/text {
				t.Errorf("the snapshot of entry %d was sent, with %d in the log", i.of.index, last)
			}
		}
		if len(s.installs) != len(behind) {
			t.Errorf("snapshots sent: %v", s.installs)
		}
		for _, f := range s.faults {
			t.Error(f)
		}
	})
}

// TestInstalls: the log stays for as long as the slowest follower may take, also when a quick one is done after it.
func TestInstalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowInstalls{}
		f := newFollowers(slow, 300*time.Millisecond, nil)
		for _, took := range []time.Duration{time.Minute, time.Second} {
			slow.took = took
			if err := f.InstallSnapshot("b", "b:1", &raft.InstallSnapshotRequest{}, new(raft.InstallSnapshotResponse), nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if !f.installing() {
			t.Error("the log is cut behind the slow one")
		}
		time.Sleep(graceInstalled)
		if f.installing() {
			t.Error("the log is kept for nobody")
		}
	})
}

// slowInstalls is a transport of snapshots that takes a while.
type slowInstalls struct {
	Transport
	took time.Duration
}

func (s *slowInstalls) InstallSnapshot(_ raft.ServerID, _ raft.ServerAddress, _ *raft.InstallSnapshotRequest, r *raft.InstallSnapshotResponse, _ io.Reader) error {
	time.Sleep(s.took)
	r.Success = true
	return nil
}
