package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Watched is a file system of which it is known when a call hangs, and when a write has failed: after
// that nobody knows what is on the disk. Only RemoveAll is left out, which is many calls in one: what
// hangs in it hangs in others, too.
type Watched struct {
	vfs.FS
	Calls
	failed atomic.Pointer[func(error)]
}

var _ vfs.FS = (*Watched)(nil)

// NewWatched puts a watch over a file system.
func NewWatched(on vfs.FS) *Watched { return &Watched{FS: on} }

// OnFailure has f called with each write that fails from now on, which must not wait. The caller of
// the write hears of it, too.
func (w *Watched) OnFailure(f func(error)) { w.failed.Store(&f) }

// Unwrap is for vfs.Root.
func (w *Watched) Unwrap() vfs.FS { return w.FS }

func (w *Watched) read(what, name string, f func() error) error {
	defer w.End(w.Begin(what, name))
	return f()
}

func (w *Watched) write(what, name string, f func() error) error {
	err := w.read(what, name, f)
	// That a file is there, or not, says nothing of the disk.
	if told := w.failed.Load(); told != nil && err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		said := err
		if p := (*fs.PathError)(nil); !errors.As(err, &p) { // which names both
			said = fmt.Errorf("%s %s: %w", what, name, err)
		}
		(*told)(said)
	}
	return err
}

func (w *Watched) file(name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	err = w.read("open", name, func() error {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, w, name}, nil
}

func (w *Watched) Create(name string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = w.write("create", name, func() error {
		f, err = w.FS.Create(name, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, w, name}, nil
}

func (w *Watched) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return w.file(name, func() (vfs.File, error) { return w.FS.Open(name, opts...) })
}

func (w *Watched) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return w.file(name, func() (vfs.File, error) { return w.FS.OpenReadWrite(name, c, opts...) })
}

func (w *Watched) OpenDir(name string) (vfs.File, error) {
	return w.file(name, func() (vfs.File, error) { return w.FS.OpenDir(name) })
}

func (w *Watched) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return w.file(to, func() (vfs.File, error) { return w.FS.ReuseForWrite(from, to, c) })
}

// Link may fail where a file system has no links; whoever calls it then makes a copy.
func (w *Watched) Link(from, to string) error {
	return w.read("link", to, func() error { return w.FS.Link(from, to) })
}

func (w *Watched) Remove(name string) error {
	return w.read("remove", name, func() error { return w.FS.Remove(name) })
}

func (w *Watched) Rename(from, to string) error {
	return w.write("rename", from, func() error { return w.FS.Rename(from, to) })
}

func (w *Watched) MkdirAll(dir string, perm os.FileMode) error {
	return w.write("make", dir, func() error { return w.FS.MkdirAll(dir, perm) })
}

func (w *Watched) List(dir string) (names []string, err error) {
	err = w.read("list", dir, func() (err error) { names, err = w.FS.List(dir); return err })
	return names, err
}

func (w *Watched) Stat(name string) (i vfs.FileInfo, err error) {
	err = w.read("stat", name, func() (err error) { i, err = w.FS.Stat(name); return err })
	return i, err
}

// watchedFile is a file of a Watched.
type watchedFile struct {
	vfs.File
	w    *Watched
	name string
}

func (f *watchedFile) Read(p []byte) (n int, err error) {
	defer f.w.End(f.w.Begin("read", f.name))
	return f.File.Read(p)
}

func (f *watchedFile) ReadAt(p []byte, off int64) (n int, err error) {
	defer f.w.End(f.w.Begin("read", f.name))
	return f.File.ReadAt(p, off)
}

func (f *watchedFile) Write(p []byte) (n int, err error) {
	err = f.w.write("write", f.name, func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *watchedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.w.write("write", f.name, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *watchedFile) Sync() error { return f.w.write("sync", f.name, f.File.Sync) }

func (f *watchedFile) SyncData() error { return f.w.write("sync", f.name, f.File.SyncData) }

func (f *watchedFile) SyncTo(length int64) (full bool, err error) {
	err = f.w.write("sync", f.name, func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

func (f *watchedFile) Close() error {
	return f.w.write("close", f.name, f.File.Close)
}
