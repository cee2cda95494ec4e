package fsm

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// A snapshot travels as
//
//	magic, length of the manifest (4 bytes), manifest, its SHA-256
//	for each file of the manifest: its bytes, their xxHash64
//
// and is only a snapshot when all of that has arrived.
const (
	streamMagic = "chatsnp1"
	// streamFormat is what is written. Format 1 is read, and sent on: its files have a SHA-256, which took a tenth of the
	// processors of leader and follower.
	streamFormat = 2
	// maxManifest is how many bytes a manifest may have: 100,000 files and more, which are terabytes.
	maxManifest = 4 << 20
	// block is how many bytes are read at a time: as many as raft's transport has room for, which then copies none of them.
	block = 256 << 10
	// maxState is how many bytes the files of a snapshot may have. No disk holds so much; it keeps
	// sums of sizes from overflowing.
	maxState = 1 << 50
)

// manifestHead is the stream up to the files, and also the manifest file on disk.
func manifestHead(m *fsmpb.Snapshot) ([]byte, error) {
	text, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(m.Files) == 0 || len(text) > maxManifest {
		return nil, fmt.Errorf("%w: a snapshot of %d files and a manifest of %d bytes", chaterr.ErrCorrupt, len(m.Files), len(text))
	}
	head := binary.BigEndian.AppendUint32([]byte(streamMagic), uint32(len(text)))
	sum := sha256.Sum256(text)
	return append(append(head, text...), sum[:]...), nil
}

// readManifest reads what manifestHead has made.
func readManifest(r io.Reader) (*fsmpb.Snapshot, error) {
	head := make([]byte, len(streamMagic)+4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("%w: snapshot without a head: %w", chaterr.ErrCorrupt, err)
	}
	size := binary.BigEndian.Uint32(head[len(streamMagic):])
	if string(head[:len(streamMagic)]) != streamMagic || size > maxManifest {
		return nil, fmt.Errorf("%w: not a snapshot", chaterr.ErrCorrupt)
	}
	// Memory grows with what arrives, not with what is announced.
	text, err := io.ReadAll(io.LimitReader(r, int64(size)+sha256.Size))
	if err != nil || len(text) != int(size)+sha256.Size {
		return nil, fmt.Errorf("%w: the snapshot ends in its manifest: %w", chaterr.ErrCorrupt, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	if sum := sha256.Sum256(text[:size]); string(sum[:]) != string(text[size:]) {
		return nil, fmt.Errorf("%w: manifest does not match its checksum", chaterr.ErrCorrupt)
	}
	m := new(fsmpb.Snapshot)
	if err := proto.Unmarshal(text[:size], m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", chaterr.ErrCorrupt, err)
	}
	if m.Format == 0 || m.Format > streamFormat {
		return nil, fmt.Errorf("snapshot of format %d, this binary knows them up to %d: %w", m.Format, streamFormat, chaterr.ErrUpgradeNeeded)
	}
	total, last := uint64(0), ""
	for _, f := range m.Files { // in order, each once
		if !plainName(f.Name) || f.Name <= last || f.Size > maxState-total {
			return nil, fmt.Errorf("%w: manifest names the file %q of %d bytes behind %q", chaterr.ErrCorrupt, f.Name, f.Size, last)
		}
		total, last = total+f.Size, f.Name
	}
	return m, nil
}

// plainName reports whether a file's name is made of what Pebble's names are made of, in which
// nothing leads out of a directory on any system.
func plainName(name string) bool {
	odd := func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && r != '.' && r != '-' && r != '_'
	}
	return name != "" && len(name) <= 255 && name[0] != '.' && !strings.ContainsFunc(name, odd)
}

// newSum becomes the checksum of a file. It tells what was damaged by chance; who could do it on purpose knows the
// cluster's secret, or is on the way of a tunnel without TLS.
func newSum(m *fsmpb.Snapshot) hash.Hash {
	if m.Format == 1 {
		return sha256.New()
	}
	return xxhash.New()
}

// streamSize is how long the stream is.
func streamSize(head []byte, m *fsmpb.Snapshot) int64 {
	size, sum := int64(len(head)), int64(newSum(m).Size())
	for _, f := range m.Files {
		size += int64(f.Size) + sum
	}
	return size
}

// listFiles fills in the manifest's files from a directory.
func listFiles(fs files.FS, dir string) (list []*fsmpb.Snapshot_File, err error) {
	names, err := fs.Names(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a file", path)
		}
		list = append(list, &fsmpb.Snapshot_File{Name: name, Size: uint64(info.Size())})
	}
	return list, nil
}

// sendFile writes one file and its checksum, which h makes. It must still have the size that the manifest says.
func sendFile(w io.Writer, fs files.FS, path string, size uint64, h hash.Hash) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != int64(size) {
		return fmt.Errorf("%s: %w: %d bytes, the manifest says %d", path, chaterr.ErrCorrupt, info.Size(), size)
	}
	both := io.MultiWriter(w, h)
	if isTable(path) {
		err = sendTable(both, f, int64(size))
	} else {
		_, err = copyBlocks(both, f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = w.Write(h.Sum(nil))
	return err
}

// receiveFile reads what sendFile has written into a new file, and makes it durable.
func receiveFile(r io.Reader, fs files.FS, path string, size uint64, h hash.Hash) error {
	err := fs.Make(path, func(w io.Writer) error {
		n, err := copyBlocks(io.MultiWriter(h, w), io.LimitReader(r, int64(size))) // in this order: vfs.MemFS spoils what it has written
		if err == nil && n < int64(size) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("receive %s: %w", filepath.Base(path), err)
	}
	sum := make([]byte, h.Size())
	if _, err := io.ReadFull(r, sum); err != nil {
		return fmt.Errorf("receive %s: %w", filepath.Base(path), err)
	}
	if string(sum) != string(h.Sum(nil)) {
		return fmt.Errorf("%s: %w: it does not match its checksum", filepath.Base(path), chaterr.ErrCorrupt)
	}
	return nil
}

// copyBlocks is io.Copy with blocks.
func copyBlocks(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(w, r, make([]byte, block))
}

// receive reads a whole stream; the files go into dir.
func receive(r io.Reader, fs files.FS, dir string) (*fsmpb.Snapshot, error) {
	m, err := readManifest(r)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := receiveFile(r, fs, filepath.Join(dir, f.Name), f.Size, newSum(m)); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: the snapshot ends early: %w", chaterr.ErrCorrupt, err)
		} else if err != nil {
			return nil, err
		}
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes behind the end of the snapshot", chaterr.ErrCorrupt)
	}
	return m, fs.SyncDir(dir)
}
