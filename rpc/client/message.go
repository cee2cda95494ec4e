package client

import (
	"context"
	"iter"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"

	"example.com/chat/internal/grpcerr"
	"example.com/chat/rpc/chatpb"
)

// Target is where a message goes: ToRoom or ToUser makes one.
type Target struct{ room, user string }

// ToRoom is a room of this user, by its id.
func ToRoom(id string) Target { return Target{room: id} }

// ToUser is the direct room with another user, which the first message opens.
func ToUser(name string) Target { return Target{user: name} }

func (t Target) proto() *chatpb.Target {
	if t.user != "" {
		return &chatpb.Target{To: &chatpb.Target_User{User: t.user}}
	}
	return &chatpb.Target{To: &chatpb.Target_RoomId{RoomId: t.room}}
}

// Draft is a message that was not sent yet.
type Draft struct {
	// Text has 1 to 16,384 bytes of UTF-8, without control characters but line feed and tab.
	Text string
	// OperationID makes it harmless to send the draft again, within 24 hours: whoever keeps it, with
	// the text and the target, may retry after a crash. Empty lets Send make one, which is enough as
	// long as the program lives.
	OperationID string
}

// Receipt says where a message stands. With it, a majority of the nodes has the message on disk.
type Receipt struct {
	RoomID string
	Seq    uint64 // in the room, from 1 and without gaps
	Time   time.Time
	// Duplicate is set when an earlier send with the same operation id had done it.
	Duplicate   bool
	OperationID string
}

// Send sends a message and returns when it is committed. It tries all nodes until ctx ends, and the
// message is there once, however often it was tried. After ErrUnknownOutcome, sending again with
// the OperationID of the Receipt, which is set then too, either gets the message's receipt or
// sends it. Sends of several goroutines share a stream to the node, if it has such streams, and their
// order is not promised. Errors: ErrNoSuchRoom, ErrNotMember, ErrNoSuchUser, ErrInvalid, ErrLimit,
// ErrOperationMismatch, ErrOperationTooOld.
func (c *Client) Send(ctx context.Context, to Target, d Draft) (Receipt, error) {
	if d.OperationID == "" {
		d.OperationID = c.NewOperationID()
	}
	req := &chatpb.SendRequest{OperationId: d.OperationID, Target: to.proto(), Text: d.Text}
	if !utf8.ValidString(d.Text) || !utf8.ValidString(to.room+to.user) || !utf8.ValidString(d.OperationID) { // it would end the stream, for all
		return Receipt{OperationID: d.OperationID}, grpcerr.Invalid("the draft", "is not UTF-8")
	}
	r, err := try(ctx, c, req, func(ctx context.Context, n *endpoint, cc *grpc.ClientConn, patience time.Duration) sending {
		return c.sendAt(ctx, n, cc, req, patience)
	})
	return Receipt{r.GetRoomId(), r.GetSeq(), toTime(r.GetCreateTime()), r.GetDuplicate(), d.OperationID}, err
}

// Message is what somebody said in a room.
type Message struct {
	RoomID string
	Seq    uint64 // the room's order, the same for everybody
	Sender string // empty once the account is deleted
	Text   string
	Time   time.Time // the cluster's clock
}

// Query says which messages History reads.
type Query struct {
	// OldestFirst turns the order round; the newest come first otherwise.
	OldestFirst bool
	// After and Before leave out messages up to, and from, a number; 0 for no bound.
	After, Before uint64
	// Limit ends the sequence after so many; 0 for all.
	Limit int
}

// History reads the messages of a room, without those that this user has hidden. It reads a page at
// a time, as the caller goes on. An error ends the sequence. Errors: ErrNoSuchRoom, ErrNotMember,
// ErrNoSuchUser.
func (c *Client) History(ctx context.Context, of Target, q Query) iter.Seq2[Message, error] {
	req := &chatpb.ListMessagesRequest{Target: of.proto(), Order: chatpb.Order_ORDER_NEWEST_FIRST, AfterSeq: q.After, BeforeSeq: q.Before}
	if q.OldestFirst {
		req.Order = chatpb.Order_ORDER_OLDEST_FIRST
	}
	if q.Limit > 0 {
		req.PageSize = int32(min(q.Limit, 500))
	}
	all := pages(func(token string) ([]*chatpb.Message, string, error) {
		req.PageToken = token
		a, err := call(ctx, c, chatpb.NewMessageServiceClient, chatpb.MessageServiceClient.ListMessages, req)
		return a.GetMessages(), a.GetNextPageToken(), err
	}, toMessage)
	if q.Limit <= 0 {
		return all
	}
	return func(yield func(Message, error) bool) {
		n := 0
		for m, err := range all {
			if n++; !yield(m, err) || n == q.Limit {
				return
			}
		}
	}
}

// Hide takes messages of a room, at most 100, out of this user's own view. Errors: ErrNoSuchRoom,
// ErrNotMember, ErrNoSuchMessage.
func (c *Client) Hide(ctx context.Context, roomID string, seqs ...uint64) error {
	_, err := call(ctx, c, chatpb.NewMessageServiceClient, chatpb.MessageServiceClient.HideMessages,
		&chatpb.HideMessagesRequest{OperationId: c.NewOperationID(), RoomId: roomID, Seqs: seqs})
	return err
}

// MarkRead moves this user's read marker in a room forward to a message; it never goes back. Errors:
// ErrNoSuchRoom, ErrNotMember, ErrNoSuchMessage.
func (c *Client) MarkRead(ctx context.Context, roomID string, seq uint64) error {
	_, err := call(ctx, c, chatpb.NewMessageServiceClient, chatpb.MessageServiceClient.MarkRead,
		&chatpb.MarkReadRequest{OperationId: c.NewOperationID(), RoomId: roomID, Seq: seq})
	return err
}

func toMessage(m *chatpb.Message) Message {
	return Message{RoomID: m.GetRoomId(), Seq: m.GetSeq(), Sender: m.GetSender(), Text: m.GetText(), Time: toTime(m.GetCreateTime())}
}
