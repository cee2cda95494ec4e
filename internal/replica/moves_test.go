package replica

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// TestStill: raft has no answer of a follower in its hands while it changes the follower's address, and is given none
// until it has. TestMembership_Moves shows with the race detector that this is what it takes.
func TestStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, h := met(t)
		changing, changed, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(over)
			f.still("b", 3, func() { close(changing); <-changed })
		}()
		synctest.Wait()
		if isClosed(changing) {
			t.Fatal("the address changes while raft reads an answer")
		}
		done := raftSends(f, after(10, logsFrom(11, 11, 3)))
		first := <-h.sent
		<-changing
		first.answer <- &raft.AppendEntriesResponse{Success: true}
		time.Sleep(time.Minute)
		select {
		case <-done:
			t.Fatal("raft reads an answer while the address changes")
		default:
		}
		other := make(chan error)
		go func() {
			other <- f.AppendEntries("c", "c:1", after(9, logsFrom(10, 10, 3)), new(raft.AppendEntriesResponse))
		}()
		(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
		if err := <-other; err != nil {
			t.Error(err)
		}
		close(changed)
		if a := <-done; a.err != nil || !a.Success {
			t.Errorf("the answer that was kept: %+v", a)
		}
		<-over
	})
}

// TestStill_Ends: an address changes though raft's goroutine for the follower has ended, has no answer or is of an
// earlier term, and a transport that is closed keeps nobody.
func TestStill_Ends(t *testing.T) {
	for name, tt := range map[string]struct {
		term   uint64
		before func(*followers)
		within time.Duration
	}{
		"it has ended":    {3, func(*followers) {}, backIn},
		"of another term": {4, func(*followers) {}, 0},
		"it is sent a snapshot": {3, func(f *followers) {
			f.Transport = refuses{}
			_ = f.InstallSnapshot("b", "b:1", &raft.InstallSnapshotRequest{Term: 3}, nil, nil)
		}, 0},
		"the transport is closed": {3, func(f *followers) { close(f.closed) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, h := met(t)
				tt.before(f)
				start := time.Now()
				f.still("b", tt.term, func() {
					if took := time.Since(start); took != tt.within {
						t.Errorf("after %v", took)
					}
					if isClosed(f.closed) {
						done := raftSends(f, after(10, logsFrom(11, 11, 3)))
						(<-h.sent).answer <- &raft.AppendEntriesResponse{Success: true}
						<-done
						f.asks("b", 3)
					}
				})
			})
		})
	}
}

// TestReplica_MovesLater: while another change waits for the one follower that there is, its address does not change, and
// that holds up nothing.
func TestReplica_MovesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, 3, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		startLoad(s, 0)
		leader, followers := s.leader(), s.followers()
		followers[1].stop()
		followers[0].disk.slow.Store(int64(700 * time.Millisecond))
		r, start := leader.up().replica, time.Now()
		first := make(chan error)
		go func() { first <- r.AddNonvoter("new", "new", 0) }()
		time.Sleep(100 * time.Millisecond)
		if err := r.AddVoter(followers[0].id, "elsewhere", 0); !errors.Is(err, chaterr.ErrNoLeader) {
			t.Errorf("the second change: %v", err)
		}
		if err := <-first; err != nil {
			t.Errorf("the first change: %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestReplica_MovesWhenWritten: raft changes an address when it has written the change to its log, and is given no answer
// of that follower's before.
func TestReplica_MovesWhenWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := makeSim(t, 3, 0, bugs{})
		s.auditEvery = 24 * time.Hour
		s.run()
		startLoad(s, 0)
		leader, moved := s.leader(), s.followers()[0]
		r := leader.up().replica
		e := r.raft.Load()
		leader.disk.slow.Store(int64(time.Second))
		done := make(chan error)
		go func() { done <- r.AddVoter(moved.id, "elsewhere", 0) }()
		time.Sleep(time.Second / 2) // its goroutine was waited for, and the change is being written
		e.transport.mu.Lock()
		m := e.transport.move
		e.transport.mu.Unlock()
		if m == nil || string(m.id) != moved.id {
			t.Error("raft may have an answer while it writes the change")
		}
		leader.disk.slow.Store(0)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// refuses is a transport that nobody is at the other end of.
type refuses struct{ Transport }

func (refuses) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return io.ErrUnexpectedEOF
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
