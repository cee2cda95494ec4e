package replica

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/chat/internal/chaterr"
)

// TestReplica_Hangs: a write that hangs ends the node after DiskTimeout, whatever file it is of: Err
// names it, the node can be closed, and the others go on.
func TestReplica_Hangs(t *testing.T) {
	for name, tt := range map[string]struct {
		part string // of the file's name
		do   func(m *machine)
	}{
		"the state":        {".sst", func(m *machine) { m.up().replica.raft.Load().Snapshot() }},
		"the state's list": {"MANIFEST", func(m *machine) { m.up().replica.raft.Load().Snapshot() }},
		"a snapshot":       {"/snapshots/", func(m *machine) { m.up().replica.raft.Load().Snapshot() }},
		"node.json":        {identityFile, func(m *machine) { go func() { _ = m.up().dir.Promise("7.a") }() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := makeSim(t, 3, 0, bugs{})
				for i, m := range s.machines {
					m.plug(uint64(i))
				}
				s.run()
				l := startLoad(s, 0)
				m := s.leader()
				if _, err := l.sendAt(m, "before"); err != nil {
					t.Fatal(err)
				}
				thaw := m.power.freeze(tt.part)
				defer thaw()
				n := m.up()
				tt.do(m)
				<-n.replica.Done()
				if err := n.replica.Err(); !errors.Is(err, chaterr.ErrFault) || !strings.Contains(err.Error(), tt.part) || !strings.Contains(err.Error(), "has waited for the disk for 2") {
					t.Errorf("got %v", err)
				}
				if id := n.dir.Cluster().ID; id != "sim" { // it does not wait
					t.Errorf("got %q", id)
				}
				waitFor(t, "another leads", func() bool { return s.leader() != nil && s.leader() != m })
				if _, err := l.sendAt(s.leader(), "after"); err != nil {
					t.Error(err)
				}
				_ = n.replica.Close() // says that something hangs
				thaw()
				m.crash()
				for _, f := range s.faults {
					t.Error(f)
				}
			})
		})
	}
}
