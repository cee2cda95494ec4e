package replica

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// disk is where raft keeps its log, its term and its vote: a logFile, or what a test puts in its
// place.
type disk interface {
	raft.LogStore
	raft.StableStore
}

// cacheSize is how many of the newest entries stay in memory, for followers that are close behind: 32 MiB at most.
const cacheSize = 128

// store is the disk as raft sees it, with the cures of DESIGN.md around it. From the outside in: the
// floor, a cache, the guard, checksums, whole votes, deletions in pieces. The floor stands before
// the cache, which may hold the very entry that the floor is to hide.
type store struct {
	logs   *floor
	stable raft.StableStore
	guard  *guard
}

// newStore puts the layers around a disk. A call that takes longer than limit, or fails, ends the
// node: fail is told why.
func newStore(d disk, limit time.Duration, fail func(error)) (*store, error) {
	g := newGuard(&votes{disk: checksums{pieces{d}}}, limit, fail)
	cached, err := raft.NewLogCache(cacheSize, g)
	if err != nil {
		return nil, err
	}
	return &store{logs: &floor{LogStore: cached}, stable: g, guard: g}, nil
}

// notFound is what a StableStore says of a key that it does not have: raft compares the text.
const notFound = "not found"

// isNotFound tells the answer that there is no such entry or key from a failure.
func isNotFound(err error) bool {
	return errors.Is(err, raft.ErrLogNotFound) || err != nil && err.Error() == notFound
}
