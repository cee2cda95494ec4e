package main

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
	"example.com/chat/rpc/client"
)

// TestHost: chat keeps its word on the shop's own server, with its TLS, interceptors, service and users.
func TestHost(t *testing.T) {
	cert, roots, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	users := newUsers()
	conf := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	chattest.TestHost(t,
		chattest.WithServer(func(n *chat.Node) *grpc.Server {
			return newServer(users, &desk{node: n}, n, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		}),
		chattest.WithOptions(func(_ int, o *chat.Options) { o.Authenticator, o.PeerTLS = users.caller, conf }),
		chattest.WithClient(client.WithTLS(conf)),
		chattest.WithLogin(func(user string) client.Option { return client.WithPerRPCCredentials(bearer(users.token(user))) }))
}
