package membership

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"example.com/chat/internal/node"
)

// maxKnown is how many nodes gossip may tell of; a peer that has the secret cannot fill memory.
const maxKnown = 1024

// Book knows where nodes are. It is safe for concurrent use, and never waits.
type Book struct {
	mu      sync.Mutex           // guards what follows
	alive   map[string]node.Info // by id, as gossip has it
	servers []node.Server        // of raft's configuration
}

// NewBook makes an empty book.
func NewBook() *Book { return &Book{alive: map[string]node.Info{}} }

// Addr is where gossip has a node alive, or else where raft's configuration has it. Gossip comes first as it
// hears of a node that has moved from the node itself; the configuration needs a leader to be changed, and
// there is none when most servers have moved.
func (b *Book) Addr(id string) (addr string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n, ok := b.alive[id]; ok {
		return n.Address, true
	}
	s, ok := find(b.servers, id)
	return s.Address, ok
}

// Alive lists the nodes that gossip thinks alive, by id.
func (b *Book) Alive() []node.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.alive), func(a, b node.Info) int { return cmp.Compare(a.ID, b.ID) })
}

func (b *Book) lives(n node.Info) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.alive[n.ID]; known || len(b.alive) < maxKnown {
		b.alive[n.ID] = n
	}
}

func (b *Book) left(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.alive, id)
}

func (b *Book) configured(servers []node.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = servers
}
