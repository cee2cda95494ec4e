// Package replica runs raft for one node: it opens what raft needs on disk, proposes commands and
// tells each proposer its own result, and answers reads at a stated level. DESIGN.md has what it
// does about the defects of the raft library.
package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/fsm"
	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/zaplog"
)

// Transport carries raft's messages. raft closes it when it ends.
type Transport interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
	// Bind is called once raft runs.
	Bind(*raft.Raft)
	// Mute sends nothing to followers for some time, so that a leader loses its lease.
	Mute(time.Duration)
}

// Peers are calls of other nodes.
type Peers interface {
	// Forward and ReadIndex do at the leader what only it can do.
	Forward(ctx context.Context, id, addr string, commands [][]byte) (results [][]byte, index uint64, err error)
	ReadIndex(ctx context.Context, id, addr string) (uint64, error)
	// Mark is the hash that a node's state has at a mark.
	Mark(ctx context.Context, id, addr string, index uint64) (hash uint64, err error)
	// Backup writes a snapshot of a node's state to w, which names itself.
	Backup(ctx context.Context, id, addr string, w io.Writer) error
	// CurrentTerm is a voter's term, for a leader that has to know whether it still leads.
	CurrentTerm(ctx context.Context, id, addr string) (uint64, error)
}

// Options are what a Replica needs. Only those with a zero value named may be left out.
type Options struct {
	NodeID string
	Dir    *Dir
	// FSM is opened by the caller, in Dir.StateDir, and closed by it after the Replica.
	FSM *fsm.FSM
	// Transport makes a transport, when raft starts and each time that it is started anew; the one
	// before is closed then.
	Transport func() Transport
	Peers     Peers
	Logger    *zap.Logger
	// Heartbeat is how long a follower waits for the leader, and then for its election; the leader's
	// lease is as long.
	Heartbeat time.Duration
	// ProposeTimeout bounds the wait for a commit, within the caller's deadline.
	ProposeTimeout time.Duration
	// MaxPending commands, and MaxPendingBytes of them, wait or are under way; more are refused.
	MaxPending, MaxPendingBytes int
	// Failed is called once, after a fault, when raft has ended: what it used may be closed.
	Failed func()
	// DiskTimeout is how long one call of the disk may take before the node is given up.
	DiskTimeout time.Duration
	// SnapshotEvery is how many entries make a snapshot worth while, and KeepEntries how many stay in
	// the log behind it for followers that lag; 0 for 8,192 and 65,536, which is the most that stay.
	SnapshotEvery, KeepEntries uint64
	// SnapshotBytes and KeepBytes are the same in bytes, and whichever is reached first counts; 0 for 64 MiB.
	// Of a large state more stays, an eighth.
	SnapshotBytes, KeepBytes uint64
	// AuditEvery is how long a change waits to be compared with the states of others; 0 for a minute.
	AuditEvery time.Duration

	// open puts the store's layers around the disk; nil for newStore. Tests put a faulty disk below
	// them, or leave one out.
	open func(d disk, limit time.Duration, fail func(error)) (*store, error)
}

// Replica is one node's raft. It is safe for concurrent use. Its goroutines are: batches (joins
// commands into entries), leads (does what a new leader has to), restarts, supervise, audits, the guard's
// watch, watchFiles, one for each batch under way and for each read under way, and raft's own. They
// are gone when Close returns, but for one that hangs in a call of the disk.
type Replica struct {
	o     Options
	log   *zap.Logger
	queue queue
	clock *clock
	local flight // reads of those who asked this node as the leader
	read  flight // reads of this node

	stop  context.CancelFunc // ends life
	life  context.Context
	work  sync.WaitGroup
	fault chan struct{} // closed at the first fault
	once  sync.Once
	err   error // why fault was closed; read it only after that

	config  *raft.Config           // set by Start
	store   *store                 // set by Start
	trail   trail                  // of the log
	raft    atomic.Pointer[engine] // nil before Start
	short   *workers               // for what each entry needs
	turn    chan struct{}          // whoever starts or ends raft has put something in
	again   chan struct{}          // one slot: raft is to be started anew
	sick    atomic.Pointer[error]  // why the state is being replaced; nil while it is not
	ended   chan struct{}          // closed by Close when raft has ended
	own     atomic.Uint64          // a term in which this node has led and committed an entry
	asked   atomic.Int64           // futures of raft that have no answer yet
	refuses atomic.Bool            // raft has refused the last batch because it hands leadership over
	handing atomic.Bool            // HandOver is at work

	disputed atomic.Uint64 // a mark at which no hash has most voters
	backups  chan struct{} // holds a token for each that is being made
	fresh    chan struct{} // holds a token while a snapshot is made for a follower

	mu     sync.Mutex // guards what follows
	closed bool
}

