package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"example.com/chat/rpc/client"
)

// What mixed sends: in percent, and where to.
const (
	directShare = 80
	smallShare  = 15 // to rooms of smallRoom members; the rest to bigRooms of bigRoom
	smallRoom   = 50
	bigRooms    = 5
	bigRoom     = 5000
	// mixedPeers is to how many others a user writes directly.
	mixedPeers = 500
	// skew is the exponent of Zipf's law, by which a few rooms and a few users have most of the messages.
	skew = 1.1
)

// population are the accounts and rooms of mixed.
type population struct {
	accounts []string
	active   []*user    // the first of the accounts, who send and listen
	small    [][]string // rooms of each active user
	big      []string   // rooms of all active users
}

// mixed has p.N senders among p.Clients users, all of whom listen, in a cluster of p.Users accounts.
func mixed(ctx context.Context, c *cluster, p params) (r result, err error) {
	c.say("mixed: %d accounts and their rooms", p.Users)
	all, err := c.populate(ctx, p)
	defer func() { err = errors.Join(err, closeAll(all.active)) }()
	if err != nil {
		return result{}, err
	}
	var mu sync.Mutex
	var delivered []time.Duration
	from := time.Now().Add(p.Warm)
	for _, u := range all.active {
		stop, err := listen(ctx, u, func(e client.Event) {
			age, ok := age(e.Message.Text)
			if !ok || time.Now().Before(from) {
				return
			}
			mu.Lock()
			delivered = append(delivered, age)
			mu.Unlock()
		})
		if err != nil {
			return result{}, err
		}
		defer stop()
	}
	senders := make([]*chooser, p.N)
	for i := range senders {
		senders[i] = newChooser(all, i)
	}
	c.say("mixed: %d senders", p.N)
	r, err = closed(ctx, p, func(sender, _ int) error {
		s := senders[sender]
		_, err := s.user().Send(ctx, s.target(), client.Draft{Text: stamped(p.Size)})
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	d := summarise(delivered, p.For)
	r.Extra["deliveries_per_s"], r.Extra["deliver_p50_us"], r.Extra["deliver_p99_us"] = d.Ops, d.P50, d.P99
	return r, err
}

// chooser decides for one sender what comes next, the same in each run.
type chooser struct {
	population
	me                int
	rng               *rand.Rand
	peer, small, room *rand.Zipf
}

func newChooser(all population, sender int) *chooser {
	s := &chooser{population: all, me: sender % len(all.active), rng: rand.New(rand.NewPCG(uint64(sender), 1))}
	upTo := func(n int) *rand.Zipf { return rand.NewZipf(s.rng, skew, 1, uint64(n-1)) }
	s.peer, s.small, s.room = upTo(min(mixedPeers, len(all.accounts)-1)), upTo(len(all.small[s.me])), upTo(len(all.big))
	return s
}

func (s *chooser) user() *user { return s.active[s.me] }

func (s *chooser) target() client.Target {
	switch n := s.rng.IntN(100); {
	case n < directShare: // to one of those behind me, and nobody writes to himself
		return client.ToUser(s.accounts[(s.me+1+int(s.peer.Uint64()))%len(s.accounts)])
	case n < directShare+smallShare:
		return client.ToRoom(s.population.small[s.me][s.small.Uint64()])
	default:
		return client.ToRoom(s.big[s.room.Uint64()])
	}
}

// populate makes accounts and rooms.
func (c *cluster) populate(ctx context.Context, p params) (all population, err error) {
	c.clients++
	for i := range p.Users {
		all.accounts = append(all.accounts, fmt.Sprintf("%s-%d-one-%d", c.prefix, c.clients, i))
	}
	for i := range p.Clients {
		addr, err := c.at(ctx, p.At, i)
		if err != nil {
			return all, err
		}
		u, err := c.named(ctx, all.accounts[i], addr)
		if err != nil {
			return all, err
		}
		all.active = append(all.active, u)
	}
	addr, err := c.at(ctx, "leader", 0)
	if err != nil {
		return all, err
	}
	crowd, err := c.crowd(ctx, addr)
	if err != nil {
		return all, err
	}
	defer func() { err = errors.Join(err, crowd.Close()) }()
	err = each(ctx, len(all.accounts), func(ctx context.Context, i int) error {
		return first(crowd.Rooms(acting(ctx, all.accounts[i]))) // a user's first call makes the account
	})
	if err != nil {
		return all, err
	}
	return all, all.makeRooms(ctx, c, crowd, p.Rooms)
}

// first is the error of a sequence's first element.
func first[T any](seq func(yield func(T, error) bool)) (err error) {
	for _, err := range seq {
		return err
	}
	return nil
}

// makeRooms makes small rooms, each with a few of the active users, and large ones with all of them.
func (all *population) makeRooms(ctx context.Context, c *cluster, crowd *client.Client, small int) error {
	all.small = make([][]string, len(all.active))
	for i := range small {
		var members []int
		for k := range min(smallRoom, len(all.accounts)) {
			members = append(members, (i+k*len(all.accounts)/min(smallRoom, len(all.accounts)))%len(all.accounts))
		}
		owner := i % len(all.active)
		if !slices.Contains(members, owner) {
			members[0] = owner
		}
		id, err := all.makeRoom(ctx, crowd, fmt.Sprintf("%s-small-%d", all.accounts[0], i), members)
		if err != nil {
			return err
		}
		for _, m := range members {
			if m < len(all.active) {
				all.small[m] = append(all.small[m], id)
			}
		}
		c.say("mixed: %d of %d rooms of %d", i+1, small, len(members))
	}
	var everybody []int
	for i := range min(bigRoom, len(all.accounts)) {
		everybody = append(everybody, i)
	}
	for i := range bigRooms {
		c.say("mixed: %d of %d rooms of %d", i+1, bigRooms, len(everybody))
		id, err := all.makeRoom(ctx, crowd, fmt.Sprintf("%s-big-%d", all.accounts[0], i), everybody)
		if err != nil {
			return err
		}
		all.big = append(all.big, id)
	}
	return nil
}

// makeRoom has the first member make a room, and the others join it.
func (all *population) makeRoom(ctx context.Context, crowd *client.Client, name string, members []int) (string, error) {
	r, err := crowd.CreateRoom(acting(ctx, all.accounts[members[0]]), name)
	if err != nil {
		return "", err
	}
	return r.ID, each(ctx, len(members)-1, func(ctx context.Context, i int) error {
		_, err := crowd.JoinRoom(acting(ctx, all.accounts[members[i+1]]), name)
		return err
	})
}
