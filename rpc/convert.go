package rpc

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/chat/fsm/state"
	"example.com/chat/rpc/chatpb"
)

func timestamp(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}

func toAccount(a state.Account) *chatpb.Account {
	return &chatpb.Account{Name: a.Name, CreateTime: timestamp(a.CreateTimeMS), LoginTime: timestamp(a.LoginTimeMS)}
}

func toRoom(r state.Room) *chatpb.Room {
	out := &chatpb.Room{
		Id: roomID(r.ID), Kind: chatpb.RoomKind_ROOM_KIND_PUBLIC, Name: r.Name, Peer: r.Peer,
		CreateTime: timestamp(r.CreateTimeMS), Members: r.Members, LastSeq: r.LastSeq,
	}
	if r.Direct {
		out.Kind = chatpb.RoomKind_ROOM_KIND_DIRECT
	}
	if r.Member {
		out.ReadSeq, out.Unread = r.ReadSeq, r.LastSeq-r.ReadSeq
	}
	return out
}

func toMessage(m state.Message) *chatpb.Message {
	return &chatpb.Message{RoomId: roomID(m.Room), Seq: m.Seq, Sender: m.Sender, Text: m.Text, CreateTime: timestamp(m.TimeMS)}
}

func toReceipt(r *state.Result) *chatpb.Receipt { return toOutcome(0, r).GetReceipt() }

// toOutcome is the receipt of a send on a stream, in one piece of memory.
func toOutcome(number uint64, r *state.Result) *chatpb.SendOutcome {
	var all struct {
		outcome chatpb.SendOutcome
		is      chatpb.SendOutcome_Receipt
		receipt chatpb.Receipt
		time    timestamppb.Timestamp
	}
	out := &all
	out.outcome.Number, out.outcome.Outcome, out.is.Receipt = number, &out.is, &out.receipt
	out.receipt.RoomId, out.receipt.Seq, out.receipt.Duplicate = roomID(r.Room), r.Seq, r.Duplicate
	if r.TimeMs != 0 {
		at := time.UnixMilli(r.TimeMs)
		out.time.Seconds, out.time.Nanos, out.receipt.CreateTime = at.Unix(), int32(at.Nanosecond()), &out.time
	}
	return &out.outcome
}

func toEvent(e *state.Event, cursor string) *chatpb.Event {
	out := &chatpb.Event{Cursor: cursor, Time: timestamp(e.TimeMS)}
	room := roomID(e.Room)
	switch e.Kind {
	case state.MessageSent:
		out.Kind = &chatpb.Event_Message{Message: &chatpb.Message{
			RoomId: room, Seq: e.Seq, Sender: e.Name, Text: e.Text, CreateTime: out.Time,
		}}
	case state.MemberJoined:
		out.Kind = &chatpb.Event_MemberJoined{MemberJoined: &chatpb.MemberJoined{RoomId: room, Name: e.Name}}
	case state.MemberLeft:
		out.Kind = &chatpb.Event_MemberLeft{MemberLeft: &chatpb.MemberLeft{RoomId: room, Name: e.Name}}
	case state.MarkerMoved:
		out.Kind = &chatpb.Event_MarkerMoved{MarkerMoved: &chatpb.MarkerMoved{RoomId: room, Seq: e.Seq}}
	case state.MessagesHidden:
		out.Kind = &chatpb.Event_MessagesHidden{MessagesHidden: &chatpb.MessagesHidden{RoomId: room, Seqs: e.Seqs}}
	}
	return out
}
