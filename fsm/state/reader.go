package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// reader finds records. The first failure of the store is kept in err, and from then on everything
// reads as missing; who uses a reader looks at err once, at the end, before believing anything.
type reader struct {
	r   pebble.Reader
	own []change // not yet in r; the last one counts
	err error

	cache *cache // of what r has; nil for none
}

// change is one write: a nil value removes the key.
type change struct{ key, value []byte }

func (r *reader) fail(k []byte, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("record %q: %w", k, err)
	}
}

// value calls f with the bytes under k, which are only good until f returns.
func (r *reader) value(k []byte, f func([]byte) error) (found bool) {
	if r.err != nil {
		return false
	}
	for i := len(r.own) - 1; i >= 0; i-- {
		if c := r.own[i]; string(c.key) == string(k) {
			if c.value == nil {
				return false
			}
			return r.check(k, f(c.value))
		}
	}
	cached := r.cache != nil && caches(k)
	if cached {
		if v, known := r.cache.get(k); known {
			return v != nil && r.check(k, f(v))
		}
	}
	v, closer, err := getFrom(r.r, k)
	if errors.Is(err, pebble.ErrNotFound) {
		if cached {
			r.cache.put(k, nil)
		}
		return false
	}
	if err != nil {
		return r.check(k, err)
	}
	defer func() { _ = closer.Close() }() // the value was read; Close has nothing to add
	if cached {
		r.cache.put(k, append([]byte{}, v...))
	}
	return r.check(k, f(v))
}

func (r *reader) check(k []byte, err error) (ok bool) {
	if err != nil {
		r.fail(k, err)
	}
	return err == nil
}

// get reads the record under k into m.
func (r *reader) get(k []byte, m proto.Message) (found bool) {
	return r.value(k, func(v []byte) error {
		if err := fsmpb.Unmarshal(v, m); err != nil {
			return fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err)
		}
		return nil
	})
}

func (r *reader) has(k []byte) bool { return r.value(k, func([]byte) error { return nil }) }

// id reads the number under k, 0 when there is none.
func (r *reader) id(k []byte) (id uint64) {
	r.value(k, func(v []byte) error {
		if len(v) != 8 {
			return chaterr.ErrCorrupt
		}
		id = binary.BigEndian.Uint64(v)
		return nil
	})
	return id
}

// scan calls f for the records from lower up to upper, in order, until it returns false. It does
// not see the reader's own changes. The slices are only good during the call.
func (r *reader) scan(lower, upper []byte, f func(k, v []byte) bool) {
	if r.err != nil {
		return
	}
	it, err := r.r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		r.fail(lower, err)
		return
	}
	for v, err := move(it, it.First); v != nil || err != nil; v, err = move(it, it.Next) {
		if err != nil {
			r.fail(lower, err)
			break
		}
		if !f(it.Key(), v) {
			break
		}
	}
	if err := it.Close(); err != nil {
		r.fail(lower, err)
	}
}

// scanPrefix is scan over all records whose keys begin with prefix.
func (r *reader) scanPrefix(prefix []byte, f func(k, v []byte) bool) {
	r.scan(prefix, after(prefix), f)
}

// decode is get for a value that is at hand.
func (r *reader) decode(k, v []byte, m proto.Message) (ok bool) {
	if err := fsmpb.Unmarshal(v, m); err != nil {
		r.fail(k, fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err))
		return false
	}
	return true
}

// getFrom is Get of a store that may panic over damaged data.
func getFrom(r pebble.Reader, k []byte) (v []byte, c io.Closer, err error) {
	defer recoverStore(&err)
	return r.Get(k)
}

// move makes a step of an iterator, and reads the value there; nil without an error is the end.
func move(it *pebble.Iterator, step func() bool) (v []byte, err error) {
	defer recoverStore(&err)
	if !step() {
		return nil, nil // Close says whether there was an error
	}
	if v, err = it.ValueAndErr(); v == nil && err == nil {
		v = []byte{}
	}
	return v, err
}

func recoverStore(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: the store panicked: %v\n%s", chaterr.ErrCorrupt, p, debug.Stack())
	}
}
