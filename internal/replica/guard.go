package replica

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/files"
)

// guard ends the node when the disk fails or hangs, and the host lives.
//
// raft itself panics when a vote or a term cannot be written or a committed entry cannot be read
// (raft.go, setCurrentTerm and processLogs), lets a leader whose log cannot be written be elected
// again and again (hashicorp/raft#614), and lets one whose disk hangs lead for ever (#503, #666).
// After a failed fsync nobody knows what is on the disk, so nothing is ever tried again: the first
// failure counts, fail is told, and the goroutine of raft that called ends here, so that raft never
// sees the error. A call that hangs is left alone, and ends its goroutine when it returns.
type guard struct {
	disk  disk
	limit time.Duration
	fail  func(error) // must not wait

	calls  files.Calls
	broken atomic.Bool
}

var _ disk = (*guard)(nil)

func newGuard(d disk, limit time.Duration, fail func(error)) *guard {
	return &guard{disk: d, limit: limit, fail: fail}
}

// do makes one call. It does not return when the disk is broken.
func (g *guard) do(name string, f func() error) error {
	if g.broken.Load() {
		runtime.Goexit()
	}
	c := g.calls.Begin(name, "")
	err := safely(f)
	g.calls.End(c)
	if g.broken.Load() { // perhaps it took so long that the node was given up
		runtime.Goexit()
	}
	if err == nil || isNotFound(err) {
		return err
	}
	g.breaks(fmt.Errorf("%s: %w", name, err))
	runtime.Goexit()
	return nil // never
}

// safely turns a panic, of which bbolt has some thirty for a damaged file, into an error, and a bus
// error, which is what a part of the file is that cannot be read. Else that would end the process.
func safely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// breaks makes the disk unusable.
func (g *guard) breaks(err error) {
	g.broken.Store(true)
	g.fail(err)
}

// watch breaks the disk when a call hangs, until stop is closed.
func (g *guard) watch(stop <-chan struct{}) {
	if err := g.calls.Watch(g.limit, stop); err != nil {
		g.breaks(err)
	}
}

func (g *guard) FirstIndex() (i uint64, err error) {
	err = g.do("read the log's first index", func() (err error) { i, err = g.disk.FirstIndex(); return err })
	return i, err
}

func (g *guard) LastIndex() (i uint64, err error) {
	err = g.do("read the log's last index", func() (err error) { i, err = g.disk.LastIndex(); return err })
	return i, err
}

func (g *guard) GetLog(index uint64, l *raft.Log) error {
	return g.do("read an entry of the log", func() error { return g.disk.GetLog(index, l) })
}

func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g *guard) StoreLogs(logs []*raft.Log) error {
	return g.do("write entries to the log", func() error { return g.disk.StoreLogs(logs) })
}

func (g *guard) DeleteRange(min, max uint64) error {
	return g.do("delete entries of the log", func() error { return g.disk.DeleteRange(min, max) })
}

func (g *guard) Set(key, value []byte) error {
	return g.do("write raft's "+string(key), func() error { return g.disk.Set(key, value) })
}

func (g *guard) Get(key []byte) (value []byte, err error) {
	err = g.do("read raft's "+string(key), func() (err error) { value, err = g.disk.Get(key); return err })
	return value, err
}

func (g *guard) SetUint64(key []byte, n uint64) error {
	return g.do("write raft's "+string(key), func() error { return g.disk.SetUint64(key, n) })
}

func (g *guard) GetUint64(key []byte) (n uint64, err error) {
	err = g.do("read raft's "+string(key), func() (err error) { n, err = g.disk.GetUint64(key); return err })
	return n, err
}
