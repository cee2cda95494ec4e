package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"example.com/chat/internal/simnet"
)

// raftPair is node a's transport, and b's, on hosts' servers of default options.
type raftPair struct {
	n                  *simnet.Net
	aTunnels, bTunnels *Tunnels
	a, b               *Raft
	where              map[string]string // where nodes are, beside the addresses that a call has
	serve              func(raft.RPC)    // what b's raft does with a call; called one at a time, as raft would
}

func newRaftPair(t testing.TB, wrap func(i int, c net.Conn) net.Conn) *raftPair {
	t.Helper()
	n := simnet.New(time.Millisecond)
	p := &raftPair{n: n, where: map[string]string{}, serve: func(rpc raft.RPC) { rpc.Respond(nil, errors.New("not expected")) }}
	where := func(node string) (addr string, ok bool) {
		addr, ok = p.where[node]
		return addr, ok
	}
	make1 := func(id string) (*Tunnels, *Raft) {
		dials := 0
		x := NewTunnels(options(id, func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := n.Dialer(id)(ctx, addr)
			if err == nil && wrap != nil && id == "a" {
				dials++
				c = wrap(dials, c)
			}
			return c, err
		}))
		host := grpc.NewServer()
		x.Register(host)
		lis := n.Listen(id)
		go func() { _ = host.Serve(lis) }()
		t.Cleanup(func() {
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			host.GracefulStop()
		})
		r := NewRaft(x, id, where, 300*time.Millisecond, hclog.NewNullLogger())
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute) // the accept loop of NetworkTransport pauses before it looks
		})
		return x, r
	}
	p.aTunnels, p.a = make1("a")
	p.bTunnels, p.b = make1("b")
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case rpc := <-p.b.Consumer():
				p.serve(rpc)
			case <-stop:
				return
			}
		}
	}()
	return p
}

// nowhere is for nodes that stay where raft's configuration has them.
func nowhere(string) (string, bool) { return "", false }

var fromA = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a"), Addr: []byte("a")}

func heartbeat() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: fromA, Term: 3, Leader: []byte("a")}
}

// entries are more than a gRPC server with default options takes in one message.
func entries() *raft.AppendEntriesRequest {
	r := heartbeat()
	r.PrevLogEntry, r.PrevLogTerm, r.LeaderCommitIndex = 7, 2, 6
	for i := range 64 {
		r.Entries = append(r.Entries, &raft.Log{
			Index: uint64(8 + i), Term: 3, Data: bytes.Repeat([]byte{byte(i)}, 128<<10), Extensions: []byte("sum"), AppendedAt: time.Now().UTC(),
		})
	}
	return r
}

func snapshot(size int) *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{
		RPCHeader: fromA, SnapshotVersion: 1, Term: 3, Leader: []byte("a"), LastLogIndex: 7, LastLogTerm: 2, Size: int64(size),
		Configuration:      raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}, {ID: "b", Address: "b"}}}),
		ConfigurationIndex: 1,
	}
}

