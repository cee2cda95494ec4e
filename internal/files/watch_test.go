package files

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestWatched_Hangs: a call that hangs is named once it has taken too long, and one that comes back in
// time is not.
func TestWatched_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := time.Duration(0)
		w := NewWatched(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
				time.Sleep(wait)
			}
			return nil
		})))
		found, stop := make(chan error, 1), make(chan struct{})
		go func() { found <- w.Watch(time.Second, stop) }()
		for _, wait = range []time.Duration{0, 900 * time.Millisecond} {
			if err := (FS{w}).Write("a", []byte("x")); err != nil || len(found) > 0 {
				t.Fatalf("a sync of %v: %v, %d found", wait, err, len(found))
			}
		}
		wait = time.Minute
		go func() { _ = FS{w}.Write("b", []byte("x")) }()
		start := time.Now()
		err := <-found
		if took := time.Since(start); took < time.Second || took > 1300*time.Millisecond || !strings.Contains(err.Error(), "sync b has waited for the disk for 1") {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(time.Hour)
	})
}

// TestWatched_Fails: a write that fails is told of, and that there is no such file is not.
func TestWatched_Fails(t *testing.T) {
	full := errors.New("no space left on device")
	for _, tt := range []struct {
		kind errorfs.OpKind
		told bool
	}{
		{errorfs.OpCreate, true}, {errorfs.OpFileWrite, true}, {errorfs.OpFileSyncData, true}, {errorfs.OpRename, true}, {errorfs.OpMkdirAll, true},
		{errorfs.OpLink, false}, {errorfs.OpOpen, false}, {errorfs.OpStat, false},
	} {
		var told []error
		fails := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == tt.kind {
				return full
			}
			return nil
		})
		w := NewWatched(errorfs.Wrap(vfs.NewMem(), fails))
		use := func() {
			fs := FS{w}
			_ = errors.Join(fs.MakeDir("d"), fs.Write("a", []byte("x")), w.Link("a", "b"), w.Rename("a", "c"))
			_, _ = w.Stat("a")
			_, _ = w.Open("c")
			_ = w.Rename("none", "other")
		}
		use() // nobody listens yet
		w.OnFailure(func(err error) { told = append(told, err) })
		use()
		if tt.told != (len(told) > 0) || tt.told && !errors.Is(told[0], full) {
			t.Errorf("operation %d: told %v", tt.kind, told)
		}
	}
}
