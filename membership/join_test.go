package membership

import (
	"context"
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

// TestSteps_TakenIn: a node that has caught up is ready soon, and not when a leader would look after it.
func TestSteps_TakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(newcomer)
		m := New(Options{Self: node.Info{ID: "a", Address: "a:1"}, Raft: n, Peers: n, Ledger: &ledger{cluster: node.Cluster{ID: "c"}}, Book: NewBook(), Logger: zap.NewNop()})
		m.work.Go(m.steps)
		time.Sleep(10*time.Second + time.Millisecond)
		if m.Problem() == "" {
			t.Error("it is no server, and sees no problem")
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
