package fsm

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/cursor"
)

// benchMessages is so small that a run of all benchmarks is quick; goals are about 1,000,000 and more.
var benchMessages = flag.Int("messages", 20_000, "how many messages there are when a benchmark of reads or snapshots begins")

// filled has that many messages in some rooms, all of them in tables that are compacted, as after a while.
func filled(b *testing.B, messages, users, rooms int) *chatter {
	b.Helper()
	m := newMachine(b)
	m.o.Publish = func([]state.Event) {}
	c := newChatter(b, m, users, rooms)
	for n := 0; n < messages; n += 256 {
		if _, err := Results(m.Apply(c.entry(min(256, messages-n)))); err != nil {
			b.Fatal(err)
		}
	}
	if err := m.flush(m.store, nil); err != nil {
		b.Fatal(err)
	}
	for m.store.db.Metrics().Compact.NumInProgress > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	return c
}

// quantiles reports how long operations took.
func quantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// BenchmarkHistory reads pages of 50 messages anywhere in one long room, each in a view of its own.
func BenchmarkHistory(b *testing.B) {
	c := filled(b, *benchMessages, 4, 1)
	r := rand.New(rand.NewPCG(1, 2))
	const page = 50
	var took []time.Duration
	for b.Loop() {
		last, down := page+r.Uint64N(uint64(*benchMessages-page+1)), r.IntN(2) == 0
		start := time.Now()
		v, err := c.m.View()
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		_, err = v.Messages(c.users[0].Account, c.rooms[0], last-page+1, last, down, 1000, func(state.Message) bool { n++; return true })
		if err != nil || v.Close() != nil || n != page {
			b.Fatalf("%d messages before number %d: %v", n, last, err)
		}
		took = append(took, time.Since(start))
	}
	quantiles(b, took)
}

// BenchmarkResume reads what 100 messages a stream has missed, in histories of different lengths: the cost
// must be that of what was missed.
func BenchmarkResume(b *testing.B) {
	for _, part := range []int{10, 1} {
		messages := *benchMessages / part
		b.Run(fmt.Sprintf("messages=%d", messages), func(b *testing.B) {
			c := filled(b, messages, 4, 100)
			from := cursor.EndOf(c.index)
			if _, err := Results(c.m.Apply(c.entry(100))); err != nil {
				b.Fatal(err)
			}
			var took []time.Duration
			b.ResetTimer()
			for b.Loop() {
				start := time.Now()
				v, err := c.m.View()
				if err != nil {
					b.Fatal(err)
				}
				events, _, more, err := v.EventsSince(c.users[0].Account, from, 1000)
				if err != nil || v.Close() != nil || len(events) != 100 || more {
					b.Fatalf("%d events, %v", len(events), err)
				}
				took = append(took, time.Since(start))
			}
			quantiles(b, took)
		})
	}
}

// BenchmarkSnapshot takes snapshots while 32,000 messages a second are applied, 64 an entry. stall-ns is the longest that
// an entry, or Snapshot itself, took while one was made; alone-ns is that of as many entries without.
func BenchmarkSnapshot(b *testing.B) {
	c := filled(b, *benchMessages, 4, 1000)
	var stall, alone time.Duration
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	apply := func(longest *time.Duration) *raft.Log {
		l := c.entry(64)
		<-pace.C
		start := time.Now()
		if _, err := Results(c.m.Apply(l)); err != nil {
			b.Fatal(err)
		}
		*longest = max(*longest, time.Since(start))
		return l
	}
	for b.Loop() {
		l := apply(&alone)
		start := time.Now()
		s, err := c.m.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		stall = max(stall, time.Since(start))
		sink, made := c.m.create(l), make(chan error)
		go func() { made <- errors.Join(s.Persist(sink), sink.Close()) }()
		n := 0
		for done := false; !done; n++ {
			select {
			case err = <-made:
				done = true
			default:
				apply(&stall)
			}
		}
		s.Release()
		if err != nil {
			b.Fatal(err)
		}
		for range n {
			apply(&alone)
		}
	}
	b.ReportMetric(float64(stall.Nanoseconds()), "stall-ns")
	b.ReportMetric(float64(alone.Nanoseconds()), "alone-ns")
}

// BenchmarkSend sends a snapshot from one node's disk to another's, as fast as it goes, without what lies between them.
// cpu-ns/MiB is what both take for a MiB of it.
func BenchmarkSend(b *testing.B) {
	c := filled(b, *benchMessages, 4, 1000)
	l := c.entry(1)
	if _, err := Results(c.m.Apply(l)); err != nil {
		b.Fatal(err)
	}
	id, to := c.m.snapshot(l), newMachine(b)
	c.m.Snapshots().rate = math.Inf(1)
	var size int64
	before := cpuTime(b)
	for b.Loop() {
		meta, r, err := c.m.Snapshots().Open(id)
		if err != nil {
			b.Fatal(err)
		}
		size = meta.Size
		pr, pw := io.Pipe()
		go func() { // ends with the stream
			_, err := io.Copy(pw, r)
			_ = pw.CloseWithError(err) // never fails
		}()
		sink := to.create(l)
		if _, err := io.Copy(sink, pr); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(sink.Close(), r.Close()); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(size)
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N)/(float64(size)/(1<<20)), "cpu-ns/MiB")
}
