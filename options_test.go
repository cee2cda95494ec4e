package chat

import (
	"bytes"
	"crypto/tls"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// good are options without a fault: a node that forms a cluster with another one.
func good(dir string) Options {
	return Options{
		NodeID: "app-1", DataDir: dir, Advertise: "app-1.internal:8443",
		Seeds:           []string{"app-1.internal:8443", "app-2.internal:8443"},
		BootstrapExpect: 2, ClusterSecret: bytes.Repeat([]byte("s"), minSecret),
	}
}

// TestOptions_Faults: each fault alone is refused, before anything is made on disk, and the error names
// the field and what is wanted of it.
func TestOptions_Faults(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*Options)
		want  string // empty for no fault
	}{
		"none":                       {func(*Options) {}, ""},
		"no node id":                 {func(o *Options) { o.NodeID = "" }, `NodeID "": want 1 to 64 letters`},
		"a node id of 65 bytes":      {func(o *Options) { o.NodeID = strings.Repeat("x", 65) }, "NodeID"},
		"a node id of 64 bytes":      {func(o *Options) { o.NodeID = strings.Repeat("x", 64) }, ""},
		"a node id with a slash":     {func(o *Options) { o.NodeID = "../x" }, "NodeID"},
		"a node id with a line feed": {func(o *Options) { o.NodeID = "x\n" }, "NodeID"},
		"a node id with an umlaut":   {func(o *Options) { o.NodeID = "ä" }, "NodeID"},
		"no directory":               {func(o *Options) { o.DataDir = "" }, "DataDir is empty"},
		"no address":                 {func(o *Options) { o.Advertise = "" }, `Advertise "": want the host:port`},
		"no host":                    {func(o *Options) { o.Advertise = ":8443" }, `Advertise ":8443"`},
		"no port":                    {func(o *Options) { o.Advertise = "app-1.internal" }, "Advertise"},
		"an empty port":              {func(o *Options) { o.Advertise = "app-1.internal:" }, "Advertise"},
		"IPv6 without brackets":      {func(o *Options) { o.Advertise = "::1:8443" }, "Advertise"},
		"IPv6":                       {func(o *Options) { o.Advertise = "[fd00::1]:8443" }, ""},
		"a long address":             {func(o *Options) { o.Advertise = strings.Repeat("x", 124) + ":8443" }, "Advertise"},
		"a seed without a port":      {func(o *Options) { o.Seeds = append(o.Seeds, "app-3") }, `Seeds: "app-3"`},
		"an empty seed":              {func(o *Options) { o.Seeds = append(o.Seeds, "") }, `Seeds: ""`},
		"less than no nodes":         {func(o *Options) { o.BootstrapExpect = -1 }, "BootstrapExpect -1: want 0 to 64"},
		"too many nodes":             {func(o *Options) { o.BootstrapExpect = 65 }, "BootstrapExpect 65"},
		"to join nobody":             {func(o *Options) { o.BootstrapExpect, o.Seeds = 0, nil }, "BootstrapExpect is 0, so the node joins a cluster, and Seeds names no other node"},
		"to join itself":             {func(o *Options) { o.BootstrapExpect, o.Seeds = 0, o.Seeds[:1] }, "BootstrapExpect is 0"},
		"to join":                    {func(o *Options) { o.BootstrapExpect = 0 }, ""},
		"alone, with others":         {func(o *Options) { o.BootstrapExpect = 1 }, "BootstrapExpect is 1, so the node forms a cluster alone, and Seeds names others: app-2.internal:8443"},
		"alone":                      {func(o *Options) { o.BootstrapExpect, o.Seeds = 1, nil }, ""},
		"alone, and its own seed":    {func(o *Options) { o.BootstrapExpect, o.Seeds = 1, o.Seeds[:1] }, ""},
		"together with nobody":       {func(o *Options) { o.Seeds = nil }, "BootstrapExpect is 2 and Seeds names no other node"},
		"a long cluster name":        {func(o *Options) { o.ClusterName = strings.Repeat("x", 65) }, "ClusterName has 65 bytes"},
		"a short secret":             {func(o *Options) { o.ClusterSecret = o.ClusterSecret[1:] }, "ClusterSecret has 31 bytes: want 32"},
		"no secret":                  {func(o *Options) { o.ClusterSecret = nil }, `Advertise "app-1.internal:8443" is not a loopback address`},
		"no secret, but TLS":         {func(o *Options) { o.ClusterSecret, o.PeerTLS = nil, &tls.Config{} }, ""},
		"no secret, on one machine":  {func(o *Options) { o.ClusterSecret, o.Advertise = nil, "127.0.0.1:8443" }, ""},
		"no secret, IPv6 loopback":   {func(o *Options) { o.ClusterSecret, o.Advertise = nil, "[::1]:8443" }, ""},
		"no secret, localhost":       {func(o *Options) { o.ClusterSecret, o.Advertise = nil, "localhost:8443" }, ""},
		"no secret, a lookalike":     {func(o *Options) { o.ClusterSecret, o.Advertise = nil, "localhost.evil:8443" }, "is not a loopback address"},
		"a fast heartbeat":           {func(o *Options) { o.Heartbeat = 49 * time.Millisecond }, "Heartbeat 49ms: want 50ms or more"},
		"a heartbeat back in time":   {func(o *Options) { o.Heartbeat = -time.Second }, "Heartbeat -1s"},
		"an impatient disk":          {func(o *Options) { o.DiskTimeout = 99 * time.Millisecond }, "DiskTimeout 99ms: want 100ms or more"},
		"a timeout back in time":     {func(o *Options) { o.ProposeTimeout = -1 }, "ProposeTimeout -1ns"},
		"a queue below zero":         {func(o *Options) { o.MaxPending = -1 }, "MaxPending -1"},
		"bytes below zero":           {func(o *Options) { o.MaxPendingBytes = math.MinInt }, "MaxPendingBytes -9223372036854775808"},
		"an even number of voters":   {func(o *Options) { o.MaxVoters = 4 }, "MaxVoters 4: want an odd number"},
		"less than no voters":        {func(o *Options) { o.MaxVoters = -3 }, "MaxVoters -3"},
		"stable before it was there": {func(o *Options) { o.StableFor = -time.Second }, "StableFor -1s"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			o := good(dir)
			tt.spoil(&o)
			err := o.withDefaults().validate()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err == nil {
				return
			}
			if lines := strings.Count(err.Error(), "\n") + 1; lines != 1 {
				t.Errorf("one fault makes %d: %v", lines, err)
			}
			if n, err := New(o); err == nil {
				t.Error("New has taken it", n.Close())
			}
			if made, err := filepath.Glob(dir); err != nil || len(made) > 0 {
				t.Errorf("%v was made, %v", made, err)
			}
		})
	}
}

