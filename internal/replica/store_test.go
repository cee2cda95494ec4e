package replica

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// entries are command entries from one index to another.
func entries(from, to, term uint64, data string) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte(data)})
	}
	return logs
}

func put(t testing.TB, d raft.LogStore, logs []*raft.Log) {
	t.Helper()
	if err := d.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// damaged is a disk on which one stored entry is another one by now.
type damaged struct {
	disk
	change func(*raft.Log)
}

func (d damaged) GetLog(index uint64, l *raft.Log) error {
	if err := d.disk.GetLog(index, l); err != nil {
		return err
	}
	c := *l
	c.Data, c.Extensions = bytes.Clone(l.Data), bytes.Clone(l.Extensions)
	d.change(&c)
	*l = c
	return nil
}

// TestChecksums: an entry comes back as it was stored, or not at all.
func TestChecksums(t *testing.T) {
	inner := raft.NewInmemStore()
	c := checksums{inner}
	for _, l := range []raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext")},
		{Index: 2, Term: 1, Type: raft.LogNoop},
		{Index: 3, Term: 2, Type: raft.LogCommand, Data: []byte("data")},
	} {
		passed := l
		put(t, c, []*raft.Log{&passed})
		if !bytes.Equal(passed.Extensions, l.Extensions) {
			t.Errorf("entry %d was changed in the caller's hands", l.Index)
		}
		var got raft.Log
		if err := c.GetLog(l.Index, &got); err != nil {
			t.Fatal(err)
		}
		if got.Term != l.Term || got.Type != l.Type || !bytes.Equal(got.Data, l.Data) || !bytes.Equal(got.Extensions, l.Extensions) {
			t.Errorf("got %+v, want %+v", got, l)
		}
	}
	var l raft.Log
	if err := c.GetLog(9, &l); err != raft.ErrLogNotFound { // raft compares like this
		t.Errorf("no such entry: got %v", err)
	}
	for name, change := range map[string]func(*raft.Log){
		"index":             func(l *raft.Log) { l.Index ^= 1 << 9 },
		"term":              func(l *raft.Log) { l.Term ^= 1 },
		"type":              func(l *raft.Log) { l.Type ^= 1 },
		"data":              func(l *raft.Log) { l.Data[3] ^= 1 },
		"extensions":        func(l *raft.Log) { l.Extensions[0] ^= 1 },
		"sum":               func(l *raft.Log) { l.Extensions[len(l.Extensions)-1] ^= 1 },
		"no sum":            func(l *raft.Log) { l.Extensions = nil },
		"moved to the data": func(l *raft.Log) { l.Data, l.Extensions = append(l.Data, l.Extensions[0]), l.Extensions[1:] },
		"another entry":     func(l *raft.Log) { l.Index = 3 },
	} {
		if err := (checksums{damaged{inner, change}}).GetLog(1, &l); !errors.Is(err, chaterr.ErrCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestChecksums_Values: raft's term and vote come back as they were stored, or not at all.
func TestChecksums_Values(t *testing.T) {
	inner := raft.NewInmemStore()
	c := checksums{inner}
	if err := errors.Join(c.SetUint64([]byte("n"), 7), c.Set([]byte("s"), []byte("value"))); err != nil {
		t.Fatal(err)
	}
	if n, err := c.GetUint64([]byte("n")); n != 7 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if s, err := c.Get([]byte("s")); string(s) != "value" || err != nil {
		t.Errorf("got %q, %v", s, err)
	}
	if _, err := c.GetUint64([]byte("none")); err == nil || err.Error() != notFound {
		t.Errorf("no such key: got %v", err)
	}
	for _, key := range []string{"n", "s"} {
		good, err := inner.Get([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		for bit := range len(good) * 8 {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := inner.Set([]byte(key), bad); err != nil {
				t.Fatal(err)
			}
			if v, err := c.Get([]byte(key)); !errors.Is(err, chaterr.ErrCorrupt) {
				t.Fatalf("%s with bit %d flipped: got %q, %v", key, bit, v, err)
			}
		}
		if err := inner.Set([]byte("other"), good); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Get([]byte("other")); !errors.Is(err, chaterr.ErrCorrupt) {
			t.Errorf("the value of another key: got %v", err)
		}
	}
}

// counted counts the writes of a disk, and lets only so many through, as when the power goes.
type counted struct {
	disk
	left int
}

var errPower = errors.New("the power is gone")

func (c *counted) write(f func() error) error {
	if c.left--; c.left < 0 {
		return errPower
	}
	return f()
}

func (c *counted) Set(k, v []byte) error { return c.write(func() error { return c.disk.Set(k, v) }) }
func (c *counted) SetUint64(k []byte, n uint64) error {
	return c.write(func() error { return c.disk.SetUint64(k, n) })
}
func (c *counted) DeleteRange(min, max uint64) error {
	return c.write(func() error { return c.disk.DeleteRange(min, max) })
}

// vote is what raft's persistVote does.
func vote(s raft.StableStore, term uint64, candidate string) error {
	if err := s.SetUint64([]byte(voteTermKey), term); err != nil {
		return err
	}
	return s.Set([]byte(voteCandidateKey), []byte(candidate))
}

func lastVote(t *testing.T, s raft.StableStore) string {
	t.Helper()
	term, err := s.GetUint64([]byte(voteTermKey))
	if err != nil && !isNotFound(err) {
		t.Fatal(err)
	}
	candidate, err := s.Get([]byte(voteCandidateKey))
	if err != nil && !isNotFound(err) {
		t.Fatal(err)
	}
	return fmt.Sprint(term, " ", string(candidate))
}

// TestVotes_Crash: whenever the power goes, the vote on disk is one that was given, whole.
func TestVotes_Crash(t *testing.T) {
	for _, tt := range []struct {
		bare bool
		left int
		want string
	}{
		{false, 0, "0 "}, {false, 1, "4 b"}, {false, 2, "5 c"},
		{true, 3, "5 b"}, // hashicorp/raft#661: nobody has voted for b in term 5
	} {
		inner := raft.NewInmemStore()
		var s raft.StableStore = &votes{disk: &counted{inner, tt.left}}
		var again raft.StableStore = &votes{disk: inner}
		if tt.bare {
			s, again = &counted{inner, tt.left}, inner
		}
		if err := vote(s, 4, "b"); err == nil {
			_ = vote(s, 5, "c") // may find the power gone
		}
		if got := lastVote(t, again); got != tt.want {
			t.Errorf("bare %v, after %d writes: got %q, want %q", tt.bare, tt.left, got, tt.want)
		}
	}
}

// TestPieces: a long range goes in pieces, and a crash between two of them leaves no hole.
func TestPieces(t *testing.T) {
	const n = 3*pieceSize + 100
	for _, tt := range []struct{ min, max uint64 }{{1, 2*pieceSize + 7}, {pieceSize / 2, n}, {1, n}, {5, 5}, {n, n}, {7, 6}} {
		for left := 0; ; left++ {
			inner := raft.NewInmemStore()
			put(t, inner, entries(1, n, 1, ""))
			err := pieces{&counted{inner, left}}.DeleteRange(tt.min, tt.max)
			if err != nil && !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			first, _ := inner.FirstIndex()
			last, _ := inner.LastIndex()
			var l raft.Log
			for i := first; i <= last && last > 0; i += 97 {
				if err := inner.GetLog(i, &l); err != nil {
					t.Fatalf("%v, power gone after %d writes: %d to %d are left, and not %d", tt, left, first, last, i)
				}
			}
			if err != nil {
				continue
			}
			if err := inner.GetLog(tt.min, &l); tt.min <= tt.max && !errors.Is(err, raft.ErrLogNotFound) {
				t.Errorf("%v: entry %d is still there", tt, tt.min)
			}
			break
		}
	}
}

// TestFloor: the floor answers for its entry, never hides a real one, and what conflicts below it
// is gone.
func TestFloor(t *testing.T) {
	for name, tt := range map[string]struct {
		log         []*raft.Log
		index, term uint64
		first, last uint64 // what is left
	}{
		"the entry is there":     {entries(1, 20, 3, "x"), 15, 3, 1, 20},
		"another entry is there": {entries(1, 20, 2, "stale"), 15, 3, 0, 0},
		"the log is shorter":     {entries(1, 10, 2, "stale"), 15, 3, 0, 0},
		"the log is compacted":   {entries(16, 20, 3, "x"), 15, 3, 16, 20},
		"the log is empty":       {nil, 15, 3, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inner := raft.NewInmemStore()
			if len(tt.log) > 0 {
				put(t, inner, tt.log)
			}
			f := &floor{LogStore: inner}
			if err := f.raise(tt.index, tt.term); err != nil {
				t.Fatal(err)
			}
			if err := f.raise(tt.index-1, 1); err != nil { // an older one changes nothing
				t.Fatal(err)
			}
			var l raft.Log
			if err := f.GetLog(tt.index, &l); err != nil || l.Term != tt.term || l.Index != tt.index {
				t.Errorf("got %+v, %v", l, err)
			}
			if real := inner.GetLog(tt.index, new(raft.Log)) == nil; real != (string(l.Data) == "x") {
				t.Errorf("there is a real entry: %v; got %+v", real, l)
			}
			first, _ := inner.FirstIndex()
			last, _ := inner.LastIndex()
			if first != tt.first || last != tt.last {
				t.Errorf("%d to %d are left, want %d to %d", first, last, tt.first, tt.last)
			}
		})
	}
}

// sick is a disk that fails or hangs when it is told to.
type sick struct {
	disk
	err   atomic.Pointer[error] // of every write
	logs  atomic.Pointer[error] // of every write of the log
	reads atomic.Pointer[error] // of every read of an entry
	panic atomic.Bool
	hang  atomic.Pointer[chan struct{}]
}

func (s *sick) GetLog(index uint64, l *raft.Log) error {
	if err := s.reads.Load(); err != nil {
		return *err
	}
	return s.disk.GetLog(index, l)
}

func (s *sick) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *sick) StoreLogs(l []*raft.Log) error {
	if ch := s.hang.Load(); ch != nil {
		<-*ch
	}
	if s.panic.Load() {
		panic("page 7: multiple references")
	}
	if err := s.err.Load(); err != nil {
		return *err
	}
	if err := s.logs.Load(); err != nil {
		return *err
	}
	return s.disk.StoreLogs(l)
}

func (s *sick) SetUint64(k []byte, n uint64) error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return s.disk.SetUint64(k, n)
}

// TestGuard_Fails: the first error, or panic, ends the calling goroutine and the node, and later
// calls end theirs. That there is no such entry is no error.
func TestGuard_Fails(t *testing.T) {
	boom := errors.New("input/output error")
	for name, damage := range map[string]func(*sick){
		"error": func(s *sick) { s.err.Store(&boom) }, "panic": func(s *sick) { s.panic.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &sick{disk: raft.NewInmemStore()}
			var faults []error
			g := newGuard(s, time.Minute, func(err error) { faults = append(faults, err) })
			if err := g.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound { // raft compares like this
				t.Errorf("got %v", err)
			}
			if _, err := g.Get([]byte("none")); err == nil || err.Error() != notFound {
				t.Errorf("got %v", err)
			}
			put(t, g, entries(1, 1, 1, ""))
			damage(s)
			if returned(func() { _ = g.StoreLogs(entries(2, 2, 1, "")) }) {
				t.Error("the call has returned")
			}
			if returned(func() { _, _ = g.LastIndex() }) {
				t.Error("a later call has returned")
			}
			if len(faults) != 1 || name == "error" && !errors.Is(faults[0], boom) {
				t.Errorf("got %v", faults)
			}
		})
	}
}

// returned reports whether f returned, and did not end its goroutine.
func returned(f func()) (ok bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
		ok = true
	}()
	<-done
	return ok
}

