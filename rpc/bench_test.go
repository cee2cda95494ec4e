package rpc

import (
	"fmt"
	"strings"
	"testing"

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
