package peer

import (
	"net"
	"sync"
)

const (
	// maxStrangers is how many streams may be in the handshake at once, and maxFromOne how many of them
	// from one host: so that one who opens streams and says nothing keeps nobody else out.
	maxStrangers = 64
	maxFromOne   = maxStrangers / 2
)

// strangers counts the streams that have not proved yet who they are, by host.
type strangers struct {
	mu   sync.Mutex // guards what follows
	all  int
	from map[string]int
}

// enter reports false when there are too many.
func (s *strangers) enter(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStrangers || s.from[host] >= maxFromOne {
		return false
	}
	s.all++
	s.from[host]++
	return true
}

func (s *strangers) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[host]--; s.from[host] == 0 {
		delete(s.from, host)
	}
}

// hostOf is an address without its port.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
