package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	gstatus "google.golang.org/grpc/status"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// healthEvery is how often a Watch looks.
const healthEvery = 200 * time.Millisecond

// health answers grpc.health.v1 for the services for clients, and for the server as a whole.
type health struct {
	healthpb.UnimplementedHealthServer
	s *Service
}

// Health says whether this node serves: it does from when it is ready until it is drained, has failed, has lost
// its cluster or replaces its state. The names are "" and those of the services for clients. A Watch ends
// with UNAVAILABLE when the node is drained, so that GracefulStop does not wait for it.
func (s *Service) Health() healthpb.HealthServer { return health{s: s} }

// Check answers at once.
func (h health) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !known(r.Service) {
		return nil, gstatus.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: h.now()}, nil
}

// List answers for all names at once.
func (h health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	now := &healthpb.HealthCheckResponse{Status: h.now()}
	all := map[string]*healthpb.HealthCheckResponse{"": now}
	for _, d := range clientServices {
		all[d.ServiceName] = now
	}
	return &healthpb.HealthListResponse{Statuses: all}, nil
}

// Watch tells of each change.
func (h health) Watch(r *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	told := healthpb.HealthCheckResponse_UNKNOWN
	for {
		now := healthpb.HealthCheckResponse_SERVICE_UNKNOWN // as the protocol has it for Watch
		if known(r.Service) {
			now = h.now()
		}
		if now != told {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			told = now
		}
		select {
		case <-tick.C:
		case <-stream.Context().Done():
			return gstatus.FromContextError(stream.Context().Err()).Err()
		case <-h.s.drained:
			if told == healthpb.HealthCheckResponse_SERVING {
				_ = stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}) // the error says it, too
			}
			return gstatus.Error(codes.Unavailable, chaterr.ErrDraining.Error())
		}
	}
}

func (h health) now() healthpb.HealthCheckResponse_ServingStatus {
	select {
	case <-h.s.drained:
		return healthpb.HealthCheckResponse_NOT_SERVING
	default:
	}
	if !h.s.o.Status().Ready {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

var clientServices = []*grpc.ServiceDesc{
	&chatpb.AccountService_ServiceDesc, &chatpb.RoomService_ServiceDesc, &chatpb.MessageService_ServiceDesc,
	&chatpb.EventService_ServiceDesc, &chatpb.ClusterService_ServiceDesc,
}

func known(service string) bool {
	for _, d := range clientServices {
		if service == d.ServiceName {
			return true
		}
	}
	return service == ""
}
