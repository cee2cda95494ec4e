package memdisk

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"example.com/chat/internal/chaterr"
)

// TestDisk_Crash: what was synced is there after a crash, and what was not is not; the log's values always are.
func TestDisk_Crash(t *testing.T) {
	d := New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := d.Files().Create("/a", vfs.WriteCategoryUnspecified)
	must(err)
	root, err := d.Files().OpenDir("/")
	must(err)
	_, err = f.Write([]byte("kept"))
	must(errors.Join(err, f.Sync(), root.Sync()))
	_, err = f.Write([]byte(", lost"))
	must(err)
	l, err := d.Lock()
	must(err)
	must(errors.Join(l.Set([]byte("vote"), []byte("n2")), l.SetUint64([]byte("term"), 7), l.Close()))
	d.Crash()
	f, err = d.Files().Open("/a")
	must(err)
	b := make([]byte, 100)
	n, _ := f.Read(b) // an error is the end of the file
	if string(b[:n]) != "kept" {
		t.Errorf("the file holds %q", b[:n])
	}
	l, err = d.Lock()
	must(err)
	vote, err := l.Get([]byte("vote"))
	must(err)
	if term, err := l.GetUint64([]byte("term")); err != nil || term != 7 || string(vote) != "n2" {
		t.Errorf("term %d, %v, vote %q", term, err, vote)
	}
	if _, err := l.GetUint64([]byte("none")); err == nil || err.Error() != "not found" { // raft compares the text
		t.Errorf("a number that was never set: %v", err)
	}
}

// TestDisk_Lock: a disk has one user at a time.
func TestDisk_Lock(t *testing.T) {
	d := New()
	first, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); !errors.Is(err, chaterr.ErrDataDirInUse) {
		t.Errorf("a second user: %v", err)
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(); err != nil {
		t.Errorf("after the first has closed it: %v", err)
	}
	if _, err := d.Lock(); err == nil {
		t.Error("the first has closed it for another one, too")
	}
}
