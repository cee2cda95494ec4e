// Package files is the file system under a node: what it needs beside Pebble's vfs.FS, and a watch
// over its calls.
package files

import (
	"errors"
	"io"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writeBehind is after how many bytes of a long file the system is asked to begin writing it: else
// it would all be written by the fsync at its end, and raft's log would wait for that.
const writeBehind = 1 << 20

// FS is a file system with what vfs.FS lacks. A test puts one in that loses what was not synced.
type FS struct{ vfs.FS }

// Names are the names in a directory, sorted.
func (fs FS) Names(dir string) ([]string, error) {
	names, err := fs.List(dir)
	slices.Sort(names)
	return names, err
}

// MakeDir makes a directory whose name is durable: else a power cut could take it away later, with
// everything in it that was synced. Those above it must be there.
func (fs FS) MakeDir(dir string) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(dir))
}

// SyncDir makes the names in a directory durable.
func (fs FS) SyncDir(dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Make makes a file, or replaces it by a new one; fill writes its content, which is durable
// afterwards, and its name is not.
func (fs FS) Make(name string, fill func(io.Writer) error) error {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: writeBehind})
	return errors.Join(fill(f), f.Sync(), f.Close())
}

// Write is Make with a content.
func (fs FS) Write(name string, content []byte) error {
	return fs.Make(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// Read reads a whole file.
func (fs FS) Read(name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// Copy makes a copy of a file as Make does.
func (fs FS) Copy(from, to string) error {
	src, err := fs.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // only read
	return fs.Make(to, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	})
}
