package nearest

import (
	"flag"
	"io"
	"strings"
	"testing"
)

func TestName(t *testing.T) {
	names := []string{"backup", "verify", "restore", "send"}
	for word, want := range map[string]string{
		"bakcup": "backup", "Verify": "verify", "sned": "send", "resore": "restore", "send": "send",
		"frobnicate": "", "": "", "x": "", strings.Repeat("backup", 100): "",
	} {
		if got := Name(word, names); got != want {
			t.Errorf("%.20q: got %q, want %q", word, got, want)
		}
	}
}

func TestFlag(t *testing.T) {
	s := flag.NewFlagSet("x", flag.ContinueOnError)
	s.SetOutput(io.Discard)
	s.Int("port", 0, "")
	for arg, want := range map[string]string{"--prot": "--port is near", "--frobnicate": "not defined", "--port=x": "parse error"} {
		err := Flag(s, s.Parse([]string{arg}))
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "near") != strings.Contains(want, "near") {
			t.Errorf("%s: got %v, want %s", arg, err, want)
		}
	}
}