// TestGuard_Hangs: a call that takes too long ends the node, and its goroutine once it returns.
func TestGuard_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sick{disk: raft.NewInmemStore()}
		fault := make(chan error, 1)
		g := newGuard(s, 10*time.Second, func(err error) { fault <- err })
		stop := make(chan struct{})
		defer close(stop)
		go g.watch(stop)
		time.Sleep(time.Hour)
		put(t, g, entries(1, 1, 1, ""))
		release := make(chan struct{})
		s.hang.Store(&release)
		start := time.Now()
		back := make(chan bool)
		go func() { back <- returned(func() { _ = g.StoreLogs(entries(2, 2, 1, "")) }) }()
		err := <-fault
		if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("found after %v: %v", took, err)
		}
		close(release)
		if <-back {
			t.Error("the call has returned to raft")
		}
	})
}

// TestStore_Bolt: the layers hold on the real store, also after it was closed and opened again.
func TestStore_Bolt(t *testing.T) {
	path := t.TempDir()
	for round := range 2 {
		b, err := place{dir: path, files: files.FS{FS: files.Disk}, path: path, store: LogStoreBolt}.open(round == 0)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newStore(b, time.Minute, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			put(t, s.logs, entries(1, 600, 3, "data"))
			if err := errors.Join(vote(s.stable, 3, "c"), s.stable.SetUint64([]byte("CurrentTerm"), 4)); err != nil {
				t.Fatal(err)
			}
		}
		var l raft.Log
		for _, i := range []uint64{1, 88, 89, 600} { // in and out of the cache
			if err := s.logs.GetLog(i, &l); err != nil || string(l.Data) != "data" || l.Extensions != nil {
				t.Errorf("got %+v, %v", l, err)
			}
		}
		if term, err := s.stable.GetUint64([]byte("CurrentTerm")); term != 4 || err != nil || lastVote(t, s.stable) != "3 c" {
			t.Errorf("got %d, %v, %s", term, err, lastVote(t, s.stable))
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
