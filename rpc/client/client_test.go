package client

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"example.com/chat/rpc/chatpb"
)

// TestDial: what is needed for a client, and what the error says when it is not there.
func TestDial(t *testing.T) {
	for name, tt := range map[string]struct {
		endpoints []string
		want      error // nil for any
		text      string
		took      time.Duration
	}{
		"one that answers":         {[]string{"n1:1"}, nil, "", 0},
		"one of three answers":     {[]string{"n8:1", "n1:1", "n9:1"}, nil, "", 0},
		"the same again and again": {[]string{"n1:1", "n1:1", "n1:1"}, nil, "", 0},
		"none":                     {nil, nil, "chat client: no endpoints", 0},
		"no port":                  {[]string{"n1"}, nil, `endpoint "n1": want host:port`, 0},
		"nobody is there":          {[]string{"n9:1"}, ErrNoLeader, `none of ["n9:1"] answers`, time.Minute},
		"a frozen one, then one":   {[]string{"frozen:1", "n1:1"}, nil, "", patience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.node("n1:1")
				c.net.Cut("client", "frozen:1")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var cl *Client
				var err error
				d := took(func() { cl, err = Dial(ctx, tt.endpoints, WithDialer(c.net.Dialer("client"))) })
				if d > tt.took {
					t.Errorf("took %v, want %v", d, tt.took)
				}
				if tt.text == "" {
					if err != nil {
						t.Fatal(err)
					}
					if err := cl.Close(); err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.text) || tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %q", err, tt.text)
				}
			})
		})
	}
}

// TestDial_Zone: the address of an interface has a percent sign in it, and is dialled as it is.
func TestDial_Zone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("[fe80::1%eth0]:8443")
		if st, err := c.client(n).Status(t.Context()); err != nil || st.NodeID != n.addr {
			t.Errorf("got %v, %v", st, err)
		}
	})
}

// TestClient_Endpoints: what a node tells of others is learned, but cannot fill memory; whoever the
// caller names beyond that is refused.
func TestClient_Endpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		for i := range 1000 {
			n.servers = append(n.servers, &chatpb.Server{Id: fmt.Sprint(i), Address: fmt.Sprintf("x%d:1", i)})
		}
		cl := c.client(n)
		if st, err := cl.Status(t.Context()); err != nil || len(st.Servers) != 1000 {
			t.Fatalf("got %d servers, %v", len(st.Servers), err)
		}
		if got := cl.Endpoints(); len(got) != maxEndpoints || got[0] != "n1:1" {
			t.Errorf("the client knows %d endpoints, the first is %q", len(got), got[0])
		}
		if err := cl.Prefer("n2:1"); !errors.Is(err, ErrLimit) {
			t.Errorf("one more: got %v", err)
		}
		if err := cl.Prefer("x7:1"); err != nil || cl.Endpoints()[0] != "x7:1" {
			t.Errorf("one that is known: %v, now the first is %q", err, cl.Endpoints()[0])
		}
		if _, err := cl.Send(t.Context(), ToUser("bob"), Draft{Text: "hello"}); err != nil || cl.Endpoints()[0] != "n1:1" {
			t.Errorf("got %v; the first is %q, and it is not there", err, cl.Endpoints()[0])
		}
	})
}

// TestClient_Clock: operation ids are made by the cluster's clock, as Login has learned it.
func TestClient_Clock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.node("n1:1")
		n.login = func(context.Context, *chatpb.LoginRequest) (*chatpb.LoginResponse, error) {
			return &chatpb.LoginResponse{Token: "chs_x", ServerTime: timestamppb.New(time.Now().Add(time.Hour))}, nil
		}
		cl := c.client(n)
		if _, err := cl.Login(t.Context(), "alice", "correct horse"); err != nil {
			t.Fatal(err)
		}
		id, err := ulid.ParseStrict(cl.NewOperationID())
		if ahead := time.Until(ulid.Time(id.Time())); err != nil || ahead < time.Hour-time.Second || ahead > time.Hour+time.Second {
			t.Errorf("the id is %v ahead, %v", ahead, err)
		}
		if id.String() == cl.NewOperationID() {
			t.Error("two ids are the same")
		}
	})
}

