package client

import (
	"context"
	"iter"
	"time"

	"example.com/chat/rpc/chatpb"
)

// Room is a conversation.
type Room struct {
	ID         string // opaque, and unique in the cluster for ever
	Direct     bool   // of two users
	Name       string // of a public room
	Peer       string // the other one of a direct room; empty once that account is deleted
	CreateTime time.Time
	Members    uint64
	LastSeq    uint64 // number of the last message, 0 when there is none
	ReadSeq    uint64 // your read marker
	Unread     uint64 // messages behind it
}

// OpenDirect finds or makes the room of this user and another. Errors: ErrNoSuchUser, ErrLimit.
func (c *Client) OpenDirect(ctx context.Context, user string) (Room, error) {
	a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.OpenDirectRoom,
		&chatpb.OpenDirectRoomRequest{OperationId: c.NewOperationID(), Name: user})
	return toRoom(a.GetRoom()), err
}

// CreateRoom makes a room that everybody may join, with this user in it. Errors: ErrNameTaken,
// ErrLimit, ErrInvalid.
func (c *Client) CreateRoom(ctx context.Context, name string) (Room, error) {
	a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.CreateRoom,
		&chatpb.CreateRoomRequest{OperationId: c.NewOperationID(), Name: name})
	return toRoom(a.GetRoom()), err
}

// JoinRoom makes this user a member of the public room of a name; it does nothing for who is one.
// Errors: ErrNoSuchRoom, ErrLimit.
func (c *Client) JoinRoom(ctx context.Context, name string) (Room, error) {
	a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.JoinRoom,
		&chatpb.JoinRoomRequest{OperationId: c.NewOperationID(), Room: &chatpb.JoinRoomRequest_Name{Name: name}})
	return toRoom(a.GetRoom()), err
}

// LeaveRoom ends the membership; nothing of the room is delivered afterwards. Errors: ErrNoSuchRoom,
// ErrNotMember, ErrDirectRoom.
func (c *Client) LeaveRoom(ctx context.Context, roomID string) error {
	_, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.LeaveRoom,
		&chatpb.LeaveRoomRequest{OperationId: c.NewOperationID(), RoomId: roomID})
	return err
}

// Rooms lists the rooms of this user with unread counts, the oldest first. An error ends the
// sequence.
func (c *Client) Rooms(ctx context.Context) iter.Seq2[Room, error] {
	return pages(func(token string) ([]*chatpb.Room, string, error) {
		a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.ListRooms, &chatpb.ListRoomsRequest{PageToken: token})
		return a.GetRooms(), a.GetNextPageToken(), err
	}, toRoom)
}

// SearchRooms lists the public rooms whose names contain a pattern, as Users does.
func (c *Client) SearchRooms(ctx context.Context, pattern string) iter.Seq2[Room, error] {
	return pages(func(token string) ([]*chatpb.Room, string, error) {
		a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.SearchRooms,
			&chatpb.SearchRoomsRequest{Pattern: pattern, PageToken: token})
		return a.GetRooms(), a.GetNextPageToken(), err
	}, toRoom)
}

// Member is a user in a room.
type Member struct {
	Name    string // empty once the account is deleted
	ReadSeq uint64
}

// Members lists who is in a room of this user. An error ends the sequence. Errors: ErrNoSuchRoom,
// ErrNotMember.
func (c *Client) Members(ctx context.Context, roomID string) iter.Seq2[Member, error] {
	return pages(func(token string) ([]*chatpb.Member, string, error) {
		a, err := call(ctx, c, chatpb.NewRoomServiceClient, chatpb.RoomServiceClient.ListMembers,
			&chatpb.ListMembersRequest{RoomId: roomID, PageToken: token})
		return a.GetMembers(), a.GetNextPageToken(), err
	}, func(m *chatpb.Member) Member { return Member{m.Name, m.ReadSeq} })
}

func toRoom(r *chatpb.Room) Room {
	return Room{
		ID: r.GetId(), Direct: r.GetKind() == chatpb.RoomKind_ROOM_KIND_DIRECT, Name: r.GetName(), Peer: r.GetPeer(),
		CreateTime: toTime(r.GetCreateTime()), Members: r.GetMembers(), LastSeq: r.GetLastSeq(), ReadSeq: r.GetReadSeq(), Unread: r.GetUnread(),
	}
}
