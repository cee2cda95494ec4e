// Package archtest holds the import policy of the library: a package imports what its line names
// and nothing else of this module, and neither it nor what it links holds a barred package.
package archtest

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "example.com/chat"

// allowed is the whole policy. No arrow climbs: a package is imported by what stands above it. A
// package without a line fails the test. Every package may also import internal/chaterr.
var allowed = map[string][]string{
	// The library, from the top down.
	"": {
		"rpc", "rpc/peer", "membership", "internal/replica", "internal/fanout", "internal/auth", "internal/zaplog",
		"internal/node", "fsm", "fsm/state", "rpc/client",
		"internal/memdisk", // a type of Options, for rpc/chattest
	},
	"rpc":               {"rpc/chatpb", "fsm/state", "internal/fanout", "internal/auth", "internal/grpcerr", "internal/cursor"},
	"rpc/chatpb":        {},
	"rpc/client":        {"rpc/chatpb", "internal/grpcdial", "internal/grpcerr", "internal/cursor"},
	"rpc/peer":          {"rpc/peer/peerpb", "internal/grpcdial", "internal/grpcerr", "internal/node"},
	"rpc/peer/peerpb":   {},
	"membership":        {"internal/node"},
	"internal/replica":  {"fsm", "fsm/state", "internal/files", "internal/memdisk", "internal/node", "internal/zaplog"},
	"fsm":               {"fsm/state", "fsm/fsmpb", "internal/files"},
	"fsm/state":         {"fsm/fsmpb", "internal/cursor"},
	"fsm/fsmpb":         {},
	"internal/fanout":   {"fsm/state"},
	"internal/auth":     {},
	"internal/chaterr":  {},
	"internal/files":    {"internal/zaplog"},
	"internal/memdisk":  {},
	"internal/grpcdial": {},
	"internal/grpcerr":  {},
	"internal/zaplog":   {},
	"internal/node":     {},
	"internal/cursor":   {},

	// Programs that show how it is used.
	"examples/standalone":       {"", "rpc/client", "examples/internal/cli", "examples/internal/config", "examples/internal/nearest"},
	"examples/cli":              {"examples/internal/cli"},
	"examples/embed":            {"", "rpc/client"},
	"examples/internal/cli":     {"rpc/client", "examples/internal/config", "examples/internal/nearest"},
	"examples/internal/config":  {"examples/internal/nearest"},
	"examples/internal/nearest": {},

	// Test and measuring machinery.
	"internal/loadgen":              {"", "rpc/client"},
	"internal/loadgen/compare":      {},
	"internal/archtest":             {},
	"internal/hostcost":             {},
	"internal/hostcost/plainserver": {},
	"internal/hostcost/chatserver":  {""},
	"internal/hostcost/plainclient": {},
	"internal/hostcost/chatclient":  {"rpc/client"},
	"internal/faulttest":            {},
	"internal/readmetest":           {},
	"internal/simnet":               {},
	"rpc/chattest":                  {"", "rpc/client", "internal/memdisk", "internal/simnet"}, // a host's tests import it
}

const (
	raftPkg   = "github.com/hashicorp/raft"
	gossipPkg = "github.com/hashicorp/memberlist"
	boltPkg   = "go.etcd.io/bbolt"
	pebblePkg = "github.com/cockroachdb/pebble/v2"
	grpcPkg   = "google.golang.org/grpc"
)

// barred: not even through another package.
var barred = map[string][]string{
	"rpc/client":   {raftPkg, gossipPkg, boltPkg, pebblePkg, "testing"},
	"examples/cli": {raftPkg, gossipPkg, boltPkg, pebblePkg, "testing"},
	"rpc":          {raftPkg, gossipPkg},
	"fsm/state":    {raftPkg, gossipPkg, grpcPkg},
	"fsm":          {gossipPkg, grpcPkg},
	"membership":   {raftPkg, grpcPkg},
}

// unclean: not in the package's own files. What it links may link what it likes. Package state is
// the same function on every node, so it has no way to learn where and when it runs; of package
// time it uses the names of durations, which the test of its source watches.
var unclean = map[string][]string{
	"fsm/state": {"math/rand", "math/rand/v2", "crypto/rand", "net", "os", "runtime", "unicode", "context", "sync"},
}

// violations reads lines of "path|imports|closure", as go list prints them.
func violations(list string) []string {
	var bad []string
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimSpace(line), "|")
		pkg := strings.TrimPrefix(strings.TrimPrefix(f[0], module), "/")
		may, ok := allowed[pkg]
		if !ok {
			bad = append(bad, fmt.Sprintf("%q has no line in the import policy", pkg))
		}
		for imp := range strings.FieldsSeq(f[1]) {
			rel, ours := strings.CutPrefix(imp, module)
			rel = strings.TrimPrefix(rel, "/")
			if ours && rel != "internal/chaterr" && !slices.Contains(may, rel) {
				bad = append(bad, fmt.Sprintf("%q may not import %q", pkg, rel))
			}
			if slices.Contains(unclean[pkg], imp) {
				bad = append(bad, fmt.Sprintf("%q may not import %q", pkg, imp))
			}
		}
		closure := strings.Fields(f[2])
		for _, b := range barred[pkg] {
			if slices.Contains(closure, b) {
				bad = append(bad, fmt.Sprintf("%q links %q", pkg, b))
			}
		}
	}
	return bad
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return string(out)
}

func TestImports(t *testing.T) {
	list := goList(t, "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .Deps " "}}`, module+"/...")
	for _, v := range violations(list) {
		t.Error(v)
	}
	for pkg := range allowed {
		path := strings.TrimSuffix(module+"/"+pkg, "/")
		if !strings.Contains(list, path+"|") {
			t.Errorf("%q has a line in the import policy, and is no package", pkg)
		}
	}
}

// TestState_NoClock: package state may say how long something is, and not what time it is.
func TestState_NoClock(t *testing.T) {
	dir := strings.TrimSpace(goList(t, "-f", "{{.Dir}}", module+"/fsm/state"))
	files := strings.Fields(goList(t, "-f", `{{join .GoFiles " "}}`, module+"/fsm/state"))
	for _, f := range files {
		for _, use := range clockUses(t, dir+"/"+f) {
			t.Errorf("%s uses time.%s", f, use)
		}
	}
}

func TestViolations(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{module + "/rpc|" + module + "/rpc/chatpb " + module + "/internal/chaterr|fmt", ""},
		{module + "/rpc|" + module + "/fsm|fmt", `"rpc" may not import "fsm"`},
		{module + "/rpc/client|fmt|fmt testing", `"rpc/client" links "testing"`},
		{module + "/fsm/state|crypto/rand|crypto/rand net", `"fsm/state" may not import "crypto/rand"`},
		{module + "/util|fmt|fmt", `"util" has no line in the import policy`},
	} {
		if got := strings.Join(violations(tt.line), "; "); got != tt.want {
			t.Errorf("violations(%q) = %q, want %q", tt.line, got, tt.want)
		}
	}
}