// TestHistory_Pages: History reads page after page, no more than it needs, and stops where it should.
func TestHistory_Pages(t *testing.T) {
	for name, tt := range map[string]struct {
		limit, stop int
		want, calls int
	}{
		"all":                {0, 0, 7, 4},
		"a limit":            {3, 0, 3, 2},
		"at a page's end":    {4, 0, 4, 2},
		"more than there is": {100, 0, 7, 4},
		"the caller stops":   {0, 1, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				n := c.node("n1:1")
				n.list = func(_ context.Context, r *chatpb.ListMessagesRequest) (*chatpb.ListMessagesResponse, error) {
					var page int
					_, _ = fmt.Sscan(r.PageToken, &page) // 0 for the first
					a := &chatpb.ListMessagesResponse{}
					for seq := 2*page + 1; seq <= min(2*page+2, 7); seq++ {
						a.Messages = append(a.Messages, &chatpb.Message{Seq: uint64(seq)})
					}
					if page < 3 {
						a.NextPageToken = fmt.Sprint(page + 1)
					}
					return a, nil
				}
				cl, got := c.client(n), 0
				for m, err := range cl.History(t.Context(), ToRoom("r1"), Query{Limit: tt.limit}) {
					if got++; err != nil || m.Seq != uint64(got) {
						t.Fatalf("got %v, %v, want %d", m, err, got)
					}
					if got == tt.stop {
						break
					}
				}
				if calls, _ := n.heard(); got != tt.want || len(calls) != tt.calls {
					t.Errorf("got %d messages in %d calls, want %d in %d", got, len(calls), tt.want, tt.calls)
				}
			})
		})
	}
}

// full makes a message in which every field is set; of a oneof it is the one of a name.
func full(m protoreflect.Message, one protoreflect.Name) {
	d := m.Descriptor().Fields()
	for i := range d.Len() {
		f := d.Get(i)
		if f.ContainingOneof() != nil && f.Name() != one {
			continue
		}
		switch f.Kind() {
		case protoreflect.MessageKind:
			full(m.Mutable(f).Message(), one)
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		case protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("x"))
		case protoreflect.Uint64Kind:
			if v := protoreflect.ValueOfUint64(1); f.IsList() {
				m.Mutable(f).List().Append(v)
			} else {
				m.Set(f, v)
			}
		case protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(1))
		case protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(1))
		}
	}
}

// zero lists the fields of a struct that are zero.
func zero(x any) (fields []string) {
	v := reflect.ValueOf(x)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			fields = append(fields, v.Type().Field(i).Name)
		}
	}
	return fields
}

// TestConversions_Complete: nothing that comes over the wire is left out.
func TestConversions_Complete(t *testing.T) {
	account, room, message := &chatpb.Account{}, &chatpb.Room{}, &chatpb.Message{}
	for _, m := range []protoreflect.Message{account.ProtoReflect(), room.ProtoReflect(), message.ProtoReflect()} {
		full(m, "")
	}
	for _, x := range []any{toAccount(account), toRoom(room), toMessage(message)} {
		if got := zero(x); got != nil {
			t.Errorf("of %T the fields %v are not set", x, got)
		}
	}
	kinds := map[EventKind]bool{}
	oneof := (&chatpb.Event{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range oneof.Len() {
		e := &chatpb.Event{}
		name := oneof.Get(i).Name()
		full(e.ProtoReflect(), name)
		got := toEvent(e)
		missing := map[protoreflect.Name][]string{
			"message": {"Seqs"}, "member_joined": {"Seqs", "Message"}, "member_left": {"Seqs", "Message"},
			"marker_moved": {"User", "Message"}, "messages_hidden": {"User", "Message"},
		}[name]
		if fields := zero(got); got.Kind == 0 || kinds[got.Kind] || !slices.Equal(fields, missing) {
			t.Errorf("%s: kind %d, without %v, want without %v", name, got.Kind, fields, missing)
		}
		kinds[got.Kind] = true
	}
	for number, name := range chatpb.Role_name {
		if number != 0 && roles[chatpb.Role(number)] == "" {
			t.Errorf("%s has no word", name)
		}
	}
}
