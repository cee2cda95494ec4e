package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/fsmpb"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// sender is a machine with one snapshot.
func sender(t testing.TB) (m *machine, meta *raft.SnapshotMeta, stream []byte) {
	t.Helper()
	logs := makeLog(t, 40)
	m = newMachine(t)
	m.apply(logs, 10)
	meta, stream = m.stream(m.snapshot(logs[39]))
	return m, meta, stream
}

// refuses feeds a stream to a sink as raft does, but for raft's own count of the bytes, and checks
// that nothing comes of it.
func (m *machine) refuses(what string, meta *raft.SnapshotMeta, stream []byte, want error) {
	m.t.Helper()
	sink := m.create(&raft.Log{Index: meta.Index, Term: meta.Term})
	err := take(sink, stream)
	if err != nil {
		if err := sink.Cancel(); err != nil {
			m.t.Errorf("%s: cancel: %v", what, err)
		}
	} else {
		err = sink.Close()
	}
	if !errors.Is(err, want) {
		m.t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if got := names(m.t, m.dir, "snapshots"); len(got) > 0 {
		m.t.Fatalf("%s: left are %v", what, got)
	}
	if list, err := m.Snapshots().List(); err != nil || len(list) > 0 {
		m.t.Fatalf("%s: listed are %v, %v", what, list, err)
	}
}

// serves checks that a machine answers and goes on.
func (m *machine) serves() {
	m.t.Helper()
	applied := m.Applied()
	m.apply(makeLog(m.t, setup+int(applied)), 10)
	v, err := m.View()
	if err != nil {
		m.t.Fatal(err)
	}
	if rooms, err := v.RoomsOf(actors[0].Account); err != nil || v.Applied() <= applied {
		m.t.Errorf("a view of entry %d after %d: %v, %v", v.Applied(), applied, rooms, err)
	}
	if err := v.Close(); err != nil {
		m.t.Error(err)
	}
}

// TestStream_Damaged: whatever happens to a stream on its way, it is refused, and what was there
// before is served on.
func TestStream_Damaged(t *testing.T) {
	_, meta, good := sender(t)
	m := newMachine(t)
	m.apply(makeLog(t, 20), 10)
	head := len(streamMagic) + 4 + int(binary.BigEndian.Uint32(good[len(streamMagic):])) + sha256.Size
	r := rand.New(rand.NewPCG(2, 2))
	places := 200
	if testing.Short() {
		places = 20
	}
	var flips []int
	for at := range head {
		flips = append(flips, at)
	}
	for range places {
		flips = append(flips, head+r.IntN(len(good)-head))
	}
	for _, at := range append(flips, len(good)-1) {
		bad := bytes.Clone(good)
		bit := r.IntN(8)
		bad[at] ^= 1 << bit
		m.refuses(fmt.Sprintf("bit %d of byte %d of %d", bit, at, len(good)), meta, bad, chaterr.ErrCorrupt)
	}
	cuts := []int{0, 1, len(streamMagic), len(streamMagic) + 4, head - 1, head, head + 1, len(good) - xxhash.New().Size(), len(good) - 1}
	for range places / 8 {
		cuts = append(cuts, r.IntN(len(good)))
	}
	for _, at := range cuts {
		m.refuses(fmt.Sprintf("cut at %d of %d", at, len(good)), meta, good[:at], chaterr.ErrCorrupt)
	}
	for _, more := range []int{1, 32, 100_000} {
		m.refuses(fmt.Sprintf("with %d bytes more", more), meta, append(bytes.Clone(good), make([]byte, more)...), chaterr.ErrCorrupt)
	}
	m.serves()
}

// TestStream_Cancelled: a stream ends in the middle, and raft gives up; nothing is left of it.
func TestStream_Cancelled(t *testing.T) {
	_, meta, good := sender(t)
	m := newMachine(t)
	for _, n := range []int{0, 1, 500, len(good) / 2, len(good)} {
		sink := m.create(&raft.Log{Index: meta.Index, Term: meta.Term})
		if err := take(sink, good[:n]); (err == nil) != (n == len(good)) {
			t.Errorf("%d bytes of %d: %v", n, len(good), err)
		}
		if err := errors.Join(sink.Cancel(), sink.Cancel(), sink.Close()); err != nil {
			t.Error(err)
		}
		if got := names(t, m.dir, "snapshots"); len(got) > 0 {
			t.Errorf("after %d bytes left are %v", n, got)
		}
	}
}

// TestStream_Other: a stream is refused that is of another entry than raft was told.
func TestStream_Other(t *testing.T) {
	_, meta, good := sender(t)
	m := newMachine(t)
	for name, other := range map[string]raft.SnapshotMeta{
		"lower index": {Index: meta.Index - 1, Term: meta.Term},
		"later index": {Index: meta.Index + 1, Term: meta.Term},
		"other term":  {Index: meta.Index, Term: meta.Term + 1},
	} {
		m.refuses(name, &other, good, chaterr.ErrCorrupt)
	}
	m.install(meta, good)
}

// forge makes a stream whose checksums are right. The files are those of a snapshot.
func forge(t testing.TB, from *snap, change func(m *fsmpb.Snapshot, files map[string][]byte)) []byte {
	t.Helper()
	m := proto.CloneOf(from.manifest)
	files := map[string][]byte{}
	for _, f := range m.Files {
		b, err := os.ReadFile(filepath.Join(from.stateDir(), f.Name))
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = b
	}
	change(m, files)
	text, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	b := head(text)
	for _, f := range m.Files {
		h := newSum(m)
		_, _ = h.Write(files[f.Name]) // a hash never fails
		b = h.Sum(append(b, files[f.Name]...))
	}
	return b
}

// head is what manifestHead makes, of any bytes.
func head(text []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte(streamMagic), uint32(len(text)))
	sum := sha256.Sum256(text)
	return append(append(b, text...), sum[:]...)
}

