package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// loud is what would end the host's process, print, or take its signals; a name without a dot is a whole package.
var loud = []string{
	"os.Exit", "os.Stdout", "os.Stderr", "fmt.Print", "fmt.Printf", "fmt.Println", "print", "println", "os/signal",
	"log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf", "log.Panicln", "log.Print", "log.Printf", "log.Println",
	"log.SetOutput", "log.SetFlags", "log.SetPrefix", "zap.ReplaceGlobals", "zap.L", "zap.S", "zap.NewExample", "zap.NewProduction", "zap.NewDevelopment",
}

// loudUses lists what a file uses of loud.
func loudUses(t *testing.T, name string) (uses []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range file.Imports {
		if path := strings.Trim(i.Path.Value, `"`); slices.Contains(loud, path) {
			uses = append(uses, path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		use := ""
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && pkg.Obj == nil {
				use = pkg.Name + "." + n.Sel.Name
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Obj == nil {
				use = f.Name
			}
		}
		if slices.Contains(loud, use) {
			uses = append(uses, use)
		}
		return true
	})
	return uses
}

// TestLibrary_Quiet: no package that a host links ends its process, prints, or takes its signals.
func TestLibrary_Quiet(t *testing.T) {
	// What a host's program and its client link, and chattest not, which runs in tests and looks at the output.
	list := goList(t, "-deps", "-f", "{{.ImportPath}}|{{.Dir}}|{{join .GoFiles \" \"}}", module, module+"/rpc/client")
	seen := 0
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if f[0] != module && !strings.HasPrefix(f[0], module+"/") {
			continue
		}
		seen++
		for _, name := range strings.Fields(f[2]) {
			if uses := loudUses(t, filepath.Join(f[1], name)); len(uses) > 0 {
				t.Errorf("%s/%s uses %v", f[0], name, uses)
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d packages were looked at", seen)
	}
}

func TestLoudUses(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.go")
	src := "package x\nimport (\"fmt\"; \"os\"; \"os/signal\")\nfunc f() { fmt.Println(fmt.Sprint(os.Args)); println(); os.Exit(1); signal.Reset() }\n"
	if err := os.WriteFile(name, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := loudUses(t, name); !slices.Equal(got, []string{"os/signal", "fmt.Println", "println", "os.Exit"}) {
		t.Errorf("got %v", got)
	}
}
