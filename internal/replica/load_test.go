package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
)

// load is clients that send to one room, and read there.
type load struct {
	s      *sim
	actor  state.Actor
	room   uint64
	stop   atomic.Bool
	work   sync.WaitGroup
	newest atomic.Uint64 // highest number of an acknowledged message

	mu    sync.Mutex // guards what follows
	acked map[string]uint64
	reads int
}

// propose has a command carried out, at any node and as often as it takes; nil when the load ends
// first.
func (l *load) propose(r *rand.Rand, op []byte, payload proto.Message) *state.Result {
	for !l.stop.Load() {
		if l.s.bugs.freshRetry {
			op = newOp(r)
		}
		c, err := state.NewCommand(l.actor, op, payload)
		if err != nil {
			l.s.t.Error(err)
			return nil
		}
		n := l.s.machines[r.IntN(len(l.s.machines))].up()
		if n == nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		ask := n.replica.Propose
		if r.IntN(2) == 0 {
			ask = n.submit
		}
		res, err := ask(ctx, c)
		cancel()
		if err == nil && state.Err(res) == nil {
			return res
		}
		if err != nil && l.s.bugs.ackEarly && !errors.Is(err, context.DeadlineExceeded) {
			return &state.Result{}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// submit is Propose by way of Submit.
func (n *running) submit(ctx context.Context, c *state.Command) (*state.Result, error) {
	done := make(chan outcome, 1)
	if _, err := n.replica.Submit([]*state.Command{c}, func(_ int, r *state.Result, err error) { done <- outcome{result: r, err: err} }); err != nil {
		return nil, err
	}
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newOp(r *rand.Rand) []byte {
	var id ulid.ULID
	_ = id.SetTime(uint64(time.Now().UnixMilli())) // fails after the year 10889
	for i := 6; i < 16; i++ {
		id[i] = byte(r.Uint32())
	}
	return id[:]
}

func startLoad(s *sim, senders int) *load {
	l := &load{s: s, acked: map[string]uint64{}}
	r := rand.New(rand.NewPCG(s.seed, 1))
	bugs := s.bugs
	s.bugs.ackEarly = false
	l.propose(r, nil, &state.RaiseLevel{Level: state.CurrentLevel})
	a := l.propose(r, newOp(r), &state.RegisterAccount{Name: "alice", PasswordHash: "h"})
	session := l.propose(r, nil, &state.CreateSession{Account: a.Account, TokenHash: bytes.Repeat([]byte{1}, 32), PasswordVersion: 1})
	l.actor = state.Actor{Account: a.Account, Session: session.Session}
	l.room = l.propose(r, newOp(r), &state.CreateRoom{Name: "room"}).Room
	s.bugs = bugs
	for i := range senders {
		l.work.Go(func() { l.send(i) })
		l.work.Go(func() { l.read(i) })
	}
	return l
}

func (l *load) send(i int) {
	r := rand.New(rand.NewPCG(l.s.seed, uint64(100+i)))
	for n := 1; !l.stop.Load(); n++ {
		text := fmt.Sprintf("%d %d", i, n)
		res := l.propose(r, newOp(r), &state.SendMessage{Target: state.ToRoom(l.room), Text: text})
		if res == nil {
			return
		}
		l.acknowledged(text, res.Seq)
		time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
	}
}

func (l *load) acknowledged(text string, seq uint64) {
	l.mu.Lock()
	l.acked[text] = seq
	l.mu.Unlock()
	for old := l.newest.Load(); seq > old && !l.newest.CompareAndSwap(old, seq); old = l.newest.Load() {
	}
}

// read asks any node, again and again.
func (l *load) read(i int) {
	r := rand.New(rand.NewPCG(l.s.seed, uint64(200+i)))
	for !l.stop.Load() {
		time.Sleep(time.Duration(5+r.IntN(50)) * time.Millisecond)
		if n := l.s.machines[r.IntN(len(l.s.machines))].up(); n != nil {
			l.readAt(n)
		}
	}
}

// readAt checks that a linearizable read sees all that was acknowledged before it began.
func (l *load) readAt(n *running) {
	want := l.newest.Load()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if l.s.bugs.noOwn {
		n.replica.own.Store(n.replica.Term())
	}
	if !l.s.bugs.staleReads && n.replica.Linearizable(ctx) != nil {
		return
	}
	v, err := n.replica.View()
	if err != nil {
		return
	}
	room, err := v.Room(l.actor.Account, l.room)
	if err == nil && room.LastSeq < want {
		l.s.fault("a read saw %d messages, and %d was acknowledged", room.LastSeq, want)
	}
	_ = v.Close() // a second error of the same kind
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
}

// end stops the clients and checks what every node has.
func (l *load) end() {
	l.stop.Store(true)
	l.work.Wait()
	l.s.converge()
	for _, m := range l.s.machines {
		v, err := m.up().replica.View()
		if err != nil {
			l.s.fault("%s: %v", m.id, err)
			continue
		}
		seen := map[string]uint64{}
		room, err := v.Room(l.actor.Account, l.room)
		if err == nil {
			_, err = v.Messages(l.actor.Account, l.room, 1, room.LastSeq, false, 1<<20, func(msg state.Message) bool {
				if seen[msg.Text] != 0 {
					l.s.fault("%s has %q twice", m.id, msg.Text)
				}
				seen[msg.Text] = msg.Seq
				return true
			})
		}
		if err != nil {
			l.s.fault("%s, as of entry %d: room %d of %v: %v", m.id, v.Applied(), l.room, l.actor, err)
		}
		if err := v.Close(); err != nil {
			l.s.fault("%s: %v", m.id, err)
		}
		for text, seq := range l.acked {
			if seen[text] == 0 || seq != 0 && seen[text] != seq {
				l.s.fault("%s has %q as number %d, and %d was acknowledged", m.id, text, seen[text], seq)
			}
		}
	}
}
