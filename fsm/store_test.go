package fsm

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"example.com/chat/internal/files"
)

// TestStore_Apart: stores that get the same writes do not all flush, nor compact, at the same moments.
func TestStore_Apart(t *testing.T) {
	flushes, compactions := map[string]int{}, map[int]int{}
	for range 40 {
		compactions[storeOptions().L0CompactionThreshold]++
	}
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			s, err := openStore(files.FS{FS: vfs.NewMem()}, "state", false, zap.NewNop(), nil, func(err error) { t.Error(err) })
			if err != nil {
				t.Fatal(err)
			}
			var after []int
			value := make([]byte, 256<<10)
			for i, had := 0, int64(0); len(after) < 3; i++ {
				if err := s.db.Set(fmt.Append(nil, i), value, pebble.NoSync); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if n := s.db.Metrics().Flush.Count; n > had {
					after, had = append(after, i), n
				}
			}
			if per := after[2] - after[1]; per < 40 || per > 80 {
				t.Errorf("a memtable for %d KiB", per*256)
			}
			flushes[fmt.Sprint(after)]++
			s.release()
		})
	}
	if len(flushes) < 3 || len(compactions) == 1 {
		t.Errorf("flushed after %v, compacted at %v", flushes, compactions)
	}
}
