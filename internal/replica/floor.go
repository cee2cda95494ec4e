package replica

import (
	"errors"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// floor knows the entry of the newest snapshot, which the log itself may not have.
//
// A follower whose log conflicts with a snapshot installs it for ever, for it cannot show that it
// has the snapshot's entry (hashicorp/raft#697): the floor answers for that entry. And the entries
// that conflict stay in raft's log, from where the node, once it leads, sends them to a follower
// that lags, which applies what was never committed: the floor deletes them all (step 7 of
// InstallSnapshot in figure 13 of the raft paper, of which #697 speaks for the one entry only).
//
// What is left of them is raft's memory of its last entry. It goes on answering with an entry that
// is gone, of a lower term than the snapshot's: it votes for a candidate without the snapshot's
// entry, which is committed; and when the two have one index, it never accepts what follows the
// snapshot. Nothing but a new start makes it read the log again, so restart is asked for one, and
// raft's main goroutine ends here, before it answers the leader.
type floor struct {
	raft.LogStore
	entry   atomic.Pointer[entryID] // nil before the first snapshot
	restart func()                  // must not wait; nil while raft does not run
}

type entryID struct{ index, term uint64 }

// GetLog is the stored entry. Only when there is none at the floor's index, or one of another term,
// is it an entry without content: a real one must never be hidden, since a leader sends it on.
func (f *floor) GetLog(index uint64, l *raft.Log) error {
	at := f.entry.Load()
	if at == nil || at.index != index {
		return f.LogStore.GetLog(index, l)
	}
	err := f.LogStore.GetLog(index, l)
	if err == nil && l.Term == at.term {
		return nil
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		*l = raft.Log{Index: at.index, Term: at.term, Type: raft.LogNoop}
		return nil
	}
	return err
}

// raise is called when a snapshot up to (index, term) is durable, and at every start.
func (f *floor) raise(index, term uint64) error {
	if at := f.entry.Load(); at != nil && at.index >= index {
		return nil
	}
	var l raft.Log
	err := f.LogStore.GetLog(index, &l)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	conflict := err == nil && l.Term != term
	if err != nil || conflict {
		if err := f.discard(index, conflict); err != nil {
			return err
		}
	}
	f.entry.Store(&entryID{index, term})
	if conflict && f.restart != nil {
		f.restart()
		runtime.Goexit()
	}
	return nil
}

// discard deletes all entries up to an index, or all there are: what stands behind an entry that
// conflicts does so too.
func (f *floor) discard(index uint64, all bool) error {
	first, err := f.LogStore.FirstIndex()
	if err != nil {
		return err
	}
	last, err := f.LogStore.LastIndex()
	if err != nil || first == 0 || first > index {
		return err
	}
	if !all {
		last = min(last, index)
	}
	return f.LogStore.DeleteRange(first, last)
}
