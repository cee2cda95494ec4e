package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// Restore makes the data directory of a node that is the whole of a new cluster, with the state of a backup.
// dir must not be there, or be empty. All sessions are ended. Until it returns there is no such directory,
// but one beside it that ends in ".new".
func Restore(backup io.Reader, dir, nodeID, addr string, log *zap.Logger) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s: %w: not empty", dir, fs.ErrExist)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fill := func(f *fsm.FSM) (term uint64, err error) {
		if err := f.Snapshots().Import(backup); err != nil {
			return 0, err
		}
		return 0, f.Install()
	}
	work, err := found(dir, nodeID, addr, newClusterID(), true, log, nil, fill)
	if err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return rename(work, dir)
}

// newClusterID is one that no other cluster has.
func newClusterID() string { return "refounded-" + rand.Text() }

// found makes a data directory beside dir, in which the node is the only server of a cluster. fill gives the
// state its content, and says up to which term its log went.
func found(dir, nodeID, addr, cluster string, endSessions bool, log *zap.Logger, copied func(stateDir string) error, fill func(*fsm.FSM) (term uint64, err error)) (path string, err error) {
	work := filepath.Clean(dir) + ".new"
	if err := os.RemoveAll(work); err != nil { // of an attempt that was interrupted
		return "", err
	}
	d, err := OpenDir(work, nodeID, "")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, d.Close()); err != nil {
			err = errors.Join(err, os.RemoveAll(work))
		}
	}()
	self := node.Info{ID: nodeID, Address: addr, Instance: d.Instance()}
	if err := d.Adopt(node.Cluster{ID: cluster, Servers: []node.Info{self}}); err != nil {
		return "", err
	}
	if copied != nil {
		if err := copied(d.StateDir()); err != nil {
			return "", err
		}
	}
	f, err := fsm.Open(fsm.Options{
		Dir: d.StateDir(), Logger: log, Publish: func([]state.Event) {}, Skipped: func() {}, Fault: func(error) {},
	})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	term, err := fill(f)
	if err != nil {
		return "", err
	}
	index, stateTerm := f.Position()
	if newest, ok := f.Snapshots().Newest(); ok {
		index, stateTerm = max(index, newest.Index), max(stateTerm, newest.Term)
	}
	term = max(term, stateTerm)
	c := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(nodeID), Address: raft.ServerAddress(addr)}}}
	if err := f.Refound(cluster, c, index, stateTerm, endSessions); err != nil {
		return "", err
	}
	return work, checksums{d.log}.SetUint64([]byte(termKey), term)
}

// rename moves a directory, durably.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(to)))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Recovery is what Recover is about to do, or has done.
type Recovery struct {
	NodeID, Address string
	ClusterID       string // of before
	NewClusterID    string
	Lost            []node.Server // the other servers of before
	Applied         uint64        // the last entry that the state holds
	Last            uint64        // the last entry in the log, which the state will hold
	Aside           string        // where the directory of before is kept
}

// answerTimeout is how long another voter may take to answer.
const answerTimeout = 2 * time.Second

// Recover makes a stopped node the whole of a new cluster, with everything in its log, for a cluster whose
// quorum is lost for good. It refuses when another voter's address takes a connection. confirm is told what
// will be done, and stops it with an error; until then nothing is changed. The directory of before is kept.
func Recover(ctx context.Context, dir string, log *zap.Logger, confirm func(Recovery) error) (r Recovery, err error) {
	dir = filepath.Clean(dir)
	if _, err := os.Stat(filepath.Join(dir, identityFile)); err != nil {
		return r, fmt.Errorf("%s is no data directory: %w", dir, err)
	}
	d, err := OpenDir(dir, "", "")
	if err != nil {
		return r, err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, d.Close())
		}
	}()
	if r, err = d.recovery(dir, log); err != nil {
		return r, err
	}
	for _, s := range r.Lost {
		if err := silent(ctx, s); err != nil {
			return r, err
		}
	}
	if err := confirm(r); err != nil {
		return r, err
	}
	copied := func(to string) error { return fsm.CopyDir(d.StateDir(), to) }
	fill := func(f *fsm.FSM) (uint64, error) {
		if err := d.replay(f); err != nil {
			return 0, err
		}
		term, err := checksums{d.log}.GetUint64([]byte(termKey))
		if isNotFound(err) {
			err = nil
		}
		return term, err
	}
	work, err := found(dir, r.NodeID, r.Address, r.NewClusterID, false, log, copied, fill)
	if err != nil {
		return r, err
	}
	open = false
	if err := d.Close(); err != nil {
		return r, err
	}
	if err := rename(dir, r.Aside); err != nil {
		return r, err
	}
	return r, rename(work, dir)
}

// recovery reads what there is.
func (d *Dir) recovery(dir string, log *zap.Logger) (r Recovery, err error) {
	d.mu.Lock()
	r = Recovery{NodeID: d.id.NodeID, ClusterID: d.id.ClusterID, NewClusterID: newClusterID()}
	d.mu.Unlock()
	checked := fsm.Check(d.StateDir(), log, func(e error) { err = errors.Join(err, e) })
	if err != nil {
		return r, err
	}
	c, err := d.configuration(checked)
	if err != nil {
		return r, err
	}
	for _, s := range c.Servers {
		if string(s.ID) == r.NodeID {
			r.Address = string(s.Address)
		} else {
			r.Lost = append(r.Lost, node.Server{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter})
		}
	}
	if r.Address == "" {
		return r, fmt.Errorf("node %q is no server of cluster %q", r.NodeID, r.ClusterID)
	}
	if r.Last, err = (checksums{d.log}).LastIndex(); err != nil {
		return r, err
	}
	r.Applied = checked.Applied
	r.Last = max(r.Last, checked.Snapshot, checked.Applied)
	for n := 1; ; n++ {
		r.Aside = fmt.Sprintf("%s.before-recover-%d", dir, n)
		if _, err := os.Lstat(r.Aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return r, nil
}

// configuration is the newest one that the node has.
func (d *Dir) configuration(checked fsm.Checked) (c raft.Configuration, err error) {
	logs := checksums{d.log}
	first, err := logs.FirstIndex()
	if err != nil {
		return c, err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return c, err
	}
	for i := last; i >= first && i > 0; i-- {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			return c, err
		}
		if l.Type == raft.LogConfiguration {
			return fsm.DecodeConfiguration(l.Data)
		}
	}
	if checked.Snapshots > 0 {
		return checked.Configuration, nil
	}
	return d.founders(), nil
}

// silent fails when somebody answers at a voter's address.
func silent(ctx context.Context, s node.Server) error {
	if !s.Voter {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: voter %q, or somebody else, answers at %s; a cluster with a voter that lives may still have acknowledged what this node lacks",
		chaterr.ErrQuorumAlive, s.ID, s.Address), conn.Close())
}
