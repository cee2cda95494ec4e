// Package bench is what the programs beside it share: a closed loop, a summary of latencies, and lines of
// JSON with the fields of loadgen's.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// Result is one line of output.
type Result struct {
	Name    string             `json:"name"`
	Params  map[string]any     `json:"params,omitempty"`
	Version string             `json:"version,omitempty"`
	Ops     float64            `json:"ops_per_s"`
	P50us   float64            `json:"p50_us"`
	P99us   float64            `json:"p99_us"`
	Max     float64            `json:"max_us"`
	N       int64              `json:"n"`
	Errs    int64              `json:"errs,omitempty"`
	Extra   map[string]float64 `json:"extra,omitempty"`
}

// Print writes r as one JSON line.
func (r Result) Print() {
	b, _ := json.Marshal(r)
	fmt.Fprintln(os.Stdout, string(b))
}

// Closed runs callers goroutines calling f in a loop for d (after warm) and reports.
func Closed(callers int, warm, d time.Duration, f func(caller, i int) error) Result {
	var wg sync.WaitGroup
	lats := make([][]int64, callers)
	var errs atomic.Int64
	start := time.Now()
	t0, t1 := start.Add(warm), start.Add(warm+d)
	for c := 0; c < callers; c++ {
		wg.Add(1)
		go func(c int) {
			defer wg.Done()
			for i := 0; ; i++ {
				a := time.Now()
				if a.After(t1) {
					return
				}
				err := f(c, i)
				b := time.Now()
				if a.Before(t0) || b.After(t1) {
					continue
				}
				if err != nil {
					if errs.Add(1) < 3 {
						fmt.Fprintln(os.Stderr, "err:", err)
					}
					continue
				}
				lats[c] = append(lats[c], int64(b.Sub(a)))
			}
		}(c)
	}
	wg.Wait()
	var all []int64
	for _, l := range lats {
		all = append(all, l...)
	}
	r := Summarise(all, d)
	r.Errs = errs.Load()
	return r
}

// Summarise makes a Result of nanosecond samples gathered over d.
func Summarise(ns []int64, d time.Duration) Result {
	sort.Slice(ns, func(i, j int) bool { return ns[i] < ns[j] })
	r := Result{N: int64(len(ns)), Ops: float64(len(ns)) / d.Seconds(), Extra: map[string]float64{}}
	if len(ns) > 0 {
		q := func(p float64) float64 { return float64(ns[int(p*float64(len(ns)-1))]) / 1e3 }
		r.P50us, r.P99us, r.Max = q(.5), q(.99), q(1)
	}
	return r
}
