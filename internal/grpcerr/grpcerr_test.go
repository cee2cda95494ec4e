package grpcerr

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestTable_BothWays sends every row over the wire and back.
func TestTable_BothWays(t *testing.T) {
	for _, r := range table {
		t.Run(r.reason, func(t *testing.T) {
			sent := fmt.Errorf("open room 7: %w", r.err)
			over := ToStatus(sent)
			if got := status.Code(over); got != r.code {
				t.Errorf("code %v, want %v", got, r.code)
			}
			back := FromStatus(over)
			if !errors.Is(back, r.err) || back.Error() != sent.Error() {
				t.Errorf("came back as %v, want %v", back, sent)
			}
			for _, other := range table {
				if other.err != r.err && errors.Is(back, other.err) {
					t.Errorf("is %v too", other.err)
				}
			}
			if status.Code(ToStatus(back)) != r.code || Reason(ToStatus(back)) != r.reason {
				t.Error("a second hop changes it")
			}
		})
	}
}

func TestToStatus_HidesInternals(t *testing.T) {
	err := ToStatus(errors.New("open /secret/path: no such file"))
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestFromStatus_Foreign(t *testing.T) {
	foreign := status.Error(codes.Unavailable, "connection refused")
	if got := FromStatus(foreign); got != foreign {
		t.Errorf("got %v", got)
	}
}

// TestTable_Complete fails when an error is added to chaterr that a remote caller could meet and
// the table does not know.
func TestTable_Complete(t *testing.T) {
	local := map[string]bool{"ErrDataDirInUse": true, "ErrOtherNode": true, "ErrCorrupt": true} // only New returns them
	file, err := parser.ParseFile(token.NewFileSet(), "../chaterr/chaterr.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range table {
		known[r.err.Error()] = true
	}
	count := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		count++
		text := v.Values[0].(*ast.CallExpr).Args[0].(*ast.BasicLit).Value
		if name := v.Names[0].Name; !local[name] && !known[strings.Trim(text, `"`)] {
			t.Errorf("%s is in no row", name)
		}
		return true
	})
	if count < len(table) {
		t.Errorf("read %d errors, the table has %d", count, len(table))
	}
}
