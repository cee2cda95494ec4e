package replica

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/files"
)

// BenchmarkLogStore stores batches of entries of 300 bytes, each batch durably, and forgets old ones as a
// node at work does.
func BenchmarkLogStore(b *testing.B) {
	for _, store := range logStores {
		for _, batch := range []int{1, 16, 64, 1024} {
			b.Run(fmt.Sprintf("%s/batch=%d", store, batch), func(b *testing.B) {
				on := files.FS{FS: files.NewWatched(files.Disk)}
				path := filepath.Join(b.TempDir(), "data")
				if err := on.MakeDir(path); err != nil {
					b.Fatal(err)
				}
				l, err := place{dir: path, files: on, path: path, store: store}.open(true)
				if err != nil {
					b.Fatal(err)
				}
				s, err := newStore(l, time.Minute, func(err error) { b.Error(err) })
				if err != nil {
					b.Fatal(err)
				}
				const keep = 8192
				data, last, first := make([]byte, 300), uint64(0), uint64(1)
				for b.Loop() {
					logs := make([]*raft.Log, batch)
					for i := range logs {
						last++
						logs[i] = &raft.Log{Index: last, Term: 1, Data: data}
					}
					if err := s.logs.StoreLogs(logs); err != nil {
						b.Fatal(err)
					}
					if last > first+2*keep {
						if err := s.logs.DeleteRange(first, last-keep); err != nil {
							b.Fatal(err)
						}
						first = last - keep + 1
					}
				}
				b.ReportMetric(float64(last)/b.Elapsed().Seconds(), "entries/s")
				b.StopTimer()
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
