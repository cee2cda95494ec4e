package state

import (
	"slices"
	"strings"
)

// cacheBytes bounds what a cache holds between two batches: twice as much.
const cacheBytes = 4 << 20

// cacheCost is what an entry of a cache costs beside its bytes.
const cacheCost = 96

// cache holds records that commands read again and again: who acts, and where. A message has one of
// them read six times, and Pebble takes some microseconds for each. It lives as long as the State, and
// is used by who applies alone: a View reads as of another time.
//
// What the batch at work writes is only here until it is committed, each record with its last value:
// a room that gets a hundred messages in a batch is written once. A batch that is given up takes
// everything here with it.
//
// There are two generations: what is used moves to the young one, and when that is full at the
// beginning of a batch, the old one is forgotten.
type cache struct {
	young, old map[string]*cached
	bytes      int       // of young
	limit      int       // of young
	written    []*cached // by the batch at work
}

// cached is what a key stands for. Its value is replaced, and never changed.
type cached struct {
	key     string
	value   []byte // nil when there is no record
	written bool   // by the batch at work: the store has another value
}

func newCache(limit int) *cache {
	return &cache{young: map[string]*cached{}, limit: limit}
}

// caches reports whether records under a key are kept here: all that commands read, but operations,
// which are many and have a memory of their own.
func caches(k []byte) bool {
	switch k[0] {
	case keyMessage, keyRoomEvent, keyHidden, keyRoster, keyQuarantine, keyOperation:
		return false
	default:
		return true
	}
}

// get is nil when the cache does not say what a key stands for.
func (c *cache) get(k []byte) *cached {
	if e := c.young[string(k)]; e != nil {
		return e
	}
	e := c.old[string(k)]
	if e != nil {
		c.add(e)
	}
	return e
}

func (c *cache) add(e *cached) {
	c.young[e.key] = e
	c.bytes += len(e.key) + len(e.value) + cacheCost
}

// keep notes what the store has under a key that get did not know; nil for no record.
func (c *cache) keep(k, v []byte) { c.add(&cached{key: string(k), value: v}) }

// write notes what the batch at work has made of a key; nil for no record.
func (c *cache) write(k, v []byte) {
	e := c.get(k)
	if e == nil {
		e = &cached{key: string(k)}
		c.add(e)
	}
	c.bytes += len(v) - len(e.value)
	if e.value = v; !e.written {
		e.written = true
		c.written = append(c.written, e)
	}
}

// between lists what the batch at work has written from one key up to another, in order; no upper
// key stands for the end.
func (c *cache) between(lower, upper []byte) (list []*cached) {
	for _, e := range c.written {
		if e.key >= string(lower) && (upper == nil || e.key < string(upper)) {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *cached) int { return strings.Compare(a.key, b.key) })
	return list
}

// committed says that the store has what the batch at work has written.
func (c *cache) committed() {
	for _, e := range c.written {
		e.written = false
	}
	clear(c.written)
	c.written = c.written[:0]
	if c.bytes > c.limit {
		c.old, c.young, c.bytes = c.young, map[string]*cached{}, 0
	}
}

// clear forgets everything.
func (c *cache) clear() { *c = *newCache(c.limit) }
