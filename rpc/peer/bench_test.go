package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
)

// BenchmarkRaft_AppendEntries is one call of raft from node to node over loopback, whose other end answers at
// once: a heartbeat, an entry of 300 bytes, and one of 256 KiB. Processor time counts both nodes.
func BenchmarkRaft_AppendEntries(b *testing.B) {
	entry := func(size int) *raft.AppendEntriesRequest {
		req := heartbeat()
		req.PrevLogEntry, req.PrevLogTerm = 7, 2
		req.Entries = []*raft.Log{{Index: 8, Term: 3, Data: make([]byte, size)}}
		return req
	}
	for name, req := range map[string]*raft.AppendEntriesRequest{"heartbeat": heartbeat(), "entry": entry(300), "large": entry(256 << 10)} {
		b.Run(name, func(b *testing.B) {
			a, addr := overLoopback(b)
			var resp raft.AppendEntriesResponse
			call := func() {
				if err := a.AppendEntries("b", raft.ServerAddress(addr), req, &resp); err != nil {
					b.Fatal(err)
				}
			}
			call() // dials
			before := processorTime(b)
			for b.Loop() {
				call()
			}
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/1e3, "cpu-us/op")
		})
	}
}

// BenchmarkRaft_InstallSnapshot is the way of a MiB of a snapshot, of 64, from node to node over loopback, without the disks
// of both. Processor time counts both nodes.
func BenchmarkRaft_InstallSnapshot(b *testing.B) {
	const size, block = 64 << 20, 256 << 10
	a, addr := overLoopback(b)
	before := processorTime(b)
	b.SetBytes(size)
	for b.Loop() {
		var resp raft.InstallSnapshotResponse
		req := &raft.InstallSnapshotRequest{RPCHeader: heartbeat().RPCHeader, SnapshotVersion: raft.SnapshotVersionMax, Term: 3, Leader: []byte("a"), LastLogIndex: 8, LastLogTerm: 2, ConfigurationIndex: 1, Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a:1"}}}), Size: size}
		if err := a.InstallSnapshot("b", raft.ServerAddress(addr), req, &resp, blocks{size, block}); err != nil || !resp.Success {
			b.Fatal(err, resp)
		}
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N)/1e3/(size>>20), "cpu-us/MiB")
}

// blocks is a snapshot that is written by WriteTo, as fsm's is.
type blocks struct{ size, block int }

func (s blocks) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (s blocks) WriteTo(w io.Writer) (int64, error) {
	n, block := int64(0), make([]byte, s.block)
	for range s.size / s.block {
		m, err := w.Write(block)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// overLoopback is the transport of node a, and the address of node b, which takes everything.
func overLoopback(b *testing.B) (*Raft, string) {
	var made []*Raft
	var addrs []string
	for _, id := range []string{"a", "b"} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		x := NewTunnels(options(id, func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
		host := grpc.NewServer()
		x.Register(host)
		go func() { _ = host.Serve(lis) }() // ends with Stop
		r := NewRaft(x, lis.Addr().String(), nowhere, 300*time.Millisecond, hclog.NewNullLogger())
		b.Cleanup(func() {
			_ = r.Close()
			_ = x.Close()
			host.Stop()
		})
		made, addrs = append(made, r), append(addrs, lis.Addr().String())
	}
	go func() {
		for {
			select {
			case rpc := <-made[1].Consumer():
				if rpc.Reader == nil {
					rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
				} else {
					_, err := io.Copy(io.Discard, rpc.Reader)
					rpc.Respond(&raft.InstallSnapshotResponse{Success: err == nil}, err)
				}
			case <-b.Context().Done():
				return
			}
		}
	}()
	return made[0], addrs[1]
}

// processorTime is what this process has used of the processors, in nanoseconds.
func processorTime(b *testing.B) int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
