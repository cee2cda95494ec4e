package main

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/chat"
)

// users are the shop's: it gives them tokens, and finds out in an interceptor who calls.
type users struct {
	mu     sync.Mutex // guards tokens
	tokens map[string]string
}

func newUsers() *users { return &users{tokens: map[string]string{}} }

// token is a new one for a user, as the shop's login would make it.
func (u *users) token(user string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	token := rand.Text()
	u.tokens[token] = user
	return token
}

type callerKey struct{}

// identify puts the user of a token into the context of a call; a call without one is nobody's.
func (u *users) identify(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		u.mu.Lock()
		user := u.tokens[strings.TrimPrefix(v, "Bearer ")]
		u.mu.Unlock()
		ctx = context.WithValue(ctx, callerKey{}, user)
	}
	return ctx
}

// caller is who calls, for the shop's own services.
func caller(ctx context.Context) (string, error) {
	if user, _ := ctx.Value(callerKey{}).(string); user != "" {
		return user, nil
	}
	return "", status.Error(codes.Unauthenticated, "show a token of the shop")
}

// caller is who calls, for chat: it is chat.Options.Authenticator.
func (u *users) caller(ctx context.Context) (string, error) { return caller(ctx) }

func (u *users) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return handle(u.identify(ctx), req)
}

func (u *users) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if chat.IsPeerMethod(info.FullMethod) { // other nodes prove by themselves who they are
		return handle(srv, s)
	}
	return handle(srv, identified{s, u.identify(s.Context())})
}

// identified is a stream of a known user.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s identified) Context() context.Context { return s.ctx }

// bearer shows a token with each call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
