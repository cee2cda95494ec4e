package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// sessionStreams is how many subscriptions a session may have.
	sessionStreams = 32
	// streamSends is how many sends a stream of a client's has under way.
	streamSends = 1024
	// userRooms is how many rooms a user may be in.
	userRooms = 1000
)

// params say what is measured. They stand in each result.
type params struct {
	Profile   string        `json:"profile"`
	N         int           `json:"n"`
	Nodes     int           `json:"nodes"`
	Processes bool          `json:"processes,omitempty"`
	Clients   int           `json:"clients"`
	At        string        `json:"at"`
	Accounts  string        `json:"accounts"`
	Size      int           `json:"size"`
	Rooms     int           `json:"rooms"`
	Users     int           `json:"users,omitempty"`
	Conc      int           `json:"conc,omitempty"`
	Window    int           `json:"window,omitempty"`
	Every     time.Duration `json:"every_ns,omitempty"`
	Warm      time.Duration `json:"-"`
	For       time.Duration `json:"for_ns,omitempty"`

	cluster *cluster // that is measured
	heap    string   // a file for the profile of a node
}

// profile is a way to use a cluster.
type profile struct {
	run     func(context.Context, *cluster, params) (result, error)
	n       int  // what -n counts, when it is not given
	clients int  // 0 for as many as n needs
	rooms   int  // 0 for one for each client
	own     bool // it ends nodes, so they are processes that loadgen has started
}

var profiles = map[string]profile{
	"send":     {run: send, n: 64, clients: 4, rooms: 100},
	"stream":   {run: stream, n: 4096, rooms: 100},
	"deliver":  {run: deliver, n: 1, clients: 4, rooms: 100},
	"fanout":   {run: fanout, n: 1000},
	"mixed":    {run: mixed, n: 64, clients: 16, rooms: 100},
	"load":     {run: load, n: 1_000_000, clients: 4, rooms: 1000, own: true},
	"failover": {run: failover, n: 10, clients: 1, rooms: 1, own: true},
}

func profileNames() string { return strings.Join(slices.Sorted(maps.Keys(profiles)), ", ") }

// withDefaults fills in what was not given.
func (f *flags) withDefaults(p profile) {
	most := slices.Max(f.counts)
	switch f.Profile {
	case "stream":
		p.clients = max(4, (most+streamSends-1)/streamSends)
	case "fanout":
		p.clients = (most + sessionStreams - 1) / sessionStreams
	case "load":
		p.clients = max(p.clients, (max(f.Rooms, p.rooms)+userRooms-1)/userRooms)
		if f.Rooms > 0 {
			p.clients = min(p.clients, f.Rooms)
		}
	}
	f.Clients = cmp.Or(f.Clients, p.clients)
	f.Rooms = cmp.Or(f.Rooms, max(p.rooms, f.Clients))
	if f.Profile == "fanout" { // they are all in one room
		f.Rooms = f.Clients
	}
	f.Processes = f.Processes || p.own
	if f.Accounts == "" {
		f.Accounts = hostAccounts
		if len(f.servers) > 0 {
			f.Accounts = passwordAccounts
		}
	}
	if f.Profile != "mixed" {
		f.Users = 0
	}
	if f.Profile != "deliver" {
		f.Every = 0
	}
	if f.Profile == "failover" {
		f.For = 0
	}
	if f.Profile != "load" {
		f.Conc = 0
	}
	if f.Profile != "fanout" {
		f.Window = 0
	}
}

// validate returns every fault at once.
func (f *flags) validate(p profile) error {
	var faults []error
	fault := func(when bool, format string, args ...any) {
		if when {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	most := slices.Max(f.counts)
	fault(f.Nodes < 1 || f.Nodes%2 == 0 && len(f.servers) == 0, "-nodes %d: want an odd number", f.Nodes)
	fault(p.own && len(f.servers) > 0, "-servers with -profile %s: it ends nodes, and starts its own for that", f.Profile)
	fault(f.Processes && len(f.servers) > 0 && !p.own, "-processes with -servers: no nodes are started then")
	fault(f.Profile == "failover" && f.Nodes == 1, "-nodes 1 with -profile failover: want others that go on while a node is down")
	fault(f.heap != "" && f.Profile != "load", "-memprofile with -profile %s: it is for load", f.Profile)
	fault(f.Size < stampSize || f.Size > 16<<10, "-size %d: want %d to %d bytes", f.Size, stampSize, 16<<10)
	fault(f.Clients < 1, "-clients %d: want one or more", f.Clients)
	fault(f.Rooms < f.Clients, "-rooms %d -clients %d: want a room for each client", f.Rooms, f.Clients)
	fault(f.Clients > 0 && f.Rooms > userRooms*f.Clients, "-rooms %d -clients %d: a user may be in %d rooms: want -clients %d or more", f.Rooms, f.Clients,
		userRooms, (f.Rooms+userRooms-1)/userRooms)
	fault(!slices.Contains(places, f.At), "-at %q: want %s", f.At, strings.Join(places, ", "))
	fault(f.Accounts != hostAccounts && f.Accounts != passwordAccounts, "-accounts %q: want %s or %s", f.Accounts, hostAccounts, passwordAccounts)
	switch f.Profile {
	case "fanout":
		fault(f.Window < 1, "-window %d: want one or more", f.Window)
		fault(most > sessionStreams*f.Clients, "-n %d -clients %d: a session may have %d subscriptions: want -clients %d or more", most, f.Clients,
			sessionStreams, (most+sessionStreams-1)/sessionStreams)
	case "stream":
		fault(most > streamSends*f.Clients, "-n %d -clients %d: a stream takes %d sends at a time: want -clients %d or more", most, f.Clients,
			streamSends, (most+streamSends-1)/streamSends)
	case "mixed":
		fault(f.Accounts != hostAccounts, "-accounts %s with -profile mixed: it makes thousands of accounts, and hashing a password takes as long as a thousand sends: want nodes that take %s", f.Accounts, hostAccounts)
		fault(f.Users < f.Clients || f.Users < 2, "-users %d -clients %d: want a user for each client, and two or more", f.Users, f.Clients)
		fault(f.Rooms+bigRooms+mixedPeers > userRooms, "-rooms %d: want at most %d, as a user is in that many, %d large ones and %d direct ones", f.Rooms,
			userRooms-bigRooms-mixedPeers, bigRooms, mixedPeers)
	case "load":
		fault(f.heap != "" && len(f.counts) > 1, "-memprofile with several numbers: want one")
		fault(f.Conc < 1 || f.Conc > 4096, "-conc %d: want 1 to 4096, which is what a node takes", f.Conc)
		fault(!slices.IsSorted(f.counts), "-n: want rising numbers, since each counts from the first message")
	}
	return errors.Join(faults...)
}
