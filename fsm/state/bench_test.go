package state

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkApply applies messages of 200 bytes to a hundred rooms, 256 to an entry and an entry to a
// batch; an operation is one message.
func BenchmarkApply(b *testing.B) {
	const entry = 256
	m := newMachine(b)
	m.s.cache.limit, m.s.recent.limit = cacheBytes, recentOperations
	alice := m.user("alice")
	var rooms []uint64
	for i := range 100 {
		rooms = append(rooms, m.must(alice, &CreateRoom{Name: fmt.Sprint("room", i)}).Room)
	}
	text := strings.Repeat("x", 200)
	var entries [][]byte
	for n := 0; n < b.N; n += entry {
		m.nowMS += entry / 20
		var cs []*Command
		for i := range min(entry, b.N-n) {
			cs = append(cs, m.command(alice, m.op(), &SendMessage{Target: ToRoom(rooms[(n+i)%len(rooms)]), Text: text}))
		}
		data, err := EncodeEntry(m.nowMS, cs)
		if err != nil {
			b.Fatal(err)
		}
		entries = append(entries, data)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, data := range entries {
		batch := m.s.NewBatch()
		if _, err := batch.Apply(m.index+uint64(i)+1, 1, data); err != nil {
			b.Fatal(err)
		}
		if _, err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}
