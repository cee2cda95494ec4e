package main

import (
	"io"
	"strings"
	"testing"
)

// TestTable: the medians of the values, and of the ratios within a repetition, which is not the ratio of the
// medians; what one cannot do is left empty.
func TestTable(t *testing.T) {
	r := row{what: "64 senders", measures: []measure{{"sends/s", ops, [2]string{"≥ 1.5", ""}}}}
	for _, rep := range [][2]float64{{1000, 2000}, {4000, 1000}, {20000, 10000}} {
		r.results[0] = append(r.results[0], &result{Ops: rep[0]})
		r.results[1] = append(r.results[1], &result{Ops: rep[1]})
		r.results[2] = append(r.results[2], nil)
	}
	want := "| 64 senders: sends/s | 4,000 | 2,000 |  | 2 (≥ 1.5) |  |"
	if got := table([]row{r}); !strings.HasSuffix(got, want+"\n") {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{-1: "", 0: "0", 0.4567: "0.457", 12.34: "12.3", 99.96: "100", 123.4: "123", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
}

// TestRows: every profile that is named has arguments for ours and for a peer at least.
func TestRows(t *testing.T) {
	c := comparison{messages: 10, rounds: 2}
	rows, err := c.rows(strings.Split("send,stream,deliver,fanout,failover,load", ","))
	if err != nil || len(rows) != 10 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, r := range rows {
		if len(r.args[0]) == 0 || len(r.args[1]) == 0 || len(r.measures) == 0 {
			t.Errorf("%+v", r)
		}
	}
	if err := run(t.Context(), []string{"-only", "none"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "want send") {
		t.Errorf("nonsense: %v", err)
	}
}
