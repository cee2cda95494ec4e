package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// nodeFlags may also be in the environment, for "standalone node": --data-dir in CHAT_DATA_DIR.
var nodeFlags = []string{"id", "port", "host", "data-dir", "join", "config-file"}

// fromEnvironment sets the flags of a node that were not given.
func fromEnvironment(s *flag.FlagSet) error {
	given := map[string]bool{}
	s.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, name := range nodeFlags {
		variable := "CHAT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		value, ok := os.LookupEnv(variable)
		if !ok || given[name] {
			continue
		}
		if err := s.Set(name, value); err != nil {
			return fmt.Errorf("%s=%q: %w", variable, value, err)
		}
	}
	return nil
}

// suggest adds to the error of an unknown flag the one that is nearest.
func suggest(s *flag.FlagSet, err error) error {
	_, name, ok := strings.Cut(err.Error(), "not defined: -")
	if !ok {
		return err
	}
	var names []string
	s.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := nearest(strings.TrimLeft(name, "-"), names); near != "" {
		return fmt.Errorf("%w; --%s is near", err, near)
	}
	return err
}

// noCommand is the error of a word that is no command.
func noCommand(word string) error {
	names := append(slices.Collect(maps.Keys(tools)), "node")
	slices.Sort(names)
	if near := nearest(word, names); near != "" {
		return fmt.Errorf("%q is no command; %q is near", word, near)
	}
	return fmt.Errorf("%q is no command; --help lists them", word)
}

// nearest is the name that differs least from a word, empty when none is alike.
func nearest(word string, names []string) (best string) {
	least := len(word)/3 + 2
	for _, n := range names {
		if d := distance(word, n); d < least {
			best, least = n, d
		}
	}
	return best
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
