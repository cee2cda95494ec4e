package client

import (
	"context"

	"example.com/chat/rpc/chatpb"
)

// ClusterStatus is how one node sees itself and its cluster.
type ClusterStatus struct {
	NodeID    string
	ClusterID string
	Role      string // outside, follower, candidate, leader or faulty
	Term      uint64
	Leader    string // node id; empty when the node knows none
	Applied   uint64 // the last log entry that the node has applied
	Ready     bool
	Detail    string // what is missing when it is not ready; for people
	// Servers are those of the cluster; only with a session.
	Servers []Server
}

// Server is a node of the cluster.
type Server struct {
	ID, Address string
	Voter       bool
	Alive       bool // what gossip says; it may be wrong for some seconds
}

// Status asks the node that this client prefers at the moment; see Prefer. With a session it also
// learns the cluster's nodes; see WithoutDiscovery.
func (c *Client) Status(ctx context.Context) (ClusterStatus, error) {
	a, err := call(ctx, c, chatpb.NewClusterServiceClient, chatpb.ClusterServiceClient.GetStatus, &chatpb.GetStatusRequest{})
	if err != nil {
		return ClusterStatus{}, err
	}
	s := ClusterStatus{
		NodeID: a.NodeId, ClusterID: a.ClusterId, Role: roles[a.Role], Term: a.Term, Leader: a.LeaderId,
		Applied: a.AppliedIndex, Ready: a.Ready, Detail: a.Detail,
	}
	for _, v := range a.Servers {
		s.Servers = append(s.Servers, Server{v.Id, v.Address, v.Voter, v.Alive})
		if c.o.fixed {
			continue
		}
		if err := c.add(v.Address); err != nil {
			return s, err
		}
	}
	return s, nil
}

var roles = map[chatpb.Role]string{
	chatpb.Role_ROLE_OUTSIDE: "outside", chatpb.Role_ROLE_FOLLOWER: "follower", chatpb.Role_ROLE_CANDIDATE: "candidate",
	chatpb.Role_ROLE_LEADER: "leader", chatpb.Role_ROLE_FAULTY: "faulty",
}

// Prefer makes an endpoint, known or new, the first to be asked. When it cannot serve, the others
// are asked as always. Errors: ErrLimit when the client knows 64 others.
func (c *Client) Prefer(addr string) error {
	if err := c.add(addr); err != nil {
		return err
	}
	return c.nodes.prefer(addr)
}

// Endpoints lists the nodes that the client knows, the preferred one first.
func (c *Client) Endpoints() []string { return c.nodes.addrs() }
