package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// checksums keeps a CRC32C with every entry and value. A logFile has none, so a bit that flips on
// the disk would be applied, or sent to followers, without a word. What does not match is
// chaterr.ErrCorrupt, and so is what cannot be decoded.
//
// The sum of an entry stands behind its Extensions, not behind its Data, which raft itself decodes
// in entries that change the configuration.
type checksums struct{ disk }

const sumSize = crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// StoreLog stores one entry.
func (c checksums) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores copies: raft goes on using the entries it has passed.
func (c checksums) StoreLogs(logs []*raft.Log) error {
	copies := make([]raft.Log, len(logs))
	stored := make([]*raft.Log, len(logs))
	for i, l := range logs {
		copies[i] = *l
		ext := make([]byte, 0, len(l.Extensions)+sumSize)
		ext = append(ext, l.Extensions...)
		copies[i].Extensions = binary.BigEndian.AppendUint32(ext, entrySum(l))
		stored[i] = &copies[i]
	}
	return c.disk.StoreLogs(stored)
}

// GetLog returns an entry that is as it was stored.
func (c checksums) GetLog(index uint64, l *raft.Log) error {
	err := c.disk.GetLog(index, l)
	if err != nil {
		if isNotFound(err) {
			return err
		}
		return fmt.Errorf("entry %d of the log: %w: %w", index, chaterr.ErrCorrupt, err)
	}
	n := len(l.Extensions) - sumSize
	if n < 0 || l.Index != index {
		return fmt.Errorf("entry %d of the log: %w", index, chaterr.ErrCorrupt)
	}
	sum := binary.BigEndian.Uint32(l.Extensions[n:])
	if l.Extensions = l.Extensions[:n]; n == 0 {
		l.Extensions = nil
	}
	if sum != entrySum(l) {
		return fmt.Errorf("entry %d of the log does not match its checksum: %w", index, chaterr.ErrCorrupt)
	}
	return nil
}

// entrySum covers whatever raft reads of an entry. Lengths are part of it, so that nothing can move
// from one field to the next.
func entrySum(l *raft.Log) uint32 {
	var head [33]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	binary.BigEndian.PutUint64(head[17:], uint64(len(l.Data)))
	binary.BigEndian.PutUint64(head[25:], uint64(len(l.Extensions)))
	sum := crc32.Update(0, castagnoli, head[:])
	sum = crc32.Update(sum, castagnoli, l.Data)
	return crc32.Update(sum, castagnoli, l.Extensions)
}

// Set stores a value with the sum of it and its key.
func (c checksums) Set(key, value []byte) error {
	b := make([]byte, 0, len(value)+sumSize)
	b = append(b, value...)
	return c.disk.Set(key, binary.BigEndian.AppendUint32(b, valueSum(key, value)))
}

// Get returns a value that is as it was stored.
func (c checksums) Get(key []byte) ([]byte, error) {
	b, err := c.disk.Get(key)
	if err != nil {
		return nil, err
	}
	n := len(b) - sumSize
	if n < 0 || binary.BigEndian.Uint32(b[n:]) != valueSum(key, b[:n]) {
		return nil, fmt.Errorf("%s of raft does not match its checksum: %w", key, chaterr.ErrCorrupt)
	}
	return b[:n:n], nil
}

func valueSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// SetUint64 is Set for a number.
func (c checksums) SetUint64(key []byte, n uint64) error {
	return c.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 is Get for a number.
func (c checksums) GetUint64(key []byte) (uint64, error) {
	b, err := c.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, errors.Join(chaterr.ErrCorrupt, fmt.Errorf("%s of raft has %d bytes", key, len(b)))
	}
	return binary.BigEndian.Uint64(b), nil
}
