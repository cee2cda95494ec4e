// Package cli is a program that chats in a terminal. Without a command it is interactive; with one it does that
// and ends, as the user that the last login of this kind left.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"example.com/chat/examples/internal/config"
	"example.com/chat/examples/internal/nearest"
	"example.com/chat/rpc/client"
)

// Exit codes.
const (
	exitFailed = 1 // the cluster refused, or could not be reached
	exitUsage  = 2
)

// usageError is a mistake in how the program or a command was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// flags are those of the command line, and the command behind them.
type flags struct {
	servers []string
	program string // how the program is called
	session string // file that keeps the session between calls
	json    bool
	command []string
}

func parse(program string, args []string, output io.Writer) (flags, error) {
	f := flags{program: program}
	var servers, file string
	s := flag.NewFlagSet(program, flag.ContinueOnError)
	s.SetOutput(io.Discard)
	s.StringVar(&servers, "servers", "", "the `addresses` of nodes, host:port, with commas between them")
	s.StringVar(&file, "config", "", "a JSON `file`, {\"servers\":{\"ID\":\"host:port\"}}, with more addresses")
	s.StringVar(&f.session, "session", "", "the `file` that keeps the session between single commands (default in the user's configuration directory)")
	s.BoolVar(&f.json, "json", false, "print one JSON object a line")
	err := s.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintf(output, "%[1]s [flags]            chat in this terminal\n%[1]s [flags] COMMAND    do one thing\n\nFlags:\n", program)
		s.SetOutput(output)
		s.PrintDefaults()
		_, _ = fmt.Fprintf(output, "\nCommands:\n%s%s", overview(), strings.ReplaceAll(examples, "PROGRAM", program))
		return f, err
	}
	if err != nil {
		return f, usageError{nearest.Flag(s, err)}
	}
	if servers != "" {
		f.servers = strings.Split(servers, ",")
	}
	if file != "" {
		c, err := config.Read(file)
		if err != nil {
			return f, usageError{err}
		}
		f.servers = append(f.servers, c.Addrs()...)
	}
	for _, addr := range f.servers {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return f, usagef("server %q: want host:port", addr)
		}
	}
	f.command = s.Args()
	if len(f.servers) == 0 && !f.alone() {
		return f, usagef("no servers: want --servers localhost:8001,localhost:8002,localhost:8003")
	}
	return f, nil
}

// alone reports whether the command needs no server.
func (f flags) alone() bool {
	return len(f.command) > 0 && (f.command[0] == "help" || f.command[0] == "completion")
}

const examples = `
Examples:
  PROGRAM --servers localhost:8001 register alice        asks for a password
  PROGRAM --servers localhost:8001 login alice < file    takes it from a file, and keeps the session
  PROGRAM --servers localhost:8001 send bob hello there
  PROGRAM --servers localhost:8001 --json messages 5     an object a line
  source <(PROGRAM completion bash)                      or zsh; in fish: PROGRAM completion fish | source
`

// Run is the program, which is called so and given args, until it ends or ctx does; it returns the exit code. It
// leaves in and out as they were, also a terminal.
func Run(ctx context.Context, program string, args []string, in *os.File, out, errs io.Writer) int {
	f, err := parse(program, args, out)
	if err == nil {
		err = start(ctx, f, in, out)
	}
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		_, _ = fmt.Fprintf(errs, "%s: interrupted\n", program)
		return exitFailed
	case f.json:
		newPrinter(errs, true).failure(err)
	default:
		_, _ = fmt.Fprintf(errs, "%s: %s\n", program, explain(err))
	}
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// start connects and does what the flags say.
func start(ctx context.Context, f flags, in *os.File, out io.Writer) (err error) {
	switch {
	case !f.alone():
	case f.command[0] == "help":
		return showHelp(ctx, &session{out: newPrinter(out, f.json)}, f.command[1:])
	default:
		text, err := script(strings.Join(f.command[1:], " "), f.program)
		if err == nil {
			_, err = io.WriteString(out, text)
		}
		return err
	}
	s := &session{servers: f.servers, out: newPrinter(out, f.json)}
	if len(f.command) == 0 {
		return dial(ctx, s, f, func() error { return interact(ctx, s, in, out) })
	}
	cmd, ok := find(f.command[0])
	if !ok {
		return unknown(f.command[0])
	}
	k, err := openKept(f.session)
	if err != nil {
		return err
	}
	s.user, s.token = k.User, k.Token
	s.password, s.typed = passwords(ctx, in, out), isTerminal(in)
	return dial(ctx, s, f, func() error {
		// This process has seen nothing yet, so nothing tells a node how new its answer must be.
		ctx := client.WithConsistency(ctx, client.Linearizable)
		err := cmd.run(ctx, s, f.command[1:])
		k.User, k.Token = s.user, s.c.Token()
		return errors.Join(err, k.write())
	})
}
