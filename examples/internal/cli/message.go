package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"example.com/chat/rpc/client"
)

func send(ctx context.Context, s *session, args []string) error {
	if len(args) < 2 {
		return want("send")
	}
	to, err := s.target(ctx, args[0])
	if err != nil {
		return err
	}
	r, err := s.c.Send(ctx, to, client.Draft{Text: strings.Join(args[1:], " ")})
	if err != nil {
		return err
	}
	s.out.show(map[string]any{"sent": messageID(r.RoomID, r.Seq), "time": r.Time}, "sent %s", messageID(r.RoomID, r.Seq))
	return nil
}

// messageID is what read and delete take.
func messageID(room string, seq uint64) string { return room + ":" + strconv.FormatUint(seq, 10) }

func parseMessageID(id string) (room string, seq uint64, err error) {
	room, digits, _ := strings.Cut(id, ":")
	if seq, err = strconv.ParseUint(digits, 10, 64); err != nil || room == "" {
		return "", 0, usagef("%q is not the id of a message; messages shows them", id)
	}
	return room, seq, nil
}

func messages(ctx context.Context, s *session, args []string) error {
	count := 10
	if len(args) > 1 || !number(args, 0, &count) {
		return want("messages")
	}
	type line struct {
		client.Message
		room   client.Room
		unread bool
	}
	var lines []line
	for room, err := range s.c.Rooms(ctx) {
		if err != nil {
			return err
		}
		for m, err := range s.c.History(ctx, client.ToRoom(room.ID), client.Query{Limit: count}) {
			if err != nil {
				return err
			}
			lines = append(lines, line{m, room, m.Seq > room.ReadSeq})
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.RoomID, b.RoomID), cmp.Compare(a.Seq, b.Seq))
	})
	for _, l := range lines[max(0, len(lines)-count):] {
		mark := " "
		if l.unread {
			mark = "*"
		}
		s.out.message(l.Message, l.room.Name, mark, map[string]any{"unread": l.unread})
	}
	if len(lines) == 0 && !s.out.json {
		s.out.show(nil, "no messages")
	}
	return nil
}

func read(ctx context.Context, s *session, args []string) error {
	return s.each(args, "read", func(room string, seqs []uint64) error {
		return s.c.MarkRead(ctx, room, slices.Max(seqs))
	})
}

func hide(ctx context.Context, s *session, args []string) error {
	return s.each(args, "delete", func(room string, seqs []uint64) error {
		return s.c.Hide(ctx, room, seqs...)
	})
}

// each calls do for the messages of each room, after it has understood all ids.
func (s *session) each(ids []string, name string, do func(room string, seqs []uint64) error) error {
	if len(ids) == 0 {
		return want(name)
	}
	var rooms []string
	seqs := map[string][]uint64{}
	for _, id := range ids {
		room, seq, err := parseMessageID(id)
		if err != nil {
			return err
		}
		if seqs[room] == nil {
			rooms = append(rooms, room)
		}
		seqs[room] = append(seqs[room], seq)
	}
	for _, room := range rooms {
		if err := do(room, seqs[room]); err != nil {
			return fmt.Errorf("%s %s: %w", name, room, err)
		}
	}
	s.out.show(map[string]any{name: ids}, "%s: %s", name, strings.Join(ids, " "))
	return nil
}
