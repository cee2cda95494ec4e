package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// damage makes a room's counter of messages another one, in the state of a machine that is down, with
// right checksums: as bad memory would, or a binary with another rule.
func (m *machine) damage(room uint64) {
	t := m.s.t
	t.Helper()
	m.s.damaged = true
	dir, err := onlyState(m.fs)
	if err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(dir, &pebble.Options{FS: m.fs, Logger: quiet{}, FormatMajorVersion: pebble.FormatValueSeparation})
	if err != nil {
		t.Fatal(err)
	}
	k := binary.BigEndian.AppendUint64([]byte{'r'}, room)
	v, closer, err := db.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	var rec fsmpb.Room
	err = errors.Join(proto.Unmarshal(v, &rec), closer.Close())
	rec.LastSeq += 100
	v, err2 := proto.Marshal(&rec)
	if err := errors.Join(err, err2, db.Set(k, v, pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits, in fake time.
func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// TestAudits: states that are alike are found to be, also by who was away; an idle cluster has no audits.
func TestAudits(t *testing.T) {
	inSim(t, func(s *sim, l *load) {
		t := s.t
		f := s.followers()[0]
		f.crash()
		if _, err := l.sendAt(s.leader(), "one"); err != nil {
			t.Fatal(err)
		}
		sent := s.leader().up().replica.Applied()
		f.start()
		waitFor(t, "all verify", func() bool {
			for _, m := range s.machines {
				if m.up().replica.Audit().Verified <= sent {
					return false
				}
			}
			return true
		})
		time.Sleep(time.Second)
		before := s.leader().up().replica.Applied()
		time.Sleep(time.Minute)
		if after := s.leader().up().replica.Applied(); after != before {
			t.Errorf("%d audits of nothing", after-before)
		}
	})
}

// TestAudits_Diverged: a node with another state stops, leader or not, takes over that of another node,
// and works again. The others go on meanwhile.
func TestAudits_Diverged(t *testing.T) {
	for _, tt := range []struct{ leads, dies bool }{{true, false}, {false, false}, {false, true}} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			inSim(t, func(s *sim, l *load) {
				t := s.t
				bad := s.followers()[0]
				waitFor(t, "it has the room", s.settled)
				bad.stop()
				bad.damage(l.room)
				bad.start()
				if tt.leads {
					waitFor(t, "it leads", func() bool {
						if s.leader() == bad {
							return true
						}
						if m := s.leader(); m != nil {
							to, addr := raft.ServerID(bad.id), raft.ServerAddress(bad.addr)
							_ = m.up().replica.raft.Load().LeadershipTransferToServer(to, addr).Error() // else the next time
						}
						return s.leader() == bad
					})
				}
				waitFor(t, "it takes a message", func() bool {
					_, err := l.sendAt(bad, "one")
					return err == nil
				})
				var err error
				for start := time.Now(); err == nil && time.Since(start) < time.Minute; time.Sleep(50 * time.Microsecond) {
					err = bad.up().replica.Err()
				}
				if !errors.Is(err, chaterr.ErrDiverged) || !errors.Is(err, chaterr.ErrFault) || !strings.Contains(err.Error(), "before entry ") {
					t.Errorf("got %v", err)
				}
				if tt.dies { // and finds out once more
					bad.crash()
					bad.start()
				}
				waitFor(t, "who is sound takes messages", func() bool {
					m := s.leader()
					if m == nil || m.up().replica.Err() != nil {
						return false
					}
					_, err := l.sendAt(m, "two")
					return err == nil
				})
				waitFor(t, "its state is replaced", func() bool {
					all, err := bad.fs.List(filepath.Join(root, stateDir))
					aside := slices.ContainsFunc(all, func(name string) bool { return strings.HasPrefix(name, "diverged-") })
					return err == nil && aside && bad.up().replica.Err() == nil
				})
				verified := bad.up().replica.Audit().Verified
				waitFor(t, "it takes messages", func() bool {
					_, err := l.sendAt(bad, "three")
					return err == nil
				})
				waitFor(t, "it is like the others", func() bool { return bad.up().replica.Audit().Verified > verified })
				s.converge()
				s.equal()
			})
		})
	}
}
