package chat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// backedUp is a cluster with a conversation of so many messages, and a backup of it, from another process's
// view.
func backedUp(t *testing.T, messages int) (*chattest.Cluster, *bytes.Buffer) {
	t.Helper()
	c := chattest.New(t, 3)
	alice := c.Client("alice")
	c.Client("bob")
	for i := range messages {
		if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: fmt.Sprint("message ", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	o := chat.BackupOptions{Address: c.Nodes[1].Addr, ClusterSecret: c.Nodes[1].Options.ClusterSecret, Dial: c.Dialer("operator")}
	if err := chat.Backup(t.Context(), o, &b); err != nil {
		t.Fatal(err)
	}
	return c, &b
}

// restored is a cluster of one node in a directory, on an address of the network.
func restored(t *testing.T, c *chattest.Cluster, dir, id string) *chattest.Node {
	t.Helper()
	return c.Add(func(o *chat.Options) {
		o.NodeID, o.DataDir = id, dir
		o.Seeds, o.BootstrapExpect = []string{o.Advertise}, 1
	})
}

// history reads what alice and bob said to each other, as one of them.
func history(t *testing.T, cl *client.Client, with string) (texts []string) {
	t.Helper()
	for m, err := range cl.History(t.Context(), client.ToUser(with), client.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, m.Text)
	}
	return texts
}

// TestBackup_Restore: a backup that is taken by another process while messages are sent is a prefix of what was
// said, and a new cluster goes on from it. Sessions have ended, and the old cluster's cursors are refused.
func TestBackup_Restore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := backedUp(t, 30)
		file := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := chat.Verify(file)
		if err != nil || !v.Backup || v.ClusterID != c.Nodes[0].Status().ClusterID || v.Records == 0 || v.Applied == 0 {
			t.Errorf("verify: %+v, %v", v, err)
		}
		if left, _ := filepath.Glob(file + "*"); len(left) != 1 {
			t.Errorf("left are %v", left)
		}
		dir := filepath.Join(t.TempDir(), "restored")
		ro := chat.RestoreOptions{NodeID: "r1", DataDir: dir, Advertise: "n4.sim:8443"}
		if err := chat.Restore(bytes.NewReader(b.Bytes()), ro); err != nil {
			t.Fatal(err)
		}
		if v, err := chat.Verify(dir); err != nil || v.NodeID != "r1" || v.ClusterID == c.Nodes[0].Status().ClusterID {
			t.Errorf("verify: %+v, %v", v, err)
		}
		if err := chat.Restore(bytes.NewReader(b.Bytes()), ro); !errors.Is(err, fs.ErrExist) {
			t.Errorf("into a directory with something in it: %v", err)
		}
		n := restored(t, c, dir, "r1")
		if err := n.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob := c.Dial(n)
		if _, err := bob.Login(t.Context(), "bob", chattest.Password); err != nil {
			t.Fatal(err)
		}
		texts := history(t, bob, "alice")
		for i, text := range texts {
			if text != fmt.Sprint("message ", 30-i) { // the newest first
				t.Errorf("%d: %q", i, text)
			}
		}
		if len(texts) != 30 {
			t.Errorf("%d messages", len(texts))
		}
		r, err := bob.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "on"})
		if err != nil || r.Seq != 31 {
			t.Errorf("got %+v, %v", r, err)
		}
		second := c.Add(func(o *chat.Options) { o.NodeID, o.Seeds, o.BootstrapExpect = "r2", []string{n.Addr}, 0 })
		if err := second.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if a, b := n.Status(), second.Status(); a.ClusterID != b.ClusterID || a.Applied != b.Applied || len(b.Servers) != 2 || b.Verified == 0 {
			t.Errorf("%+v, %+v", a, b)
		}
	})
}

// TestBackup_Acknowledged: a backup from any node has what was acknowledged before, also from one that has yet
// to hear that it is committed; and a node that reaches no leader backs up what it has.
func TestBackup_Acknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		alice := c.Client("alice")
		size := func(n *chattest.Node) uint64 {
			var b bytes.Buffer
			if err := n.Backup(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "backup")
			if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := chat.Verify(file)
			if err != nil {
				t.Fatal(err)
			}
			return v.Applied
		}
		last := uint64(0)
		for _, n := range c.Nodes {
			if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: "x"}); err != nil {
				t.Fatal(err)
			}
			leader := c.Leader().Status().Applied
			if last = size(n); last < leader {
				t.Errorf("the backup of %s ends at entry %d, and entry %d was acknowledged", n.Options.NodeID, last, leader)
			}
		}
		for _, n := range c.Nodes[1:] {
			n.Stop()
		}
		if got := size(c.Nodes[0]); got < last {
			t.Errorf("alone: the backup ends at entry %d", got)
		}
	})
}