// TestStream_Format1: what an older leader sends is taken, and sent on as it is.
func TestStream_Format1(t *testing.T) {
	from, meta, _ := sender(t)
	one, _ := from.snapshots.newest()
	old := forge(t, one, func(m *fsmpb.Snapshot, _ map[string][]byte) { m.Format = 1 })
	m := newMachine(t)
	bad := bytes.Clone(old)
	bad[len(bad)-1] ^= 1
	m.refuses("bad checksum", meta, bad, chaterr.ErrCorrupt)
	m.install(meta, old)
	newest, ok := m.Snapshots().Newest()
	if !ok {
		t.Fatal("no snapshot")
	}
	if _, got := m.stream(newest.ID); !bytes.Equal(got, old) {
		t.Errorf("sent on are %d bytes, received were %d", len(got), len(old))
	}
}

// TestStream_Forged: a stream with right checksums is refused all the same when it names files that
// are not Pebble's, announces what no disk holds, or is not the state that its manifest promises.
func TestStream_Forged(t *testing.T) {
	from, meta, _ := sender(t)
	one, _ := from.snapshots.newest()
	type files = map[string][]byte
	rename := func(to string) func(*fsmpb.Snapshot, files) {
		return func(m *fsmpb.Snapshot, f files) {
			f[to] = f[m.Files[0].Name]
			m.Files[0].Name = to
		}
	}
	// find is the file of a kind.
	find := func(m *fsmpb.Snapshot, part string) *fsmpb.Snapshot_File {
		for _, f := range m.Files {
			if strings.Contains(f.Name, part) {
				return f
			}
		}
		t.Fatalf("no %s in %v", part, m.Files)
		return nil
	}
	type tc struct {
		change func(*fsmpb.Snapshot, files)
		want   error
	}
	tests := map[string]tc{
		"newer format": {func(m *fsmpb.Snapshot, _ files) { m.Format++ }, chaterr.ErrUpgradeNeeded},
		"no format":    {func(m *fsmpb.Snapshot, _ files) { m.Format = 0 }, chaterr.ErrUpgradeNeeded},
		"no files":     {func(m *fsmpb.Snapshot, _ files) { m.Files = nil }, chaterr.ErrCorrupt},
		"2^63 bytes":   {func(m *fsmpb.Snapshot, f files) { m.Files[0].Size = 1 << 63; f[m.Files[0].Name] = nil }, chaterr.ErrCorrupt},
		"sizes that overflow": {func(m *fsmpb.Snapshot, _ files) {
			for _, f := range m.Files {
				f.Size = 1 << 62
			}
		}, chaterr.ErrCorrupt},
		"a later entry":   {func(m *fsmpb.Snapshot, _ files) { m.AppliedIndex++ }, chaterr.ErrCorrupt},
		"another cluster": {func(m *fsmpb.Snapshot, _ files) { m.ClusterId = "d" }, chaterr.ErrCorrupt},
		"a damaged file of names": {func(m *fsmpb.Snapshot, f files) {
			f[find(m, "MANIFEST-0").Name][20] ^= 1
		}, chaterr.ErrCorrupt},
		"no current file of names": {func(m *fsmpb.Snapshot, f files) {
			find(m, "marker.manifest").Name = "other"
			f["other"] = nil
		}, chaterr.ErrCorrupt},
	}
	for _, name := range []string{
		"../x", "/x", "x/y", "..", ".", "", ".x", `..\x`, `x\y`, "C:x", "x\x00", "x y", "é", strings.Repeat("x", 256),
	} {
		tests[fmt.Sprintf("file %.20q", name)] = tc{rename(name), chaterr.ErrCorrupt}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.refuses("forged", meta, forge(t, one, tt.change), tt.want)
			if got := names(t, m.dir); len(got) != 2 {
				t.Errorf("left are %v", got)
			}
		})
	}
	// Neither a table that is missing nor two files of one name are told as damage, but as errors.
	for name, change := range map[string]func(*fsmpb.Snapshot, files){
		"no table":   func(m *fsmpb.Snapshot, f files) { t := find(m, ".sst"); f["x"] = f[t.Name]; t.Name = "x" },
		"name twice": func(m *fsmpb.Snapshot, _ files) { m.Files = append(m.Files, m.Files[0]) },
	} {
		m := newMachine(t)
		sink := m.create(&raft.Log{Index: meta.Index, Term: meta.Term})
		err := take(sink, forge(t, one, change))
		if err == nil {
			err = sink.Close()
		}
		if err == nil || errors.Join(sink.Cancel()) != nil || len(names(t, m.dir, "snapshots")) > 0 {
			t.Errorf("%s: got %v, left are %v", name, err, names(t, m.dir, "snapshots"))
		}
	}
	m := newMachine(t)
	m.install(meta, forge(t, one, func(*fsmpb.Snapshot, files) {})) // nothing changed
	same(t, m, from)
}

