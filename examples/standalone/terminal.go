package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// open decides how the demo shows itself: as a screen in a terminal, else in lines, for people or as JSON. It
// returns what paints a view, the keys that are pressed, and what gives the terminal back.
func open(ctx context.Context, d *demo, f flags, in io.Reader, out io.Writer) (paint func(view), keys <-chan string, restore func(), err error) {
	keyboard, kok := in.(*os.File)
	display, dok := out.(*os.File)
	if f.json || !kok || !dok || !term.IsTerminal(int(keyboard.Fd())) || !term.IsTerminal(int(display.Fd())) || os.Getenv("TERM") == "dumb" {
		d.tell = lines(out, f.json)
		return func(view) {}, lineKeys(ctx, in), func() {}, nil
	}
	old, err := term.MakeRaw(int(keyboard.Fd()))
	if err != nil {
		return nil, nil, nil, err
	}
	var last []string // what is said when the screen is gone
	d.tell = func(e event, c counts) {
		if e.kind == "end" || e.kind == "leader" || e.kind == "data" && d.p.keep {
			last = append(last, e.text)
		}
	}
	_, _ = io.WriteString(display, "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2Jstarting ...") // the other screen, no cursor
	restore = func() {
		_, _ = io.WriteString(display, "\x1b[?25h\x1b[?1049l")
		_ = term.Restore(int(keyboard.Fd()), old) // there is no more that could be done
		for _, l := range last {
			_, _ = fmt.Fprintln(display, l)
		}
	}
	colour := os.Getenv("NO_COLOR") == ""
	paint = func(v view) {
		width, height, err := term.GetSize(int(display.Fd()))
		if err != nil || width < 1 || height < 1 {
			width, height = 80, 24
		}
		_, _ = io.WriteString(display, "\x1b[H"+strings.Join(frame(v, width, height, colour), "\x1b[K\r\n")+"\x1b[K\x1b[J")
	}
	return paint, rawKeys(ctx, keyboard), restore, nil
}

// lines tells of each event in a line.
func lines(out io.Writer, asJSON bool) func(event, counts) {
	return func(e event, c counts) {
		if !asJSON {
			_, _ = fmt.Fprintf(out, "%s %s\n", e.at.Format(time.TimeOnly), e.text)
			return
		}
		line, _ := json.Marshal(struct {
			Time   time.Time `json:"time"`
			Event  string    `json:"event"`
			Node   string    `json:"node,omitempty"`
			Text   string    `json:"text"`
			Outage int64     `json:"outage_ms,omitempty"`
			Counts counts    `json:"counts"`
		}{e.at, e.kind, e.node, e.text, e.outage.Milliseconds(), c}) // cannot fail
		_, _ = fmt.Fprintf(out, "%s\n", line)
	}
}

// lineKeys are lines of input. When it ends, the demo goes on until it is interrupted.
func lineKeys(ctx context.Context, in io.Reader) <-chan string {
	keys := make(chan string)
	go func() { // ends with the input, or with the program
		for text := bufio.NewScanner(in); text.Scan(); {
			press(ctx, keys, strings.TrimSpace(text.Text()))
		}
	}()
	return keys
}

// rawKeys are single bytes; Ctrl-C, Ctrl-D and the end of the terminal are q.
func rawKeys(ctx context.Context, in io.Reader) <-chan string {
	keys := make(chan string)
	go func() { // ends with the terminal, or with the program
		b := make([]byte, 1)
		for {
			if _, err := in.Read(b); err != nil {
				press(ctx, keys, "q")
				return
			}
			switch b[0] {
			case 3, 4:
				press(ctx, keys, "q")
			case '\r', '\n', ' ':
			default:
				press(ctx, keys, strings.ToLower(string(rune(b[0]))))
			}
		}
	}()
	return keys
}

func press(ctx context.Context, keys chan<- string, key string) {
	select {
	case keys <- key:
	case <-ctx.Done():
	}
}
