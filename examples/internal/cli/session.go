package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"example.com/chat/rpc/client"
)

// session is one use of the program: who chats, and with what.
type session struct {
	c        *client.Client
	servers  []string // from the command line
	out      printer
	password func(prompt string) (string, error)
	typed    bool   // passwords are typed by somebody who does not see them
	token    string // of an earlier session
	user     string // empty when nobody is logged in
	live     bool   // show messages as they come
	over     bool   // exit was typed
	prompt   prompt

	stop context.CancelFunc // ends what listen began; nil when it has not
	work sync.WaitGroup

	names map[string]string // of rooms by their ids; used by the goroutine of listen alone
}

// roomName is the name of a room, empty for one of two users, or when it cannot be told.
func (s *session) roomName(ctx context.Context, id string) string {
	if _, known := s.names[id]; !known {
		s.names = map[string]string{}
		for r, err := range s.c.Rooms(ctx) {
			if err != nil {
				return ""
			}
			s.names[r.ID] = r.Name
		}
	}
	return s.names[id]
}

// credentials are the name that was given and a password that is asked for, a new one twice. It is never taken
// from the arguments, which the shell remembers and every user of the machine can read.
func (s *session) credentials(command string, args []string, isNew bool) (name, password string, err error) {
	if len(args) > 1 {
		return "", "", usagef("a password is asked for, or read from standard input, and not written behind the command, where others may read it")
	}
	if len(args) == 0 {
		return "", "", want(command)
	}
	password, err = s.password("password: ")
	if errors.Is(err, io.EOF) {
		return "", "", usagef("no password came: type it in a terminal, or give it on standard input")
	}
	if err != nil || !isNew || !s.typed {
		return args[0], password, err
	}
	again, err := s.password("again: ")
	if err == nil && again != password {
		err = usagef("the passwords differ")
	}
	return args[0], password, err
}

// listen shows what others send from now on.
func (s *session) listen(ctx context.Context) error {
	sub, err := s.c.Subscribe(ctx, client.SubscribeOptions{OnLive: s.connection})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the command
	me := s.user
	s.stop = func() {
		stop()
		_ = sub.Close() // nothing is lost with it
	}
	s.work.Go(func() {
		for e, err := range sub.All(ctx) {
			if errors.Is(err, client.ErrClosed) {
				return
			}
			if err != nil {
				s.prompt.setLost(false) // there is nothing to connect for any more
				s.out.failure(err)
				return
			}
			if e.Kind == client.MessageSent && e.User != me {
				s.out.message(e.Message, s.roomName(ctx, e.Message.RoomID), "", nil)
			}
		}
	})
	return nil
}

// connection tells whether messages come, or a node is sought that sends them.
func (s *session) connection(live bool) {
	if s.prompt.setLost(!live) {
		word := map[bool]string{true: "back", false: "lost"}[live]
		s.out.show(map[string]any{"connection": word}, "the connection is %s", word)
	}
}

// silence ends listen.
func (s *session) silence() {
	if s.stop != nil {
		s.stop()
		s.work.Wait()
		s.stop = nil
		s.prompt.setLost(false)
	}
}

// kept is a session between calls of the program, in a file that only its owner can read.
type kept struct {
	file  string
	User  string `json:"user"`
	Token string `json:"token"`
}

// openKept reads a session; there is none when there is no file.
func openKept(file string) (kept, error) {
	if file == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return kept{}, usagef("no place for the session, want --session: %w", err)
		}
		file = filepath.Join(dir, "chat", "session.json")
	}
	k := kept{file: file}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("the session in %s: %w; remove the file, and log in again", file, err)
	}
	return k, nil
}

// write keeps the session, or removes the file when there is none.
func (k kept) write() error {
	if k.Token == "" {
		if err := os.Remove(k.file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(k.file), filepath.Base(k.file)+".*") // its own: nobody else can read it, or writes it
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), k.file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is err that matters
	}
	return err
}
