package membership

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"example.com/chat/internal/node"
)

// newcomer is a node that was taken in, and hears of it, as its first snapshot says, when it is told.
type newcomer struct {
	Raft
	Peers
	told atomic.Bool
}

func (*newcomer) Formed() bool    { return true }
func (*newcomer) Leading() bool   { return false }
func (*newcomer) Applied() uint64 { return 0 }

func (n *newcomer) Servers() ([]node.Server, uint64, error) {
	if !n.told.Load() {
		return nil, 0, nil
	}
	return []node.Server{{ID: "a", Address: "a:1"}}, 1, nil
}

func (*newcomer) Join(context.Context, string, string, node.Info, bool) (string, error) {
	return "c", nil
}

// TestSteps_TakenIn: a node that was taken in says so while it waits for what the cluster has, and is ready soon after it
// has that, not when a leader would look after it.
func TestSteps_TakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(newcomer)
		m := New(Options{Self: node.Info{ID: "a", Address: "a:1"}, Raft: n, Peers: n, Ledger: &ledger{cluster: node.Cluster{ID: "c"}}, Book: NewBook(), Logger: zap.NewNop()})
		m.o.Book.lives(node.Info{ID: "b", Address: "b:1", Formed: true})
		m.work.Go(m.steps)
		time.Sleep(10*time.Second + time.Millisecond)
		if p := m.Problem(); !strings.Contains(p, "taken this node in") {
			t.Errorf("it waits for its first snapshot, and says %q", p)
		}
		n.told.Store(true)
		time.Sleep(seeking)
		if p := m.Problem(); p != "" {
			t.Errorf("a server sees a problem after %v: %s", seeking, p)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}
