package replica

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/node"
	"example.com/chat/rpc/peer"
)

// realNodes are n nodes on loopback connections and on disks that are synced, and the one that leads.
func realNodes(b *testing.B, n int, store LogStore) (all []*Replica, leader *Replica) {
	b.Helper()
	var c node.Cluster
	lis := make([]net.Listener, n)
	for i := range lis {
		var err error
		if lis[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			b.Fatal(err)
		}
		c.Servers = append(c.Servers, node.Info{ID: fmt.Sprint("n", i), Address: lis[i].Addr().String()})
	}
	c.ID = "bench"
	dir := b.TempDir()
	for i, s := range c.Servers {
		all = append(all, realNode(b, filepath.Join(dir, s.ID), c, s, lis[i], store))
	}
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Millisecond) {
		for _, r := range all {
			if r.Leading() && r.Formed() {
				return all, r
			}
		}
	}
	b.Fatal("nobody leads")
	return nil, nil
}

func realNode(b *testing.B, path string, c node.Cluster, self node.Info, lis net.Listener, store LogStore) *Replica {
	b.Helper()
	dir, err := OpenDir(path, self.ID, store)
	if err != nil {
		b.Fatal(err)
	}
	if err := dir.Adopt(c); err != nil {
		b.Fatal(err)
	}
	var r *Replica
	f, err := fsm.Open(fsm.Options{
		Dir: dir.StateDir(), Logger: zap.NewNop(), Skipped: func() {}, Publish: func([]state.Event) {}, Fault: func(err error) { r.Fail(err) },
	})
	if err != nil {
		b.Fatal(err)
	}
	tunnels := peer.NewTunnels(peer.Options{
		ID: self.ID, Cluster: c.ID, ClusterID: func() string { return c.ID }, Secret: bytes.Repeat([]byte("s"), 32), Logger: zap.NewNop(),
	})
	calls := peer.NewCalls(tunnels)
	const heartbeat = 300 * time.Millisecond
	r = New(Options{
		NodeID: self.ID, Dir: dir, FSM: f, Peers: calls, Logger: zap.NewNop(), Heartbeat: heartbeat, ProposeTimeout: 10 * time.Second,
		Transport: func() Transport {
			return peer.NewRaft(tunnels, self.Address, nowhere, heartbeat, hclog.NewNullLogger())
		},
		MaxPending: 4096, MaxPendingBytes: 4 << 20, DiskTimeout: 10 * time.Second, Failed: func() {},
	})
	server := grpc.NewServer()
	tunnels.Register(server)
	go func() { _ = server.Serve(lis) }()
	calls.Serve(r, unasked{})
	if err := r.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = r.Close()
		_ = calls.Stop()
		_ = tunnels.Close()
		server.Stop()
		if err := f.Close(); err != nil {
			b.Error(err)
		}
		if err := dir.Close(); err != nil {
			b.Error(err)
		}
	})
	return r
}

// BenchmarkLinearizable compares what a read at the leader of three costs, with n readers at a time, by
// questions to the voters and by a barrier, which is an entry that a majority writes and syncs.
func BenchmarkLinearizable(b *testing.B) {
	_, leader := realNodes(b, 3, "")
	barrier := flight{spawn: leader.spawn, run: func() (uint64, error) {
		err := leader.wait(leader.raft.Load(), leader.raft.Load().Barrier(0))
		return leader.Applied(), err
	}}
	ways := map[string]func(context.Context) error{
		"read-index": leader.Linearizable,
		"barrier": func(ctx context.Context) error {
			_, err := barrier.join(ctx)
			return err
		},
	}
	for _, way := range []string{"read-index", "barrier"} {
		for _, readers := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/%d", way, readers), func(b *testing.B) {
				var left atomic.Int64
				left.Store(int64(b.N))
				var all sync.WaitGroup
				b.ResetTimer()
				for range readers {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if err := ways[way](b.Context()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
				b.ReportMetric(float64(b.Elapsed().Microseconds())*float64(readers)/float64(b.N), "us/read")
			})
		}
	}
}
