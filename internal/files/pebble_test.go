package files

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestTable_StandsBack: who writes a table lets others run before each block, who writes the log does not.
func TestTable_StandsBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that others run when this goroutine lets them
	for name, want := range map[string]bool{"000001.sst": true, "000002.log": false} {
		f, err := pebbleFS{FS: vfs.NewMem()}.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		const blocks = 100
		ran := 0
		for range blocks {
			var done atomic.Bool
			go done.Store(true)
			if _, err := f.Write([]byte("block")); err != nil {
				t.Fatal(err)
			}
			if done.Load() {
				ran++
			}
		}
		if got := ran > blocks/2; got != want { // Go itself may change goroutines now and then
			t.Errorf("%s: %d of %d times another goroutine ran", name, ran, blocks)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
