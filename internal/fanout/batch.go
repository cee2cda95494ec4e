package fanout

import (
	"sync"

	"example.com/chat/fsm/state"
)

// Batch is events that go to the same subscriptions, in the order of the log. All of these have the
// same Batch, and nobody changes it.
type Batch struct {
	Events []state.Event

	bytes int // of text
	once  sync.Once
	form  any
}

// Once returns what make makes of the events, which it does for the first who asks: the others are
// given the same.
func (b *Batch) Once(make func([]state.Event) any) any {
	b.once.Do(func() { b.form = make(b.Events) })
	return b.form
}
