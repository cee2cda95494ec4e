package chat_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// chats sends a message through each of some nodes, and sees it at each of all.
func chats(t *testing.T, c *chattest.Cluster, user *client.Client, nodes ...*chattest.Node) {
	t.Helper()
	for _, n := range nodes {
		text := fmt.Sprintf("by %s at %v", n.Name, time.Now().UnixNano())
		if err := user.Prefer(n.Addr); err != nil {
			t.Fatal(err)
		}
		if _, err := user.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: text}); err != nil {
			t.Fatalf("through %s: %v\n%s", n.Name, err, c)
		}
		for m, err := range user.History(t.Context(), client.ToUser("bob"), client.Query{Limit: 1}) {
			if err != nil || m.Text != text {
				t.Fatalf("at %s: got %q, %v", n.Name, m.Text, err)
			}
		}
	}
}

// TestMembership_FormsOnce: the nodes that form a cluster start in any order, far apart, and one of
// them cut off at first: there is one cluster, and none before all of them have met.
func TestMembership_FormsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 2, chattest.WithOptions(func(_ int, o *chat.Options) { o.BootstrapExpect = 3 }))
		time.Sleep(10 * time.Minute)
		for _, n := range c.Nodes {
			if s := n.Status(); s.ClusterID != "" || s.Ready || !strings.Contains(s.Detail, "2 of the 3 nodes") {
				t.Errorf("%s, one short: %+v", n.Name, s)
			}
		}
		third := c.Add(func(o *chat.Options) {
			o.BootstrapExpect = 3
			for _, n := range c.Nodes {
				c.Cut("n3", n.Name)
			}
		})
		time.Sleep(time.Minute)
		if s := third.Status(); s.ClusterID != "" {
			t.Errorf("alone: %+v", s)
		}
		c.Heal()
		c.WaitStable()
		for _, n := range c.Nodes {
			if s := n.Status(); s.ClusterID == "" || s.ClusterID != c.Nodes[0].Status().ClusterID || len(s.Servers) != 3 {
				t.Errorf("%s: %+v", n.Name, s)
			}
		}
		time.Sleep(3 * time.Minute) // the level goes up, and the states are compared
		for _, n := range c.Nodes {
			if s := n.Status(); s.Level < 2 || s.Verified == 0 || s.Alarm != "" {
				t.Errorf("%s after some minutes: %+v", n.Name, s)
			}
		}
	})
}

// TestMembership_JoinsOnly: a node that is told to join never goes on alone, and joins once somebody
// is there.
func TestMembership_JoinsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 0)
		joiner := c.Add(func(o *chat.Options) { o.NodeID, o.Seeds = "joiner", []string{"n2.sim:8443"} })
		time.Sleep(time.Hour)
		if s := joiner.Status(); s.ClusterID != "" || s.Role.String() != "outside" || s.Detail == "" {
			t.Errorf("after an hour: %+v", s)
		}
		c.Add(func(o *chat.Options) { o.BootstrapExpect, o.Seeds = 1, nil })
		c.WaitStable()
		c.Until("the newcomer votes", func() bool {
			s := joiner.Status().Servers
			return len(s) == 2 && s[0].Voter && s[1].Voter
		})
	})
}

// TestMembership_Grows: newcomers vote when they have caught up; of five, two may be lost; a sixth
// follows, and serves.
func TestMembership_Grows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		bob := c.Client("bob")
		alice := c.Client("alice")
		chats(t, c, alice, c.Nodes...)
		for range 3 {
			c.Add(nil)
			c.WaitStable()
		}
		voters := func() (n int) {
			for _, s := range c.Leader().Status().Servers {
				if s.Voter {
					n++
				}
			}
			return n
		}
		c.Until("five vote", func() bool { return voters() == 5 })
		time.Sleep(10 * time.Second)
		if n := voters(); n != 5 {
			t.Errorf("%d vote", n)
		}
		chats(t, c, alice, c.Nodes[5])
		var follower *chattest.Node
		for _, s := range c.Leader().Status().Servers {
			if !s.Voter {
				follower = c.Nodes[s.ID[1]-'1']
			}
		}
		lost := 0
		for _, n := range c.Nodes {
			if n != follower && lost < 2 {
				n.Kill()
				lost++
			}
		}
		chats(t, c, alice, follower)
		time.Sleep(3 * time.Minute) // gossip has long buried them
		if s := c.Leader().Status().Servers; len(s) != 6 {
			t.Errorf("a dead member was taken out: %v", s)
		}
		events, err := bob.Subscribe(t.Context(), client.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "live"}); err != nil {
			t.Fatal(err)
		}
		if e, err := events.Next(t.Context()); err != nil || e.Message.Text != "live" {
			t.Errorf("got %+v, %v", e, err)
		}
	})
}