// TestRaft_Calls: every call of raft arrives as it was sent, whatever its size, and so does the
// answer; an error keeps its text.
func TestRaft_Calls(t *testing.T) {
	for name, tt := range map[string]struct {
		req, resp any
		call      func(r *Raft, req any) (resp any, err error)
	}{
		"heartbeat": {heartbeat(), &raft.AppendEntriesResponse{RPCHeader: fromA, Term: 3, LastLog: 9, Success: true}, callAppend},
		"entries":   {entries(), &raft.AppendEntriesResponse{RPCHeader: fromA, Term: 4, LastLog: 9, NoRetryBackoff: true}, callAppend},
		"vote": {
			&raft.RequestVoteRequest{RPCHeader: fromA, Term: 3, LastLogIndex: 9, LastLogTerm: 2, LeadershipTransfer: true},
			&raft.RequestVoteResponse{RPCHeader: fromA, Term: 3, Granted: true},
			func(r *Raft, req any) (any, error) {
				resp := new(raft.RequestVoteResponse)
				return resp, r.RequestVote("b", "b", req.(*raft.RequestVoteRequest), resp)
			},
		},
		"pre-vote": {
			&raft.RequestPreVoteRequest{RPCHeader: fromA, Term: 3, LastLogIndex: 9, LastLogTerm: 2},
			&raft.RequestPreVoteResponse{RPCHeader: fromA, Term: 3, Granted: true},
			func(r *Raft, req any) (any, error) {
				resp := new(raft.RequestPreVoteResponse)
				return resp, r.RequestPreVote("b", "b", req.(*raft.RequestPreVoteRequest), resp)
			},
		},
		"timeout now": {
			&raft.TimeoutNowRequest{RPCHeader: fromA}, &raft.TimeoutNowResponse{RPCHeader: fromA},
			func(r *Raft, req any) (any, error) {
				resp := new(raft.TimeoutNowResponse)
				return resp, r.TimeoutNow("b", "b", req.(*raft.TimeoutNowRequest), resp)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaftPair(t, nil)
				p.serve = func(rpc raft.RPC) {
					if !reflect.DeepEqual(rpc.Command, tt.req) {
						t.Errorf("got %T, not what was sent", rpc.Command)
					}
					rpc.Respond(tt.resp, nil)
				}
				for range 3 { // over a new tunnel, and over that again
					if got, err := tt.call(p.a, tt.req); err != nil || !reflect.DeepEqual(got, tt.resp) {
						t.Errorf("got %+v, %v", got, err)
					}
				}
				p.serve = func(rpc raft.RPC) { rpc.Respond(tt.resp, errors.New("says no")) }
				if _, err := tt.call(p.a, tt.req); err == nil || err.Error() != "says no" {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func callAppend(r *Raft, req any) (any, error) {
	resp := new(raft.AppendEntriesResponse)
	return resp, r.AppendEntries("b", "b", req.(*raft.AppendEntriesRequest), resp)
}

// TestRaft_Snapshot: a snapshot of 20 MiB arrives whole though the host's server takes 4 MiB at most,
// and what comes after it is understood.
func TestRaft_Snapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaftPair(t, nil)
		data := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
		req := snapshot(len(data))
		p.serve = func(rpc raft.RPC) {
			h := sha256.New()
			n, err := io.Copy(h, rpc.Reader)
			if err != nil || n != int64(len(data)) || !bytes.Equal(h.Sum(nil), sum(data)) || !reflect.DeepEqual(rpc.Command, req) {
				t.Errorf("got %d bytes, %v", n, err)
			}
			rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: fromA, Term: 3, Success: true}, nil)
		}
		for range 2 {
			var resp raft.InstallSnapshotResponse
			if err := p.a.InstallSnapshot("b", "b", req, &resp, bytes.NewReader(data)); err != nil || !resp.Success {
				t.Errorf("got %+v, %v", resp, err)
			}
		}
	})
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// TestRaft_NoFastPath: heartbeats go to Consumer though raft has set a handler for them
// (hashicorp/raft#695), and there is no pipeline (#611, #612).
func TestRaft_NoFastPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaftPair(t, nil)
		p.b.SetHeartbeatHandler(func(rpc raft.RPC) {
			t.Error("the fast path was taken")
			rpc.Respond(&raft.AppendEntriesResponse{}, nil)
		})
		consumed := 0
		p.serve = func(rpc raft.RPC) {
			consumed++
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		}
		for range 5 {
			if _, err := callAppend(p.a, heartbeat()); err != nil {
				t.Error(err)
			}
		}
		if consumed != 5 {
			t.Errorf("%d of 5 heartbeats came to Consumer", consumed)
		}
		if _, err := p.a.AppendEntriesPipeline("b", "b"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRaft_AnotherNode: at b's address is another node now. Nothing is sent to it.
func TestRaft_AnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaftPair(t, nil)
		p.serve = func(raft.RPC) { t.Error("a call came through") }
		err := p.a.RequestVote("z", "b", &raft.RequestVoteRequest{RPCHeader: fromA, Term: 1 << 63}, new(raft.RequestVoteResponse))
		if err == nil || !strings.Contains(err.Error(), `this is node "b", not "z"`) {
			t.Errorf("got %v", err)
		}
	})
}

