// Package nearest finds what somebody meant who has mistyped it.
package nearest

import (
	"flag"
	"fmt"
	"strings"
)

// Name is the name that differs least from a word, empty when none is alike.
func Name(word string, names []string) (best string) {
	least := len(word)/3 + 2
	for _, n := range names {
		if d := distance(word, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// Flag adds to the error of a set's Parse, when that is an unknown flag, the one that is nearest.
func Flag(s *flag.FlagSet, err error) error {
	_, name, ok := strings.Cut(err.Error(), "not defined: -")
	if !ok {
		return err
	}
	var names []string
	s.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := Name(strings.TrimLeft(name, "-"), names); near != "" {
		return fmt.Errorf("%w; --%s is near", err, near)
	}
	return err
}

// distance is how many letters have to be added, taken away or changed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0] // of the row above, one to the left
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
