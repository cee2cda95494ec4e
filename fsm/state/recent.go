package state

import (
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"example.com/chat/internal/chaterr"
)

const (
	// recentOperations is how many operations a recent holds.
	recentOperations = 1 << 16
	// recentSpan is how many milliseconds belong together in a recent.
	recentSpan = 256
	// recentSpans is how many spans a recent holds: more than there are ahead of log time, so that ids of
	// clocks that are fast do not drive out those of now.
	recentSpans = 2048
)

// recent tells new operation ids from those that may be known, without asking the store, which would
// look into each of its levels for what is not there: nearly every id is new.
//
// It has every operation that is remembered whose id was made at floor or later, and may have more.
// So an id from then on that it does not have is new; of others it cannot tell. When it is full, the
// span goes that is the oldest.
type recent struct {
	floor int64                         // in milliseconds since 1970
	spans map[int64]map[uint64]struct{} // hashes of ids, by the time when they were made
	count int
	limit int
}

// newRecent begins with what a store has: all of its ids were made before floor.
func newRecent(db *pebble.DB, limit int) (*recent, error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyOperation}, UpperBound: []byte{keyOperation + 1}})
	if err != nil {
		return nil, err
	}
	r := &recent{spans: map[int64]map[uint64]struct{}{}, limit: limit}
	if it.Last() {
		if len(it.Key()) != 1+len(operationID{}) {
			return nil, errors.Join(fmt.Errorf("record %q: %w", it.Key(), chaterr.ErrCorrupt), it.Close())
		}
		r.floor = ulidTime(it.Key()[1:]) + 1
	}
	return r, it.Close()
}

// fresh reports that an operation was not carried out.
func (r *recent) fresh(id *operationID) bool {
	made := ulidTime(id[:])
	if made < r.floor {
		return false
	}
	_, known := r.spans[made/recentSpan][xxhash.Sum64(id[:])]
	return !known
}

// add notes that an operation was carried out, or may have been.
func (r *recent) add(id *operationID) {
	made := ulidTime(id[:])
	if made < r.floor {
		return
	}
	span := r.spans[made/recentSpan]
	if span == nil {
		span = map[uint64]struct{}{}
		r.spans[made/recentSpan] = span
	}
	before := len(span)
	span[xxhash.Sum64(id[:])] = struct{}{}
	r.count += len(span) - before
	if r.count >= r.limit || len(r.spans) > recentSpans {
		r.forget()
	}
}

// forget forgets the oldest span.
func (r *recent) forget() {
	oldest := int64(-1)
	for at := range r.spans {
		if oldest < 0 || at < oldest {
			oldest = at
		}
	}
	r.floor = (oldest + 1) * recentSpan
	r.count -= len(r.spans[oldest])
	delete(r.spans, oldest)
}
