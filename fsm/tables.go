package fsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/sstable"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

func isTable(name string) bool { return filepath.Ext(name) == ".sst" }

// verifyTable reads a table, and compares each block with its checksum.
func verifyTable(fs files.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	file, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(context.Background(), file, sstable.ReaderOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name, chaterr.ErrCorrupt, errors.Join(err, file.Close()))
	}
	if err := errors.Join(r.ValidateBlockChecksums(), r.Close()); err != nil {
		return fmt.Errorf("%s: %w: %w", name, chaterr.ErrCorrupt, err)
	}
	return nil
}
