package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"

	"example.com/chat/internal/chaterr"
)

// wholeLog sees that bbolt may open a file. bbolt believes what it finds: it looks for free pages on a
// goroutine of its own, where a length that has rotted ends the process; of two meta pages of which
// one is damaged it takes the other, and with it the transaction before the last, whose vote or
// entries were promised; and a file that is shorter than its pages is a bus error where it is read.
//
// A power cut leaves nothing of the kind: all pages of a transaction are synced before its meta page
// is written, which is the first 80 bytes of a page, and a disk writes a sector as a whole.
func wholeLog(path string) (err error) {
	for range 3 { // a process that has the file open may write the pages that are read
		if err = lookAtLog(path); !errors.Is(err, chaterr.ErrCorrupt) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func lookAtLog(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	newest, err := readMeta(f, 0)
	if err != nil {
		return err
	}
	other, err := readMeta(f, newest.pageSize)
	if err != nil {
		return err
	}
	if need := max(newest.pages, other.pages); uint64(info.Size()/newest.pageSize) < need {
		return fmt.Errorf("it has %d bytes, and %d pages of %d bytes must be there: %w", info.Size(), need, newest.pageSize, chaterr.ErrCorrupt)
	}
	if other.tx > newest.tx {
		newest = other
	}
	w := walk{f: f, meta: newest, seen: make([]bool, newest.pages)}
	return w.page(newest.root)
}

// Of bbolt's file, all numbers in the byte order of the machine:
//
//	page          number (8 bytes), kind (2), count of elements (2), pages that follow it (4), elements
//	meta page     magic, version, page size, flags (4 each), root, sequence, free list, pages,
//	              transaction (8 each), FNV-1a of all that
//	branch        offset and length of the key (4 each), page (8)
//	leaf          1 for a bucket, offset and length of the key, length of the value (4 each)
//	bucket        root, or 0 when a page follows in the value; sequence (8 each)
//
// Offsets are from the element; a value follows its key.
const (
	pageHead   = 16
	metaSize   = 4*4 + 6*8
	metaMagic  = 0xED0CDAED
	branchKind = 1
	leafKind   = 2
	elemSize   = 16
	bucketSize = 16
)

var order = binary.NativeEndian

type meta struct {
	pageSize        int64
	root, pages, tx uint64
}

func readMeta(f io.ReaderAt, at int64) (meta, error) {
	b := make([]byte, metaSize)
	if _, err := f.ReadAt(b, at+pageHead); err != nil {
		return meta{}, fmt.Errorf("it ends in a meta page: %w: %w", chaterr.ErrCorrupt, err)
	}
	h := fnv.New64a()
	_, _ = h.Write(b[:metaSize-8]) // never fails
	m := meta{pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), pages: order.Uint64(b[40:]), tx: order.Uint64(b[48:])}
	if order.Uint32(b) != metaMagic || order.Uint64(b[metaSize-8:]) != h.Sum64() || m.pageSize < pageHead+metaSize {
		return meta{}, fmt.Errorf("the meta page at %d is damaged: %w", at, chaterr.ErrCorrupt)
	}
	return m, nil
}

// walk looks at all pages in use.
type walk struct {
	f    io.ReaderAt
	meta meta
	seen []bool
}

// page looks at a page, and at those that it names.
func (w *walk) page(n uint64) error {
	if n < 2 || n >= w.meta.pages {
		return fmt.Errorf("there is no page %d: %w", n, chaterr.ErrCorrupt)
	}
	first := make([]byte, w.meta.pageSize)
	if _, err := w.f.ReadAt(first, int64(n)*w.meta.pageSize); err != nil {
		return fmt.Errorf("page %d: %w", n, err)
	}
	more := uint64(order.Uint32(first[12:]))
	if order.Uint64(first) != n || more >= w.meta.pages-n {
		return fmt.Errorf("page %d is another one: %w", n, chaterr.ErrCorrupt)
	}
	for i := n; i <= n+more; i++ {
		if w.seen[i] {
			return fmt.Errorf("page %d has two uses: %w", i, chaterr.ErrCorrupt)
		}
		w.seen[i] = true
	}
	p := treeNode{w: w, first: first, at: int64(n) * w.meta.pageSize, size: int64(more+1) * w.meta.pageSize}
	if err := p.elements(); err != nil {
		return fmt.Errorf("page %d: %w", n, err)
	}
	return nil
}

// treeNode is a page with those that follow it, or a page in a value.
type treeNode struct {
	w        *walk
	first    []byte // what was read of it
	at, size int64
}

// bytes is a part of a node.
func (p *treeNode) bytes(from, n int64) ([]byte, error) {
	if from < 0 || n < 0 || from+n > p.size {
		return nil, fmt.Errorf("%d bytes at %d of %d: %w", n, from, p.size, chaterr.ErrCorrupt)
	}
	if from+n <= int64(len(p.first)) {
		return p.first[from : from+n], nil
	}
	b := make([]byte, n)
	_, err := p.w.f.ReadAt(b, p.at+from)
	return b, err
}

func (p *treeNode) elements() error {
	head, err := p.bytes(0, pageHead)
	if err != nil {
		return err
	}
	kind, count := order.Uint16(head[8:]), int64(order.Uint16(head[10:]))
	all, err := p.bytes(pageHead, count*elemSize)
	if err != nil {
		return err
	}
	if kind != branchKind && kind != leafKind || kind == branchKind && count == 0 {
		return fmt.Errorf("kind %d with %d elements: %w", kind, count, chaterr.ErrCorrupt)
	}
	var last []byte
	for i := range count {
		e, at := all[i*elemSize:(i+1)*elemSize], pageHead+i*elemSize
		key, err := p.element(kind, e, at)
		if err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("keys %x and %x are not in order: %w", last, key, chaterr.ErrCorrupt)
		}
		last = key
	}
	return nil
}

// element looks at one element, and returns its key.
func (p *treeNode) element(kind uint16, e []byte, at int64) (key []byte, err error) {
	if kind == branchKind {
		if key, err = p.bytes(at+int64(order.Uint32(e)), int64(order.Uint32(e[4:]))); err != nil {
			return nil, err
		}
		return key, p.w.page(order.Uint64(e[8:]))
	}
	from, keySize, size := at+int64(order.Uint32(e[4:])), int64(order.Uint32(e[8:])), int64(order.Uint32(e[12:]))
	if from+keySize+size > p.size {
		return nil, fmt.Errorf("a value of %d bytes: %w", size, chaterr.ErrCorrupt)
	}
	if key, err = p.bytes(from, keySize); err != nil || order.Uint32(e) == 0 {
		return key, err
	}
	return key, p.bucket(from+keySize, size)
}

// bucket looks at a bucket, which is a value.
func (p *treeNode) bucket(at, size int64) error {
	b, err := p.bytes(at, min(size, p.w.meta.pageSize))
	if err != nil {
		return err
	}
	if len(b) < bucketSize {
		return fmt.Errorf("a bucket of %d bytes: %w", size, chaterr.ErrCorrupt)
	}
	if root := order.Uint64(b); root != 0 {
		return p.w.page(root)
	}
	inline := treeNode{w: p.w, first: b[bucketSize:], at: p.at + at + bucketSize, size: size - bucketSize}
	return inline.elements()
}
