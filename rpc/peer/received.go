package peer

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"

	"example.com/chat/rpc/peer/peerpb"
)

// used are frames that were sent, or read. A snapshot is thousands of them a second, which would be as many new ones.
var used = sync.Pool{New: func() any { return new([fullFrame]byte) }}

// reuse takes back a frame that came from used, of which its capacity tells.
func reuse(frame []byte) {
	if cap(frame) == fullFrame {
		used.Put((*[fullFrame]byte)(frame[:fullFrame]))
	}
}

// received is a message of a tunnel to receive into. protobuf's own code puts the bytes of each into new memory, which is a
// third of what a tunnel takes of a processor; this takes it from used where it is much. To a host's interceptors it is
// the message that it receives into.
type received struct {
	protoreflect.Message
	data *[]byte // its only field
}

func receivedRequest() *received {
	m := &peerpb.TunnelRequest{}
	return &received{m.ProtoReflect(), &m.Data}
}

func receivedResponse() *received {
	m := &peerpb.TunnelResponse{}
	return &received{m.ProtoReflect(), &m.Data}
}

// take is the frame that was received; the message has it no more.
func (r *received) take() []byte {
	frame := *r.data
	*r.data = nil
	return frame
}

// String does not look at a frame: x/net/trace, where a host has turned it on, writes messages long after they came.
func (r *received) String() string { return string(r.Descriptor().FullName()) }

func (r *received) ProtoReflect() protoreflect.Message { return r }

func (r *received) ProtoMethods() *protoiface.Methods { return &receiving }

var receiving = protoiface.Methods{Unmarshal: unmarshalReceived}

func unmarshalReceived(in protoiface.UnmarshalInput) (out protoiface.UnmarshalOutput, err error) {
	r := in.Message.(*received)
	for b := in.Buf; len(b) > 0; {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return out, protowire.ParseError(n)
		}
		b = b[n:]
		var v []byte
		if field == 1 && kind == protowire.BytesType {
			v, n = protowire.ConsumeBytes(b)
			*r.data = keep(v)
		} else {
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return out, protowire.ParseError(n)
		}
		b = b[n:]
	}
	out.Flags = protoiface.UnmarshalInitialized
	return out, nil
}

// keep is a copy of what gRPC has received. What is little is not worth a whole frame, which ReadFrame's callers never give back.
func keep(v []byte) []byte {
	if len(v) <= fullFrame/2 || len(v) > fullFrame {
		return append([]byte(nil), v...)
	}
	return append(used.Get().(*[fullFrame]byte)[:0], v...)
}
