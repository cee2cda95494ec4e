// Package node is what nodes tell each other of themselves: in gossip, when they join, and when
// they are asked.
package node

import (
	"encoding/json"
	"fmt"
)

// MaxEncoded is how many bytes memberlist takes for a node's metadata; more would make it panic.
const MaxEncoded = 512

// Limits that keep every Info below MaxEncoded.
const (
	MaxID        = 64
	MaxAddress   = 128
	MaxClusterID = 128
)

// Info is what a node says of itself.
type Info struct {
	ID        string `json:"i"`
	Address   string `json:"a"`           // how the others reach it
	Instance  string `json:"n,omitempty"` // random, made once for each data directory
	ClusterID string `json:"c,omitempty"` // empty when the node has no state of a cluster
	Formed    bool   `json:"f,omitempty"` // the cluster's first command was committed
	Expect    int    `json:"e,omitempty"` // how many nodes it wants to form a cluster with
	Level     uint32 `json:"l,omitempty"` // the feature level of its binary
	Applied   uint64 `json:"-"`           // the last command that it has applied; not in gossip
}

// Server is a server of raft's configuration.
type Server struct {
	ID, Address string
	Voter       bool
}

// Cluster is what a node belongs to.
type Cluster struct {
	ID string
	// Servers are those that the cluster was formed with; none for a node that joined later.
	Servers []Info
}

// Encode is the form in which an Info travels in gossip.
func (i Info) Encode() ([]byte, error) {
	b, err := json.Marshal(i)
	if err == nil && len(b) > MaxEncoded {
		err = fmt.Errorf("a node's metadata has %d bytes, more than %d", len(b), MaxEncoded)
	}
	return b, err
}

// Decode reads what Encode has made; it comes from another node.
func Decode(b []byte) (i Info, err error) {
	if err = json.Unmarshal(b, &i); err != nil {
		return Info{}, err
	}
	if i.ID == "" || len(i.ID) > MaxID || i.Address == "" || len(i.Address) > MaxAddress || len(i.ClusterID) > MaxClusterID {
		return Info{}, fmt.Errorf("metadata of node %q with an address of %d bytes", i.ID, len(i.Address))
	}
	return i, nil
}