// engine is one run of raft.
type engine struct {
	*raft.Raft
	transport *followers
	gone      chan struct{} // closed when another one takes over
	over      chan struct{} // closed when raft has ended: it answers nothing any more
	once      sync.Once     // for over: a raft may be ended twice
}

// New makes a replica; it does nothing before Start.
func New(o Options) *Replica {
	r := &Replica{o: o, log: o.Logger.Named("replica"), clock: machineClock(), fault: make(chan struct{})}
	r.turn, r.again, r.ended = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
	if r.o.AuditEvery == 0 {
		r.o.AuditEvery = auditEvery
	}
	r.o.SnapshotBytes, r.o.KeepBytes = cmp.Or(o.SnapshotBytes, logBytes), cmp.Or(o.KeepBytes, logBytes)
	r.life, r.stop = context.WithCancel(context.Background())
	r.short = newWorkers(r.spawn, r.life.Done())
	r.backups, r.fresh = make(chan struct{}, maxBackups), make(chan struct{}, 1)
	r.queue = newQueue(o.MaxPending, o.MaxPendingBytes)
	r.local = flight{run: r.leaderIndex, spawn: r.spawn}
	r.read = flight{run: r.readIndex, spawn: r.spawn}
	return r
}

// Start runs raft. A node that belongs to no cluster yet does nothing until Bootstrap, or until a
// leader takes it in.
func (r *Replica) Start() error {
	if r.raft.Load() != nil || r.life.Err() != nil {
		return errors.New("started or closed before")
	}
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(r.o.NodeID)
	c.Logger = zaplog.NewHC(r.o.Logger.Named("raft"))
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = r.o.Heartbeat, r.o.Heartbeat, r.o.Heartbeat
	c.CommitTimeout = commitTimeout
	c.MaxAppendEntries = maxAppend
	c.ShutdownOnRemove = false        // a node that was taken out says so and lives
	c.NoSnapshotRestoreOnStart = true // fsm.Open has seen to it
	c.SnapshotInterval = 30 * time.Second
	if r.o.SnapshotEvery > 0 {
		c.SnapshotThreshold = r.o.SnapshotEvery
	}
	c.TrailingLogs = min(cmp.Or(r.o.KeepEntries, keepEntries), keepEntries)
	r.config = c
	err := r.open()
	if err == nil {
		err = r.launch()
	}
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	r.spawn(r.batches)
	r.spawn(r.restarts)
	r.spawn(r.supervise)
	r.spawn(r.audits)
	return nil
}

// spawn starts a goroutine that Close waits for, unless Close has begun.
func (r *Replica) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.work.Go(f)
	return true
}

// open opens the store.
func (r *Replica) open() (err error) {
	open := r.o.open
	if open == nil {
		open = newStore
	}
	if r.store, err = open(r.o.Dir.log, r.o.DiskTimeout, r.Fail); err != nil {
		return err
	}
	if !r.spawn(func() { r.store.guard.watch(r.ended) }) || !r.spawn(r.watchFiles) {
		return chaterr.ErrClosed
	}
	r.o.Dir.fs.OnFailure(r.o.FSM.Fail)
	return nil
}

