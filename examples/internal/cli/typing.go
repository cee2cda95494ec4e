package cli

import (
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"strings"
	"sync"
)

const (
	// maxNames is how many names are offered for completion, and maxLines how many lines are remembered.
	maxNames, maxLines = 1000, 200
)

// names are those of users, and of rooms with their mark, that were shown: what completion offers. It is safe
// for concurrent use.
type names struct {
	mu   sync.Mutex // guards list
	list []string   // the newest last
}

// learn takes the names out of an object that is shown.
func (n *names) learn(object map[string]any) {
	for key, mark := range map[string]string{"user": "", "sender": "", "registered": "", "room": roomMark} {
		name, ok := object[key].(string)
		if !ok || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r == ' ' }) {
			continue
		}
		n.mu.Lock()
		if !slices.Contains(n.list, mark+printable(name)) {
			n.list = append(n.list[max(len(n.list)-maxNames+1, 0):], mark+printable(name))
		}
		n.mu.Unlock()
	}
}

func (n *names) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
}

// complete is what Tab makes of a line at a position: the word before it as far as all that could stand there
// agree, a command at the beginning and a name later. It is not ok when that is nothing new.
func (n *names) complete(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' {
		return "", 0, false
	}
	before := line[:pos]
	start := strings.LastIndexByte(before, ' ') + 1
	word := before[start:]
	offers := n.all()
	if strings.TrimSpace(before[:start]) == "" {
		offers = nil
		for _, c := range commands {
			offers = append(offers, c.name)
		}
	}
	common, found := "", 0
	for _, o := range offers {
		if !strings.HasPrefix(o, word) {
			continue
		}
		if found++; found == 1 {
			common = o
		}
		for !strings.HasPrefix(o, common) {
			runes := []rune(common)
			common = string(runes[:len(runes)-1])
		}
	}
	if found == 1 {
		common += " "
	}
	if len(common) <= len(word) {
		return line, pos, true // Tab itself is not typed
	}
	return before[:start] + common + line[pos:], start + len(common), true
}

// history is the lines that were typed, without passwords.
type history struct{ lines []string }

// Add keeps a line that has no password in it.
func (h *history) Add(line string) {
	if words := strings.Fields(line); len(words) == 0 || secret(words) {
		return
	}
	h.lines = append(h.lines[max(len(h.lines)-maxLines+1, 0):], line)
}

// Len is how many lines are kept.
func (h *history) Len() int { return len(h.lines) }

// At is a line, 0 the newest.
func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }

// secret reports whether a command was given a password.
func secret(words []string) bool {
	switch words[0] {
	case "register", "login":
		return len(words) > 2
	case "delete_account":
		return len(words) > 1
	default:
		return false
	}
}

// colours that can be read on dark and on light.
var colours = []int{31, 32, 33, 34, 35, 36, 91, 92, 94, 95, 96}

// coloured is a sender's name in a colour of its own, the same each time.
func coloured(name string) styled {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return styled(fmt.Sprintf("\x1b[%dm%s\x1b[0m", colours[h.Sum32()%uint32(len(colours))], name))
}

// wantsColour obeys NO_COLOR and terminals that can do nothing.
func wantsColour() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// scripts complete commands in shells, at any place: flags stand before them.
var scripts = map[string]string{
	"bash": "complete -W '%[2]s' %[1]s\n",
	"zsh":  "_chat_%[1]s() { _arguments '*: :(%[2]s)' }\ncompdef _chat_%[1]s %[1]s\n",
	"fish": "complete -c %[1]s -f -a '%[2]s'\n",
}

// script is what a shell reads to complete the commands of a program, whose name may have a second word.
func script(shell, program string) (string, error) {
	text, ok := scripts[shell]
	if !ok {
		return "", usagef("usage: completion bash|zsh|fish")
	}
	words := strings.Fields(program)
	return fmt.Sprintf(text, words[0], strings.Join(append(words[1:], commandNames()...), " ")), nil
}
