// Package state is the replicated state of chat: accounts, sessions, rooms, messages, and the
// memory of operations that were carried out. It is a deterministic function of the log. Its
// files read no clock and no randomness and start no goroutine; whatever is random, or read from
// a clock, came with the entry. DESIGN.md has the layout of its records.
package state

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
)

// Result is what a command did, as it is kept and sent between nodes. Err reads its reason.
type Result = fsmpb.Result

// State applies entries to a store, one batch at a time. It is not safe for concurrent use; Views
// are taken from any goroutine.
type State struct {
	db   *pebble.DB
	meta *fsmpb.Meta // as of the last batch that was committed

	cache  *cache  // as of the last batch that was begun
	recent *recent // the same
	begun  bool    // that batch was not committed yet

	scratch scratch
}

// Open reads what the store says of itself; an empty store is the state before the first entry.
// The store stays the caller's. It fails with chaterr.ErrUpgradeNeeded for what a newer version
// has written.
func Open(db *pebble.DB) (*State, error) {
	meta, err := readMeta(db)
	if err != nil {
		return nil, err
	}
	if meta.Format > format || meta.Level > CurrentLevel {
		return nil, fmt.Errorf("state of format %d at level %d, this binary knows format %d and level %d: %w",
			meta.Format, meta.Level, format, CurrentLevel, chaterr.ErrUpgradeNeeded)
	}
	known, err := newRecent(db, recentOperations)
	if err != nil {
		return nil, fmt.Errorf("read the newest operation: %w", err)
	}
	return &State{db: db, meta: meta, cache: newCache(cacheBytes), recent: known}, nil
}

func readMeta(r pebble.Reader) (*fsmpb.Meta, error) {
	meta := &fsmpb.Meta{Format: format, Level: firstLevel}
	v, closer, err := r.Get([]byte{keyMeta})
	if errors.Is(err, pebble.ErrNotFound) {
		return meta, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state's meta record: %w", err)
	}
	proto.Reset(meta)
	return meta, errors.Join(proto.Unmarshal(v, meta), closer.Close())
}

// Applied is the index of the last entry that the state holds.
func (s *State) Applied() uint64 { return s.meta.Index }

// Term is the term of the last entry that the state holds.
func (s *State) Term() uint64 { return s.meta.Term }

// TimeMS is log time, in milliseconds since 1970.
func (s *State) TimeMS() int64 { return s.meta.TimeMs }

// ClusterID is empty before the cluster has formed.
func (s *State) ClusterID() string { return s.meta.ClusterId }

// Level is the cluster's feature level.
func (s *State) Level() uint32 { return s.meta.Level }
