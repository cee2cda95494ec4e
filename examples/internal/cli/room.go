package cli

import (
	"context"
	"fmt"
	"strings"

	"example.com/chat/rpc/client"
)

// roomMark is before the name of a room where a user could stand, too.
const roomMark = "#"

func createRoom(ctx context.Context, s *session, args []string) error {
	return s.enter(ctx, "create", args, s.c.CreateRoom)
}

func joinRoom(ctx context.Context, s *session, args []string) error {
	return s.enter(ctx, "join", args, s.c.JoinRoom)
}

// enter makes the user a member of a room.
func (s *session) enter(ctx context.Context, command string, args []string, f func(context.Context, string) (client.Room, error)) error {
	if len(args) != 1 {
		return want(command)
	}
	r, err := f(ctx, strings.TrimPrefix(args[0], roomMark))
	if err != nil {
		return err
	}
	s.out.show(map[string]any{"room": r.Name, "id": r.ID, "members": r.Members}, "you are in #%s, of %d; write with: send #%s TEXT", r.Name, r.Members, r.Name)
	return nil
}

func leaveRoom(ctx context.Context, s *session, args []string) error {
	if len(args) != 1 {
		return want("leave")
	}
	r, err := s.room(ctx, args[0])
	if err != nil {
		return err
	}
	if err := s.c.LeaveRoom(ctx, r.ID); err != nil {
		return err
	}
	s.out.show(map[string]any{"left": r.Name, "id": r.ID}, "left #%s", r.Name)
	return nil
}

// rooms lists the user's own rooms, or the public ones that match a pattern.
func rooms(ctx context.Context, s *session, args []string) error {
	if len(args) > 1 {
		return want("rooms")
	}
	all := s.c.Rooms(ctx)
	if len(args) == 1 {
		all = s.c.SearchRooms(ctx, args[0])
	}
	shown := 0
	for r, err := range all {
		if err != nil {
			return err
		}
		if r.Direct {
			continue
		}
		s.out.show(map[string]any{"room": r.Name, "id": r.ID, "members": r.Members, "unread": r.Unread}, "#%-20s %d members, %d unread", r.Name, r.Members, r.Unread)
		shown++
	}
	if shown == 0 && !s.out.json {
		s.out.show(nil, "no rooms; make one with: create ROOM")
	}
	return nil
}

func members(ctx context.Context, s *session, args []string) error {
	if len(args) != 1 {
		return want("members")
	}
	r, err := s.room(ctx, args[0])
	if err != nil {
		return err
	}
	for m, err := range s.c.Members(ctx, r.ID) {
		if err != nil {
			return err
		}
		s.out.show(map[string]any{"room": r.Name, "user": m.Name}, "%s", printable(m.Name))
	}
	return nil
}

// room finds one of the user's rooms by its name.
func (s *session) room(ctx context.Context, name string) (client.Room, error) {
	name = strings.TrimPrefix(name, roomMark)
	for r, err := range s.c.Rooms(ctx) {
		if err != nil || !r.Direct && strings.EqualFold(r.Name, name) {
			return r, err
		}
	}
	return client.Room{}, fmt.Errorf("#%s: %w", name, client.ErrNotMember)
}

// target is whom a message is for: a user, or a room.
func (s *session) target(ctx context.Context, name string) (client.Target, error) {
	if !strings.HasPrefix(name, roomMark) {
		return client.ToUser(name), nil
	}
	r, err := s.room(ctx, name)
	return client.ToRoom(r.ID), err
}
