package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"
	"unicode"

	"example.com/chat/rpc/client"
)

// printer shows results to people or to programs. It is safe for concurrent use.
type printer struct {
	w      io.Writer
	json   bool
	colour bool // senders have one each
	mu     *sync.Mutex
	names  *names // that were shown
}

func newPrinter(w io.Writer, json bool) printer {
	return printer{w: w, json: json, mu: new(sync.Mutex), names: new(names)}
}

// styled is text of our own, which may steer the terminal.
type styled string

// show prints the object for programs, and the text for people. Arguments that are strings may be of others, and
// do not steer the terminal.
func (p printer) show(object map[string]any, format string, args ...any) {
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = printable(text)
		}
	}
	line := strings.TrimRight(fmt.Sprintf(format, args...), " ")
	if p.json {
		text, _ := json.Marshal(object) // of strings, numbers and times: cannot fail
		line = string(text)
	}
	p.names.learn(object)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintln(p.w, line) // where should it be told
}

// message prints a message that somebody has sent, in a room if that has a name; object is what more there is
// to tell.
func (p printer) message(m client.Message, room, mark string, object map[string]any) {
	o := map[string]any{"id": messageID(m.RoomID, m.Seq), "sender": m.Sender, "text": m.Text, "time": m.Time}
	maps.Copy(o, object)
	sender := m.Sender
	if sender == "" {
		sender = "(deleted)"
	}
	from := styled(printable(sender))
	if p.colour {
		from = coloured(printable(sender))
	}
	if room != "" {
		o["room"] = room
		from = styled(roomMark+printable(room)+" ") + from
	}
	p.show(o, "%s[%s] %s: %s  (%s)", mark, clock(m.Time), from, m.Text, messageID(m.RoomID, m.Seq))
}

// failure prints an error.
func (p printer) failure(err error) {
	object := map[string]any{"reason": reason(err), "message": err.Error()}
	if step := next(err); step != "" {
		object["next"] = step
	}
	p.show(map[string]any{"error": object}, "%s", explain(err))
}

// printable keeps what others have written from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// reason is what a program can act on.
func reason(err error) string {
	var usage usageError
	if errors.As(err, &usage) {
		return "USAGE"
	}
	if errors.Is(err, errUnreached) {
		err = client.ErrNoLeader
	}
	return client.Reason(err)
}

// steps are what to do next.
var steps = []struct {
	err  error
	step string
}{
	{errUnreached, "want --servers with the addresses of nodes that run"},
	{client.ErrUnauthenticated, "log in first: login NAME"},
	{client.ErrNoSuchUser, "list shows who there is"},
	{client.ErrNoSuchRoom, "rooms * shows which there are"},
	{client.ErrNotMember, "join it first: join ROOM"},
	{client.ErrNameTaken, "choose another name"},
	{client.ErrUnknownOutcome, "messages shows whether it was done"},
	{client.ErrNoLeader, "the cluster has no majority at the moment: status shows it"},
}

// next is what to do about an error; empty when there is nothing but what it says itself.
func next(err error) string {
	for _, s := range steps {
		if errors.Is(err, s.err) {
			return s.step
		}
	}
	return ""
}

// explain is an error and the next step.
func explain(err error) string {
	if step := next(err); step != "" {
		return printable(err.Error()) + "; " + step
	}
	return printable(err.Error())
}
