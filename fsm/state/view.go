package state

import (
	"github.com/cockroachdb/pebble/v2"

	"example.com/chat/fsm/fsmpb"
)

// View is the state as it was after one entry. It does not change while it is held, and holds up
// the store's clean-up: take one for each call and close it. A View is not safe for concurrent
// use. After an error every further answer of the same View is that error.
type View struct {
	reader
	meta     *fsmpb.Meta
	snapshot *pebble.Snapshot
	release  func()
}

// NewView takes a view of what a store holds now. Close calls release, so that the owner of the
// store knows when it may be closed.
func NewView(db *pebble.DB, release func()) (*View, error) {
	s := db.NewSnapshot()
	meta, err := readMeta(s)
	if err != nil {
		_ = s.Close() // err says more
		release()
		return nil, err
	}
	return &View{reader: reader{r: s}, meta: meta, snapshot: s, release: release}, nil
}

// Close ends the view. A second call does nothing.
func (v *View) Close() error {
	if v.snapshot == nil {
		return nil
	}
	defer v.release()
	s := v.snapshot
	v.snapshot = nil
	return s.Close()
}

// Applied is the index of the last entry that the view holds.
func (v *View) Applied() uint64 { return v.meta.Index }

// TimeMS is log time, in milliseconds since 1970.
func (v *View) TimeMS() int64 { return v.meta.TimeMs }

// ClusterID is empty before the cluster has formed.
func (v *View) ClusterID() string { return v.meta.ClusterId }

// Records calls f for every record, in the order of their keys, until it returns false. The slices are only
// good during the call.
func (v *View) Records(f func(key, value []byte) bool) error {
	v.scan(nil, nil, f)
	return v.err
}
