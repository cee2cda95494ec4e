package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/chat/examples/internal/nearest"
	"example.com/chat/rpc/client"
)

// command is one that can be typed.
type command struct {
	name, args, does string
	run              func(ctx context.Context, s *session, args []string) error
}

// commands is the whole table.
var commands []command

func init() { // in init, as help reads the table
	commands = []command{
		{"register", "NAME", "make an account; the password is asked for, and not shown", register},
		{"login", "NAME", "log in; the password is asked for", login},
		{"logout", "", "end the session", logout},
		{"delete_account", "", "delete the account; its messages stay, without a name", deleteAccount},
		{"list", "[PATTERN] [PAGE] [PER_PAGE]", "list accounts; * in the pattern stands for anything", list},
		{"send", "NAME|#ROOM TEXT...", "send a message to a user or to a room", send},
		{"rooms", "[PATTERN]", "list your rooms, or the public ones that match", rooms},
		{"create", "ROOM", "make a room that everybody may join", createRoom},
		{"join", "ROOM", "join a room", joinRoom},
		{"leave", "ROOM", "leave a room", leaveRoom},
		{"members", "ROOM", "list who is in a room", members},
		{"messages", "[COUNT]", "show the newest messages, 10 unless told", messages},
		{"read", "ID...", "mark messages as read, with those before them", read},
		{"delete", "ID...", "take messages out of your own view", hide},
		{"status", "", "show the cluster", status},
		{"connect", "HOST:PORT", "go over to that node, and show the cluster", connect},
		{"help", "[COMMAND]", "show the commands, or one of them; ? does the same", showHelp},
		{"exit", "", "log out and leave; quit does the same", exit},
	}
}

func find(name string) (command, bool) {
	switch name {
	case "quit":
		name = "exit"
	case "?":
		name = "help"
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return commands[i], true
}

func commandNames() (names []string) {
	for _, c := range commands {
		names = append(names, c.name)
	}
	return names
}

func unknown(name string) error {
	if near := nearest.Name(name, commandNames()); near != "" {
		return usagef("%q is no command; %q is near", name, near)
	}
	return usagef("%q is no command; help lists them", name)
}

// want is the error of a command that was given too little or too much.
func want(name string) error {
	c, _ := find(name)
	return usagef("usage: %s", strings.TrimSpace(name+" "+c.args))
}

func overview() string {
	var b strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-36s %s\n", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	return b.String()
}

func showHelp(_ context.Context, s *session, args []string) error {
	if len(args) == 0 {
		s.out.show(map[string]any{"help": overview()}, "%s", styled(strings.TrimRight(overview(), "\n")))
		return nil
	}
	c, ok := find(args[0])
	if !ok {
		return unknown(args[0])
	}
	s.out.show(map[string]any{"command": c.name, "args": c.args, "help": c.does}, "%s: %s", strings.TrimSpace(c.name+" "+c.args), c.does)
	return nil
}

// exit leaves; who is logged in is logged out then.
func exit(_ context.Context, s *session, _ []string) error {
	s.over = true
	return nil
}

func register(ctx context.Context, s *session, args []string) error {
	name, password, err := s.credentials("register", args, true)
	if err != nil {
		return err
	}
	a, err := s.c.Register(ctx, name, password)
	if err != nil {
		return err
	}
	s.out.show(map[string]any{"registered": a.Name}, "registered %s; log in with: login %s", a.Name, a.Name)
	return nil
}

// parenthesis is nothing around nothing.
func parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return "(" + text + ")"
}

func login(ctx context.Context, s *session, args []string) error {
	name, password, err := s.credentials("login", args, false)
	if err != nil {
		return err
	}
	a, err := s.c.Login(ctx, name, password)
	if err != nil {
		return err
	}
	s.silence()
	s.user = a.Name
	if s.live { // before the count: what comes meanwhile is shown, or counted, or both
		if err := s.listen(ctx); err != nil {
			return err
		}
	}
	st, err := s.c.Status(ctx)
	if err != nil {
		return err
	}
	var unread uint64
	from := map[string]uint64{}
	var where []string
	for r, err := range s.c.Rooms(ctx) {
		if err != nil {
			return err
		}
		if unread += r.Unread; r.Unread > 0 {
			name := r.Peer
			if !r.Direct {
				name = roomMark + r.Name
			}
			from[name] = r.Unread
			where = append(where, fmt.Sprintf("%d from %s", r.Unread, name))
		}
	}
	s.out.show(map[string]any{"user": a.Name, "node": st.NodeID, "unread": unread, "unread_from": from},
		"logged in as %s at %s; %d unread %s", a.Name, st.NodeID, unread, parenthesis(strings.Join(where, ", ")))
	return nil
}

