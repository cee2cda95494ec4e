package chat_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// TestReplay: the directories of all nodes come to the same state as the running nodes had, whether they were
// stopped or died with what was only in memory.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3, chattest.OnDisk())
		alice := c.Client("alice")
		c.Client("bob")
		for i := range 40 {
			if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Minute) // until the states were compared, and nothing goes on
		var first chat.Replayed
		for i, n := range c.Nodes {
			died := filepath.Join(t.TempDir(), "died")
			if err := os.CopyFS(died, os.DirFS(n.Options.DataDir)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(died, 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := chat.Replay(n.Options.DataDir); !errors.Is(err, chat.ErrDataDirInUse) {
				t.Errorf("of a running node: %v", err)
			}
			applied := n.Status().Applied
			n.Stop()
			for _, dir := range []string{died, n.Options.DataDir} {
				r, err := chat.Replay(dir)
				if err != nil {
					t.Fatal(err)
				}
				if r.To != applied || r.Hash == 0 || r.Level < 2 {
					t.Errorf("%s: %+v, want entry %d", dir, r, applied)
				}
				if dir == died && r.From >= r.To {
					t.Errorf("nothing was replayed: %+v", r)
				}
				if r.From = 0; i == 0 && dir == died {
					first = r
				}
				if r != first {
					t.Errorf("%s: %+v, another %+v", dir, r, first)
				}
			}
		}
		if _, err := chat.Replay(t.TempDir()); err == nil {
			t.Error("an empty directory is none of a node")
		}
	})
}
