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
	err error

	// What follows is for commands alone.
	cache   *cache         // of what r has, and what the batch has written since; nil for none
	own     []change       // of the command, not yet there; the last one counts
	records *fsmpb.Records // memory for records; nil for new memory
	key     [1 + 2*8]byte  // of the last record that was looked for
}

// at makes a key that is good until the next one.
func (r *reader) at(letter byte, numbers ...uint64) []byte {
	return appendKey(r.key[:0], letter, numbers...)
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
	keep := r.cache != nil && caches(k)
	if keep {
		if e := r.cache.get(k); e != nil {
			return e.value != nil && r.check(k, f(e.value))
		}
	}
	v, closer, err := getFrom(r.r, k)
	if errors.Is(err, pebble.ErrNotFound) {
		if keep {
			r.cache.keep(k, nil)
		}
		return false
	}
	if err != nil {
		return r.check(k, err)
	}
	defer func() { _ = closer.Close() }() // the value was read; Close has nothing to add
	if keep {
		r.cache.keep(k, append([]byte{}, v...))
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

// scan calls f for the records from lower up to upper, in order, until it returns false. A command's
// scan sees what earlier commands of the batch have written, and not what it has written itself. The
// slices are only good during the call.
func (r *reader) scan(lower, upper []byte, f func(k, v []byte) bool) {
	if r.cache == nil {
		r.scanStore(lower, upper, f)
		return
	}
	written, more := r.cache.between(lower, upper), true
	first := func() { // calls f for the first one written
		e := written[0]
		written = written[1:]
		more = e.value == nil || f([]byte(e.key), e.value)
	}
	r.scanStore(lower, upper, func(k, v []byte) bool {
		for more && len(written) > 0 && written[0].key < string(k) {
			first()
		}
		switch {
		case !more:
		case len(written) > 0 && written[0].key == string(k):
			first()
		default:
			more = f(k, v)
		}
		return more
	})
	for more && len(written) > 0 && r.err == nil {
		first()
	}
}

// scanStore is scan over what the store has.
func (r *reader) scanStore(lower, upper []byte, f func(k, v []byte) bool) {
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
