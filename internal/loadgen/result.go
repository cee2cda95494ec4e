package main

import (
	"encoding/json"
	"io"
	"runtime/debug"
	"slices"
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

// version is the commit that was built, if the build knows.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
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