// jam is a connection on which nothing goes out while it is closed.
type jam struct {
	net.Conn
	open chan struct{}
}

func (j jam) Write(b []byte) (int, error) {
	<-j.open
	return j.Conn.Write(b)
}

// TestRaft_Lanes: while a snapshot is stuck, for longer than any lease, heartbeats and votes go through as
// if nothing was.
func TestRaft_Lanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		bulk := make(chan struct{})
		p := newRaftPair(t, func(i int, c net.Conn) net.Conn {
			if i == 2 { // the first is that of the heartbeat below
				close(bulk)
				return jam{c, open}
			}
			return c
		})
		p.serve = func(rpc raft.RPC) {
			switch rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
			default:
				rpc.Respond(&raft.InstallSnapshotResponse{}, nil)
			}
		}
		if _, err := callAppend(p.a, heartbeat()); err != nil {
			t.Fatal(err)
		}
		installed := make(chan error)
		go func() {
			data := make([]byte, 20<<20)
			installed <- p.a.InstallSnapshot("b", "b", snapshot(len(data)), new(raft.InstallSnapshotResponse), bytes.NewReader(data))
		}()
		<-bulk
		time.Sleep(time.Second)
		for range 20 {
			start := time.Now()
			if _, err := callAppend(p.a, heartbeat()); err != nil {
				t.Error(err)
			}
			if err := p.a.RequestVote("b", "b", &raft.RequestVoteRequest{RPCHeader: fromA, Term: 3}, new(raft.RequestVoteResponse)); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 20*time.Millisecond {
				t.Errorf("a heartbeat and a vote took %v", took)
			}
		}
		select {
		case err := <-installed:
			t.Errorf("the snapshot was not stuck: %v", err)
		default:
		}
		close(open)
		<-installed
	})
}

// TestRaft_SnapshotStalls: the leader's machine vanishes in the middle of a snapshot. The node that was
// taking it, and is deaf meanwhile, learns of that in seconds, not when TCP gives up.
func TestRaft_SnapshotStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaftPair(t, nil)
		begun, over := make(chan struct{}), make(chan error, 1)
		p.serve = func(rpc raft.RPC) {
			_, _ = io.CopyN(io.Discard, rpc.Reader, 1<<20) // the second call says it
			close(begun)
			_, err := io.Copy(io.Discard, rpc.Reader)
			over <- err
			rpc.Respond(nil, err)
		}
		go func() {
			// Its error is that of a Close at the end of the test.
			_ = p.a.InstallSnapshot("b", "b", snapshot(1<<30), new(raft.InstallSnapshotResponse), neverEnds{})
		}()
		<-begun
		p.n.Blackhole("a", "b")
		start := time.Now()
		err := <-over
		if took := time.Since(start); !errors.Is(err, errSilent) || took > silence+time.Second {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

// neverEnds is a snapshot that comes slowly.
type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return len(p), nil
}

