package peer

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxStrangers is how many streams may be in the handshake at once. Each has three goroutines, and
// until its first frame is whole at most a message of the size that the host's server receives.
const maxStrangers = 64

// strangers are the streams whose other end has not proved yet who it is. Everybody may open one, so
// they are few, and when there are too many, the oldest goes of the host that has most of them: who
// opens a thousand and says nothing only sends his own away, and a node, whose handshake takes one
// round trip, is not kept out.
type strangers struct {
	mu     sync.Mutex // guards what follows
	closed bool
	all    []*stranger // the oldest first
}

type stranger struct {
	host string
	conn *Conn
	sent bool // away
}

// errNoMore: there are no tunnels any more.
var errNoMore = status.Error(codes.Unavailable, "the node is closing")

// enter lets one more begin its handshake.
func (s *strangers) enter(host string, c *Conn) (*stranger, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errNoMore
	}
	x := &stranger{host: host, conn: c}
	if s.all = append(s.all, x); len(s.all) > maxStrangers {
		s.sendAway(s.oldest())
	}
	return x, nil
}

// leave ends a handshake, and gives its error another reason when it was ended from here.
func (s *strangers) leave(x *stranger, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed && x.sent:
		return errNoMore
	case x.sent:
		return status.Error(codes.ResourceExhausted, "too many handshakes at once")
	}
	s.remove(x)
	return err
}

// close ends all handshakes, and lets none begin.
func (s *strangers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for len(s.all) > 0 {
		s.sendAway(s.all[0])
	}
}

func (s *strangers) sendAway(x *stranger) {
	x.sent = true
	_ = x.conn.SetReadDeadline(time.Unix(1, 0)) // ends its ReadFrame; never fails
	s.remove(x)
}

func (s *strangers) remove(x *stranger) {
	s.all = slices.DeleteFunc(s.all, func(y *stranger) bool { return y == x })
}

// oldest is that of the host with most.
func (s *strangers) oldest() *stranger {
	count := map[string]int{}
	for _, x := range s.all {
		count[x.host]++
	}
	oldest := s.all[0]
	for _, x := range s.all {
		if count[x.host] > count[oldest.host] {
			oldest = x
		}
	}
	return oldest
}

// hostOf is what counts as one host: an IPv4 address, or the /64 that an IPv6 host has to itself.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip.WithZone(""), 64).Masked().String()
}