// TestOptions_AllFaults: who has made five mistakes is told five, at once.
func TestOptions_AllFaults(t *testing.T) {
	o := good("")
	o.NodeID, o.Advertise, o.MaxVoters, o.Heartbeat = "app 1", "app-1", 2, time.Millisecond
	_, err := New(o)
	if err == nil {
		t.Fatal("New has taken it")
	}
	for _, field := range []string{"NodeID", "DataDir", "Advertise", "MaxVoters", "Heartbeat"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != 5 {
		t.Errorf("five faults make %d lines: %v", lines, err)
	}
	if strings.Contains(err.Error(), "sss") {
		t.Error("the error has the secret in it")
	}
}

// TestOptions_Defaults: the zero values mean what the comments say, and nothing but zero values is
// changed.
func TestOptions_Defaults(t *testing.T) {
	got := Options{}.withDefaults()
	if got.Logger == nil {
		t.Error("no logger")
	}
	got.Logger = nil
	want := Options{
		ClusterName: "chat", Heartbeat: 300 * time.Millisecond, DiskTimeout: 10 * time.Second, ProposeTimeout: 10 * time.Second,
		MaxPending: 4096, MaxPendingBytes: 8 << 20, MaxVoters: 5, StableFor: 2 * time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	set := Options{
		ClusterName: "x", Heartbeat: time.Second, DiskTimeout: time.Minute, ProposeTimeout: time.Hour,
		MaxPending: 1, MaxPendingBytes: 2, MaxVoters: 3, StableFor: 4,
	}
	got = set.withDefaults()
	got.Logger = nil
	if !reflect.DeepEqual(got, set) {
		t.Errorf("got %+v, want %+v", got, set)
	}
}

// TestNew_CopiesOptions: what the caller does with its slices and its TLS configuration after New has
// no effect on the node, and New writes nothing into them.
func TestNew_CopiesOptions(t *testing.T) {
	o := good(filepath.Join(t.TempDir(), "data"))
	o.PeerTLS = &tls.Config{ServerName: "before"}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	if o.ClusterName != "" || o.Heartbeat != 0 || o.Logger != nil {
		t.Errorf("New has changed the caller's options: %+v", o)
	}
	o.Seeds[1], o.ClusterSecret[0], o.PeerTLS.ServerName = "evil:1", 'x', "after"
	want := good(o.DataDir)
	if !slices.Equal(n.o.Seeds, want.Seeds) || !bytes.Equal(n.o.ClusterSecret, want.ClusterSecret) || n.o.PeerTLS.ServerName != "before" {
		t.Errorf("the node's options have changed: %+v", n.o)
	}
}