// watchFiles fails the node when a call of the disk hangs that is none of raft's log: of the state,
// a snapshot or node.json.
func (r *Replica) watchFiles() {
	if err := r.o.Dir.fs.Watch(r.o.DiskTimeout, r.ended); err != nil {
		r.o.FSM.Fail(err) // which fails the replica
	}
}

// launch runs raft on the store. raft.NewRaft panics on some kinds of damage, and a store that
// fails ends the goroutine that called it, so it has one of its own here.
func (r *Replica) launch() error {
	f := newFollowers(r.o.Transport(), r.o.Heartbeat, r.short.do)
	e := &engine{transport: f, gone: make(chan struct{}), over: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		err := errors.New("raft did not start")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%w: %v", chaterr.ErrCorrupt, p)
			}
			done <- err
		}()
		snapshots, floor := r.o.FSM.Snapshots(), r.store.logs
		floor.restart = nil // raft has not read the log yet
		index := uint64(0)
		if newest, ok := snapshots.Newest(); ok {
			if err = floor.raise(newest.Index, newest.Term); err != nil {
				return
			}
			index = newest.Index
		}
		if err = prepare(floor, r.store.stable, index); err != nil {
			return
		}
		if err = r.begin(floor, snapshots, f); err != nil {
			return
		}
		floor.restart = r.startAnew
		snapshots.OnDurable(floor.raise)
		e.Raft, err = raft.NewRaft(r.config, nudgingFSM{r.o.FSM, f}, followedLog{floor, f, &r.trail}, r.store.stable, freshSnapshots{snapshots, func() { r.refresh(e) }}, f)
	}()
	select {
	case err := <-done:
		if r.Err() != nil {
			err = r.Err()
		}
		if err != nil {
			e.giveUp()
			return errors.Join(err, e.transport.Close())
		}
	case <-r.fault:
		go func() { // ends when the disk lets go of NewRaft
			<-done
			e.giveUp()
		}()
		return errors.Join(r.err, e.transport.Close())
	}
	r.raft.Store(e)
	e.transport.Bind(e.Raft)
	r.spawn(func() { r.leads(e) })
	return nil
}

// giveUp ends a raft that nobody uses, if it has begun.
func (e *engine) giveUp() {
	if e.Raft != nil {
		e.Shutdown()
	}
}

// startAnew asks for restarts' work. It does not wait.
func (r *Replica) startAnew() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// restarts is a goroutine that ends raft and starts it again, in this process, when what it has in
// memory does not fit what is on the disk (see floor), or when the state is to be replaced (see mend).
func (r *Replica) restarts() {
	for {
		select {
		case <-r.again:
		case <-r.life.Done():
			return
		}
		if err := r.relaunch(); err != nil {
			r.Fail(fmt.Errorf("start raft anew: %w", err))
		}
	}
}

func (r *Replica) relaunch() error {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if r.life.Err() != nil || r.over() {
		return nil
	}
	sick := r.sick.Load() != nil
	r.log.Info("raft starts anew", zap.Bool("with another node's state", sick))
	old := r.raft.Load()
	close(old.gone)
	if err := r.end(old); err != nil {
		return err
	}
	if sick {
		if !r.mend() {
			return nil // the replica ends
		}
	} else if err := r.o.FSM.Install(); err != nil {
		return err
	}
	return r.launch()
}

// over reports whether the replica has failed for good.
func (r *Replica) over() bool {
	select {
	case <-r.fault:
		return true
	default:
		return false
	}
}

// Bootstrap begins the cluster that Dir has adopted, with the servers that stand there. Every one of
// them may do it: they write the same first entry. It does nothing on a node that has a log, or
// none of those servers, and before Start, which does it, too.
func (r *Replica) Bootstrap() error {
	e := r.raft.Load()
	if e == nil || len(r.o.Dir.Cluster().Servers) == 0 || e.LastIndex() > 0 || e.CurrentTerm() > 0 {
		return nil
	}
	if err := r.relaunch(); err != nil { // not raft's own, whose answer never comes when the disk fails
		r.Fail(fmt.Errorf("bootstrap: %w", err))
		return r.Err()
	}
	return nil
}

