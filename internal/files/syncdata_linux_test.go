package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// refusing is a file of the kernel's that it does not sync, and of which SyncData tells err.
type refusing struct {
	vfs.File
	fd  uintptr
	err error
}

func (f refusing) Fd() uintptr     { return f.fd }
func (f refusing) SyncData() error { return f.err }

// TestSyncData_Refused: where the kernel does not take the call, the file's own does.
func TestSyncData_Refused(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	own := errors.New("the file's own")
	for name, fd := range map[string]uintptr{"none": vfs.InvalidFd, "not open": 1 << 20, "a pipe": w.Fd()} {
		if err := syncData(refusing{fd: fd, err: own}); err != own {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOutcome: what the kernel says of the disk is told; that it does not sync such a file says nothing of it.
func TestOutcome(t *testing.T) {
	for result, want := range map[int64]error{
		0: nil, -int64(unix.EIO): unix.EIO, -int64(unix.ENOSPC): unix.ENOSPC,
		-int64(unix.EINVAL): errors.ErrUnsupported, -int64(unix.EOPNOTSUPP): errors.ErrUnsupported,
	} {
		if err := outcome(result); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%d: %v", result, err)
		}
	}
}

// TestSyncData_Clean: of what was written before, nothing waits for the disk afterwards.
func TestSyncData_Clean(t *testing.T) {
	f, err := vfs.Default.Create(filepath.Join(t.TempDir(), "a"), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	waiting := func() uint64 {
		var pages unix.Cachestat_t
		if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &pages, 0); err != nil {
			t.Skipf("a kernel that does not tell: %v", err)
		}
		return pages.Dirty + pages.Writeback
	}
	for range 20 {
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if waiting() == 0 {
			t.Skip("a file system that does not say what waits for the disk")
		}
		if err := syncData(f); err != nil || waiting() > 0 {
			t.Errorf("%v, and %d pages wait for the disk", err, waiting())
		}
	}
}

// TestDisk_SyncData: the kernel is asked for syncs of much, by more at a time than there are contexts. Those are kept, as
// to end one takes as long as a hundred syncs.
func TestDisk_SyncData(t *testing.T) {
	a, err := getAIO()
	if err != nil {
		t.Skipf("this process may not have it: %v", err)
	}
	a.put()
	dir, before, made := t.TempDir(), take(), triedAIO.Load()
	if err := (FS{Disk}).Write(filepath.Join(dir, "little.log"), []byte("x")); err != nil || triedAIO.Load() != made {
		t.Errorf("a sync of one byte: %v, or it was asynchronous: no context was left for it, and one was made", err)
	}
	keep(before)
	for range 3 {
		var work sync.WaitGroup
		for i := range 2 * maxAIO {
			work.Go(func() {
				f, err := Disk.Create(filepath.Join(dir, fmt.Sprint(i)+".log"), vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Error(err)
					return
				}
				for range 10 {
					_, err := f.Write(make([]byte, muchToSync))
					if err := errors.Join(err, f.SyncData()); err != nil {
						t.Error(err)
					}
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
		after := take()
		keep(after)
		if len(after) < 2 || len(after) > maxAIO || int64(len(after)) != triedAIO.Load() {
			t.Errorf("%d contexts are kept, %d were made", len(after), triedAIO.Load())
		}
		for a := range before {
			if !after[a] {
				t.Error("a context was ended")
			}
		}
		before = after
	}
}

// take takes the contexts that wait for a call: all there are, when none is under way.
func take() map[*aio]bool {
	all := map[*aio]bool{}
	for range len(idleAIO) {
		all[<-idleAIO] = true
	}
	return all
}

// keep gives them back.
func keep(all map[*aio]bool) {
	for a := range all {
		a.put()
	}
}

// BenchmarkSyncData has two nodes' logs written and synced on two processors, beside a conversation over pipes: what
// is said meanwhile, where the kernel's asynchronous I/O is used, and where the system call is.
func BenchmarkSyncData(b *testing.B) {
	for _, bench := range []struct {
		name string
		fs   vfs.FS
	}{{"asynchronous", Disk}, {"fdatasync", vfs.Default}} {
		b.Run(bench.name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
			var work, nodes sync.WaitGroup
			hear, say := pipe(b), pipe(b)
			work.Go(func() {
				_, _ = io.Copy(say.w, hear.r)
				_ = say.w.Close()
			})
			said, stop := 0, make(chan bool)
			work.Go(func() {
				for {
					select {
					case <-stop:
						_ = hear.w.Close()
						return
					default:
						_, err := hear.w.Write([]byte("word"))
						_, err2 := io.ReadFull(say.r, make([]byte, 4))
						if err := errors.Join(err, err2); err != nil {
							b.Error(err)
						}
						said++
					}
				}
			})
			for _, name := range []string{"a", "b"} {
				f, err := bench.fs.Create(filepath.Join(b.TempDir(), name+".log"), vfs.WriteCategoryUnspecified)
				if err != nil {
					b.Fatal(err)
				}
				nodes.Go(func() {
					for range b.N {
						_, err := f.Write(make([]byte, 8<<10))
						if err := errors.Join(err, f.SyncData()); err != nil {
							b.Error(err)
						}
					}
					if err := f.Close(); err != nil {
						b.Error(err)
					}
				})
			}
			nodes.Wait()
			b.StopTimer()
			close(stop)
			work.Wait()
			b.ReportMetric(float64(said)/b.Elapsed().Seconds(), "said/s")
		})
	}
}

type ends struct{ r, w *os.File }

func pipe(b *testing.B) (p ends) {
	var err error
	if p.r, p.w, err = os.Pipe(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = errors.Join(p.r.Close(), p.w.Close()) })
	return p
}
