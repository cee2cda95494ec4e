//go:build linux

// Package faulttest has faults of real disks under real nodes.
package faulttest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/grpc"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// patience is how long anything may take: nothing here depends on how fast the machine is.
const patience = time.Minute

// volume is a file system of its own, on a loop device.
type volume struct{ device, dir string }

// run runs a command as root.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// newVolume makes an ext4 of 64 MiB. The test is skipped where that cannot be.
func newVolume(t *testing.T) *volume {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("it takes root to mount a file system")
	}
	for _, tool := range []string{"mkfs.ext4", "losetup", "mount", "umount", "fsfreeze"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s", tool)
		}
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	out, err := exec.Command("losetup", "--show", "-f", image).CombinedOutput()
	if err != nil {
		t.Skipf("there are no loop devices here: %s", out)
	}
	v := &volume{strings.TrimSpace(string(out)), dir}
	t.Cleanup(func() { run(t, "losetup", "-d", v.device) })
	run(t, "mount", "-o", "errors=remount-ro", v.device, dir)
	t.Cleanup(func() { run(t, "umount", "-l", dir) })
	return v
}

// member is a node on a server of its own.
type member struct {
	*chat.Node
	volume *volume
	server *grpc.Server
	addr   string
}

// newCluster starts three nodes, each on a volume of its own.
func newCluster(t *testing.T) (members []*member) {
	t.Helper()
	var listeners []net.Listener
	var seeds []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, seeds = append(listeners, l), append(seeds, l.Addr().String())
	}
	for i, l := range listeners {
		v := newVolume(t)
		n, err := chat.New(chat.Options{
			NodeID: fmt.Sprint("n", i+1), DataDir: filepath.Join(v.dir, "data"), Advertise: seeds[i], Seeds: seeds, BootstrapExpect: 3,
			ClusterSecret: bytes.Repeat([]byte("s"), 32), DiskTimeout: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		m := &member{n, v, grpc.NewServer(), seeds[i]}
		n.Register(m.server)
		go func() { _ = m.server.Serve(l) }()
		t.Cleanup(func() {
			m.server.Stop()
			_ = m.Close() // a disk that has failed says so here, too
		})
		members = append(members, m)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, m := range members {
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range members {
		if err := m.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return members
}

// pick is a node that leads, or one that does not.
func pick(t *testing.T, members []*member, leads bool) *member {
	t.Helper()
	for start := time.Now(); time.Since(start) < patience; time.Sleep(10 * time.Millisecond) {
		for _, m := range members {
			if s := m.Status(); s.Leader != "" && (s.Role.String() == "leader") == leads {
				return m
			}
		}
	}
	t.Fatalf("no node leads: %v", leads)
	return nil
}

// TestDisk breaks the disk of a leader, and of a follower, in four ways, while a client sends: the node
// is given up and says why, its streams end, the others go on, and everything that was acknowledged is there once.
func TestDisk(t *testing.T) {
	for name, does := range map[string]func(*testing.T, *volume) (mend func()){
		"full": fill, "read-only": abort, "gone": shutDown, "stalled": freeze,
	} {
		for _, leads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, leader %v", name, leads), func(t *testing.T) {
				t.Parallel()
				members := newCluster(t)
				victim := pick(t, members, leads)
				var others []string
				for _, m := range members {
					if m != victim {
						others = append(others, m.addr)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				c, err := client.Dial(ctx, others)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }() // only the test's
				room := enter(ctx, t, c)
				lost := listen(ctx, t, victim.addr, c.Token())
				mend := does(t, victim.volume)
				defer mend()
				start, longest, sent := time.Now(), time.Duration(0), 0
				for more := 20; more > 0; sent++ {
					begun := time.Now()
					if _, err := c.Send(ctx, client.ToRoom(room), client.Draft{Text: text(sent)}); err != nil {
						t.Fatal(err)
					}
					longest = max(longest, time.Since(begun))
					select {
					case <-victim.Done():
						more--
					case <-ctx.Done():
						t.Fatal("the node has not noticed")
					default:
					}
				}
				select {
				case <-lost:
				case <-time.After(patience):
					t.Error("its streams have not ended")
				}
				t.Logf("%d messages in %v, longest wait %v: %v", sent, time.Since(start).Round(time.Millisecond), longest.Round(time.Millisecond), victim.Err())
				n := 0
				for m, err := range c.History(ctx, client.ToRoom(room), client.Query{}) {
					if err != nil {
						t.Fatal(err)
					}
					if n++; m.Text != text(sent-n) { // the newest first
						t.Fatalf("message %d is %.20q", n, m.Text)
					}
				}
				if n != sent {
					t.Errorf("there are %d messages, %d were acknowledged", n, sent)
				}
			})
		}
	}
}

// text is that of a message: a long one, for raft's log has the room for some megabytes before it finds
// that a volume is full.
func text(i int) string { return fmt.Sprintf("%d%8000s", i, "") }

// enter makes a user and a room.
func enter(ctx context.Context, t *testing.T, c *client.Client) (room string) {
	t.Helper()
	if _, err := c.Register(ctx, "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login(ctx, "alice", "correct horse"); err != nil {
		t.Fatal(err)
	}
	r, err := c.CreateRoom(ctx, "room")
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// listen subscribes at one node alone, until the test ends; lost is closed when that node has ended the stream.
func listen(ctx context.Context, t *testing.T, addr, token string) (lost chan struct{}) {
	t.Helper()
	c, err := client.Dial(ctx, []string{addr}, client.WithToken(token), client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // only the test's
	lost = make(chan struct{})
	end := sync.OnceFunc(func() { close(lost) })
	sub, err := c.Subscribe(ctx, client.SubscribeOptions{OnLive: func(live bool) {
		if !live {
			end()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the client
		for {
			if _, err := sub.Next(ctx); err != nil {
				return
			}
		}
	}()
	return lost
}

// fill leaves no room on a volume.
func fill(t *testing.T, v *volume) func() {
	f, err := os.Create(filepath.Join(v.dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	_ = f.Close() // there is no room
	return func() {}
}

// abort makes a volume read-only under those who write, as ext4 does when it finds damage.
func abort(_ *testing.T, v *volume) func() {
	_ = exec.Command("mount", "-o", "remount,abort", v.dir).Run() // whatever it answers, it is read-only
	return func() {}
}

// shutDown has every write and every fsync fail from now on (EXT4_IOC_SHUTDOWN, without the log).
func shutDown(t *testing.T, v *volume) func() {
	d, err := os.Open(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }() // only read
	how := uint32(2)
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, d.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&how))); e != 0 {
		t.Skipf("this ext4 cannot be shut down: %v", e)
	}
	return func() {}
}

// freeze has every write wait.
func freeze(t *testing.T, v *volume) func() {
	run(t, "fsfreeze", "-f", v.dir)
	return sync.OnceFunc(func() { run(t, "fsfreeze", "-u", v.dir) })
}
