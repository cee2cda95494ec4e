package client

import (
	"sync"

	"example.com/chat/internal/cursor"
)

// share is the subscriptions of a session, which all get the same events: once they are at the same place
// one of them, the carrier, has a stream to a node and hands what it receives to the others, the riders.
// A node does the work of one, and twenty cost hardly more than one.
//
// Each begins with a stream of its own, and catches up with it. A rider that is slow gets one again, so
// that it holds up nobody; when the carrier is slow, or closed, another one becomes the carrier. A rider
// is never behind the carrier, so it misses nothing of what comes from there.
type share struct {
	mu      sync.Mutex // guards what follows
	members int        // all subscriptions of the session
	carrier *Subscription
	live    bool                       // the carrier has a stream, and has caught up
	at      cursor.Cursor              // what the carrier has received
	riders  map[*Subscription]struct{} // their field at is guarded by mu, too
}

const (
	// maxSubscriptions is as many streams as a node allows a session.
	maxSubscriptions = 32
	// caughtUp is fewer events than a node sends in a frame while it has more of them.
	caughtUp = 32
)

// enlist counts a subscription; nil when the session has as many as it may have.
func (c *Client) enlist(token string) *share {
	c.mu.Lock()
	defer c.mu.Unlock()
	sh := c.shares[token]
	if sh == nil {
		sh = &share{riders: map[*Subscription]struct{}{}}
		if c.shares == nil {
			c.shares = map[string]*share{}
		}
		c.shares[token] = sh
	}
	if sh.members == maxSubscriptions {
		return nil
	}
	sh.members++
	return sh
}

// discharge is for a subscription that has ended.
func (c *Client) discharge(s *Subscription) {
	s.share.leave(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.share.members--; s.share.members == 0 {
		delete(c.shares, s.token)
	}
}

// join is called by a subscription with a stream, after a frame. It reports true when the subscription
// needs its stream no more: it rides.
func (sh *share) join(s *Subscription, events int) (rides bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case s.c.o.creds != nil: // which may say who calls, and another one than before
	case s.onLive != nil: // which is told of a stream of its own
	case sh.carrier == nil && events < caughtUp:
		sh.carrier, sh.live, sh.at = s, true, s.at
	case sh.carrier == s:
		sh.live = sh.live || events < caughtUp
	case sh.live && sh.at.Cluster == s.at.Cluster && !sh.at.After(s.at.Position):
		sh.riders[s] = struct{}{}
		return true
	}
	return false
}

// carry hands what the carrier has received to the riders. It does nothing for who is not the carrier.
func (sh *share) carry(s *Subscription, events []Event, places []cursor.Position, to cursor.Cursor) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.carrier != s {
		return
	}
	sh.at = to
	for r := range sh.riders {
		seen := 0
		for seen < len(events) && r.at.Cluster == to.Cluster && !places[seen].After(r.at.Position) {
			seen++
		}
		if !r.inbox.offer(events[seen:]) {
			delete(sh.riders, r)
			signal(r.alone)
			continue
		}
		if r.at.Cluster != to.Cluster || to.After(r.at.Position) {
			r.at = to
		}
	}
}

// pause is called when a stream has ended: nobody joins the carrier until it has another one.
func (sh *share) pause(s *Subscription) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.carrier == s {
		sh.live = false
	}
}

// leave is for a subscription that ends, or is slow. If it was the carrier, the rider that is behind all
// others becomes it: they miss nothing that it receives.
func (sh *share) leave(s *Subscription) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.riders, s)
	if sh.carrier != s {
		return
	}
	sh.carrier, sh.live = nil, false
	for r := range sh.riders {
		if sh.carrier == nil || sh.carrier.at.After(r.at.Position) {
			sh.carrier = r
		}
	}
	if next := sh.carrier; next != nil {
		delete(sh.riders, next)
		signal(next.alone)
	}
}
