package replica

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/files"
)

// TestMoveLog moves a log from either store to the other one and back: all entries, the term and the vote
// are what they were, also when an interrupted move has left other entries in the store.
func TestMoveLog(t *testing.T) {
	for i, from := range logStores {
		to := logStores[1-i]
		t.Run(string(from), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			d, err := OpenDir(path, "a", from)
			if err != nil {
				t.Fatal(err)
			}
			logs := checksums{d.log}
			var want []*raft.Log
			for i := uint64(1); i <= 1000; i++ {
				want = append(want, &raft.Log{
					Index: i, Term: i / 100, Type: raft.LogType(i % 3), Data: make([]byte, i%7), Extensions: make([]byte, i%5), AppendedAt: time.Unix(0, int64(i)),
				})
			}
			err = errors.Join(logs.StoreLogs(want), logs.DeleteRange(1, 300), logs.SetUint64([]byte(termKey), 10), d.Close())
			if err != nil {
				t.Fatal(err)
			}
			leave(t, path, to)
			for _, to := range []LogStore{to, to, from} {
				if err := MoveLog(path, to); err != nil {
					t.Fatal(err)
				}
				if c, err := Check(path, zap.NewNop()); err != nil && !strings.Contains(err.Error(), "begins at entry 301") || c.First != 301 || c.Last != 1000 {
					t.Errorf("in %s: %+v, %v", to, c, err)
				}
				holds(t, path, to, want[300:])
			}
		})
	}
}

// leave leaves entries in a store that are none of the log's.
func leave(t *testing.T, path string, in LogStore) {
	t.Helper()
	if in == LogStoreBolt {
		s, err := openStore(filepath.Join(path, boltFile), false)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, entries(2000, 2100, 1, "left"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	p, err := openPebbleLog(files.FS{FS: files.Disk}, filepath.Join(path, pebbleDir), true, false)
	if err != nil {
		t.Fatal(err)
	}
	put(t, p, entries(2000, 2100, 1, "left"))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// holds compares what a log has, and sees that no other store has any of it.
func holds(t *testing.T, path string, in LogStore, want []*raft.Log) {
	t.Helper()
	if _, err := OpenDir(path, "a", logStores[0]+logStores[1]); err == nil || !strings.Contains(err.Error(), string(in)) {
		t.Errorf("opened as another: %v", err)
	}
	d, err := OpenDir(path, "a", in)
	if err != nil {
		t.Fatal(err)
	}
	if err := MoveLog(path, in); !errors.Is(err, chaterr.ErrDataDirInUse) {
		t.Errorf("while it is open: %v", err)
	}
	logs := checksums{d.log}
	for _, w := range want {
		var l raft.Log
		if err := logs.GetLog(w.Index, &l); err != nil {
			t.Fatal(err)
		}
		if !l.AppendedAt.Equal(w.AppendedAt) {
			t.Errorf("entry %d was appended at %v, want %v", w.Index, l.AppendedAt, w.AppendedAt)
		}
		l.AppendedAt = w.AppendedAt
		if len(l.Data)+len(w.Data) == 0 {
			l.Data = w.Data
		}
		if len(l.Extensions)+len(w.Extensions) == 0 {
			l.Extensions = w.Extensions
		}
		if !reflect.DeepEqual(&l, w) {
			t.Fatalf("got %+v, want %+v", l, w)
		}
	}
	if term, err := logs.GetUint64([]byte(termKey)); err != nil || term != 10 {
		t.Errorf("the term is %d, %v", term, err)
	}
	if last, err := d.log.bolt.LastIndex(); err != nil || in == LogStorePebble && last != 0 {
		t.Errorf("raft.db has entries up to %d, %v", last, err)
	}
	if _, err := os.Stat(filepath.Join(path, pebbleDir)); in == LogStoreBolt && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("log/ is there: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestMoveLog_Refuses: what is no store, and no directory.
func TestMoveLog_Refuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := MoveLog(path, "paper"); err == nil || !strings.Contains(err.Error(), `"bolt"`) {
		t.Errorf("got %v", err)
	}
	if err := MoveLog(path, LogStorePebble); err == nil {
		t.Error("moved nothing")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}
