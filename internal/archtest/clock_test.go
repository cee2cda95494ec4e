package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// durations are what package state may use of package time.
var durations = []string{"Duration", "Hour", "Minute", "Second", "Millisecond"}

// clockUses lists everything else of package time that a file uses.
func clockUses(t *testing.T, name string) (uses []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" && !slices.Contains(durations, s.Sel.Name) {
			uses = append(uses, s.Sel.Name)
		}
		return true
	})
	return uses
}

func TestClockUses(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.go")
	src := "package x\nimport \"time\"\nvar a, b = time.Hour, time.Now()\n"
	if err := os.WriteFile(name, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := clockUses(t, name); !slices.Equal(got, []string{"Now"}) {
		t.Errorf("got %v", got)
	}
}
