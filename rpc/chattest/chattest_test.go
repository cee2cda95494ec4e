package chattest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// TestCluster_Bubble: leaders are killed, come back, and are cut off, in a bubble.
func TestCluster_Bubble(t *testing.T) {
	t.Run("memory", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { failovers(t) }) })
	t.Run("disk", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { failovers(t, OnDisk()) }) })
}

// TestCluster_RealTime: the same, outside of one.
func TestCluster_RealTime(t *testing.T) { failovers(t) }

// TestCluster_PowerCut: all nodes are killed at once, and have what was acknowledged when they come back.
func TestCluster_PowerCut(t *testing.T) {
	for _, store := range []chat.LogStore{chat.LogStorePebble, chat.LogStoreBolt} {
		t.Run(string(store), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(t, 3, WithOptions(func(_ int, o *chat.Options) { o.LogStore = store }))
				alice := c.Client("alice")
				for round := range 3 {
					if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: fmt.Sprint(round)}); err != nil {
						t.Fatal(err)
					}
					for _, n := range c.Nodes {
						n.Kill()
					}
					for _, n := range c.Nodes {
						n.Restart()
					}
					c.WaitStable()
				}
				var got []string
				for m, err := range alice.History(t.Context(), client.ToUser("alice"), client.Query{}) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, m.Text)
				}
				if want := []string{"2", "1", "0"}; !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// TestCluster_Disks: nodes have files when the test says so, for all or for one, and none otherwise.
func TestCluster_Disks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := filepath.Join(t.TempDir(), "own")
		c := New(t, 1, WithOptions(alone), WithOptions(func(_ int, o *chat.Options) { o.DataDir = own }))
		other := New(t, 1, WithOptions(alone), OnDisk())
		memory := New(t, 1, WithOptions(alone))
		for _, n := range []*Node{c.Nodes[0], other.Nodes[0]} {
			if _, err := os.Stat(filepath.Join(n.Options.DataDir, "node.json")); err != nil {
				t.Error(err)
			}
		}
		if dir := memory.Nodes[0].Options.DataDir; dir != "" {
			t.Errorf("a node in memory has directory %q", dir)
		}
	})
}

func failovers(t *testing.T, opts ...Option) {
	c := New(t, 3, opts...)
	alice := c.Client("alice")
	var want []string
	send := func() {
		t.Helper()
		text := fmt.Sprint("message ", len(want))
		if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: text}); err != nil {
			t.Fatal(err)
		}
		want = append(want, text)
	}
	send()
	first := c.Leader()
	first.Kill()
	send()
	first.Restart()
	c.WaitStable()
	second := c.Leader()
	c.Isolate(second)
	third := c.Leader(second)
	send()
	c.Heal()
	c.WaitStable()
	third.Stop()
	send()
	third.Restart()
	c.WaitStable()
	for _, n := range c.Nodes { // the same user again, at one node
		var got []string
		for m, err := range c.Client("alice", n).History(t.Context(), client.ToUser("alice"), client.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, m.Text)
		}
		if slices.Reverse(got); !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", n.Name, got, want)
		}
	}
}

// told is a test that has failed, to be looked at by another.
type told struct {
	testing.TB
	errors []string
}

func (t *told) Errorf(format string, args ...any) {
	t.errors = append(t.errors, fmt.Sprintf(format, args...))
}
func (t *told) Cleanup(func()) {}

// TestCluster_Leaks: a goroutine that a cluster leaves running fails its test, and is named.
func TestCluster_Leaks(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	outer := &told{TB: t}
	c := Start(outer, 1, WithOptions(alone), WithServer(func(*chat.Node) *grpc.Server {
		go leaked(end)
		return grpc.NewServer()
	}))
	c.grace = 100 * time.Millisecond
	c.WaitStable()
	c.stop()
	if len(outer.errors) != 1 || !strings.Contains(outer.errors[0], "chattest.leaked") {
		t.Errorf("got %q", outer.errors)
	}
}

func leaked(end <-chan struct{}) { <-end }

// TestCluster_Options: the host's own server and options are used.
func TestCluster_Options(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := New(t, 1, WithOptions(alone), WithServer(func(*chat.Node) *grpc.Server {
			return grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				calls++
				return next(ctx, r)
			}))
		}))
		c.Client("alice")
		if id := c.Leader().Status().NodeID; id != "other" || calls == 0 {
			t.Errorf("node %q, %d calls were seen", id, calls)
		}
	})
}

func alone(_ int, o *chat.Options) { o.NodeID, o.Seeds = "other", nil }
