package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.com/chat/rpc/client"
)

// maxFaults is how many faults a verdict lists.
const maxFaults = 10

// verdict is what verify found.
type verdict struct {
	lost, duplicated, disorder int
	faults                     []string
}

func (v *verdict) fault(count *int, format string, args ...any) {
	*count++
	if len(v.faults) < maxFaults {
		v.faults = append(v.faults, fmt.Sprintf(format, args...))
	}
}

func (v *verdict) err() error {
	if v.lost+v.duplicated+v.disorder == 0 {
		return nil
	}
	return errors.New(strings.Join(v.faults, "\n"))
}

// verify compares what was acknowledged, by text, with what each view of the room shows: every
// acknowledged message once and under the number of its receipt, numbers without gaps, each
// sender's messages in the order in which he sent them, and all views alike.
func verify(acked map[string]client.Receipt, views map[string][]client.Message) (v verdict) {
	var first string
	for name, view := range views {
		verifyView(&v, name, acked, view)
		if first == "" {
			first = name
			continue
		}
		for i := range min(len(view), len(views[first])) {
			if a, b := views[first][i], view[i]; a != b {
				v.fault(&v.disorder, "message %d is %q for %s and %q for %s", i+1, a.Text, first, b.Text, name)
				break
			}
		}
		if len(view) != len(views[first]) {
			v.fault(&v.disorder, "%s has %d messages and %s has %d", first, len(views[first]), name, len(view))
		}
	}
	slices.Sort(v.faults)
	return v
}

func verifyView(v *verdict, name string, acked map[string]client.Receipt, view []client.Message) {
	seen := map[string]bool{}
	last := map[string]int{} // by sender
	for i, m := range view {
		if seen[m.Text] {
			v.fault(&v.duplicated, "%s has %q twice", name, m.Text)
			continue
		}
		seen[m.Text] = true
		if m.Seq != uint64(i+1) {
			v.fault(&v.disorder, "%s has number %d in place %d", name, m.Seq, i+1)
		}
		if r, ok := acked[m.Text]; ok && r.Seq != m.Seq {
			v.fault(&v.disorder, "%s has %q as number %d, the receipt says %d", name, m.Text, m.Seq, r.Seq)
		}
		if n := number(m.Text); n <= last[m.Sender] {
			v.fault(&v.disorder, "%s has %q behind number %d of the same sender", name, m.Text, last[m.Sender])
		} else {
			last[m.Sender] = n
		}
	}
	for text := range acked {
		if !seen[text] {
			v.fault(&v.lost, "%s lacks %q, which was acknowledged", name, text)
		}
	}
}

// text is the n-th message of a sender, and number finds n.
func text(sender string, n int) string { return fmt.Sprintf("%s %d", sender, n) }

func number(text string) (n int) {
	_, _ = fmt.Sscanf(text[strings.LastIndexByte(text, ' ')+1:], "%d", &n) // 0 for any other text
	return n
}
