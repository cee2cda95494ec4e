package chat_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// TestCluster_PartitionAndHeal: register, send, isolate the leader, send on, heal two minutes later.
func TestCluster_PartitionAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 3)
		start := time.Now()
		c.WaitStable()
		t.Logf("ready after %v", time.Since(start))
		alice, bob := c.Client("alice"), c.Client("bob")
		sub, err := bob.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		for i := range 20 {
			if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: fmt.Sprintf("message %d", i+1)}); err != nil {
				t.Fatal(err)
			}
		}
		leader := c.Leader()
		c.Isolate(leader)
		start = time.Now()
		next := c.Leader(leader)
		t.Logf("new leader after %v", time.Since(start))
		for i := 20; i < 40; i++ {
			if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: fmt.Sprintf("message %d", i+1)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		c.Heal()
		t.Logf("converged after %v", c.Until("the old leader follows", func() bool {
			return leader.Status().Leader == next.Name && leader.Status().Applied == next.Status().Applied
		}))
		c.WaitStable()
		for i := range 40 {
			e, err := sub.Next(t.Context())
			for err == nil && e.Kind != client.MessageSent {
				e, err = sub.Next(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("message %d", i+1); e.Message.Text != want || e.Message.Seq != uint64(i+1) {
				t.Fatalf("got %d %q, want %q", e.Message.Seq, e.Message.Text, want)
			}
		}
	})
}
