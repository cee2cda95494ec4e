package main

import (
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// result is a line of output.
type result struct {
	Name    string             `json:"name"`
	Params  params             `json:"params"`
	Version string             `json:"version,omitempty"`
	Ops     float64            `json:"ops_per_s"`
	P50     float64            `json:"p50_us"`
	P99     float64            `json:"p99_us"`
	Max     float64            `json:"max_us"`
	N       int                `json:"n"`
	Errors  int64              `json:"errs,omitempty"`
	Extra   map[string]float64 `json:"extra,omitempty"`
}

func (r result) print(to io.Writer, p params) error {
	r.Name, r.Params, r.Version = "chat", p, version()
	return json.NewEncoder(to).Encode(r)
}

// version is the commit that was built: as the build has it, or else, as go run and -buildvcs=false put none into it,
// as git has it where the source is. It is empty where neither knows.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	_, source, _, _ := runtime.Caller(0)
	git := exec.Command("git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=40")
	git.Dir = filepath.Dir(source)
	commit, _ := git.Output() // without git, or without the source, there is none
	return strings.TrimSpace(string(commit))
}

// summarise makes a result of what some operations took, in the time that was measured.
func summarise(took []time.Duration, in time.Duration) result {
	slices.Sort(took)
	r := result{N: len(took), Ops: float64(len(took)) / in.Seconds(), Extra: map[string]float64{}}
	if len(took) > 0 {
		at := func(part float64) float64 {
			return float64(took[int(part*float64(len(took)-1))]) / float64(time.Microsecond)
		}
		r.P50, r.P99, r.Max = at(0.5), at(0.99), at(1)
	}
	return r
}