// TestStream_Empty: a sink that got neither a stream nor a checkpoint makes no snapshot.
func TestStream_Empty(t *testing.T) {
	m := newMachine(t)
	m.refuses("nothing", &raft.SnapshotMeta{Index: 5, Term: 1}, nil, chaterr.ErrCorrupt)
}

// TestManifest_Memory: what a peer announces costs nothing before it has come.
func TestManifest_Memory(t *testing.T) {
	b := binary.BigEndian.AppendUint32([]byte(streamMagic), maxManifest)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readManifest(bytes.NewReader(append(b, "few bytes"...)))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, chaterr.ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > maxManifest/4 {
		t.Errorf("%d bytes were allocated", got)
	}
	b = binary.BigEndian.AppendUint32([]byte(streamMagic), maxManifest+1)
	if _, err := readManifest(bytes.NewReader(b)); !errors.Is(err, chaterr.ErrCorrupt) {
		t.Errorf("more than may be: got %v", err)
	}
}

// TestManifest_TooLong: nobody writes a manifest that nobody would read.
func TestManifest_TooLong(t *testing.T) {
	m := &fsmpb.Snapshot{Format: streamFormat, ClusterId: strings.Repeat("x", maxManifest), Files: []*fsmpb.Snapshot_File{{Name: "x"}}}
	if _, err := manifestHead(m); err == nil {
		t.Error("it was written")
	}
}

// FuzzManifest: a manifest from a peer, its checksum right, makes no panic, and what is accepted is
// in bounds.
func FuzzManifest(f *testing.F) {
	good, err := proto.Marshal(&fsmpb.Snapshot{
		Format: streamFormat, ClusterId: "c", Index: 9, Term: 2, AppliedIndex: 10, ConfigurationIndex: 1,
		Configuration: raft.EncodeConfiguration(servers), Files: []*fsmpb.Snapshot_File{{Name: "000004.sst", Size: 1000}, {Name: "MANIFEST-000001", Size: 1}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0x42, 0}, 100)) // files without names
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := readManifest(bytes.NewReader(head(text)))
		if err != nil {
			return
		}
		if size := streamSize(nil, m); size < 0 || size > maxState+sha256.Size*int64(len(m.Files)) {
			t.Errorf("a stream of %d bytes", size)
		}
		for _, f := range m.Files {
			if filepath.Base(f.Name) != f.Name || f.Name == ".." || strings.ContainsAny(f.Name, "/\\:\x00") {
				t.Errorf("file %q", f.Name)
			}
		}
	})
}

// FuzzReceive: any bytes from a peer make no panic, and no file outside of the directory.
func FuzzReceive(f *testing.F) {
	var good []byte
	for format := range uint32(streamFormat) {
		m := &fsmpb.Snapshot{Format: format + 1, Files: []*fsmpb.Snapshot_File{{Name: "x", Size: 4}}}
		text, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		h := newSum(m)
		_, _ = h.Write([]byte("data")) // a hash never fails
		good = h.Sum(append(head(text), "data"...))
		f.Add(good)
	}
	f.Add(good[:len(good)-1])
	f.Add([]byte(streamMagic))
	f.Fuzz(func(t *testing.T, stream []byte) {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		m, err := receive(bytes.NewReader(stream), files.FS{FS: files.Disk}, dir)
		if err == nil && len(names(t, dir)) != len(m.Files) {
			t.Errorf("got files %v, named are %v", names(t, dir), m.Files)
		}
		if got := names(t, dir, ".."); len(got) != 1 {
			t.Errorf("beside the directory: %v", got)
		}
	})
}
