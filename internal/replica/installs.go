package replica

import (
	"io"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm"
)

// installs are the snapshots that are on their way to followers. One that has installed a snapshot goes on with
// the log behind it. If that is cut meanwhile, the follower needs another snapshot, which takes as long again; a
// follower behind a slow connection would never have one that lasts.
type installs struct {
	underWay int
	until    time.Time // for so long those that have installed one may take to follow
}

// graceInstalled is how long a follower has at least to follow the log behind the snapshot that it has installed.
const graceInstalled = 10 * time.Second

// InstallSnapshot sends a follower a snapshot. It then has as long again to follow the log that came meanwhile, for it
// follows faster than the log grows, or never.
func (f *followers) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, a *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	f.asks(id, a.Term)
	start := time.Now()
	f.mu.Lock()
	f.installs.underWay++
	f.mu.Unlock()
	err := f.Transport.InstallSnapshot(id, target, a, resp, data)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.installs.underWay--
	now := time.Now()
	until := now.Add(now.Sub(start) + graceInstalled)
	if err == nil && resp.Success && until.After(f.installs.until) { // another one may have taken longer
		f.installs.until = until
	}
	return err
}

// installing reports whether the log behind a snapshot is wanted.
func (f *followers) installing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.installs.underWay > 0 || time.Now().Before(f.installs.until)
}

// freshPart of SnapshotBytes is how much log there may be behind a snapshot that is sent: to follow it takes a
// follower longer than to receive what it makes of the state.
const freshPart = 8

// freshSnapshots are raft's, of which it sends followers the newest.
type freshSnapshots struct {
	*fsm.Snapshots
	refresh func()
}

// List is called when one is to be sent, on the goroutine that is there for that follower, and when raft starts.
func (s freshSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.refresh()
	return s.Snapshots.List()
}

// refresh makes a snapshot if the newest one is old. What fails raft has logged: an old one is better than none.
func (r *Replica) refresh(e *engine) {
	if r.raft.Load() != e { // it is being started
		return
	}
	r.fresh <- struct{}{}
	defer func() { <-r.fresh }()
	newest, ok := r.o.FSM.Snapshots().Newest()
	if ok && r.trail.after(newest.Index) > r.o.SnapshotBytes/freshPart {
		_ = r.wait(e, e.Snapshot())
	}
}