func logout(ctx context.Context, s *session, _ []string) error {
	s.silence()
	if err := s.c.Logout(ctx); err != nil {
		return err
	}
	s.out.show(map[string]any{"logged_out": s.user}, "logged out")
	s.user = ""
	return nil
}

func deleteAccount(ctx context.Context, s *session, args []string) error {
	if s.user == "" {
		return client.ErrUnauthenticated
	}
	_, password, err := s.credentials("delete_account", append([]string{s.user}, args...), false)
	if err != nil {
		return err
	}
	if err := s.c.DeleteAccount(ctx, password); err != nil {
		return err
	}
	s.silence()
	s.out.show(map[string]any{"deleted": s.user}, "deleted the account %s", s.user)
	s.user = ""
	return nil
}

func list(ctx context.Context, s *session, args []string) error {
	pattern, page, per := "", 1, 10
	if len(args) > 0 {
		pattern = args[0]
	}
	if len(args) > 3 || !number(args, 1, &page) || !number(args, 2, &per) {
		return want("list")
	}
	skip, shown := (page-1)*per, 0
	for a, err := range s.c.Users(ctx, pattern) {
		if err != nil {
			return err
		}
		if skip--; skip >= 0 {
			continue
		}
		last := "never logged in"
		if !a.LoginTime.IsZero() {
			last = "last login " + clock(a.LoginTime)
		}
		s.out.show(map[string]any{"user": a.Name, "create_time": a.CreateTime, "login_time": a.LoginTime}, "%-20s %s", a.Name, last)
		if shown++; shown == per {
			break
		}
	}
	if shown == 0 && !s.out.json {
		s.out.show(nil, "nobody")
	}
	return nil
}

// number reads a number above 0 from the i-th argument, if there is one.
func number(args []string, i int, n *int) bool {
	if i >= len(args) {
		return true
	}
	v, err := strconv.Atoi(args[i])
	*n = v
	return err == nil && v > 0 && v <= 10_000
}

func status(ctx context.Context, s *session, args []string) error {
	st, err := s.c.Status(ctx)
	if err != nil {
		return err
	}
	s.out.show(map[string]any{"node": st.NodeID, "role": st.Role, "term": st.Term, "leader": st.Leader, "applied": st.Applied, "ready": st.Ready},
		"connected to %s: %s in term %d, leader %s, applied %d %s", st.NodeID, st.Role, st.Term, orNone(st.Leader), st.Applied, st.Detail)
	names := map[string]client.Server{}
	addrs := slices.Clone(s.servers)
	for _, v := range st.Servers {
		names[v.Address] = v
		if !slices.Contains(addrs, v.Address) {
			addrs = append(addrs, v.Address)
		}
	}
	for _, addr := range addrs {
		one, err := s.ask(ctx, addr)
		if err != nil {
			s.out.show(map[string]any{"node": names[addr].ID, "address": addr, "error": err.Error()}, "  %-12s %-22s does not answer", orNone(names[addr].ID), addr)
			continue
		}
		fields := map[string]any{"node": one.NodeID, "address": addr, "role": one.Role, "term": one.Term, "applied": one.Applied, "ready": one.Ready}
		kind := ""
		if v, ok := names[addr]; ok { // else it is not in the configuration, or who asks is not logged in
			fields["voter"], kind = v.Voter, "non-voter"
			if v.Voter {
				kind = "voter"
			}
		}
		s.out.show(fields, "  %-12s %-22s %-9s %-9s term %d, applied %d %s", one.NodeID, addr, one.Role, kind, one.Term, one.Applied, one.Detail)
	}
	return nil
}

func orNone(id string) string {
	if id == "" {
		return "-"
	}
	return id
}

// ask asks one node alone.
func (s *session) ask(ctx context.Context, addr string) (client.ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := client.Dial(ctx, []string{addr})
	if err != nil {
		return client.ClusterStatus{}, err
	}
	defer func() { _ = c.Close() }() // nothing is lost with it
	return c.Status(ctx)
}

func connect(ctx context.Context, s *session, args []string) error {
	if len(args) != 1 || !strings.Contains(args[0], ":") {
		return want("connect")
	}
	if _, err := s.ask(ctx, args[0]); err != nil {
		return fmt.Errorf("%s does not answer: %w", args[0], err)
	}
	if err := s.c.Prefer(args[0]); err != nil {
		return err
	}
	return status(ctx, s, nil)
}
