package rpc

import (
	"context"

	"example.com/chat/internal/chaterr"
	"example.com/chat/rpc/chatpb"
)

// Role is what a node is in its cluster.
type Role uint8

const (
	// Outside: the node is not a member, or not yet.
	Outside Role = iota + 1
	// Follower: the node follows a leader, or waits for one.
	Follower
	// Candidate: the node stands for election.
	Candidate
	// Leader: the node leads.
	Leader
	// Faulty: the node has failed and serves nothing; see Node.Err.
	Faulty
)

// String is lower case.
func (r Role) String() string {
	return map[Role]string{Outside: "outside", Follower: "follower", Candidate: "candidate", Leader: "leader", Faulty: "faulty"}[r]
}

// Status is how a node sees itself and its cluster. It is a snapshot, and may be wrong by the time
// it is read; for a decision ask again.
type Status struct {
	NodeID    string
	ClusterID string // empty before the node belongs to a cluster
	Role      Role
	Term      uint64
	Leader    string // node id; empty when none is known
	Applied   uint64 // the last command that this node has applied
	Ready     bool
	Detail    string // what is missing when it is not ready; for people
	// Level is the cluster's feature level: the highest one that all its servers support.
	Level uint32
	// Verified is the last entry at which the states of nodes were compared, and this node's was like
	// that of most voters.
	Verified uint64
	// Quarantined is how many commands panicked and were left out since the cluster was formed.
	Quarantined uint64
	// Alarm is what an operator should look at though the node serves; for people.
	Alarm   string
	Servers []Server
}

// Server is a server of the raft configuration, as far as the node knows it.
type Server struct {
	ID, Address string
	Voter       bool
	// Alive is what gossip says; it may be wrong for some seconds.
	Alive bool
}

// cluster is chat.v1.ClusterService.
type cluster struct {
	chatpb.UnsafeClusterServiceServer
	*Service
}

var _ chatpb.ClusterServiceServer = cluster{}

func (s cluster) GetStatus(ctx context.Context, _ *chatpb.GetStatusRequest) (*chatpb.GetStatusResponse, error) {
	st := s.o.Status()
	resp := &chatpb.GetStatusResponse{
		NodeId: st.NodeID, Role: chatpb.Role(st.Role), Term: st.Term, LeaderId: st.Leader,
		AppliedIndex: st.Applied, Ready: st.Ready, Detail: st.Detail, ClusterId: st.ClusterID,
		Level: st.Level, VerifiedIndex: st.Verified, Quarantined: st.Quarantined, Alarm: st.Alarm,
	}
	if st.Role == Faulty {
		resp.Detail = chaterr.ErrFault.Error() // what else there is to say names files: see public
	}
	if callerKnown(ctx) {
		for _, v := range st.Servers {
			resp.Servers = append(resp.Servers, &chatpb.Server{Id: v.ID, Address: v.Address, Voter: v.Voter, Alive: v.Alive})
		}
	}
	return resp, nil
}
