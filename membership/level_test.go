package membership

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/node"
)

// leveled is a leader of three servers, whose binaries support levels; one with level 0 does not answer.
type leveled struct {
	Raft
	Peers
	is      uint32
	support map[string]uint32
	asked   int
}

func (l *leveled) Level() uint32                           { return l.is }
func (l *leveled) Formed() bool                            { return true }
func (l *leveled) RaiseLevel(to uint32) error              { l.is = to; return nil }
func (l *leveled) Servers() ([]node.Server, uint64, error) { return nil, 1, nil }

func (l *leveled) Probe(_ context.Context, id, _ string) (node.Info, error) {
	l.asked++
	if l.support[id] == 0 {
		return node.Info{}, errors.New("no answer")
	}
	return node.Info{ID: id, Level: l.support[id]}, nil
}

// TestRaise: the level goes up to what every server supports, and not while one of them does not say.
func TestRaise(t *testing.T) {
	for name, tt := range map[string]struct {
		is, self, b, c uint32
		want           uint32
	}{
		"all":               {1, 3, 3, 3, 3},
		"the least":         {1, 3, 2, 3, 2},
		"no more than mine": {1, 2, 9, 9, 2},
		"one is old":        {1, 3, 3, 1, 1},
		"one is silent":     {1, 3, 0, 3, 1},
		"there already":     {3, 3, 1, 1, 3},
	} {
		t.Run(name, func(t *testing.T) {
			l := &leveled{is: tt.is, support: map[string]uint32{"b": tt.b, "c": tt.c}}
			m := New(Options{Self: node.Info{ID: "a", Level: tt.self}, Raft: l, Peers: l, Logger: zap.NewNop()})
			m.raise([]node.Server{{ID: "a"}, {ID: "b"}, {ID: "c"}})
			if l.is != tt.want {
				t.Errorf("the level is %d, want %d", l.is, tt.want)
			}
			if tt.is >= tt.self && l.asked > 0 {
				t.Errorf("asked %d servers for nothing", l.asked)
			}
		})
	}
}

// TestRaise_Admitting: while a server is being taken in, whose level was found to be enough, it stays.
func TestRaise_Admitting(t *testing.T) {
	l := &leveled{is: 1, support: map[string]uint32{"b": 2}}
	m := New(Options{Self: node.Info{ID: "a", Level: 2}, Raft: l, Peers: l, Logger: zap.NewNop()})
	m.admitting <- struct{}{}
	m.raise([]node.Server{{ID: "a"}, {ID: "b"}})
	if l.is != 1 {
		t.Errorf("the level is %d", l.is)
	}
}

// TestAdmit_Level: a server that could not follow is not taken in.
func TestAdmit_Level(t *testing.T) {
	l := &leveled{is: 2}
	m := New(Options{Self: node.Info{ID: "a", Level: 2}, Raft: l, Peers: l, Logger: zap.NewNop()})
	if err := m.admit(t.Context(), node.Info{ID: "d", Address: "d:1", Level: 1}); !errors.Is(err, chaterr.ErrUpgradeNeeded) {
		t.Errorf("got %v", err)
	}
}
