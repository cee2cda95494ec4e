package rpc

import (
	"context"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// rooms is chat.v1.RoomService.
type rooms struct {
	chatpb.UnsafeRoomServiceServer
	*Service
}

var _ chatpb.RoomServiceServer = rooms{}

func (s rooms) OpenDirectRoom(ctx context.Context, r *chatpb.OpenDirectRoomRequest) (*chatpb.OpenDirectRoomResponse, error) {
	name, err := canonicalName("name", r.Name)
	if err != nil {
		return nil, err
	}
	done, err := s.propose(ctx, r.OperationId, &state.OpenDirectRoom{Name: name})
	if err != nil {
		return nil, err
	}
	room, err := s.room(ctx, done.Room)
	return &chatpb.OpenDirectRoomResponse{Room: room}, err
}

func (s rooms) CreateRoom(ctx context.Context, r *chatpb.CreateRoomRequest) (*chatpb.CreateRoomResponse, error) {
	name, err := newName("name", r.Name)
	if err != nil {
		return nil, err
	}
	done, err := s.propose(ctx, r.OperationId, &state.CreateRoom{Name: name})
	if err != nil {
		return nil, err
	}
	room, err := s.room(ctx, done.Room)
	return &chatpb.CreateRoomResponse{Room: room}, err
}

func (s rooms) JoinRoom(ctx context.Context, r *chatpb.JoinRoomRequest) (*chatpb.JoinRoomResponse, error) {
	id, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if _, err := s.propose(ctx, r.OperationId, &state.JoinRoom{Room: id}); err != nil {
		return nil, err
	}
	room, err := s.room(ctx, id)
	return &chatpb.JoinRoomResponse{Room: room}, err
}

// find is the room that a JoinRoomRequest means.
func (s rooms) find(r *chatpb.JoinRoomRequest) (id uint64, err error) {
	if _, ok := r.Room.(*chatpb.JoinRoomRequest_RoomId); ok {
		return parseRoomID(r.GetRoomId())
	}
	name, err := canonicalName("name", r.GetName())
	if err != nil {
		return 0, err
	}
	err = s.view(func(v *state.View) error {
		if id, err = v.RoomByName(name); err == nil && id == 0 {
			err = chaterr.ErrNoSuchRoom
		}
		return err
	})
	return id, err
}

func (s rooms) LeaveRoom(ctx context.Context, r *chatpb.LeaveRoomRequest) (*chatpb.LeaveRoomResponse, error) {
	id, err := parseRoomID(r.RoomId)
	if err != nil {
		return nil, err
	}
	_, err = s.propose(ctx, r.OperationId, &state.LeaveRoom{Room: id})
	return &chatpb.LeaveRoomResponse{}, err
}

func (s rooms) ListRooms(ctx context.Context, r *chatpb.ListRoomsRequest) (*chatpb.ListRoomsResponse, error) {
	p, err := newPage(r.PageSize, r.PageToken)
	if err != nil {
		return nil, err
	}
	above, err := p.number()
	if err != nil {
		return nil, err
	}
	resp := &chatpb.ListRoomsResponse{}
	err = s.view(func(v *state.View) error {
		return v.Rooms(caller(ctx).Account, above, func(room state.Room) bool {
			if len(resp.Rooms) == p.size {
				resp.NextPageToken = numberToken(above)
				return false
			}
			above = room.ID
			resp.Rooms = append(resp.Rooms, toRoom(room))
			return true
		})
	})
	return resp, err
}

func (s rooms) SearchRooms(ctx context.Context, r *chatpb.SearchRoomsRequest) (*chatpb.SearchRoomsResponse, error) {
	p, err := newPage(r.PageSize, r.PageToken)
	if err != nil {
		return nil, err
	}
	match, err := newPattern(r.Pattern)
	if err != nil {
		return nil, err
	}
	resp, seen := &chatpb.SearchRoomsResponse{}, 0
	err = s.view(func(v *state.View) error {
		return v.PublicRooms(caller(ctx).Account, p.after, func(room state.Room) bool {
			if len(resp.Rooms) == p.size || seen == maxScan {
				resp.NextPageToken = pageToken(p.after)
				return false
			}
			seen++
			p.after = room.Name
			if match.matches(room.Name) {
				resp.Rooms = append(resp.Rooms, toRoom(room))
			}
			return true
		})
	})
	return resp, err
}

func (s rooms) ListMembers(ctx context.Context, r *chatpb.ListMembersRequest) (*chatpb.ListMembersResponse, error) {
	p, err := newPage(r.PageSize, r.PageToken)
	if err != nil {
		return nil, err
	}
	above, err := p.number()
	if err != nil {
		return nil, err
	}
	id, err := parseRoomID(r.RoomId)
	if err != nil {
		return nil, err
	}
	resp := &chatpb.ListMembersResponse{}
	err = s.view(func(v *state.View) error {
		if _, err := v.Room(caller(ctx).Account, id); err != nil {
			return err
		}
		return v.Members(id, above, func(m state.Member) bool {
			if len(resp.Members) == p.size {
				resp.NextPageToken = numberToken(above)
				return false
			}
			above = m.Account
			resp.Members = append(resp.Members, &chatpb.Member{Name: m.Name, ReadSeq: m.ReadSeq})
			return true
		})
	})
	return resp, err
}

// room is what a call tells of a room that the caller is in.
func (s *Service) room(ctx context.Context, id uint64) (room *chatpb.Room, err error) {
	err = s.view(func(v *state.View) error {
		r, err := v.Room(caller(ctx).Account, id)
		room = toRoom(r)
		return err
	})
	return room, err
}