// leads does what a new leader has to do first: the first command of a cluster gives it its id.
func (r *Replica) leads(e *engine) {
	for {
		select {
		case <-r.life.Done():
			return
		case <-e.gone:
			return
		case leading := <-e.LeaderCh():
			if !leading {
				continue
			}
		}
		for r.Leading() && r.life.Err() == nil {
			err := r.form()
			if err == nil {
				break
			}
			r.log.Warn("cannot begin to lead", zap.Error(err))
			select {
			case <-time.After(r.o.Heartbeat):
			case <-e.gone:
				return
			case <-r.life.Done():
			}
		}
	}
}

// form proposes the cluster's id when the state has none.
func (r *Replica) form() error {
	if _, err := r.local.join(r.life); err != nil || r.Formed() { // what was committed before is applied
		return err
	}
	return r.propose(&state.FormCluster{ClusterId: r.o.Dir.Cluster().ID})
}

// Fail ends the replica: it serves nothing from now on, and the process lives. The first error
// counts. It does not wait.
//
// The transport goes first: raft's heartbeats have goroutines of their own, so a leader whose disk
// hangs would stay leader, even while it shuts down (hashicorp/raft#503).
func (r *Replica) Fail(err error) {
	r.once.Do(func() {
		r.err = fmt.Errorf("%w: %w", chaterr.ErrFault, err)
		close(r.fault)
		r.log.Error("the node has failed", zap.Error(err))
		r.spawn(func() {
			_ = r.shutdown() // err says more
			r.o.Failed()
		})
	})
}

// Done is closed when the replica has failed.
func (r *Replica) Done() <-chan struct{} { return r.fault }

// Err is why the replica has failed, or why it serves nothing until its state is that of the others
// again, which is chaterr.ErrDiverged; both are wrapped in chaterr.ErrFault. It is nil while all is well.
func (r *Replica) Err() error {
	select {
	case <-r.fault:
		return r.err
	default:
		if err := r.sick.Load(); err != nil {
			return *err
		}
		return nil
	}
}

const (
	// endTime is how long raft may take to end once the node has failed.
	endTime = 5 * time.Second
	// answerTime is how long what is under way may take to be committed before raft ends, and
	// drainTime how long what is committed may take to be answered.
	answerTime = time.Second
	drainTime  = 100 * time.Millisecond
)

// shutdown ends raft, if it runs.
func (r *Replica) shutdown() error {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if e := r.raft.Load(); e != nil {
		return r.end(e)
	}
	return nil
}

// end ends raft and its transport. raft waits for its goroutines; when one of them hangs in the
// disk, end leaves it alone.
//
// raft does not answer what is committed and not applied when it ends. So nothing is committed any
// more before that, as the transport is closed, and what is has time to be answered.
func (r *Replica) end(e *engine) error {
	err := e.transport.Close()
	r.settle(drainTime)
	done := make(chan error, 1)
	go func() {
		err := e.Shutdown().Error()
		e.once.Do(func() { close(e.over) })
		done <- err
	}()
	select {
	case ended := <-done:
		return errors.Join(err, ended)
	case <-r.fault:
	}
	select {
	case ended := <-done:
		return errors.Join(err, ended)
	case <-time.After(endTime):
		return fmt.Errorf("raft has not ended within %v: %w", endTime, r.err)
	}
}

// settle waits for raft's answers, for a while.
func (r *Replica) settle(d time.Duration) {
	for end := time.Now().Add(d); r.asked.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// Close ends raft and waits for all goroutines. The node stays a member of its cluster.
func (r *Replica) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	r.stop()
	if r.Err() == nil {
		r.settle(answerTime)
	}
	err := r.shutdown()
	close(r.ended)
	r.queue.close()
	r.work.Wait()
	return err
}
