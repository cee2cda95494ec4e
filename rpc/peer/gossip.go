package peer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// gossipPort is never dialled; memberlist wants a port beside the IP.
	gossipPort = 1
	// packetTimeout bounds the opening of a tunnel for packets, and the sending of one.
	packetTimeout = time.Second
	// maxQueued packets wait for one node; more are lost, as UDP would lose them.
	maxQueued = 64
	// maxQueues nodes have a queue; memberlist forgets the dead, and so does this.
	maxQueues = 1024
)

// Gossip carries memberlist in tunnels. Nodes are found by name: the IP that memberlist insists on
// is made from the name and only serves to tell nodes apart.
type Gossip struct {
	t       *Tunnels
	addr    func(node string) (string, bool)
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	senders sync.WaitGroup // one goroutine for each node that packets go to

	mu     sync.Mutex // guards what follows
	over   bool
	queues map[string]chan []byte
}

var _ memberlist.NodeAwareTransport = (*Gossip)(nil)

// NewGossip takes over the tunnels for gossip. addr knows the address of a node; it must not wait.
func NewGossip(t *Tunnels, addr func(node string) (string, bool)) *Gossip {
	g := &Gossip{
		t: t, addr: addr,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		closed: make(chan struct{}), queues: map[string]chan []byte{},
	}
	t.Handle(GossipPackets, g.receive)
	t.Handle(GossipStream, g.accept)
	return g
}

// Seed is the form in which memberlist's Join takes an address whose node is not known yet.
func Seed(addr string) string { return fmt.Sprintf("@%s/10.0.0.0:%d", addr, gossipPort) }

// nodeIP makes an address in 10.0.0.0/8 from a node's name.
func nodeIP(node string) net.IP {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // a hash never fails
	s := h.Sum32()
	return net.IPv4(10, byte(s>>16), byte(s>>8), byte(s))
}

// FinalAdvertiseAddr is the address that stands for this node.
func (g *Gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return nodeIP(g.t.o.ID), gossipPort, nil
}

// PacketCh delivers packets.
func (g *Gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh delivers connections.
func (g *Gossip) StreamCh() <-chan net.Conn { return g.streams }

// errNoName is for callers that know no name; with RequireNodeNames memberlist v0.7.0 has none.
var errNoName = errors.New("gossip with a node without a name")

// WriteTo is not used: see errNoName.
func (g *Gossip) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNoName }

// DialTimeout is not used: see errNoName.
func (g *Gossip) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNoName }

// WriteToAddress never waits: gossip must go on with the others when one does not take packets.
func (g *Gossip) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if a.Name == "" {
		return time.Time{}, errNoName
	}
	g.mu.Lock()
	q := g.queues[a.Name]
	if q == nil && len(g.queues) < maxQueues && !g.over {
		q = make(chan []byte, maxQueued)
		g.queues[a.Name] = q
		g.senders.Go(func() { g.send(a, q) })
	}
	g.mu.Unlock()
	select {
	case q <- append([]byte(nil), b...):
	case <-g.closed:
	default: // lost, as UDP would lose it
	}
	return time.Now(), nil
}

// send empties one node's queue over one tunnel, and dials again when a packet is due.
func (g *Gossip) send(a memberlist.Address, q <-chan []byte) {
	var c net.Conn
	defer func() {
		if c != nil {
			_ = c.Close() // never fails
		}
		g.mu.Lock()
		delete(g.queues, a.Name)
		g.mu.Unlock()
	}()
	rest := time.NewTimer(idle)
	defer rest.Stop()
	for {
		select {
		case b := <-q:
			if c == nil {
				c, _ = g.dial(GossipPackets, a, packetTimeout) // memberlist notices who does not answer
			}
			if c == nil {
				continue
			}
			rest.Reset(idle)
			_ = c.SetWriteDeadline(time.Now().Add(packetTimeout)) // never fails
			if _, err := c.Write(b); err != nil {
				_ = c.Close() // never fails
				c = nil
			}
		case <-rest.C:
			return
		case <-g.closed:
			return
		}
	}
}

// receive hands on the packets of one tunnel: a frame is a packet.
func (g *Gossip) receive(c *Conn) {
	defer func() { _ = c.Close() }() // never fails
	from := &net.UDPAddr{IP: nodeIP(c.remote.Node), Port: gossipPort}
	for {
		b, err := c.ReadFrame()
		if err != nil {
			return
		}
		select {
		case g.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}:
		case <-g.closed:
			return
		}
	}
}

func (g *Gossip) accept(c *Conn) {
	select {
	case g.streams <- c:
	case <-g.closed:
		_ = c.Close() // never fails
	}
}

// DialAddressTimeout opens a connection.
func (g *Gossip) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.dial(GossipStream, a, timeout)
}

func (g *Gossip) dial(p Purpose, a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	node := a.Name
	addr, seed := strings.CutPrefix(node, "@")
	switch known, ok := g.addr(node); {
	case node == "":
		return nil, errNoName
	case seed: // whoever answers there
		node = ""
	case !ok:
		return nil, fmt.Errorf("gossip with node %q, whose address is not known", node)
	default:
		addr = known
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := g.t.Dial(ctx, p, node, addr)
	if err != nil {
		return nil, err // not c: a nil *Conn in a net.Conn is not nil
	}
	return c, nil
}

// Shutdown ends tunnels and goroutines. memberlist calls it first of all, and may still send.
func (g *Gossip) Shutdown() error {
	g.mu.Lock()
	if !g.over {
		g.over = true
		close(g.closed)
	}
	g.mu.Unlock()
	g.t.Cut(GossipPackets, GossipStream)
	g.senders.Wait()
	return nil
}
