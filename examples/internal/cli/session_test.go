package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestKept: of several programs that write a session at once, each leaves a whole one, which nobody else can read whatever
// stood in its place or beside it; and none leaves another file.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "session.json")
	for _, name := range []string{file, file + ".tmp"} {
		if err := os.WriteFile(name, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for range 50 {
				user := strings.Repeat(fmt.Sprint(i), 1000*(i+1))
				if err := (kept{file: file, User: user, Token: user}).write(); err != nil {
					t.Error(err)
				}
				if k, err := openKept(file); err != nil || k.User != k.Token || len(k.User)%1000 != 0 {
					t.Errorf("a session of %d and %d bytes: %v", len(k.User), len(k.Token), err)
				}
			}
		})
	}
	work.Wait()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	if err := (kept{file: file}).write(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "session.json.tmp" { // which is not theirs
		t.Errorf("left behind: %v, %v", left, err)
	}
}