// TestMoveLog: a node whose log was moved goes on where it was, and one whose log is elsewhere says so.
func TestMoveLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3, chattest.OnDisk())
		alice, n := c.Client("alice"), c.Nodes[0]
		for _, to := range []chat.LogStore{chat.LogStoreBolt, chat.LogStorePebble} {
			if err := chat.MoveLog(n.Options.DataDir, to); !errors.Is(err, chat.ErrDataDirInUse) {
				t.Errorf("while the node runs: %v", err)
			}
			n.Stop()
			if err := chat.MoveLog(n.Options.DataDir, to); err != nil {
				t.Fatal(err)
			}
			wrong := n.Options
			wrong.LogStore = map[chat.LogStore]chat.LogStore{chat.LogStoreBolt: chat.LogStorePebble, chat.LogStorePebble: chat.LogStoreBolt}[to]
			if _, err := chat.New(wrong); err == nil || !strings.Contains(err.Error(), "has its log in "+string(to)) {
				t.Errorf("with another store: %v", err)
			}
			n.Restart()
			if err := n.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := alice.Send(t.Context(), client.ToUser("alice"), client.Draft{Text: string(to)}); err != nil {
				t.Fatal(err)
			}
		}
		c.WaitStable()
	})
}

// TestBackup_Refused: who does not know the secret gets nothing.
func TestBackup_Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3)
		var b bytes.Buffer
		for _, secret := range []string{"", strings.Repeat("x", 32)} {
			o := chat.BackupOptions{Address: c.Nodes[0].Addr, ClusterSecret: []byte(secret), Dial: c.Dialer("operator")}
			if err := chat.Backup(t.Context(), o, &b); err == nil || b.Len() > 0 {
				t.Errorf("with the secret %q: %d bytes, %v", secret, b.Len(), err)
			}
		}
	})
}

// TestBackup_Damaged: whatever bit of a backup flips, and wherever it ends, nothing is made of it.
func TestBackup_Damaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := backedUp(t, 3)
		dir := t.TempDir()
		file, to := filepath.Join(dir, "backup"), filepath.Join(dir, "restored")
		for at := 0; at < b.Len(); at += 1 + b.Len()/40 {
			flipped := bytes.Clone(b.Bytes())
			flipped[at] ^= 1
			for _, bad := range [][]byte{flipped, b.Bytes()[:at]} {
				if err := os.WriteFile(file, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := chat.Verify(file); !errors.Is(err, chat.ErrCorrupt) && !errors.Is(err, chat.ErrUpgradeNeeded) || !strings.Contains(err.Error(), file) {
					t.Errorf("at %d, verify: %v", at, err)
				}
				if err := chat.Restore(bytes.NewReader(bad), chat.RestoreOptions{NodeID: "r1", DataDir: to, Advertise: "r:1"}); err == nil {
					t.Errorf("at %d: restored", at)
				}
				if left, _ := os.ReadDir(dir); len(left) != 1 {
					t.Fatalf("at %d: left are %v", at, left)
				}
			}
		}
	})
}

// TestRecover: of three nodes two are lost. The third one refuses to be recovered while another one answers, and
// while nobody confirms; then it is a cluster of its own with everything it had, and others join it. The old
// cluster cannot come back into it.
func TestRecover(t *testing.T) {
	var dir, lost string
	dirs := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := chattest.New(t, 3, chattest.OnDisk())
		alice := c.Client("alice")
		c.Client("bob")
		for i := range 20 {
			if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for i, n := range c.Nodes {
			n.Stop()
			to := filepath.Join(dirs, n.Name)
			if err := errors.Join(os.CopyFS(to, os.DirFS(n.Options.DataDir)), os.Chmod(to, 0o700)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				dir = to
			} else {
				lost = to
			}
		}
	})
	stop := errors.New("no")
	r, err := chat.Recover(t.Context(), dir, func(r chat.Recovery) error { return stop })
	if !errors.Is(err, stop) || r.NodeID != "n1" || len(r.Lost) != 2 || r.Last == 0 || r.NewClusterID == r.ClusterID {
		t.Errorf("%+v, %v", r, err)
	}
	if left, _ := os.ReadDir(dirs); len(left) != 3 {
		t.Errorf("left are %v", left)
	}
	r, err = chat.Recover(t.Context(), dir, func(chat.Recovery) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if v, err := chat.Verify(dir); err != nil || v.ClusterID != r.NewClusterID || v.NodeID != "n1" {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := chat.Verify(r.Aside); err != nil || v.ClusterID != r.ClusterID {
		t.Errorf("aside: %+v, %v", v, err)
	}
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 0)
		n := c.Add(func(o *chat.Options) { o.DataDir, o.BootstrapExpect = dir, 3 })
		if err := n.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := c.Add(func(o *chat.Options) { o.NodeID, o.DataDir, o.BootstrapExpect = "n3", lost, 3 })
		third := c.Add(func(o *chat.Options) { o.NodeID, o.BootstrapExpect = "n4", 0 })
		if err := third.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice := c.Dial(n, third)
		if _, err := alice.Login(t.Context(), "alice", chattest.Password); err != nil {
			t.Fatal(err)
		}
		if _, err := alice.Send(t.Context(), client.ToUser("bob"), client.Draft{Text: "on"}); err != nil {
			t.Fatal(err)
		}
		if texts := history(t, alice, "bob"); len(texts) != 21 || texts[0] != "on" {
			t.Errorf("got %q", texts)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := old.Ready(ctx); err == nil {
			t.Error("a node of the old cluster is ready")
		}
		if s := n.Status(); len(s.Servers) != 2 {
			t.Errorf("%+v", s)
		}
	})
}
