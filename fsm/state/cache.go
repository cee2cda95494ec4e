package state

// cacheBytes bounds what a cache holds: twice as much.
const cacheBytes = 4 << 20

// cacheCost is what an entry of a cache costs beside its bytes.
const cacheCost = 64

// cache holds records that commands read again and again: who acts, and where. A message has one of
// them read six times, and Pebble takes some microseconds for each. It holds what the store and the
// batch at work say, so it changes what a command costs and nothing else. It lives as long as the
// State, and is used by who applies alone: a View reads as of another time.
//
// There are two generations: what is used moves to the young one, and when that is full, the old one
// is forgotten.
type cache struct {
	young, old map[string][]byte // a nil value says that there is no record
	bytes      int               // of young
	limit      int               // of young
}

func newCache(limit int) *cache {
	return &cache{young: map[string][]byte{}, limit: limit}
}

// caches reports whether records under a key are worth their place: those of which there are few.
func caches(k []byte) bool {
	switch k[0] {
	case keyAccount, keySession, keyRoom, keyMember, keyName, keyDirect:
		return true
	default:
		return false
	}
}

// get returns what a key stands for; known is false when the cache does not say.
func (c *cache) get(k []byte) (v []byte, known bool) {
	if v, known = c.young[string(k)]; known {
		return v, true
	}
	if v, known = c.old[string(k)]; known {
		c.put(k, v)
	}
	return v, known
}

// put keeps v, which nobody changes any more; nil says that there is no record.
func (c *cache) put(k, v []byte) {
	before, known := c.young[string(k)]
	if known {
		c.bytes += len(v) - len(before)
	} else {
		c.bytes += len(k) + len(v) + cacheCost
	}
	c.young[string(k)] = v
	if c.bytes > c.limit {
		c.old, c.young, c.bytes = c.young, map[string][]byte{}, 0
	}
}

// clear forgets everything.
func (c *cache) clear() { *c = *newCache(c.limit) }
