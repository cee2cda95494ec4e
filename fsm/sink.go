package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// Create begins a snapshot. It exists once the sink is closed without an error.
func (s *Snapshots) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return s.create(index, term, c, configIndex)
}

func (s *Snapshots) create(index, term uint64, c raft.Configuration, configIndex uint64) (*sink, error) {
	s.mu.Lock()
	s.count++
	name := fmt.Sprintf("%016x-%016x-%d-%d", term, index, time.Now().UnixMilli(), s.count)
	s.mu.Unlock()
	k := &sink{s: s, dir: filepath.Join(s.dir, name), m: &fsmpb.Snapshot{
		Format: streamFormat, Index: index, Term: term, Configuration: raft.EncodeConfiguration(c), ConfigurationIndex: configIndex,
	}}
	return k, s.fs.MkdirAll(k.tmp(), 0o700)
}

// Import takes a snapshot from a stream alone, which another node has made for this one. It exists, and
// FSM.Mend can go over to it, when Import returns without an error.
func (s *Snapshots) Import(r io.Reader) error {
	m, err := readManifest(r)
	if err != nil {
		return err
	}
	head, err := manifestHead(m)
	if err != nil {
		return err
	}
	c, err := DecodeConfiguration(m.Configuration)
	if err != nil {
		return err
	}
	k, err := s.create(m.Index, m.Term, c, m.ConfigurationIndex)
	if err != nil {
		return err
	}
	if _, err := k.ReadFrom(io.MultiReader(bytes.NewReader(head), r)); err != nil {
		return errors.Join(err, k.Cancel())
	}
	return k.Close()
}

// DecodeConfiguration is raft's, without its panic.
func DecodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: configuration: %v", chaterr.ErrCorrupt, p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

// sink takes a snapshot either as a checkpoint of this node's state or, from a leader, as a stream.
type sink struct {
	s    *Snapshots
	dir  string
	m    *fsmpb.Snapshot
	err  error // of ReadFrom
	over bool  // Close or Cancel was called
}

var (
	_ raft.SnapshotSink = (*sink)(nil)
	_ checkpointer      = (*sink)(nil)
	_ io.ReaderFrom     = (*sink)(nil)
)

func (k *sink) tmp() string { return k.dir + unfinished }

// ID is the snapshot's name.
func (k *sink) ID() string { return filepath.Base(k.dir) }

func (k *sink) checkpoint(cluster string, applied uint64, write func(dir string) error) (err error) {
	dir := filepath.Join(k.tmp(), "state")
	if err := write(dir); err != nil {
		return err
	}
	k.m.ClusterId, k.m.AppliedIndex = cluster, applied
	k.m.Files, err = listFiles(k.s.fs, dir)
	return err
}

// Write is not used: raft has ReadFrom take a stream (by io.Copy), and checkpoint makes a snapshot of this node's own.
func (k *sink) Write([]byte) (int, error) {
	return 0, errors.ErrUnsupported
}

// ReadFrom takes a leader's stream, all of it.
func (k *sink) ReadFrom(r io.Reader) (int64, error) {
	from := &counted{r: r}
	k.err = k.unpack(from)
	return from.n, k.err
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// unpack reads the stream. What raft calls the snapshot comes from Create, and must be what the
// sender calls it.
func (k *sink) unpack(r io.Reader) error {
	dir := filepath.Join(k.tmp(), "state")
	if err := k.s.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	m, err := receive(r, k.s.fs, dir)
	if err != nil {
		return err
	}
	if m.Index != k.m.Index || m.Term != k.m.Term {
		return fmt.Errorf("%w: a snapshot of entry %d of term %d came as that of entry %d of term %d",
			chaterr.ErrCorrupt, m.Index, m.Term, k.m.Index, k.m.Term)
	}
	// Once it is durable, entries are deleted that conflict with it, so it is opened first.
	if err := check(k.s.fs, dir, m, k.s.log); err != nil {
		return err
	}
	m.Configuration, m.ConfigurationIndex = k.m.Configuration, k.m.ConfigurationIndex
	k.m = m
	return nil
}

// Close makes the snapshot durable, and with it visible.
func (k *sink) Close() error {
	if k.over {
		return nil
	}
	k.over = true
	if err := k.finish(); err != nil {
		return errors.Join(err, k.s.fs.RemoveAll(k.tmp()))
	}
	one, err := openSnap(k.s.fs, k.dir)
	if err != nil {
		return err
	}
	k.s.mu.Lock()
	// A leader's snapshot may have come while this one was written: the latest is not the newest.
	at, _ := slices.BinarySearchFunc(k.s.list, one, func(a, b *snap) int { return strings.Compare(a.dir, b.dir) })
	k.s.list = slices.Insert(k.s.list, at, one)
	durable := k.s.durable
	k.s.mu.Unlock()
	if durable != nil {
		if err := durable(k.m.Index, k.m.Term); err != nil {
			return err
		}
	}
	return k.s.keep(retain)
}

func (k *sink) finish() error {
	if k.err != nil {
		return k.err
	}
	head, err := manifestHead(k.m)
	if err != nil {
		return err
	}
	if err := k.s.fs.Write(filepath.Join(k.tmp(), "manifest"), head); err != nil {
		return err
	}
	if err := errors.Join(k.s.fs.SyncDir(k.tmp()), k.s.fs.Rename(k.tmp(), k.dir)); err != nil {
		return err
	}
	return k.s.fs.SyncDir(k.s.dir)
}

// Cancel gives the snapshot up.
func (k *sink) Cancel() error {
	if k.over {
		return nil
	}
	k.over = true
	return k.s.fs.RemoveAll(k.tmp())
}
