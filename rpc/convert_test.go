package rpc

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"example.com/chat/fsm/state"
	"example.com/chat/rpc/chatpb"
)

// fill sets every field of a struct to something that is not zero.
func fill[T any](t *testing.T) (x T) {
	t.Helper()
	fillValue(t, reflect.ValueOf(&x).Elem())
	return x
}

func fillValue(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillValue(t, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillValue(t, v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1000)
	case reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(1)
	default:
		t.Fatalf("do not know how to fill a %v", v.Type())
	}
}

// empty lists the fields of a message, and of the messages in it, that are not set; of a oneof one
// field is enough.
func empty(m protoreflect.Message) (fields []string) {
	d := m.Descriptor().Fields()
	for i := range d.Len() {
		f := d.Get(i)
		switch {
		case f.ContainingOneof() != nil && m.WhichOneof(f.ContainingOneof()) != nil && !m.Has(f):
		case !m.Has(f):
			fields = append(fields, string(f.FullName()))
		case f.IsList() && f.Message() != nil:
			fields = append(fields, empty(m.Get(f).List().Get(0).Message())...)
		case f.Message() != nil && f.Message().ParentFile().Package() == "chat.v1":
			fields = append(fields, empty(m.Get(f).Message())...)
		}
	}
	return fields
}

// unused lists the fields of a struct that make no difference to what it is converted to.
func unused[T any](t *testing.T, full T, convert func(T) proto.Message) (fields []string) {
	t.Helper()
	v := reflect.ValueOf(&full).Elem()
	want := convert(full)
	for i := range v.NumField() {
		f := v.Field(i)
		old := reflect.ValueOf(f.Interface())
		f.SetZero()
		if proto.Equal(convert(full), want) {
			fields = append(fields, v.Type().Field(i).Name)
		}
		f.Set(old)
	}
	return fields
}

// complete checks that a conversion uses every field of T but some, and sets every field of the
// message but some.
func complete[T any](t *testing.T, full T, convert func(T) proto.Message, private []string, unset ...string) {
	t.Helper()
	if got := unused(t, full, convert); !slices.Equal(got, private) {
		t.Errorf("of %T the fields %v are not told, want %v", full, got, private)
	}
	if got := empty(convert(full).ProtoReflect()); !slices.Equal(got, unset) {
		t.Errorf("of %T the fields %v are not set, want %v", full, got, unset)
	}
}

// TestConversions_Complete: no field of the state is forgotten on the way to the wire, and none of the
// wire on the way from the state. What is not told to anybody is named here.
func TestConversions_Complete(t *testing.T) {
	complete(t, fill[state.Account](t), func(a state.Account) proto.Message { return toAccount(a) },
		[]string{"ID", "PasswordHash", "PasswordVersion"})
	complete(t, fill[state.Message](t), func(m state.Message) proto.Message { return toMessage(m) },
		[]string{"Position"})
	room := fill[state.Room](t)
	room.LastSeq = 3 // two are not read
	complete(t, room, func(r state.Room) proto.Message { return toRoom(r) }, nil)

	for kind, private := range map[state.Kind][]string{
		state.MessageSent:    {"Position", "Account", "Seqs", "Session"},
		state.MemberJoined:   {"Position", "Account", "Seq", "Seqs", "Text", "Session"},
		state.MemberLeft:     {"Position", "Account", "Seq", "Seqs", "Text", "Session"},
		state.MarkerMoved:    {"Position", "Account", "Name", "Seqs", "Text", "Session"},
		state.MessagesHidden: {"Position", "Account", "Name", "Seq", "Text", "Session"},
	} {
		e := fill[state.Event](t)
		e.Kind = kind
		complete(t, e, func(e state.Event) proto.Message { return toEvent(&e, "cursor") }, private)
	}
}

// TestToEvent_EveryKind: every kind of event that a client may see has a form on the wire of its own.
func TestToEvent_EveryKind(t *testing.T) {
	kinds := (&chatpb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("kind")
	seen := map[protoreflect.Name]bool{}
	for kind := state.MessageSent; kind < state.SessionEnded; kind++ {
		e := fill[state.Event](t)
		e.Kind = kind
		f := toEvent(&e, "cursor").ProtoReflect().WhichOneof(kinds)
		if f == nil || seen[f.Name()] {
			t.Fatalf("kind %d becomes %v", kind, f)
		}
		seen[f.Name()] = true
	}
	if len(seen) != kinds.Fields().Len() {
		t.Errorf("%d kinds are sent, the schema has %d", len(seen), kinds.Fields().Len())
	}
}

// TestGetStatus_Complete: a caller with a session is told everything that a node says of itself; one
// without is not told who the others are.
func TestGetStatus_Complete(t *testing.T) {
	h := newHost(t, zap.NewNop())
	alice := h.user("alice")
	full := fill[Status](t)
	h.Service.o.Status = func() Status { return full }
	c := chatpb.NewClusterServiceClient(h.cc)
	resp, err := c.GetStatus(alice.as(t.Context()), &chatpb.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := empty(resp.ProtoReflect()); got != nil {
		t.Errorf("%v are not set", got)
	}
	if resp, err = c.GetStatus(t.Context(), &chatpb.GetStatusRequest{}); err != nil || resp.Servers != nil {
		t.Errorf("without a session: %v, %v", resp, err)
	}
}

// TestRole_Names: roles are the same numbers on the wire.
func TestRole_Names(t *testing.T) {
	for n, name := range chatpb.Role_name {
		if got := "ROLE_" + strings.ToUpper(Role(n).String()); n != 0 && got != name {
			t.Errorf("%d is %q, on the wire %q", n, got, name)
		}
	}
	if got := Role(len(chatpb.Role_name)).String(); got != "" {
		t.Errorf("role %q has no name on the wire", got)
	}
}
