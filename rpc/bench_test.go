package rpc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"example.com/chat/fsm/state"
	"example.com/chat/internal/cursor"
	"example.com/chat/rpc/chatpb"
)

// BenchmarkFrame: what a frame of n events costs once, for all who are sent it, and again for each of them.
func BenchmarkFrame(b *testing.B) {
	for _, n := range []int{1, 16} {
		var events []state.Event
		for i := range n {
			events = append(events, state.Event{
				Position: cursor.At(uint64(i), 0), Kind: state.MessageSent, TimeMS: 1 << 40, Room: 1 << 30, Seq: uint64(i), Name: "alice",
				Text: strings.Repeat("x", 200),
			})
		}
		f := &feed{cluster: "01JZZZZZZZZZZZZZZZZZZZZZZZ"}
		b.Run(fmt.Sprintf("make/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.toFrame(events)
			}
		})
		frame, buffer := f.toFrame(events), []byte(nil)
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if buffer, err = (proto.MarshalOptions{}).MarshalAppend(buffer[:0], frame); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("decode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := proto.Unmarshal(buffer, &chatpb.SubscribeResponse{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// instant answers commands at once.
type instant struct{ Replica }

func (instant) Submit(commands []*state.Command, done func(int, *state.Result, error)) (int, error) {
	for i := range commands {
		done(i, &state.Result{Room: 1 << 30, Seq: uint64(i), TimeMs: 1 << 40}, nil)
	}
	return len(commands), nil
}

// BenchmarkConversation: what a stream costs for each send, its frames of 64 decoded and encoded, but
// neither gRPC nor the replica.
func BenchmarkConversation(b *testing.B) {
	const each = 64
	c := &conversation{Service: New(Options{Replica: instant{}, Logger: zap.NewNop()}), who: state.Actor{Account: 1, Session: 1}, wake: make(chan struct{}, 1)}
	in := &chatpb.ConnectRequest{}
	for range each {
		in.Sends = append(in.Sends, &chatpb.SendRequest{
			OperationId: ulid.Make().String(), Target: &chatpb.Target{To: &chatpb.Target_RoomId{RoomId: roomID(1 << 30)}}, Text: strings.Repeat("x", 200),
		})
	}
	data, err := proto.Marshal(in)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		in := &chatpb.ConnectRequest{}
		if err := proto.Unmarshal(data, in); err != nil {
			b.Fatal(err)
		}
		if err := c.take(in); err != nil {
			b.Fatal(err)
		}
		answers, _ := c.ready()
		if _, err := proto.Marshal(&chatpb.ConnectResponse{Outcomes: answers}); err != nil {
			b.Fatal(err)
		}
		c.written(each)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/each, "ns/send")
}
