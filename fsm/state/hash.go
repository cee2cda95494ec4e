package state

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// sum becomes the hash of the state after an entry: a chain over the hash before it, what each of its
// commands came to, and every record that they wrote. It does not look at what is there already,
// so it costs little; two states with one hash have come from the same changes.
//
// xxHash64 is no secret and stops no attacker: it is for nodes that have gone different ways without
// anybody's will.
type sum struct {
	d    xxhash.Digest
	word [8]byte
}

func (s *sum) begin(before uint64) {
	s.d.Reset()
	s.number(before)
}

func (s *sum) number(n uint64) {
	binary.LittleEndian.PutUint64(s.word[:], n)
	_, _ = s.d.Write(s.word[:]) // a hash never fails
}

func (s *sum) bytes(b []byte) {
	s.number(uint64(len(b)))
	_, _ = s.d.Write(b)
}

// change adds a write; removal has another length than any value.
func (s *sum) change(c change) {
	s.bytes(c.key)
	if c.value == nil {
		s.number(^uint64(0))
		return
	}
	s.bytes(c.value)
}

// hashes reports whether the state has a hash: it begins when the cluster reaches level 2, for
// binaries before that keep none.
func (b *Batch) hashes() bool { return b.meta.Level >= hashLevel }

// seal ends an entry: what the commands did to Meta counts too.
func (b *Batch) seal() {
	if !b.hashes() {
		return
	}
	m := b.meta
	for _, n := range []uint64{m.Index, m.Term, uint64(m.TimeMs), m.LastId, uint64(m.ForgottenMs), uint64(m.Level), m.Changes, m.Quarantined} {
		b.sum.number(n)
	}
	b.sum.bytes([]byte(m.ClusterId))
	m.Hash = b.sum.d.Sum64()
}
