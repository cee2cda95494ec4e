package fsm

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"example.com/chat/internal/chaterr"
)

func isTable(name string) bool { return filepath.Ext(name) == ".sst" }

// sendTable writes a table, and compares each block with its checksum. The file is read once: what is written is what
// was compared. When a block is damaged, what comes before it may have been written.
func sendTable(w io.Writer, f vfs.File, size int64) error {
	t := &passing{File: f, w: w, size: size}
	err := compare(t)
	switch {
	case t.refused != nil:
		return t.refused
	case err != nil:
		return fmt.Errorf("%w: %w", chaterr.ErrCorrupt, err)
	}
	for err == nil {
		err = t.next()
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// compare reads all blocks of a table, in the order in which they stand there.
func compare(f sstable.ReadableFile) error {
	file, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return err
	}
	r, err := sstable.NewReader(context.Background(), file, sstable.ReaderOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	return r.ValidateBlockChecksums()
}

// passing is a file that is written to w as it is read, from its beginning to its end, in parts: each when the one
// behind it is wanted. What is read elsewhere, as the index at the end of a table is, is written when its turn comes.
type passing struct {
	vfs.File
	w       io.Writer
	refused error // by w
	size    int64
	part    []byte
	at      int64 // where part begins
}

// ReadAt is not for several goroutines at a time.
func (t *passing) ReadAt(p []byte, off int64) (n int, err error) {
	if off < t.at || off > t.at+int64(len(t.part)) {
		return t.File.ReadAt(p, off)
	}
	for {
		n += copy(p[n:], t.part[off+int64(n)-t.at:])
		if n == len(p) {
			return n, nil
		}
		if err := t.next(); err != nil {
			return n, err
		}
	}
}

// next writes the part, and reads the one behind it; io.EOF when there is none.
func (t *passing) next() error {
	if _, t.refused = t.w.Write(t.part); t.refused != nil {
		return t.refused
	}
	t.at += int64(len(t.part))
	left := t.size - t.at
	if left == 0 {
		t.part = nil
		return io.EOF
	}
	if t.part == nil {
		t.part = make([]byte, min(block, left))
	}
	t.part = t.part[:min(int64(len(t.part)), left)]
	n, err := t.File.ReadAt(t.part, t.at)
	if n == len(t.part) {
		return nil
	}
	return fmt.Errorf("%d bytes at %d of %d: %w", n, t.at, t.size, err)
}

// Close leaves the file to who has opened it.
func (*passing) Close() error { return nil }
