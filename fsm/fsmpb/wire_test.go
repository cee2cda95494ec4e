package fsmpb

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// plains are the messages with code of their own.
var plains = []proto.Message{
	new(Account), new(Room), new(Member), new(Message), new(Operation), new(Result), new(SendMessage), new(Command), new(Entry),
}

// anyMessage fills a message with values at random, most of them the odd ones.
func anyMessage(r *rand.Rand, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case r.IntN(4) == 0:
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(4) {
				if f.Message() != nil {
					anyMessage(r, list.AppendMutable().Message())
				} else {
					list.Append(anyValue(r, f))
				}
			}
		case f.Message() != nil:
			anyMessage(r, m.Mutable(f).Message())
		default:
			m.Set(f, anyValue(r, f))
		}
	}
	if r.IntN(20) == 0 {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	}
}

func anyValue(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	n := []uint64{0, 1, 127, 128, 1 << 14, math.MaxInt32, math.MaxUint32, math.MaxInt64, math.MaxUint64, r.Uint64()}[r.IntN(10)]
	b := bytes.Repeat([]byte{'x'}, []int{0, 1, 16, 127, 128, 200, 20_000}[r.IntN(7)])
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(n)))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(n)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(b)
	case protoreflect.StringKind:
		switch s := string(b); r.IntN(10) {
		case 0:
			return protoreflect.ValueOfString(s + "\xff") // no UTF-8
		case 1:
			return protoreflect.ValueOfString("ü€" + s)
		default:
			return protoreflect.ValueOfString(s)
		}
	default:
		panic(fmt.Sprintf("a field of kind %v", f.Kind()))
	}
}

// unmarshals compares Unmarshal with protobuf's; m is a message of the kind, with anything in it.
func unmarshals(t *testing.T, b []byte, m proto.Message) {
	t.Helper()
	want := m.ProtoReflect().New().Interface()
	wantErr := proto.Unmarshal(b, want)
	before := bytes.Clone(b)
	err := Unmarshal(b, m)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%T of %x: got %v, want %v", m, b, err, wantErr)
	}
	if err == nil && (!proto.Equal(m, want) || !bytes.Equal(m.ProtoReflect().GetUnknown(), want.ProtoReflect().GetUnknown())) {
		t.Fatalf("%T of %x: got %v, want %v", m, b, m, want)
	}
	var s Scratch
	for range 2 { // into memory that was used before, too
		var got proto.Message
		switch m.(type) {
		case *Entry:
			got, err = s.Entry(b)
		case *SendMessage:
			s.Entry(nil)
			got, err = s.Send(b)
		default:
			return
		}
		if (err == nil) != (wantErr == nil) || err == nil && !proto.Equal(got, want) {
			t.Fatalf("%T of %x: got %v, %v, want %v, %v", m, b, got, err, want, wantErr)
		}
	}
	if !bytes.Equal(b, before) {
		t.Fatalf("%T: the bytes were changed", m)
	}
}

// TestWire: for every value the bytes are protobuf's, and bytes of all kinds mean what they mean to it.
func TestWire(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, kind := range plains {
		t.Run(string(kind.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			fast := 0
			for range 3000 {
				m := kind.ProtoReflect().New().Interface()
				anyMessage(r, m.ProtoReflect())
				want, wantErr := proto.Marshal(m)
				got, err := Append([]byte("before"), m)
				if (err == nil) != (wantErr == nil) {
					t.Fatalf("%v: got %v, want %v", m, err, wantErr)
				}
				if _, ok := m.(plain).append(nil); ok {
					fast++
				}
				if err != nil {
					want, _ = proto.MarshalOptions{AllowPartial: true}.Marshal(m)
				} else if !bytes.Equal(got, append([]byte("before"), want...)) {
					t.Fatalf("%v: got %x, want %x", m, got, want)
				}
				into := kind.ProtoReflect().New().Interface()
				for range 10 {
					unmarshals(t, want, into)
					want = spoil(r, want)
				}
			}
			if fast < 1000 {
				t.Errorf("only %d of 3000 went the short way", fast)
			}
		})
	}
}

// spoil changes a byte, cuts something off, or says something twice.
func spoil(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) == 0 {
		return []byte{byte(r.Uint32())}
	}
	switch at := r.IntN(min(len(b), 40)); r.IntN(4) {
	case 0:
		return b[:at]
	case 1:
		return append(b, b[:at]...)
	case 2:
		return append(b, b...)[:min(2*len(b), 50_000)]
	default:
		b[at] = byte(r.Uint32())
		return b
	}
}

func TestWire_Nil(t *testing.T) {
	for _, m := range []proto.Message{
		&Entry{Commands: []*Command{nil, {}}}, &Operation{Result: &Result{}}, &SendMessage{Target: (*SendMessage_Room)(nil)},
		&SendMessage{Target: &SendMessage_Room{}}, &SendMessage{Target: &SendMessage_Name{}},
	} {
		want, wantErr := proto.Marshal(m)
		if got, err := Append(nil, m); !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) {
			t.Errorf("%v: got %x, %v, want %x, %v", m, got, err, want, wantErr)
		}
	}
}

// TestWire_Merged: what is there twice counts together.
func TestWire_Merged(t *testing.T) {
	for _, two := range [][2]proto.Message{
		{&Operation{Result: &Result{Index: 1}}, &Operation{Result: &Result{Seq: 2}}},
		{&SendMessage{Target: &SendMessage_Room{Room: 1}}, &SendMessage{Target: &SendMessage_Name{Name: "x"}, Text: "y"}},
		{&Room{Pair: []uint64{1, 2}}, &Room{Pair: []uint64{300}}},
		{&Entry{Format: 1, Commands: []*Command{{Kind: 1}}}, &Entry{Commands: []*Command{{Kind: 2}}}},
	} {
		var b []byte
		for _, m := range two {
			var err error
			if b, err = Append(b, m); err != nil {
				t.Fatal(err)
			}
		}
		unmarshals(t, b, two[0].ProtoReflect().New().Interface())
	}
}

// FuzzUnmarshal looks for bytes that mean something else than to protobuf.
func FuzzUnmarshal(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i, kind := range plains {
		for range 5 {
			m := kind.ProtoReflect().New().Interface()
			anyMessage(r, m.ProtoReflect())
			if b, err := proto.Marshal(m); err == nil && len(b) < 2000 {
				f.Add(uint8(i), b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		unmarshals(t, b, plains[int(kind)%len(plains)].ProtoReflect().New().Interface())
	})
}
