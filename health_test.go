package chat_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"example.com/chat"
	"example.com/chat/rpc/chattest"
)

// TestHealth: a node serves from when it is ready until it has lost the others or is drained, and says so to
// who asks and to who watches; a watch does not hold GracefulStop up.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := chattest.Start(t, 3, chattest.WithServer(func(n *chat.Node) *grpc.Server {
			server := grpc.NewServer()
			healthpb.RegisterHealthServer(server, n.Health())
			return server
		}))
		n := c.Nodes[0]
		conn, err := grpc.NewClient("passthrough:///"+n.Addr, grpc.WithContextDialer(c.Dialer("probe")), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		probe := healthpb.NewHealthClient(conn)
		is := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			r, err := probe.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
			if err != nil || r.Status != want {
				t.Errorf("%q is %v, %v, want %v", service, r.GetStatus(), err, want)
			}
		}
		const no, yes = healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING
		is("", no)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		watch, err := probe.Watch(ctx, &healthpb.HealthCheckRequest{Service: "chat.v1.MessageService"})
		if err != nil {
			t.Fatal(err)
		}
		hears := func(want healthpb.HealthCheckResponse_ServingStatus) {
			t.Helper()
			if r, err := watch.Recv(); err != nil || r.Status != want {
				t.Errorf("the watch hears %v, %v, want %v", r.GetStatus(), err, want)
			}
		}
		hears(no)
		c.WaitStable()
		is("", yes)
		is("chat.v1.EventService", yes)
		hears(yes)
		if _, err := probe.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "shop.v1.OrderService"}); status.Code(err) != codes.NotFound {
			t.Errorf("another service: %v", err)
		}
		c.Isolate(n)
		hears(no)
		c.Heal()
		hears(yes)
		c.WaitStable()
		n.Stop()
		hears(no)
		if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the watch ends with %v", err)
		}
	})
}
