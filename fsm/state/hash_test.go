package state

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// BenchmarkHash says what part of applying messages the hash is: entries of 16 messages of 200 bytes,
// batches of 8 entries, and the same changes hashed once more.
func BenchmarkHash(b *testing.B) {
	m := newMachine(b)
	alice := m.user("alice")
	room := m.must(alice, &CreateRoom{Name: "room"}).Room
	var applying, hashing time.Duration
	var s sum
	n := 0
	for b.Loop() {
		var entries [][]byte
		for range 8 {
			var cs []*Command
			for range 16 {
				cs = append(cs, m.command(alice, m.op(), &SendMessage{Target: ToRoom(room), Text: strings.Repeat("x", 200)}))
			}
			data, err := EncodeEntry(m.nowMS, cs)
			if err != nil {
				b.Fatal(err)
			}
			entries = append(entries, data)
		}
		n += 8 * 16
		start := time.Now()
		batch := m.s.NewBatch()
		for _, data := range entries {
			m.index++
			if _, err := batch.Apply(m.index, 1, data); err != nil {
				b.Fatal(err)
			}
		}
		changes := changesOf(b, batch)
		if _, err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
		applying += time.Since(start)
		start = time.Now()
		for _, c := range changes {
			s.change(c)
		}
		hashing += time.Since(start)
	}
	b.ReportMetric(float64(applying.Nanoseconds())/float64(n), "ns/message")
	b.ReportMetric(float64(hashing.Nanoseconds())/float64(n), "hash-ns/message")
	b.ReportMetric(100*float64(hashing)/float64(applying), "%-of-apply")
}

func changesOf(b *testing.B, batch *Batch) (changes []change) {
	b.Helper()
	r := batch.b.Reader()
	for {
		kind, k, v, ok, err := r.Next()
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			break
		}
		if kind != pebble.InternalKeyKindSet {
			v = nil
		}
		changes = append(changes, change{k, v})
	}
	for _, e := range batch.s.cache.written { // the last values alone
		changes = append(changes, change{[]byte(e.key), e.value})
	}
	return changes
}
