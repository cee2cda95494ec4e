package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// prepare makes of what a node finds on its disk what raft can start with, or says why it cannot.
// snapshot is the entry of the newest one, 0 for none.
//
// BootstrapCluster writes term 1 and then the first entry, and refuses when there is a term: a node
// that was cut off from power between the two would wait for ever, and so would a cluster in which
// that happened to all. Nobody votes in term 1 or hears of it.
func prepare(logs raft.LogStore, stable raft.StableStore, snapshot uint64) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	// raft would look in vain for the configurations in between.
	if first > snapshot+1 {
		return fmt.Errorf("the log begins with entry %d, and the newest snapshot is that of entry %d: %w", first, snapshot, chaterr.ErrCorrupt)
	}
	term, err := stable.GetUint64([]byte(termKey))
	if err != nil && !isNotFound(err) {
		return err
	}
	if first == 0 && snapshot == 0 && term == 1 {
		return stable.SetUint64([]byte(termKey), 0)
	}
	return nil
}

// begin writes the first entry of the cluster that Dir has adopted, before raft runs, unless there is something.
func (r *Replica) begin(logs raft.LogStore, snapshots raft.SnapshotStore, t raft.Transport) error {
	c := r.o.Dir.founders()
	if !slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return s.ID == r.config.LocalID }) {
		return nil
	}
	err := raft.BootstrapCluster(r.config, logs, r.store.stable, snapshots, t, c)
	if err == nil || errors.Is(err, raft.ErrCantBootstrap) {
		return nil
	}
	return fmt.Errorf("bootstrap: %w", err)
}

// founders are the servers with which the cluster began that the directory has adopted; none on a node that joined.
func (d *Dir) founders() (c raft.Configuration) {
	for _, s := range d.Cluster().Servers {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Address)})
	}
	return c
}
