package peer

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"example.com/chat/internal/grpcerr"
	"example.com/chat/internal/node"
	"example.com/chat/rpc/peer/peerpb"
)

// service answers Calls.
type service struct {
	peerpb.UnsafePeerServiceServer
	log        Log
	membership Membership
}

var _ peerpb.PeerServiceServer = (*service)(nil)

// Forward answers Calls.Forward.
func (s *service) Forward(ctx context.Context, q *peerpb.ForwardRequest) (*peerpb.ForwardResponse, error) {
	results, index, err := s.log.Forwarded(ctx, q.Commands)
	return &peerpb.ForwardResponse{Results: results, Index: index}, grpcerr.ToStatus(err)
}

// ReadIndex answers Calls.ReadIndex.
func (s *service) ReadIndex(ctx context.Context, _ *peerpb.ReadIndexRequest) (*peerpb.ReadIndexResponse, error) {
	index, err := s.log.LeaderReadIndex(ctx)
	return &peerpb.ReadIndexResponse{Index: index}, grpcerr.ToStatus(err)
}

// Mark answers Calls.Mark.
func (s *service) Mark(ctx context.Context, q *peerpb.MarkRequest) (*peerpb.MarkResponse, error) {
	hash, err := s.log.Mark(ctx, q.Index)
	return &peerpb.MarkResponse{Hash: hash}, grpcerr.ToStatus(err)
}

// Backup answers Calls.Backup.
func (s *service) Backup(_ *peerpb.BackupRequest, stream grpc.ServerStreamingServer[peerpb.BackupResponse]) error {
	return grpcerr.ToStatus(s.log.Backup(stream.Context(), parts{stream}))
}

// parts sends what is written in messages that no limit of gRPC minds.
type parts struct {
	stream grpc.ServerStreamingServer[peerpb.BackupResponse]
}

func (w parts) Write(p []byte) (n int, err error) {
	for part := range slices.Chunk(p, fullFrame) {
		if err := w.stream.Send(&peerpb.BackupResponse{Data: part}); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// CurrentTerm answers Calls.CurrentTerm.
func (s *service) CurrentTerm(context.Context, *peerpb.CurrentTermRequest) (*peerpb.CurrentTermResponse, error) {
	term, err := s.log.CurrentTerm()
	return &peerpb.CurrentTermResponse{Term: term}, grpcerr.ToStatus(err)
}

// Promise answers Calls.Promise.
func (s *service) Promise(_ context.Context, q *peerpb.PromiseRequest) (*peerpb.PromiseResponse, error) {
	highest, in, err := s.membership.Promise(q.Attempt)
	return &peerpb.PromiseResponse{Highest: highest, ClusterId: in.ID, Servers: toProtos(in.Servers)}, grpcerr.ToStatus(err)
}

// Adopt answers Calls.Adopt.
func (s *service) Adopt(_ context.Context, q *peerpb.AdoptRequest) (*peerpb.AdoptResponse, error) {
	return &peerpb.AdoptResponse{}, grpcerr.ToStatus(s.membership.Adopt(q.Attempt, node.Cluster{ID: q.ClusterId, Servers: fromProtos(q.Servers)}))
}

// Join answers Calls.Join.
func (s *service) Join(ctx context.Context, q *peerpb.JoinRequest) (*peerpb.JoinResponse, error) {
	cluster, err := s.membership.Join(ctx, fromProto(q.Node), q.Forwarded)
	return &peerpb.JoinResponse{ClusterId: cluster}, grpcerr.ToStatus(err)
}

// Probe answers Calls.Probe.
func (s *service) Probe(context.Context, *peerpb.ProbeRequest) (*peerpb.ProbeResponse, error) {
	return &peerpb.ProbeResponse{Node: toProto(s.membership.Self())}, nil
}

func toProto(n node.Info) *peerpb.Node {
	return &peerpb.Node{
		Id: n.ID, Address: n.Address, Instance: n.Instance, ClusterId: n.ClusterID, Formed: n.Formed,
		Expect: uint32(n.Expect), Level: n.Level, AppliedIndex: n.Applied,
	}
}

func fromProto(n *peerpb.Node) node.Info {
	return node.Info{
		ID: n.GetId(), Address: n.GetAddress(), Instance: n.GetInstance(), ClusterID: n.GetClusterId(), Formed: n.GetFormed(),
		Expect: int(n.GetExpect()), Level: n.GetLevel(), Applied: n.GetAppliedIndex(),
	}
}

func toProtos(nodes []node.Info) (ps []*peerpb.Node) {
	for _, n := range nodes {
		ps = append(ps, toProto(n))
	}
	return ps
}

func fromProtos(ps []*peerpb.Node) (nodes []node.Info) {
	for _, p := range ps {
		nodes = append(nodes, fromProto(p))
	}
	return nodes
}
