package cli

import (
	"sync"

	"golang.org/x/term"
)

// prompt is what stands before the line that is being typed: who is logged in, and whether messages come at the
// moment. It is safe for concurrent use; without a terminal it only remembers.
type prompt struct {
	mu     sync.Mutex // guards what follows
	t      *term.Terminal
	user   string
	lost   bool // no node sends messages
	asking bool // for a password: another prompt stands there
	shown  string
}

// update changes the prompt, and draws it anew where a line is being typed.
func (p *prompt) update(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	text := p.text()
	if p.t == nil || p.asking || text == p.shown {
		return
	}
	p.shown = text
	p.t.SetPrompt(text)
	_, _ = p.t.Write(nil) // where should it be told
}

func (p *prompt) text() string {
	text := p.user
	if text == "" {
		text = "chat"
	}
	if p.lost {
		text += ", reconnecting"
	}
	return "(" + text + ") "
}

func (p *prompt) setUser(name string) { p.update(func() { p.user = name }) }

func (p *prompt) setAsking(yes bool) { p.update(func() { p.asking = yes }) }

// setLost reports whether that is news, and nowhere on a screen.
func (p *prompt) setLost(lost bool) (tell bool) {
	p.update(func() {
		tell = p.lost != lost && p.t == nil
		p.lost = lost
	})
	return tell
}
