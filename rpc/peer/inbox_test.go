package peer

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// sorted is raft's transport in memory with an inbox, and a heartbeat handler that a test can call.
type sorted struct {
	*raft.InmemTransport
	inbox *inbox // nil for bare raft
	fast  func(raft.RPC)
}

func (s *sorted) SetHeartbeatHandler(f func(raft.RPC)) { s.fast = f }

func (s *sorted) Consumer() <-chan raft.RPC {
	if s.inbox == nil {
		return s.InmemTransport.Consumer()
	}
	return s.inbox.out
}

func (*sorted) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// slowLog is a log whose writes take some time.
type slowLog struct {
	*raft.InmemStore
	delay *atomic.Int64
}

func (s slowLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s slowLog) StoreLogs(l []*raft.Log) error {
	time.Sleep(time.Duration(s.delay.Load()))
	return s.InmemStore.StoreLogs(l)
}

type noState struct{}

func (noState) Apply(*raft.Log) any                 { return nil }
func (noState) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }
func (noState) Restore(io.ReadCloser) error         { return errors.New("no snapshots here") }

type member struct {
	id    string
	raft  *raft.Raft
	trans *sorted
	logs  *raft.InmemStore
	delay atomic.Int64 // of a write to the log
}

// newMembers runs a cluster of three in a bubble.
func newMembers(t *testing.T, withInbox bool) []*member {
	t.Helper()
	var all []*member
	var c raft.Configuration
	for _, id := range []string{"a", "b", "c"} {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for _, id := range []string{"a", "b", "c"} {
		_, in := raft.NewInmemTransport(raft.ServerAddress(id))
		m := &member{id: id, trans: &sorted{InmemTransport: in}, logs: raft.NewInmemStore()}
		if withInbox {
			m.trans.inbox = newInbox(in.Consumer(), 300*time.Millisecond)
			t.Cleanup(m.trans.inbox.close)
		}
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger = raft.ServerID(id), hclog.NewNullLogger()
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 150*time.Millisecond
		conf.CommitTimeout = 5 * time.Millisecond
		var err error
		if m.raft, err = raft.NewRaft(conf, noState{}, slowLog{m.logs, &m.delay}, m.logs, raft.NewInmemSnapshotStore(), m.trans); err != nil {
			t.Fatal(err)
		}
		if withInbox {
			m.trans.inbox.state.Store(m.raft)
		}
		t.Cleanup(func() { _ = m.raft.Shutdown().Error() })
		for _, o := range all {
			o.trans.Connect(raft.ServerAddress(id), in)
			in.Connect(raft.ServerAddress(o.id), o.trans.InmemTransport)
		}
		all = append(all, m)
	}
	if err := all[0].raft.BootstrapCluster(c).Error(); err != nil {
		t.Fatal(err)
	}
	return all
}

// leading waits for a leader that has committed something.
func leading(t *testing.T, all []*member) *member {
	t.Helper()
	for range 10_000 {
		for _, m := range all {
			if m.raft.State() == raft.Leader && m.raft.Barrier(0).Error() == nil {
				return m
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nobody leads")
	return nil
}

// TestInbox_Divergence: hashicorp/raft#695. With the heartbeat fast path an old leader stamps the next
// entry of a client with the term of the new leader, so two logs differ at one index and term.
// Through the inbox it does not.
func TestInbox_Divergence(t *testing.T) {
	for _, fast := range []bool{true, false} {
		wrong := 0
		for range 10 {
			synctest.Test(t, func(t *testing.T) {
				all := newMembers(t, !fast)
				old := leading(t, all)
				time.Sleep(50 * time.Millisecond)
				next := all[0]
				if next == old {
					next = all[1]
				}
				term := old.raft.CurrentTerm() + 1
				req := &raft.AppendEntriesRequest{
					RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(next.id), Addr: []byte(next.id)},
					Term:      term, Leader: []byte(next.id),
				}
				if fast {
					old.trans.fast(raft.RPC{Command: req, RespChan: make(chan raft.RPCResponse, 1)})
				} else if err := next.trans.AppendEntries(raft.ServerID(old.id), raft.ServerAddress(old.id), req, new(raft.AppendEntriesResponse)); err != nil {
					t.Fatal(err)
				}
				_ = old.raft.Apply([]byte("x"), time.Second).Error() // is refused, or takes the wrong term
				last, err := old.logs.LastIndex()
				if err != nil {
					t.Fatal(err)
				}
				var l raft.Log
				if err := old.logs.GetLog(last, &l); err != nil {
					t.Fatal(err)
				}
				if l.Type == raft.LogCommand && l.Term == term {
					wrong++
				}
			})
		}
		if (wrong > 0) != fast {
			t.Errorf("fast path %v: wrong in %d of 10 trials", fast, wrong)
		}
	}
}

// TestInbox_Stability: while both followers write to their disks for longer than the lease, a leader
// loses its term on bare raft without the fast path, and keeps it with the inbox.
func TestInbox_Stability(t *testing.T) {
	for _, withInbox := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			all := newMembers(t, withInbox)
			l := leading(t, all)
			term := l.raft.CurrentTerm()
			for _, m := range all {
				if m != l {
					m.delay.Store(int64(400 * time.Millisecond))
				}
			}
			for range 100 {
				if err := l.raft.Apply([]byte("x"), time.Second).Error(); err != nil {
					break
				}
			}
			if lost := l.raft.CurrentTerm() != term || l.raft.State() != raft.Leader; lost == withInbox {
				t.Errorf("inbox %v: lost the term: %v", withInbox, lost)
			}
		})
	}
}

