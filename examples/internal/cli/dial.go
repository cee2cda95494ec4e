package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

// dialTime is how long the first connection may take.
const dialTime = 10 * time.Second

// errUnreached: there was no connection, whatever the reason.
var errUnreached = errors.New("not connected")

// dial connects for as long as f runs. It waits for servers that are slow, and not for those of which none is there.
func dial(ctx context.Context, s *session, f flags, do func() error) (err error) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	r := newRefusals(f.servers, cancel)
	if s.c, err = client.Dial(dialing, f.servers, client.WithToken(s.token), client.WithDialer(r.dial)); err != nil {
		return fmt.Errorf("%w: %w", errUnreached, cmp.Or(r.all(), err))
	}
	return errors.Join(do(), s.c.Close())
}

// refusals end a Dial when no server takes a connection. client.Dial itself goes on trying, since a program may
// start before its servers do; a person wants to know.
type refusals struct {
	hopeless context.CancelFunc

	mu      sync.Mutex       // guards what follows
	servers map[string]error // why each takes none, nil for those that may take one
}

func newRefusals(servers []string, hopeless context.CancelFunc) *refusals {
	r := &refusals{hopeless: hopeless, servers: map[string]error{}}
	for _, addr := range servers {
		r.servers[addr] = nil
	}
	return r
}

func (r *refusals) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	r.mu.Lock()
	if _, asked := r.servers[addr]; asked && ctx.Err() == nil {
		r.servers[addr] = err
	}
	r.mu.Unlock()
	if r.all() != nil {
		r.hopeless() // without effect once there is a client
	}
	return conn, err
}

// all is why the servers take no connection; nil when one may.
func (r *refusals) all() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var texts []string
	for addr, err := range r.servers {
		if err == nil {
			return nil
		}
		texts = append(texts, fmt.Sprintf("%s: %v", addr, cause(err)))
	}
	slices.Sort(texts)
	return errors.New(strings.Join(texts, ", "))
}

// cause is what has become of a call, without the names of the calls around it.
func cause(err error) error {
	var of *net.OpError
	if errors.As(err, &of) {
		err = of.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}
