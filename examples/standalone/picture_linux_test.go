package main

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// update has TestDemo make the README's picture of what it sees: go test ./examples/standalone -run TestDemo -update
var update = flag.Bool("update", false, "write .github/demo.svg")

const picture = "../../.github/demo.svg"

// fills are the colours of lines that begin with an ANSI code.
var fills = map[string]string{bold: "#ffffff", dim: "#8b949e", red: "#ff7b72", green: "#7ee787", yellow: "#e3b341"}

// drawPicture writes screens, as the program has sent them, as one picture that shows one after the other.
func drawPicture(t *testing.T, width, height int, screens []string) {
	t.Helper()
	const column, row, seconds = 8.4, 18, 4
	var b strings.Builder
	w, h := int(column*float64(width))+24, row*height+24
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre;fill:#c9d1d9}"+
		"g{visibility:hidden;animation:show %ds step-end infinite}g:first-of-type{visibility:visible}"+
		"@keyframes show{0%%{visibility:visible}%d%%{visibility:hidden}}</style>\n", seconds*len(screens), 100/len(screens))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="#0d1117"/>`+"\n")
	for i, s := range screens {
		fmt.Fprintf(&b, `<g style="animation-delay:%ds">`+"\n", i*seconds-seconds*len(screens)*min(i, 1))
		for n, line := range strings.Split(s, "\n") {
			fill := ""
			for code, colour := range fills {
				if strings.HasPrefix(line, code) {
					fill = fmt.Sprintf(` style="fill:%s"`, colour)
				}
			}
			if line = escapes.ReplaceAllString(line, ""); line == "" {
				continue
			}
			fmt.Fprintf(&b, `<text x="12" y="%d"%s xml:space="preserve">`, row*(n+1)+6, fill)
			if err := xml.EscapeText(&b, []byte(line)); err != nil {
				t.Fatal(err)
			}
			b.WriteString("</text>\n")
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	if err := os.WriteFile(picture, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPicture: the README's picture is there, and shows a leader that dies and nothing lost.
func TestPicture(t *testing.T) {
	text, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(text, new(struct{})); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"down, back in", "no write was acknowledged for", "Lost 0  doubled 0"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("it does not say %q", want)
		}
	}
}
