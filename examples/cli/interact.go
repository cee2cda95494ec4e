package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// input is where commands come from.
type input struct {
	line     func() (string, error) // its error is io.EOF at the end
	password func(prompt string) (string, error)
	prompt   func(string)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// passwords asks for a password in the terminal; elsewhere it is the next line.
func passwords(in *os.File, out io.Writer) func(string) (string, error) {
	lines := bufio.NewReader(in)
	return func(prompt string) (string, error) {
		if !isTerminal(in) {
			return line(lines)
		}
		_, _ = io.WriteString(out, prompt)
		text, err := term.ReadPassword(int(in.Fd()))
		_, _ = io.WriteString(out, "\n")
		return string(text), err
	}
}

func line(r *bufio.Reader) (string, error) {
	text, err := r.ReadString('\n')
	if text != "" {
		err = nil
	}
	return strings.TrimRight(text, "\r\n"), err
}

// open makes the input, and returns what undoes that. In a terminal what is shown goes through it,
// so that the line that is being typed stays whole.
func open(s *session, in *os.File, out io.Writer) (input, func(), error) {
	if !isTerminal(in) {
		lines := bufio.NewReader(in)
		next := func() (string, error) { return line(lines) }
		return input{next, func(string) (string, error) { return next() }, func(string) {}}, func() {}, nil
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return input{}, nil, err
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "")
	if w, h, err := term.GetSize(int(in.Fd())); err == nil && w > 0 {
		_ = t.SetSize(w, h) // fails for no size that a terminal has
	}
	t.History, t.AutoCompleteCallback = &history{}, s.out.names.complete
	s.out.w, s.out.colour = t, wantsColour() && !s.out.json
	return input{t.ReadLine, t.ReadPassword, t.SetPrompt}, func() { _ = term.Restore(int(in.Fd()), old) }, nil
}

// interact carries out what is typed until exit, or the end of the input.
func interact(ctx context.Context, s *session, in *os.File, out io.Writer) error {
	from, restore, err := open(s, in, out)
	if err != nil {
		return err
	}
	defer restore()
	defer s.silence()
	s.password, s.typed, s.live = from.password, isTerminal(in), true
	s.out.show(map[string]any{"connected": s.c.Endpoints()[0]}, "connected to %s; help lists the commands", s.c.Endpoints()[0])
	for !s.over && ctx.Err() == nil {
		name := "chat"
		if s.user != "" {
			name = s.user
		}
		from.prompt("(" + name + ") ")
		text, err := wait(ctx, from.line)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if words := strings.Fields(text); len(words) > 0 {
			if err := s.do(ctx, text, words); err != nil {
				s.out.failure(err)
			}
		}
	}
	if s.user == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	return logout(ctx, s, nil)
}

// leaveTime is how long logging out may take at the end.
const leaveTime = 5 * time.Second

// wait returns what f does, or the error of ctx when that ends first; f goes on then until the
// program ends.
func wait(ctx context.Context, f func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := f()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// do carries out one line.
func (s *session) do(ctx context.Context, text string, words []string) error {
	c, ok := find(words[0])
	if !ok {
		return unknown(words[0])
	}
	args := words[1:]
	if c.name == "send" && len(args) > 1 { // the rest of the line as it was typed
		rest := strings.TrimLeft(strings.TrimLeft(text, " \t")[len(words[0]):], " \t")
		args = []string{args[0], strings.TrimSpace(rest[len(args[0]):])}
	}
	return c.run(ctx, s, args)
}
