package membership

import (
	"time"

	"example.com/chat/internal/node"
)

// health is what the leader knows of a server that does not vote.
type health struct {
	// CaughtUpSince is when the server was first seen to be there and to keep up, without a break
	// since then; zero when it does not.
	CaughtUpSince time.Time
}

// view is what a change is planned from.
type view struct {
	Servers   []node.Server
	Health    map[string]health
	Now       time.Time
	MaxVoters int
	StableFor time.Duration
}

// plan is the next server to vote: the first one, by id, that has kept up long enough, when there
// are not enough voters. One at a time is all that raft's single-server changes allow (thesis,
// section 4.1); the next look at the cluster plans the next.
func plan(v view) (promote node.Server, ok bool) {
	voters := 0
	for _, s := range v.Servers {
		if s.Voter {
			voters++
		}
	}
	if voters >= v.MaxVoters {
		return node.Server{}, false
	}
	for _, s := range v.Servers {
		since := v.Health[s.ID].CaughtUpSince
		if !s.Voter && !since.IsZero() && v.Now.Sub(since) >= v.StableFor && (!ok || s.ID < promote.ID) {
			promote, ok = s, true
		}
	}
	return promote, ok
}
