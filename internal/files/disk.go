package files

import (
	"path/filepath"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Disk is the machine's file system. On Linux, a goroutine that waits for SyncData of a log (*.log) leaves its processor to
// others when it has written much.
var Disk vfs.FS = disk{vfs.Default}

type disk struct{ vfs.FS }

// Unwrap is for vfs.Root.
func (d disk) Unwrap() vfs.FS { return d.FS }

func (d disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return onDisk(name, f, err)
}

func (d disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, c, opts...)
	return onDisk(name, f, err)
}

func (d disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	return onDisk(to, f, err)
}

func onDisk(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil || filepath.Ext(name) != ".log" {
		return f, err
	}
	return &logFile{File: f}, nil
}

// muchToSync is from where on SyncData leaves the processor. Its own goroutine goes on some 50 us later for that, which a
// sender who is alone would wait for; where many send, the others have more to gain.
const muchToSync = 1 << 10

// logFile is a log that is written.
type logFile struct {
	vfs.File
	written atomic.Int64 // since SyncData was called last
}

func (f *logFile) Write(p []byte) (int, error) {
	f.written.Add(int64(len(p)))
	return f.File.Write(p)
}

func (f *logFile) WriteAt(p []byte, off int64) (int, error) {
	f.written.Add(int64(len(p)))
	return f.File.WriteAt(p, off)
}

func (f *logFile) SyncData() error {
	if f.written.Swap(0) < muchToSync {
		return f.File.SyncData()
	}
	return syncData(f.File)
}