// TestMembership_Wiped: a node that has lost its disk comes back under its name, without a vote until
// it has caught up, and nothing is lost. With a second node away it must not have made a majority.
func TestMembership_Wiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3, chattest.OnDisk())
		c.Client("bob")
		alice := c.Client("alice")
		chats(t, c, alice, c.Nodes...)
		wiped := c.Others(c.Leader())[0]
		wiped.Kill()
		if err := os.RemoveAll(wiped.Options.DataDir); err != nil {
			t.Fatal(err)
		}
		other := c.Others(wiped)[0]
		other.Kill()
		wiped.Restart()
		time.Sleep(time.Minute)
		if s := wiped.Status(); s.Ready || s.Applied > 0 {
			t.Errorf("one of two is left and one knows nothing: %+v", s)
		}
		other.Restart()
		c.WaitStable()
		c.Until("it votes again", func() bool {
			for _, s := range c.Leader().Status().Servers {
				if s.ID == wiped.Name {
					return s.Voter
				}
			}
			return false
		})
		c.WaitStable()
		chats(t, c, alice, c.Nodes...)
	})
}

// TestMembership_AllAtOnce: all nodes go down and start again: the same cluster, with everything in it.
func TestMembership_AllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		id := c.Nodes[0].Status().ClusterID
		c.Client("bob")
		alice := c.Client("alice")
		chats(t, c, alice, c.Nodes...)
		c.Leader().Stop() // hands over
		for _, n := range c.Nodes {
			if n.Node != nil {
				n.Kill()
			}
		}
		for _, n := range c.Nodes {
			n.Restart()
		}
		c.WaitStable()
		if got := c.Nodes[2].Status().ClusterID; got != id {
			t.Errorf("the cluster is %q, was %q", got, id)
		}
		n := 0
		for m, err := range alice.History(t.Context(), client.ToUser("bob"), client.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			n += min(1, len(m.Text))
		}
		if n != 3 {
			t.Errorf("%d messages are left", n)
		}
	})
}

// TestMembership_Moves: nodes come back at other addresses, all at once or some, while the places that they had
// take packets and answer nothing: a leader is found though raft's configuration has the old ones, and then the
// configuration is put right. A cluster of one, which nobody can ask, puts it right itself.
func TestMembership_Moves(t *testing.T) {
	for _, tt := range []struct{ nodes, moved int }{{1, 1}, {3, 1}, {3, 2}, {3, 3}} {
		t.Run(fmt.Sprintf("%d of %d", tt.moved, tt.nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := chattest.New(t, tt.nodes)
				c.Client("bob")
				chats(t, c, c.Client("alice"), c.Nodes...)
				moved := c.Nodes[tt.nodes-tt.moved:]
				for _, n := range moved {
					n.Kill()
				}
				time.Sleep(time.Minute)
				for _, n := range moved {
					n.Addr = "new-" + n.Addr
					n.Options.Advertise, n.Options.Dial = n.Addr, c.Dialer(n.Addr)
				}
				seeds := make([]string, tt.nodes)
				for i, n := range c.Nodes {
					seeds[i] = n.Addr
					for _, m := range moved {
						c.Cut(strings.TrimSuffix(n.Addr, ".sim:8443"), m.Name)
					}
				}
				for _, n := range moved {
					n.Options.Seeds = seeds
					n.Restart()
				}
				c.WaitStable()
				c.Until("the configuration is that of the new places", func() bool {
					for _, s := range c.Leader().Status().Servers {
						if s.Address != c.Nodes[s.ID[1]-'1'].Addr {
							return false
						}
					}
					return true
				})
				c.WaitStable()
				chats(t, c, c.Client("carol"), c.Nodes...)
			})
		})
	}
}

// TestMembership_MovedAlone: a node that has moved, and that nobody can be asked for, says where it looks for the others.
func TestMembership_MovedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		for _, n := range c.Nodes {
			n.Kill()
		}
		moved := c.Nodes[2]
		moved.Addr = "new-" + moved.Addr
		moved.Options.Advertise, moved.Options.Dial = moved.Addr, c.Dialer(moved.Addr)
		moved.Restart()
		time.Sleep(time.Minute)
		if s := moved.Status(); s.Ready || !strings.Contains(s.Detail, "seeds are n1.sim:8443 (") {
			t.Errorf("got %+v", s)
		}
	})
}

// TestMembership_Strangers: nodes of another name, or with another secret, do not mix, though they
// know each other's addresses.
func TestMembership_Strangers(t *testing.T) {
	for name, change := range map[string]func(*chat.Options){
		"another secret": func(o *chat.Options) { o.ClusterSecret = []byte(strings.Repeat("x", 32)) },
		"another name":   func(o *chat.Options) { o.ClusterName = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := chattest.New(t, 3)
				stranger := c.Add(change)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := stranger.Ready(ctx); err == nil {
					t.Error("it was taken in")
				}
				if s := stranger.Status(); s.ClusterID != "" || s.Detail == "" {
					t.Errorf("got %+v", s)
				}
				if s := c.Leader(stranger).Status(); len(s.Servers) != 3 {
					t.Errorf("got %+v", s.Servers)
				}
			})
		})
	}
}

// TestMembership_DrainsAlone: a cluster of one has nobody to hand over to, and drains all the same.
func TestMembership_DrainsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 1, chattest.WithOptions(func(_ int, o *chat.Options) { o.Seeds = nil }))
		c.WaitStable()
		c.Nodes[0].Stop()
	})
}
