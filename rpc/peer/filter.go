package peer

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"example.com/chat/internal/chaterr"
)

// errCut: raft was cut off, or has ended.
var errCut = errors.New("raft takes no more calls")

// check refuses calls that no raft makes, and on which ours would panic or which would damage its
// log: it takes whatever a peer sends for granted. The handshake has proved that the peer is a
// member; a damaged or foreign one is still not to end the host's process.
func check(command any) error {
	var err error
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		err = checkEntries(c)
	case *raft.InstallSnapshotRequest:
		if c.Term == 0 || c.LastLogIndex == 0 || c.LastLogTerm == 0 || c.LastLogTerm > c.Term || c.Size <= 0 {
			err = fmt.Errorf("snapshot of entry %d of term %d, %d bytes, in term %d", c.LastLogIndex, c.LastLogTerm, c.Size, c.Term)
		} else {
			err = checkConfiguration(c.Configuration)
		}
	case *raft.RequestVoteRequest:
		err = checkCandidate(c.RPCHeader, c.Term, c.LastLogTerm)
	case *raft.RequestPreVoteRequest:
		err = checkCandidate(c.RPCHeader, c.Term, c.LastLogTerm)
	case *raft.TimeoutNowRequest:
	default:
		err = fmt.Errorf("call %T", command)
	}
	if err != nil {
		return fmt.Errorf("%w: raft: %w", chaterr.ErrInvalid, err)
	}
	return nil
}

func checkCandidate(h raft.RPCHeader, term, lastTerm uint64) error {
	if len(h.ID) == 0 || len(h.Addr) == 0 || term == 0 || lastTerm > term {
		return fmt.Errorf("candidate %q at %q in term %d with a log of term %d", h.ID, h.Addr, term, lastTerm)
	}
	return nil
}

// checkEntries wants entries that follow one another, in terms that do not fall, of kinds that raft
// applies.
func checkEntries(r *raft.AppendEntriesRequest) error {
	if r.Term == 0 {
		return errors.New("entries in term 0")
	}
	index, term := r.PrevLogEntry, r.PrevLogTerm
	for _, e := range r.Entries {
		if e == nil || e.Index != index+1 || e.Index == 0 || e.Term < term || e.Term == 0 || e.Term > r.Term {
			return fmt.Errorf("an entry that does not follow entry %d of term %d, in term %d", index, term, r.Term)
		}
		index, term = e.Index, e.Term
		switch e.Type {
		case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		case raft.LogConfiguration:
			if err := checkConfiguration(e.Data); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		default:
			return fmt.Errorf("entry %d has the type %v", index, e.Type)
		}
	}
	return nil
}

// checkConfiguration: raft.DecodeConfiguration panics on what it cannot decode.
func checkConfiguration(data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration: %v", p)
		}
	}()
	voters := 0
	ids, addrs := map[raft.ServerID]bool{}, map[raft.ServerAddress]bool{}
	for _, s := range raft.DecodeConfiguration(data).Servers {
		if s.ID == "" || s.Address == "" || ids[s.ID] || addrs[s.Address] || s.Suffrage > raft.Staging {
			return fmt.Errorf("configuration with server %q at %q, suffrage %d", s.ID, s.Address, s.Suffrage)
		}
		ids[s.ID], addrs[s.Address] = true, true
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 {
		return errors.New("configuration without a voter")
	}
	return nil
}
