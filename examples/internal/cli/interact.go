package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// input is where commands come from.
type input struct {
	line     func() (string, error) // its error is io.EOF at the end
	password func(prompt string) (string, error)
	resize   func()                             // to what the terminal has
	leave    func()                             // the line, where it is
	running  func(interrupt context.CancelFunc) // a command, until nil; what Ctrl-C calls
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// passwords asks for a password in the terminal, until ctx ends; elsewhere it is the next line.
func passwords(ctx context.Context, in *os.File, out io.Writer) func(string) (string, error) {
	lines := bufio.NewReader(in)
	return func(prompt string) (string, error) {
		if !isTerminal(in) {
			return line(lines)
		}
		fd := int(in.Fd())
		seen, err := term.GetState(fd)
		if err != nil {
			return "", err
		}
		var typed []byte
		var failed error
		over := make(chan struct{})
		go func() {
			defer close(over)
			typed, failed = term.ReadPassword(fd)
		}()
		silent(fd, seen, over)
		_, _ = io.WriteString(out, prompt)
		text := ""
		select {
		case <-over:
			text, err = string(typed), failed
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		_ = term.Restore(fd, seen) // which was not done yet when ctx has ended
		_, _ = io.WriteString(out, "\n")
		return text, err
	}
}

// silent waits until a terminal is not as it was seen any more: ReadPassword, on another goroutine, has it echo nothing
// then. What is restored before would be undone, and what is typed be seen. A terminal that echoed nothing anyhow stays
// as it was, and is waited for no longer than 250 ms.
func silent(fd int, seen *term.State, over <-chan struct{}) {
	for range 250 {
		if now, err := term.GetState(fd); err != nil || !reflect.DeepEqual(now, seen) {
			return
		}
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond):
		}
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
func open(ctx context.Context, s *session, in *os.File, out io.Writer) (input, func(), error) {
	display, ok := out.(*os.File)
	if !isTerminal(in) || !ok || !isTerminal(display) {
		lines := bufio.NewReader(in)
		next := func() (string, error) { return line(lines) }
		password := func(string) (string, error) { return next() }
		if isTerminal(in) {
			password = passwords(ctx, in, os.Stderr)
		}
		return input{next, password, func() {}, func() {}, func(context.CancelFunc) {}}, func() {}, nil
	}
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return input{}, nil, err
	}
	keys := newKeyboard(in)
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, out}, "")
	t.History, t.AutoCompleteCallback = &history{}, s.out.names.complete
	s.out.w, s.out.colour = t, wantsColour() && !s.out.json
	s.prompt.t = t
	resize := func() {
		if w, h, err := term.GetSize(int(in.Fd())); err == nil && w > 0 {
			_ = t.SetSize(w, h) // fails for no size that a terminal has
		}
	}
	password := func(text string) (string, error) {
		defer keys.running(keys.running(nil)) // Ctrl-C is the terminal's for so long
		s.prompt.setAsking(true)
		defer s.prompt.setAsking(false)
		return t.ReadPassword(text)
	}
	leave := func() { _, _ = io.WriteString(out, "\r\n") }
	stop := onResize(resize)
	return input{t.ReadLine, password, resize, leave, func(f context.CancelFunc) { keys.running(f) }}, sync.OnceFunc(func() {
		stop()
		s.prompt.t, s.out.w = nil, out
		_ = term.Restore(int(in.Fd()), old)
	}), nil
}

// keyboard reads a terminal all the time, so that Ctrl-C is seen while a command runs, too. While none does,
// the line editor gets it.
type keyboard struct {
	typed chan []byte
	rest  []byte
	err   error // why there is no more, once typed is closed

	mu        sync.Mutex // guards interrupt
	interrupt context.CancelFunc
}

const ctrlC = 3

func newKeyboard(in io.Reader) *keyboard {
	k := &keyboard{typed: make(chan []byte, 1024)}
	go func() { // ends with the terminal, or with the program
		defer close(k.typed)
		for {
			b := make([]byte, 256)
			n, err := in.Read(b)
			k.mu.Lock()
			interrupt := k.interrupt
			k.mu.Unlock()
			if interrupt != nil && bytes.IndexByte(b[:n], ctrlC) >= 0 {
				interrupt()
				n = 0
			}
			if n > 0 {
				k.typed <- b[:n]
			}
			if err != nil {
				k.err = err
				return
			}
		}
	}()
	return k
}

// running says what Ctrl-C interrupts from now on, and returns what it did before.
func (k *keyboard) running(interrupt context.CancelFunc) (before context.CancelFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, k.interrupt = k.interrupt, interrupt
	return before
}

// Read is what was typed.
func (k *keyboard) Read(b []byte) (int, error) {
	if len(k.rest) == 0 {
		typed, ok := <-k.typed
		if !ok {
			return 0, k.err
		}
		k.rest = typed
	}
	n := copy(b, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

// interact carries out what is typed until exit, or the end of the input.
func interact(ctx context.Context, s *session, in *os.File, out io.Writer) error {
	from, restore, err := open(ctx, s, in, out)
	if err != nil {
		return err
	}
	defer restore()
	defer s.silence()
	s.password, s.typed, s.live = from.password, isTerminal(in), true
	s.out.show(map[string]any{"connected": s.c.Endpoints()[0]}, "connected to %s; help lists the commands", s.c.Endpoints()[0])
	for !s.over && ctx.Err() == nil {
		from.resize()
		s.prompt.setUser(s.user)
		text, err := wait(ctx, from.line)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			s.silence() // which may change the prompt
			from.leave()
			break
		}
		if err != nil {
			return err
		}
		if words := strings.Fields(text); len(words) > 0 {
			running, interrupt := context.WithCancel(ctx)
			from.running(interrupt)
			err := s.do(running, text, words)
			from.running(nil)
			interrupt()
			if err != nil {
				s.out.failure(err)
			}
		}
	}
	s.silence()
	restore() // what is said now has no prompt behind it
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
