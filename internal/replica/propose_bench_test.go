package replica

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
)

// BenchmarkPropose has senders propose messages of 200 bytes at the leader of three nodes on loopback, whose disks
// are synced, each of which waits for its result before it proposes again; with raft's entries in either store.
func BenchmarkPropose(b *testing.B) {
	for _, store := range []LogStore{LogStorePebble, LogStoreBolt} {
		_, leader := realNodes(b, 3, store)
		actor, room := sender(b, leader)
		for _, senders := range []int{1, 16, 64, 1024} {
			b.Run(fmt.Sprintf("%s/%d", store, senders), func(b *testing.B) {
				var left atomic.Int64
				left.Store(int64(b.N))
				var all sync.WaitGroup
				b.ResetTimer()
				for i := range senders {
					all.Go(func() {
						r := rand.New(rand.NewPCG(uint64(b.N), uint64(i)))
						for left.Add(-1) >= 0 {
							proposes(b, leader, actor, newOp(r), &state.SendMessage{Target: state.ToRoom(room), Text: strings.Repeat("x", 200)})
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
			})
		}
	}
}

// sender makes an account with a session and a room.
func sender(b *testing.B, r *Replica) (state.Actor, uint64) {
	b.Helper()
	dice := rand.New(rand.NewPCG(1, 2))
	proposes(b, r, state.Actor{}, nil, &state.RaiseLevel{Level: state.CurrentLevel})
	a := proposes(b, r, state.Actor{}, newOp(dice), &state.RegisterAccount{Name: "alice", PasswordHash: "h"})
	s := proposes(b, r, state.Actor{}, nil, &state.CreateSession{Account: a.Account, TokenHash: bytes.Repeat([]byte{1}, 32), PasswordVersion: 1})
	actor := state.Actor{Account: a.Account, Session: s.Session}
	return actor, proposes(b, r, actor, newOp(dice), &state.CreateRoom{Name: "room"}).Room
}

// proposes fails the benchmark unless the command is carried out.
func proposes(b *testing.B, r *Replica, a state.Actor, op []byte, payload proto.Message) *state.Result {
	c, err := state.NewCommand(a, op, payload)
	if err != nil {
		b.Error(err)
		return &state.Result{}
	}
	res, err := r.Propose(b.Context(), c)
	if err == nil {
		err = state.Err(res)
	}
	if err != nil {
		b.Error(err)
		return &state.Result{}
	}
	return res
}