// TestRaft_Garbage: a peer that has proved who it is and sends what no raft can read loses its tunnel,
// and nothing else happens.
func TestRaft_Garbage(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"an unknown call":   {0xff},
		"half a call":       {0, 0x93, 0x01},
		"an endless string": {1, 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
		"an endless map":    {0, 0xdf, 0xff, 0xff, 0xff, 0xff},
		"a wrong type":      {2, 0xa1, 'x'},
		"zeros":             make([]byte, maxFrame),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaftPair(t, nil)
				p.serve = func(rpc raft.RPC) { rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil) }
				c, err := dial(t, p.aTunnels, RaftControl, "b", "b")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write(garbage); err != nil {
					t.Fatal(err)
				}
				_ = c.Close() // never fails; what follows is missing
				if _, err := callAppend(p.a, heartbeat()); err != nil {
					t.Error(err)
				}
				time.Sleep(linger + time.Second)
				p.bTunnels.mu.Lock()
				defer p.bTunnels.mu.Unlock()
				if got := len(p.bTunnels.conns); got != 1 {
					t.Errorf("%d tunnels, want that of the heartbeat", got)
				}
			})
		})
	}
}

// TestRaft_Close: calls under way end at once, on both sides, and nothing goes in or out afterwards,
// until raft is started anew on the same tunnels.
func TestRaft_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRaftPair(t, nil)
		held := make(chan raft.RPC, 2)
		p.serve = func(rpc raft.RPC) { held <- rpc }
		errs := make(chan error, 2)
		go func() { _, err := callAppend(p.a, heartbeat()); errs <- err }()
		go func() { _, err := callAppend(p.a, entries()); errs <- err }()
		<-held
		<-held
		start := time.Now()
		for range 2 {
			if err := p.b.Close(); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			if err := <-errs; err == nil {
				t.Error("a call was answered")
			}
		}
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if _, err := callAppend(p.a, heartbeat()); err == nil || !strings.Contains(err.Error(), `node "b" takes no raft-control`) {
			t.Errorf("got %v", err)
		}
		if err := p.b.RequestVote("a", "a", &raft.RequestVoteRequest{RPCHeader: fromA, Term: 3}, new(raft.RequestVoteResponse)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
		again := NewRaft(p.bTunnels, "b", nowhere, 300*time.Millisecond, hclog.NewNullLogger())
		defer again.Close()
		go func() {
			rpc := <-again.Consumer()
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		}()
		if _, err := callAppend(p.a, heartbeat()); err != nil {
			t.Error(err)
		}
	})
}

// TestRaft_Moved: a server is reached where it is known to be, though raft's configuration has another place, and
// where that has it, though it was known elsewhere, at the first call; whoever answers at the other place is not
// taken for it, and a place that does not answer does not take the time of the other.
func TestRaft_Moved(t *testing.T) {
	for name, tt := range map[string]struct {
		known, configured string
		silent            string // takes packets, and does not answer
		fails             bool
	}{
		"known":                           {known: "b", configured: "old"},
		"known, another lives there":      {known: "b", configured: "a"},
		"known, silence there":            {known: "b", configured: "old", silent: "old"},
		"configured":                      {known: "old", configured: "b"},
		"configured, another lives there": {known: "a", configured: "b"},
		"configured, silence there":       {known: "old", configured: "b", silent: "old"},
		"neither":                         {known: "old", configured: "older", fails: true},
		"another lives there":             {known: "a", configured: "old", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaftPair(t, nil)
				p.where["b"] = tt.known
				if tt.silent != "" {
					p.n.Cut("a", tt.silent)
				}
				p.serve = func(rpc raft.RPC) { rpc.Respond(&raft.RequestVoteResponse{RPCHeader: fromA, Granted: true}, nil) }
				var resp raft.RequestVoteResponse
				start := time.Now()
				err := p.a.RequestVote("b", raft.ServerAddress(tt.configured), &raft.RequestVoteRequest{RPCHeader: fromA, Term: 3}, &resp)
				if (err != nil) != tt.fails || resp.Granted == tt.fails {
					t.Errorf("got %+v, %v", resp, err)
				}
				for _, place := range []string{tt.known, tt.configured} {
					if tt.fails && !strings.Contains(err.Error(), "at "+place+":") {
						t.Errorf("got %v, which does not tell of %s", err, place)
					}
				}
				if took := time.Since(start); took > 2*300*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
