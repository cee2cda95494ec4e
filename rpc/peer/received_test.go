package peer

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"example.com/chat/rpc/peer/peerpb"
)

// FuzzReceived: of any bytes it makes what protobuf's own code does, or the same refusal.
func FuzzReceived(f *testing.F) {
	data := func(size int) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), bytes.Repeat([]byte("x"), size))
	}
	f.Add([]byte{})
	for _, size := range []int{0, 1, fullFrame / 2, fullFrame/2 + 1, fullFrame, fullFrame + 1, maxFrame + 1} {
		f.Add(data(size))
		f.Add(append(data(fullFrame), data(size)...))
	}
	f.Add(data(20 << 10)[:10<<10])                                                          // cut off
	f.Add(protowire.AppendVarint(protowire.AppendTag(data(3), 1, protowire.VarintType), 7)) // of another kind
	f.Add(append(protowire.AppendTag(nil, 5, protowire.StartGroupType), data(3)...))        // a group without an end
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		want, got := &peerpb.TunnelRequest{}, receivedRequest()
		for _, frame := range [][]byte{b, data(20 << 10), b} { // into the same message, and memory that was used
			wantErr, err := proto.Unmarshal(frame, want), proto.Unmarshal(frame, got)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("got %v, want %v", err, wantErr)
			}
			d := got.take()
			if err == nil && !bytes.Equal(d, want.Data) {
				t.Fatalf("got %d bytes, want %d", len(d), len(want.Data))
			}
			reuse(d)
		}
	})
}

// looking is a host's stream that looks at what is received in every way, and keeps it.
type looking struct {
	grpc.ServerStream
	t    *testing.T
	kept []any
}

func (s *looking) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil {
		return err
	}
	message := m.(proto.Message)
	b, err := proto.Marshal(message)
	if err != nil {
		s.t.Error(err)
	}
	want := &peerpb.TunnelRequest{}
	if err := proto.Unmarshal(b, want); err != nil {
		s.t.Error(err)
	}
	if c := proto.Clone(message); !proto.Equal(c, want) || proto.Size(message) != len(b) {
		s.t.Errorf("a clone and a copy differ: %d and %d bytes", proto.Size(c), len(b))
	}
	text, err := protojson.Marshal(message)
	if wantText, wantErr := protojson.Marshal(want); !bytes.Equal(text, wantText) || err != nil || wantErr != nil {
		s.t.Errorf("JSON of %d bytes, want %d (%v, %v)", len(text), len(wantText), err, wantErr)
	}
	s.kept = append(s.kept, m)
	return nil
}

// TestReceived_Host: a host's interceptors find the message of the protocol in what is received until their RecvMsg returns,
// and may print it later.
func TestReceived_Host(t *testing.T) {
	streams := make(chan *looking, 2)
	_, a, _, accepted := pair(t, nil, grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		l := &looking{ServerStream: s, t: t}
		err := next(srv, l)
		streams <- l
		return err
	}))
	c, err := dial(t, a, RaftBulk, "b", "b")
	if err != nil {
		t.Fatal(err)
	}
	other := <-accepted
	want := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(want)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		written <- err
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(other, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v, or other bytes than were written", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	_, _ = c.Close(), other.Close()
	l := <-streams
	for _, m := range l.kept {
		if fmt.Sprint(m) != "chat.peer.v1.TunnelRequest" {
			t.Fatalf("a message is printed as %.100q", fmt.Sprint(m))
		}
	}
}

// TestConn_Reuses: what was received stays as it is, for as long as a caller of ReadFrame likes and until Read has read all of it,
// whatever comes meanwhile.
func TestConn_Reuses(t *testing.T) {
	_, a, _, accepted := pair(t, nil)
	var ours, theirs [2]*Conn // the first for ReadFrame, the other one for Read
	for i := range ours {
		c, err := dial(t, a, RaftBulk, "b", "b")
		if err != nil {
			t.Fatal(err)
		}
		ours[i], theirs[i] = c, <-accepted
	}
	const frames = 100
	frame := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, fullFrame-i) }
	go func() {
		for i := range frames {
			for _, c := range ours {
				if _, err := c.Write(frame(i)); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	var kept [frames][]byte
	for i := range kept {
		var err error
		if kept[i], err = theirs[0].ReadFrame(); err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(frame(i), 1000) {
			got := make([]byte, len(part))
			if _, err := io.ReadFull(theirs[1], got); err != nil || !bytes.Equal(got, part) {
				t.Fatalf("frame %d was read as another: %v", i, err)
			}
		}
	}
	for i, f := range kept {
		if !bytes.Equal(f, frame(i)) {
			t.Errorf("frame %d has changed", i)
		}
	}
}
