package rpc

import (
	"context"
	"math"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

// messages is chat.v1.MessageService.
type messages struct {
	chatpb.UnsafeMessageServiceServer
	*Service
}

var _ chatpb.MessageServiceServer = messages{}

func (s messages) Send(ctx context.Context, r *chatpb.SendRequest) (*chatpb.SendResponse, error) {
	c, err := sendCommand(caller(ctx), r)
	if err != nil {
		return nil, err
	}
	done, err := s.o.Replica.Propose(ctx, c)
	if err == nil {
		err = state.Err(done)
	}
	if err != nil {
		return nil, err
	}
	return &chatpb.SendResponse{Receipt: toReceipt(done)}, nil
}

// sendCommand is the command that a request asks for.
func sendCommand(who state.Actor, r *chatpb.SendRequest) (*state.Command, error) {
	if err := checkText(r.GetText()); err != nil {
		return nil, err
	}
	c := &state.SendMessage{Text: r.Text}
	if err := address(c, r.Target); err != nil {
		return nil, err
	}
	return newCommand(who, r.OperationId, c)
}

func (s messages) ListMessages(ctx context.Context, r *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
	p, err := newPage(r.PageSize, r.PageToken)
	if err != nil {
		return nil, err
	}
	at, err := p.number()
	if err != nil {
		return nil, err
	}
	if r.Order < chatpb.Order_ORDER_UNSPECIFIED || r.Order > chatpb.Order_ORDER_OLDEST_FIRST {
		return nil, grpcerr.Invalid("order", "is %d", r.Order)
	}
	down := r.Order != chatpb.Order_ORDER_OLDEST_FIRST
	resp := &chatpb.ListMessagesResponse{}
	err = s.view(func(v *state.View) error {
		id, err := s.target(ctx, v, r.Target)
		if err != nil || id == 0 {
			return err
		}
		room, err := v.Room(caller(ctx).Account, id)
		if err != nil {
			return err
		}
		first, last := between(r, room.LastSeq)
		if at != 0 && down {
			last = min(last, at)
		} else if at != 0 {
			first = max(first, at)
		}
		size := 0
		next, err := v.Messages(caller(ctx).Account, id, first, last, down, maxScan, func(m state.Message) bool {
			if len(resp.Messages) == p.size || size+len(m.Text) > maxPageBytes {
				return false
			}
			size += len(m.Text)
			resp.Messages = append(resp.Messages, toMessage(m))
			return true
		})
		if next != 0 {
			resp.NextPageToken = numberToken(next)
		}
		return err
	})
	return resp, err
}

// maxPageBytes is how much text a page may have: far below the 4 MiB that a client takes.
const maxPageBytes = 1 << 20

// between are the numbers that a request asks for, first to last.
func between(r *chatpb.ListMessagesRequest, end uint64) (first, last uint64) {
	first, last = 1, end
	if r.AfterSeq == math.MaxUint64 {
		return 1, 0
	}
	if r.BeforeSeq > 0 {
		last = min(last, r.BeforeSeq-1)
	}
	return max(first, r.AfterSeq+1), last
}

func (s messages) HideMessages(ctx context.Context, r *chatpb.HideMessagesRequest) (*chatpb.HideMessagesResponse, error) {
	id, err := parseRoomID(r.RoomId)
	if err != nil {
		return nil, err
	}
	if len(r.Seqs) == 0 || len(r.Seqs) > state.MaxHide {
		return nil, grpcerr.Invalid("seqs", "has %d numbers, 1 to %d are allowed", len(r.Seqs), state.MaxHide)
	}
	_, err = s.propose(ctx, r.OperationId, &state.HideMessages{Room: id, Seqs: r.Seqs})
	return &chatpb.HideMessagesResponse{}, err
}

func (s messages) MarkRead(ctx context.Context, r *chatpb.MarkReadRequest) (*chatpb.MarkReadResponse, error) {
	id, err := parseRoomID(r.RoomId)
	if err != nil {
		return nil, err
	}
	_, err = s.propose(ctx, r.OperationId, &state.MarkRead{Room: id, Seq: r.Seq})
	return &chatpb.MarkReadResponse{}, err
}

// address puts the target of a request into a command.
func address(c *state.SendMessage, t *chatpb.Target) error {
	switch to := t.GetTo().(type) {
	case *chatpb.Target_RoomId:
		id, err := parseRoomID(to.RoomId)
		c.Target = state.ToRoom(id)
		return err
	case *chatpb.Target_User:
		name, err := canonicalName("target.user", to.User)
		c.Target = state.ToUser(name)
		return err
	default:
		return grpcerr.Invalid("target", "is missing")
	}
}

// target is the room that a request means; 0 for the direct room with a user when there is none yet.
func (s messages) target(ctx context.Context, v *state.View, t *chatpb.Target) (uint64, error) {
	c := &state.SendMessage{}
	if err := address(c, t); err != nil {
		return 0, err
	}
	if name := c.GetName(); name != "" {
		return v.DirectRoom(caller(ctx).Account, name)
	}
	if c.GetRoom() == 0 {
		return 0, chaterr.ErrNoSuchRoom
	}
	return c.GetRoom(), nil
}
