package chattest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

// TestHost_Default: a server without options, in a bubble and outside.
func TestHost_Default(t *testing.T) {
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { TestHost(t) }) })
	t.Run("real time", func(t *testing.T) { TestHost(t) })
}

// TestHost_Interceptors: a server with an interceptor and small limits.
func TestHost_Interceptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		TestHost(t, WithServer(func(*chat.Node) *grpc.Server {
			return grpc.NewServer(grpc.MaxRecvMsgSize(256<<10), grpc.MaxConcurrentStreams(50), grpc.ChainStreamInterceptor(refusing(false)))
		}))
	})
}

// refusing looks at streams, and refuses other nodes if peers is set.
func refusing(peers bool) grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, i *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if chat.IsPeerMethod(i.FullMethod) && peers {
			return status.Error(codes.PermissionDenied, "not with us")
		}
		return handle(srv, s)
	}
}

// failing is a test whose failures are looked at; Fatal ends it by a panic.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Helper() {}
func (f *failing) Errorf(format string, args ...any) {
	f.text += fmt.Sprintf(format, args...) + "\n"
}
func (f *failing) Error(args ...any)                 { f.text += fmt.Sprintln(args...) }
func (f *failing) Fatal(args ...any)                 { f.Error(args...); panic(f) }
func (f *failing) Fatalf(format string, args ...any) { f.Errorf(format, args...); panic(f) }

// TestHost_Finds: each thing that a host can do wrong is found, and named.
func TestHost_Finds(t *testing.T) {
	for name, tt := range map[string]struct {
		opts []Option
		want string
	}{
		"interceptors that refuse peers": {[]Option{WithServer(func(*chat.Node) *grpc.Server {
			return grpc.NewServer(grpc.StreamInterceptor(refusing(true)))
		})}, "chat.IsPeerMethod"},
		"an authenticator that lets everybody in": {[]Option{WithOptions(func(_ int, o *chat.Options) {
			o.Authenticator = func(context.Context) (string, error) { return "somebody", nil }
		}), WithLogin(func(string) client.Option { return client.WithToken("x") })}, "without a token sees rooms"},
		"printing": {[]Option{WithServer(func(*chat.Node) *grpc.Server {
			fmt.Println("the server starts")
			return grpc.NewServer()
		})}, "the server starts"},
		"changing the environment": {[]Option{WithServer(func(*chat.Node) *grpc.Server {
			_ = os.Setenv("CHAT_TEST_HOST", "1") // undone below
			return grpc.NewServer()
		})}, "CHAT_TEST_HOST=1"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { _ = os.Unsetenv("CHAT_TEST_HOST") }() // never fails
			synctest.Test(t, func(t *testing.T) {
				f := &failing{TB: t}
				func() {
					defer func() {
						if p := recover(); p != nil && p != any(f) {
							panic(p)
						}
					}()
					TestHost(f, tt.opts...)
				}()
				if !strings.Contains(f.text, tt.want) {
					t.Errorf("it says %q, want a word of %q", f.text, tt.want)
				}
			})
		})
	}
}
