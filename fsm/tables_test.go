package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"example.com/chat/internal/chaterr"
)

// table is the bytes of a table with values of a size each, and a filter.
func table(t *testing.T, keys, size int) []byte {
	t.Helper()
	fs := vfs.NewMem()
	f, err := fs.Create("x.sst", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	o := storeOptions()
	o.EnsureDefaults()
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), o.MakeWriterOptions(0, sstable.TableFormatMax))
	r := rand.NewChaCha8([32]byte{})
	value := make([]byte, size)
	for i := range keys {
		_, _ = r.Read(value) // never fails
		if err := w.Set(fmt.Appendf(nil, "%08d", i), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := fs.UnsafeGetFileDataBuffer("x.sst")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// passed is what sendTable writes of a table.
func passed(t *testing.T, b []byte, w io.Writer) error {
	t.Helper()
	fs := vfs.NewMem()
	f, err := fs.Create("x.sst", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(b)); err != nil { // MemFS spoils what it has written
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = fs.Open("x.sst"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	return sendTable(w, f, int64(len(b)))
}

// TestSendTable: a table of any number of parts and blocks of any size is written as it is.
func TestSendTable(t *testing.T) {
	for _, tt := range []struct{ keys, size int }{{1, 1}, {100, 100}, {5000, 300}, {100, 50_000}, {3, 3 * block}, {1, block - 100}, {20_000, 10}} {
		want := table(t, tt.keys, tt.size)
		var got bytes.Buffer
		if err := passed(t, want, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d values of %d bytes: written are %d bytes of %d, %v", tt.keys, tt.size, got.Len(), len(want), err)
		}
	}
}

// TestSendTable_Damaged: whichever bit of a table is not as it was written, it is not sent to its end.
func TestSendTable_Damaged(t *testing.T) {
	good := table(t, 5000, 300)
	r := rand.New(rand.NewPCG(3, 3))
	places := []int{0, 1, block - 1, block, len(good) - 1}
	for range 300 {
		places = append(places, r.IntN(len(good)), len(good)-1-r.IntN(4000))
	}
	for _, at := range places {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << r.IntN(8)
		var got bytes.Buffer
		if err := passed(t, bad, &got); !errors.Is(err, chaterr.ErrCorrupt) || got.Len() == len(bad) {
			t.Errorf("byte %d of %d: written are %d bytes, %v", at, len(bad), got.Len(), err)
		}
	}
	for _, left := range []int{0, 10, len(good) / 2, len(good) - 1} {
		if err := passed(t, good[:left], io.Discard); !errors.Is(err, chaterr.ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v", left, len(good), err)
		}
	}
}

// TestSendTable_Refused: that the receiver takes no more is not damage.
func TestSendTable_Refused(t *testing.T) {
	b := table(t, 5000, 300)
	for parts := range 1 + len(b)/block {
		enough := errors.New("enough")
		n := 0
		w := writerFunc(func(p []byte) (int, error) {
			if n += len(p); n > parts*block {
				return 0, enough
			}
			return len(p), nil
		})
		if err := passed(t, b, w); !errors.Is(err, enough) || errors.Is(err, chaterr.ErrCorrupt) {
			t.Errorf("after %d parts: %v", parts, err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
