package state

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestCache: it says what was put last or nothing, whatever was forgotten meanwhile, and stays small.
func TestCache(t *testing.T) {
	const limit = 1000
	c := newCache(limit)
	want := map[string]string{}
	r := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for i := range 20_000 {
		k := fmt.Sprintf("a%d", r.IntN(40))
		if r.IntN(3) == 0 {
			want[k] = fmt.Sprint(i)
			if r.IntN(4) == 0 {
				delete(want, k)
				c.write([]byte(k), nil)
			} else {
				c.write([]byte(k), []byte(want[k]))
			}
		}
		if r.IntN(5) == 0 {
			c.committed()
		}
		e := c.get([]byte(k))
		if e == nil {
			for _, w := range c.written {
				if w.key == k {
					t.Fatalf("%s was written by the batch at work, and is forgotten", k)
				}
			}
			continue
		}
		v := e.value
		hits++
		if text, there := want[k]; string(v) != text || (v != nil) != there {
			t.Fatalf("%s is %q, %v, want %q, %v", k, v, v != nil, text, there)
		}
	}
	c.committed()
	size := 0
	for _, m := range []map[string]*cached{c.young, c.old} {
		for k, e := range m {
			size += len(k) + len(e.value) + cacheCost
		}
	}
	if hits < 1000 || size > 2*limit+2000 {
		t.Errorf("%d hits, and %d bytes at the end", hits, size)
	}
	if c.clear(); c.bytes != 0 || c.limit != limit {
		t.Errorf("cleared: %+v", c)
	}
	if e := c.get([]byte("a1")); e != nil || len(c.written) > 0 {
		t.Error("it knows something after it was cleared")
	}
}

// TestCache_LostBatch: what a batch wrote that was given up is not so.
func TestCache_LostBatch(t *testing.T) {
	m := newMachine(t)
	m.s.cache.limit = cacheBytes
	alice := m.user("alice")
	room := m.must(alice, &CreateRoom{Name: "room"}).Room
	data, err := EncodeEntry(m.nowMS, []*Command{m.command(alice, m.op(), &SendMessage{Target: ToRoom(room), Text: "lost"}), m.command(alice, nil, &RevokeSession{})})
	if err != nil {
		t.Fatal(err)
	}
	b := m.s.NewBatch()
	if _, err := b.Apply(m.index+1, 1, data); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if r := m.must(alice, &SendMessage{Target: ToRoom(room), Text: "first"}); r.Seq != 1 {
		t.Errorf("the first message has number %d", r.Seq)
	}
}
