// Package readmetest holds the README to its word: its program is compiled and run, its commands are run in its
// order, and the tests that it names are there.
package readmetest

import (
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is that of the repository.
const root = "../.."

// block is a piece of the README between fences.
type block struct{ language, text string }

func blocks(t *testing.T) (all []block) {
	t.Helper()
	fenced := regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	for _, m := range fenced.FindAllStringSubmatch(readme(t), -1) {
		all = append(all, block{m[1], m[2]})
	}
	return all
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// find is the one block of a language that has a word.
func find(t *testing.T, language, word string) string {
	t.Helper()
	var found []string
	for _, b := range blocks(t) {
		if b.language == language && strings.Contains(b.text, word) {
			found = append(found, b.text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of %s have %q", len(found), language, word)
	}
	return found[0]
}

// TestReadme_Short: 200 lines, a program of 30 and a client of 8.
func TestReadme_Short(t *testing.T) {
	for what, tt := range map[string]struct {
		text string
		most int
	}{
		"README.md":   {readme(t), 200},
		"the program": {find(t, "go", "chat.New("), 30},
		"the client":  {find(t, "go", "client.Dial("), 8},
	} {
		if n := strings.Count(tt.text, "\n"); n > tt.most {
			t.Errorf("%s has %d lines, more than %d", what, n, tt.most)
		}
	}
}

// TestReadme_Promises: each test that holds a promise is there.
func TestReadme_Promises(t *testing.T) {
	names := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(readme(t), -1)
	if len(names) < 15 {
		t.Errorf("%d tests are named", len(names))
	}
	for _, n := range names {
		if out, err := exec.Command("git", "-C", root, "grep", "-q", "func "+n[1]+"(", "--", "*_test.go").CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", n[1], err, out)
		}
	}
}

// TestReadme_Formatted: its programs are as gofmt leaves them.
func TestReadme_Formatted(t *testing.T) {
	for _, b := range blocks(t) {
		if b.language != "go" {
			continue
		}
		if want, err := format.Source([]byte(b.text)); err != nil || string(want) != b.text {
			t.Errorf("%v; want\n%s", err, want)
		}
	}
}

// TestReadme_Links: each file that is linked is there.
func TestReadme_Links(t *testing.T) {
	for _, l := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(readme(t), -1) {
		if _, err := os.Stat(filepath.Join(root, l[1])); err != nil {
			t.Error(err)
		}
	}
}
