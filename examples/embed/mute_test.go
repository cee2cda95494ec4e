package main

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
)

// TestNewServer_Mute: somebody who opens a connection and says nothing does not hold the shop's end up.
func TestNewServer_Mute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := newUsers()
		c := chattest.New(t, 1,
			chattest.WithOptions(func(_ int, o *chat.Options) { o.Seeds = nil }),
			chattest.WithServer(func(n *chat.Node) *grpc.Server { return newServer(users, &desk{node: n}, n) }))
		mute, err := c.Dialer("mute")(t.Context(), c.Nodes[0].Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = mute.Close() }()
		synctest.Wait()
		start := time.Now()
		c.Nodes[0].Stop()
		if took := time.Since(start); took > 2*greetTime {
			t.Errorf("it took %v", took)
		}
	})
}
