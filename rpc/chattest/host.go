package chattest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/chat/rpc/client"
)

// stopTime is how long a host's server may take to stop gracefully once its node is drained.
const stopTime = time.Minute

// TestHost checks that chat keeps its word in a host's own wiring, which opts describe: WithServer makes the
// host's server, with its credentials, interceptors, limits and services, WithOptions the nodes' options,
// WithClient and WithLogin show how callers get in. A host calls it in a test of its own, in a bubble of
// testing/synctest or not; it takes some seconds there, and no parallel test may write to standard output.
//
// It checks that nodes form a cluster through the host's server, several in one process; that users reach
// each other over all of them, and a caller who is nobody reaches none; that a leader may be killed, and
// nothing is lost or doubled; that GracefulStop ends within a minute after Drain though streams are open;
// that nothing is printed, and flags, standard loggers, environment and working directory are as they were.
// The cluster's goroutines end with the test, or are named.
func TestHost(t testing.TB, opts ...Option) {
	t.Helper()
	before := globals(t)
	printed := capture(t)
	c := Start(t, 3, opts...)
	formed(c)
	chats(c)
	drains(c)
	if now := globals(t); now != before {
		t.Errorf("chattest: the process is not as it was: %s, and was %s", now, before)
	}
	if text := printed(); text != "" {
		t.Errorf("chattest: something was printed: %q", text)
	}
}

// formed waits until the nodes serve, and says what is likely when they do not.
func formed(c *Cluster) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for _, n := range c.Nodes {
		if err := n.Ready(ctx); err != nil {
			c.t.Fatalf("chattest: node %s: %v\nDo the server's interceptors let other nodes pass (chat.IsPeerMethod)? Does PeerTLS fit its credentials?\n%s", n.Name, err, c)
		}
	}
}

// chats has users write to each other at all nodes while the leader dies.
func chats(c *Cluster) {
	c.t.Helper()
	refused := false
	for _, err := range c.Dial().Rooms(c.t.Context()) {
		refused = err != nil
		break
	}
	if !refused {
		c.t.Error("chattest: a caller without a token sees rooms")
	}
	var clients []*client.Client
	for i, n := range c.Nodes {
		cl := c.Client(fmt.Sprintf("user%d", i+1))
		if err := cl.Prefer(n.Addr); err != nil {
			c.t.Fatal(err)
		}
		clients = append(clients, cl)
	}
	first := clients[0]
	room, err := first.CreateRoom(c.t.Context(), "chattest")
	if err != nil {
		c.t.Fatalf("chattest: create a room: %v", err)
	}
	var events []*client.Subscription
	for _, cl := range clients {
		if cl != first {
			if _, err := cl.JoinRoom(c.t.Context(), "chattest"); err != nil {
				c.t.Fatalf("chattest: join a room: %v", err)
			}
		}
		sub, err := cl.Subscribe(c.t.Context(), client.SubscribeOptions{})
		if err != nil {
			c.t.Fatalf("chattest: subscribe: %v", err)
		}
		events = append(events, sub)
	}
	var want []string
	say := func(round string) {
		c.t.Helper()
		for i, cl := range clients {
			text := fmt.Sprintf("%s, from %d", round, i+1)
			if _, err := cl.Send(c.t.Context(), client.ToRoom(room.ID), client.Draft{Text: text}); err != nil {
				c.t.Fatalf("chattest: send: %v", err)
			}
			want = append(want, text)
		}
	}
	say("all nodes there")
	dead := c.Leader()
	dead.Kill()
	say("the leader dead")
	dead.Restart()
	c.WaitStable()
	say("all nodes back")
	for i, sub := range events {
		if got := texts(c, sub, len(want)); !slices.Equal(got, want) {
			c.t.Errorf("chattest: user %d was told %q, want %q", i+1, got, want)
		}
	}
}

// texts are those of the next messages.
func texts(c *Cluster, sub *client.Subscription, n int) (texts []string) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for len(texts) < n {
		e, err := sub.Next(ctx)
		if err != nil {
			c.t.Errorf("chattest: the next event: %v", err)
			return texts
		}
		if e.Kind == client.MessageSent {
			texts = append(texts, e.Message.Text)
		}
	}
	return texts
}

// drains stops one node after the other while streams are open at it.
func drains(c *Cluster) {
	c.t.Helper()
	for _, n := range c.Nodes {
		sub, err := c.Client("user1", n).Subscribe(c.t.Context(), client.SubscribeOptions{})
		if err != nil {
			c.t.Fatalf("chattest: subscribe at %s: %v", n.Name, err)
		}
		defer func() { _ = sub.Close() }()
		late := time.AfterFunc(stopTime, func() {
			c.t.Errorf("chattest: %v after Drain, GracefulStop at %s has not returned: does a stream of the host's own stay open?", stopTime, n.Name)
			n.server.Stop()
		})
		n.Stop()
		late.Stop()
		if n != c.Nodes[len(c.Nodes)-1] {
			n.Restart()
			c.WaitStable()
		}
	}
}

// globals describes what a library leaves alone.
func globals(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	flags := 0
	flag.VisitAll(func(*flag.Flag) { flags++ })
	return fmt.Sprintf("directory %s, %d flags, log %q %d, environment %q", dir, flags, log.Prefix(), log.Flags(), strings.Join(os.Environ(), " "))
}

// capture takes what goes to standard output, standard error and the standard logger, until the function that
// it returns is called, or the test ends.
func capture(t testing.TB) func() string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "printed")
	if err != nil {
		t.Fatal(err)
	}
	out, errs, logs := os.Stdout, os.Stderr, log.Writer()
	os.Stdout, os.Stderr = f, f
	log.SetOutput(f)
	closed := false
	end := func() string {
		if closed {
			return ""
		}
		closed = true
		os.Stdout, os.Stderr = out, errs
		log.SetOutput(logs)
		text, err := os.ReadFile(f.Name())
		if err = errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
		return string(text)
	}
	t.Cleanup(func() { end() })
	return end
}
