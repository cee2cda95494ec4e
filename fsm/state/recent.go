package state

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"example.com/chat/internal/chaterr"
)

// recentOperations is how many operations a recent holds.
const recentOperations = 1 << 16

// recent tells new operation ids from those that may be known, without asking the store, which would
// look into each of its levels for what is not there: nearly every id is new.
//
// It has every operation that is remembered whose id was made at floor or later, and may have more.
// So an id from then on that it does not have is new; of others it cannot tell. When it is full, the
// half goes whose ids are the oldest: the ids of clocks that are fast do not drive out those of now.
type recent struct {
	floor int64 // in milliseconds since 1970
	ids   map[operationID]struct{}
	limit int
}

// newRecent begins with what a store has: all of its ids were made before floor.
func newRecent(db *pebble.DB, limit int) (*recent, error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyOperation}, UpperBound: []byte{keyOperation + 1}})
	if err != nil {
		return nil, err
	}
	r := &recent{ids: map[operationID]struct{}{}, limit: limit}
	if it.Last() {
		if len(it.Key()) != 1+len(operationID{}) {
			return nil, errors.Join(fmt.Errorf("record %q: %w", it.Key(), chaterr.ErrCorrupt), it.Close())
		}
		r.floor = ulidTime(it.Key()[1:]) + 1
	}
	return r, it.Close()
}

// fresh reports that an operation was not carried out.
func (r *recent) fresh(id operationID) bool {
	if ulidTime(id[:]) < r.floor {
		return false
	}
	_, known := r.ids[id]
	return !known
}

// add notes that an operation was carried out, or may have been.
func (r *recent) add(id operationID) {
	if ulidTime(id[:]) < r.floor {
		return
	}
	if r.ids[id] = struct{}{}; len(r.ids) >= r.limit {
		r.halve()
	}
}

// halve forgets the older half; all, when they are of one time.
func (r *recent) halve() {
	made := make([]int64, 0, len(r.ids))
	for id := range r.ids {
		made = append(made, ulidTime(id[:]))
	}
	slices.Sort(made)
	r.floor = made[len(made)/2]
	if made[len(made)/4] == r.floor { // less than a quarter would go
		r.floor = made[len(made)-1] + 1
	}
	kept := make(map[operationID]struct{}, r.limit)
	for id := range r.ids {
		if ulidTime(id[:]) >= r.floor {
			kept[id] = struct{}{}
		}
	}
	r.ids = kept
}