// TestInbox_Deserted: a follower that has heard nothing of its leader for longer than a lease votes for
// another, before raft's own timer has told it; one that hears its leader does not, nor does the leader,
// nor does anybody for who has an older log.
func TestInbox_Deserted(t *testing.T) {
	for name, tt := range map[string]struct {
		withInbox bool
		silent    time.Duration
		leader    bool // asked, and not a follower
		old       bool // a log that lacks an entry
		want      bool
	}{
		"a leader that is heard":     {true, 0, false, false, false},
		"after a lost heartbeat":     {true, 150 * time.Millisecond, false, false, false},
		"a leader that is not heard": {true, 240 * time.Millisecond, false, false, true},
		"without the inbox":          {false, 240 * time.Millisecond, false, false, false},
		"the leader itself":          {true, 0, true, false, false},
		"an older log":               {true, 240 * time.Millisecond, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newMembers(t, tt.withInbox)
				l := leading(t, all)
				time.Sleep(time.Second)
				others := slices.DeleteFunc(slices.Clone(all), func(m *member) bool { return m == l })
				asks, asked := others[0], others[1]
				term, last := l.raft.CurrentTerm(), l.raft.LastIndex()
				if tt.old {
					last--
				}
				if tt.leader {
					asked = l
				}
				if tt.silent > 0 {
					l.trans.DisconnectAll()
					time.Sleep(tt.silent)
				}
				header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(asks.id), Addr: []byte(asks.id)}
				to := raft.ServerAddress(asked.id)
				var pre raft.RequestPreVoteResponse
				err := asks.trans.RequestPreVote(raft.ServerID(asked.id), to, &raft.RequestPreVoteRequest{RPCHeader: header, Term: term + 1, LastLogIndex: last, LastLogTerm: term}, &pre)
				if err != nil || pre.Granted != tt.want {
					t.Errorf("pre-vote: got %v, %v", pre.Granted, err)
				}
				var vote raft.RequestVoteResponse
				err = asks.trans.RequestVote(raft.ServerID(asked.id), to, &raft.RequestVoteRequest{RPCHeader: header, Term: term + 1, LastLogIndex: last, LastLogTerm: term}, &vote)
				if err != nil || vote.Granted != tt.want {
					t.Errorf("vote: got %v, %v", vote.Granted, err)
				}
			})
		})
	}
}

// TestInbox_Answers: only heartbeats of the node's own term, at a follower, are answered for raft.
func TestInbox_Answers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newMembers(t, true)
		l := leading(t, all)
		f := all[0]
		if f == l {
			f = all[1]
		}
		time.Sleep(time.Second)
		term := l.raft.CurrentTerm()
		for name, tt := range map[string]struct {
			at   *member
			req  any
			want bool
		}{
			"heartbeat":             {f, &raft.AppendEntriesRequest{Term: term}, true},
			"of an old term":        {f, &raft.AppendEntriesRequest{Term: term - 1}, false},
			"of a new term":         {f, &raft.AppendEntriesRequest{Term: term + 1}, false},
			"at a leader":           {l, &raft.AppendEntriesRequest{Term: term}, false},
			"with a commit index":   {f, &raft.AppendEntriesRequest{Term: term, LeaderCommitIndex: 1}, false},
			"with a previous entry": {f, &raft.AppendEntriesRequest{Term: term, PrevLogEntry: 1, PrevLogTerm: 1}, false},
			"with entries":          {f, &raft.AppendEntriesRequest{Term: term, Entries: []*raft.Log{{Index: 1, Term: 1}}}, false},
			"not of AppendEntries":  {f, &raft.RequestVoteRequest{Term: term}, false},
		} {
			resp := tt.at.trans.inbox.answer(raft.RPC{Command: tt.req})
			if (resp != nil) != tt.want {
				t.Errorf("%s: got %+v", name, resp)
			}
			if resp != nil && (!resp.Success || resp.Term != term || resp.LastLog != tt.at.raft.LastIndex()) {
				t.Errorf("%s: got %+v", name, resp)
			}
		}
	})
}

