package replica

import (
	"encoding/binary"
	"fmt"

	"example.com/chat/internal/chaterr"
)

// Keys that raft writes a vote under, the term first (raft.go, persistVote), and our one for both.
const (
	voteTermKey      = "LastVoteTerm"
	voteCandidateKey = "LastVoteCand"
	voteKey          = "Vote"
)

// votes keeps the term and the candidate of a vote in one record, written at once. raft writes the
// two one after the other, and after a crash between them gives the candidate of the old vote a
// vote in the new term without a look at his log: committed entries can be lost
// (hashicorp/raft#661).
//
// raft votes on one goroutine; votes is not safe for more.
type votes struct {
	disk
	term uint64 // of the vote whose candidate comes next
}

// SetUint64 holds the term of a vote back until its candidate comes.
func (v *votes) SetUint64(key []byte, n uint64) error {
	if string(key) != voteTermKey {
		return v.disk.SetUint64(key, n)
	}
	v.term = n
	return nil
}

// Set writes a vote.
func (v *votes) Set(key, value []byte) error {
	if string(key) != voteCandidateKey {
		return v.disk.Set(key, value)
	}
	return v.disk.Set([]byte(voteKey), append(binary.BigEndian.AppendUint64(nil, v.term), value...))
}

// GetUint64 reads the term of the last vote.
func (v *votes) GetUint64(key []byte) (uint64, error) {
	if string(key) != voteTermKey {
		return v.disk.GetUint64(key)
	}
	term, _, err := v.last()
	return term, err
}

// Get reads the candidate of the last vote.
func (v *votes) Get(key []byte) ([]byte, error) {
	if string(key) != voteCandidateKey {
		return v.disk.Get(key)
	}
	_, candidate, err := v.last()
	return candidate, err
}

func (v *votes) last() (term uint64, candidate []byte, err error) {
	b, err := v.disk.Get([]byte(voteKey))
	if err != nil {
		return 0, nil, err
	}
	if len(b) < 8 {
		return 0, nil, fmt.Errorf("the vote has %d bytes: %w", len(b), chaterr.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), b[8:], nil
}
