package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"example.com/chat/internal/files"
)

// pebbleFS is the file system under Pebble, and does two things that Pebble should.
//
// It makes the name of a MANIFEST durable before Pebble makes the marker that points to it. Pebble
// syncs their directory once for both, so that a power cut may leave a marker of nothing where a file
// system does not keep the order of changes.
//
// It ends the goroutine in which the sync of a directory fails. Pebble would panic (vfs/atomicfs,
// Marker.Move), mostly on a goroutine of its own, and that ends the process.
type pebbleFS struct {
	vfs.FS
	fault func(error)
}

func (fs pebbleFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, c)
	if err != nil || !strings.HasPrefix(filepath.Base(name), "MANIFEST-") {
		return f, err
	}
	if err := (files.FS{FS: fs.FS}).SyncDir(filepath.Dir(name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (fs pebbleFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return pebbleDir{f, name, fs.fault}, nil
}

// pebbleDir is a directory.
type pebbleDir struct {
	vfs.File
	name  string
	fault func(error)
}

func (d pebbleDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fault(fmt.Errorf("sync %s: %w", d.name, err))
		runtime.Goexit()
	}
	return nil
}

// openPebble opens a Pebble on a goroutine that may be ended.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	err = errors.New("the disk has failed")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		db, err = pebble.Open(dir, o)
	}()
	<-done
	return db, err
}
