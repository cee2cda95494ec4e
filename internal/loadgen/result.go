package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

// usage is what this process and this machine's disks have used so far.
type usage struct{ cpu, flushes float64 }

func used() usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return usage{seconds(r.Utime) + seconds(r.Stime), flushes()}
}

// since puts into a result what was used meanwhile.
func (u usage) since(r *result, in time.Duration) {
	now := used()
	r.Extra["cpu_cores"] = (now.cpu - u.cpu) / in.Seconds()
	r.Extra["disk_flushes_per_s"] = (now.flushes - u.flushes) / in.Seconds()
	r.Extra["rss_mib"] = rss()
}

// flushes counts those of all disks; 0 where the system does not say.
func flushes() (n float64) {
	stats, _ := filepath.Glob("/sys/block/*/stat") // only fails for a bad pattern
	for _, s := range stats {
		b, _ := os.ReadFile(s)
		if f := strings.Fields(string(b)); len(f) > 15 {
			count, _ := strconv.ParseFloat(f[15], 64)
			n += count
		}
	}
	return n
}

// rss is the resident memory of this process, in MiB; 0 where the system does not say.
func rss() float64 {
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}
