package state

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// walk finds the records under a prefix and growing, or falling, numbers. It reads them one after the
// other, which costs a fraction of looking for each.
type walk struct {
	r     *reader
	it    *pebble.Iterator
	down  bool
	value []byte // of the record that it is at; nil at the end
	seq   uint64 // of that record
}

// walk goes through the numbers from first to last. The caller closes it before the view.
func (v *View) walk(prefix []byte, first, last uint64, down bool) *walk {
	w := &walk{r: &v.reader, down: down}
	if first > last || v.err != nil {
		return w
	}
	lower, upper := binary.BigEndian.AppendUint64(slices.Clone(prefix), first), binary.BigEndian.AppendUint64(prefix, last)
	var err error
	if w.it, err = v.r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: append(upper, 0)}); err != nil {
		v.fail(prefix, err)
		return w
	}
	if down {
		w.move(w.it.Last)
	} else {
		w.move(w.it.First)
	}
	return w
}

func (w *walk) move(step func() bool) {
	var err error
	if w.value, err = move(w.it, step); err != nil {
		w.value = nil
		w.r.fail(w.it.Key(), err)
	}
	if w.value != nil {
		k := w.it.Key()
		w.seq = binary.BigEndian.Uint64(k[len(k)-8:])
	}
}

// to is the record with a number, which is good until the next call. Numbers go one way.
func (w *walk) to(seq uint64) ([]byte, bool) {
	for w.value != nil && w.seq != seq && w.seq > seq == w.down {
		if w.down {
			w.move(w.it.Prev)
		} else {
			w.move(w.it.Next)
		}
	}
	return w.value, w.value != nil && w.seq == seq
}

func (w *walk) close() {
	if w.it == nil {
		return
	}
	if err := w.it.Close(); err != nil {
		w.r.fail(nil, err)
	}
}
