package fsm

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm/state"
)

// Apply is ApplyBatch for one entry.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries and writes them in one batch. The answer to a command entry is the
// []*state.Result of its commands; to an entry that was not applied it is an error.
//
// After a fault it applies nothing: raft goes on counting, but the state stays where it was, and a
// restart finds it there.
func (f *FSM) ApplyBatch(logs []*raft.Log) (answers []any) {
	answers = make([]any, len(logs))
	defer func() {
		if p := recover(); p != nil {
			f.fail(fmt.Errorf("applying entries %d to %d panicked: %v\n%s", logs[0].Index, logs[len(logs)-1].Index, p, debug.Stack()))
		}
		if err := f.Err(); err != nil {
			for i := range answers {
				answers[i] = err
			}
		}
	}()
	if f.Err() == nil {
		if err := f.apply(logs, answers); err != nil {
			f.fail(err)
		}
	}
	return answers
}

func (f *FSM) apply(logs []*raft.Log, answers []any) error {
	b := f.state.NewBatch()
	for i, l := range logs {
		if l.Index <= f.state.Applied() {
			answers[i] = errors.New("applied before the last restart")
			continue
		}
		if l.Type != raft.LogCommand {
			b.Pass(l.Index, l.Term)
			continue
		}
		results, err := b.Apply(l.Index, l.Term, l.Data)
		if err != nil {
			// The batch may hold half of this entry, so what came before is applied anew, alone.
			return errors.Join(err, b.Close(), f.apply(logs[:i], answers))
		}
		answers[i] = results
	}
	events, err := b.Commit()
	if err != nil {
		return err
	}
	f.note()
	for _, p := range b.Panics() {
		f.o.Logger.Error("a command panicked, and was left out", zap.Uint64("entry", p.Entry), zap.Uint64("command", p.Command),
			zap.Stringer("kind", p.Kind), zap.String("cause", p.Cause))
	}
	if len(events) > 0 {
		f.o.Publish(events)
	}
	return nil
}

// Results reads an answer of ApplyBatch.
func Results(answer any) ([]*state.Result, error) {
	switch a := answer.(type) {
	case []*state.Result:
		return a, nil
	case error:
		return nil, a
	default:
		return nil, fmt.Errorf("no answer, but %T", answer)
	}
}