// TestCheck: what no raft sends is refused, before ours panics on it.
func TestCheck(t *testing.T) {
	good := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "x"}, {ID: "b", Address: "y", Suffrage: raft.Nonvoter}}})
	conf := func(s ...raft.Server) []byte { return raft.EncodeConfiguration(raft.Configuration{Servers: s}) }
	entry := func(i, term uint64) *raft.Log { return &raft.Log{Index: i, Term: term} }
	append1 := func(prev, prevTerm, term uint64, l ...*raft.Log) any {
		return &raft.AppendEntriesRequest{PrevLogEntry: prev, PrevLogTerm: prevTerm, Term: term, Entries: l}
	}
	header := raft.RPCHeader{ID: []byte("a"), Addr: []byte("x")}
	for name, tt := range map[string]struct {
		command any
		ok      bool
	}{
		"heartbeat":              {append1(0, 0, 3), true},
		"first entries":          {append1(0, 0, 3, entry(1, 1), entry(2, 3)), true},
		"entries":                {append1(7, 2, 3, entry(8, 2), entry(9, 3)), true},
		"configuration":          {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: good}), true},
		"term 0":                 {append1(0, 0, 0), false},
		"a gap":                  {append1(7, 2, 3, entry(9, 3)), false},
		"backwards":              {append1(7, 2, 3, entry(8, 3), entry(7, 3)), false},
		"twice":                  {append1(7, 2, 3, entry(8, 3), entry(8, 3)), false},
		"term falls":             {append1(7, 2, 3, entry(8, 1)), false},
		"term of the future":     {append1(7, 2, 3, entry(8, 4)), false},
		"index overflows":        {append1(1<<64-1, 2, 3, entry(0, 3)), false},
		"nil entry":              {append1(7, 2, 3, nil), false},
		"unknown type":           {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: 77}), false},
		"deprecated type":        {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogAddPeerDeprecated}), false},
		"garbage configuration":  {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: []byte("garbage")}), false},
		"empty configuration":    {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: conf()}), false},
		"no voters":              {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: conf(raft.Server{ID: "a", Address: "x", Suffrage: raft.Nonvoter})}), false},
		"one id twice":           {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: conf(raft.Server{ID: "a", Address: "x"}, raft.Server{ID: "a", Address: "y"})}), false},
		"one address twice":      {append1(7, 2, 3, &raft.Log{Index: 8, Term: 3, Type: raft.LogConfiguration, Data: conf(raft.Server{ID: "a", Address: "x"}, raft.Server{ID: "b", Address: "x"})}), false},
		"vote":                   {&raft.RequestVoteRequest{RPCHeader: header, Term: 3, LastLogTerm: 3}, true},
		"vote for nobody":        {&raft.RequestVoteRequest{Term: 3, LastLogTerm: 3}, false},
		"vote of a future log":   {&raft.RequestVoteRequest{RPCHeader: header, Term: 3, LastLogTerm: 4}, false},
		"pre-vote":               {&raft.RequestPreVoteRequest{RPCHeader: header, Term: 3, LastLogTerm: 3}, true},
		"pre-vote for nobody":    {&raft.RequestPreVoteRequest{Term: 3}, false},
		"snapshot":               {&raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 7, LastLogTerm: 2, Size: 9, Configuration: good}, true},
		"snapshot of nothing":    {&raft.InstallSnapshotRequest{Term: 3, Size: 9, Configuration: good}, false},
		"snapshot of no size":    {&raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 7, LastLogTerm: 2, Size: -1, Configuration: good}, false},
		"snapshot of the future": {&raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 7, LastLogTerm: 4, Size: 9, Configuration: good}, false},
		"snapshot with garbage":  {&raft.InstallSnapshotRequest{Term: 3, LastLogIndex: 7, LastLogTerm: 2, Size: 9, Configuration: []byte{0xff}}, false},
		"timeout now":            {&raft.TimeoutNowRequest{}, true},
		"something else":         {"x", false},
	} {
		if err := check(tt.command); (err == nil) != tt.ok || err != nil && !errors.Is(err, chaterr.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestInbox_RefusedSnapshot: a snapshot has what users have written in it. One that is refused, by the
// filter or by raft, is read to its end, for otherwise raft's transport would take what is in it for
// the next calls.
func TestInbox_RefusedSnapshot(t *testing.T) {
	for name, tt := range map[string]struct {
		index uint64
		want  string
	}{
		"by the filter": {0, "snapshot of entry 0"},
		"by raft":       {7, raft.ErrUnsupportedProtocol.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRaftPair(t, nil)
				p.serve = func(rpc raft.RPC) { // as raft does with a header that it cannot read
					if _, ok := rpc.Command.(*raft.InstallSnapshotRequest); !ok {
						t.Errorf("raft was called: %+v", rpc.Command)
					}
					rpc.Respond(nil, raft.ErrUnsupportedProtocol)
				}
				data := bytes.NewBuffer([]byte{1}) // RequestVote
				if err := codec.NewEncoder(data, &codec.MsgpackHandle{}).Encode(&raft.RequestVoteRequest{RPCHeader: fromA, Term: 1 << 63}); err != nil {
					t.Fatal(err)
				}
				req := snapshot(data.Len())
				req.LastLogIndex = tt.index
				err := p.a.InstallSnapshot("b", "b", req, new(raft.InstallSnapshotResponse), data)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v", err)
				}
				time.Sleep(time.Second)
			})
		})
	}
}
