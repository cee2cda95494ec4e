package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"example.com/chat"
)

// config is the file that --config-file names. Every node has the same.
type config struct {
	// Servers has the address, host:port, of each node that forms the cluster, by node id.
	Servers map[string]string `json:"servers"`
}

func readConfig(name string) (config, error) {
	var c config
	f, err := os.Open(name)
	if err != nil {
		return c, err
	}
	defer func() { _ = f.Close() }() // only read
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, usageError{fmt.Errorf(`%s: %w; want {"servers":{"server1":"localhost:8001", ...}}`, name, err)}
	}
	if _, err := d.Token(); err != io.EOF {
		return c, usageError{fmt.Errorf("%s: something stands behind the configuration", name)}
	}
	if len(c.Servers) == 0 {
		return c, usageError{fmt.Errorf(`%s: no servers; want {"servers":{"server1":"localhost:8001", ...}}`, name)}
	}
	return c, nil
}

// options are what the flags mean for a node. The node listens where it is advertised.
func (f flags) options() (chat.Options, error) {
	o := chat.Options{NodeID: f.id, DataDir: f.dataDir, ClusterSecret: []byte(os.Getenv("CHAT_CLUSTER_SECRET"))}
	if o.DataDir == "" {
		o.DataDir = filepath.Join("data", f.id)
	}
	if f.port < 0 || f.port > 65535 {
		return o, usageError{fmt.Errorf("--port %d: want 1 to 65535", f.port)}
	}
	if f.join != "" {
		o.Seeds = strings.Split(f.join, ",")
	}
	host, port := "localhost", ""
	if f.configFile != "" {
		c, err := readConfig(f.configFile)
		if err != nil {
			return o, err
		}
		own, ok := c.Servers[f.id]
		switch {
		case !ok && f.join == "":
			return o, usageError{fmt.Errorf("%s has no server %q: want it there, or --join", f.configFile, f.id)}
		case ok:
			if host, port, err = net.SplitHostPort(own); err != nil {
				return o, usageError{fmt.Errorf("%s: server %q: %w", f.configFile, f.id, err)}
			}
			o.BootstrapExpect = len(c.Servers)
		}
		for _, addr := range c.Servers {
			o.Seeds = append(o.Seeds, addr)
		}
		slices.Sort(o.Seeds)
		o.Seeds = slices.Compact(o.Seeds)
	} else if f.join == "" {
		o.BootstrapExpect = 1
	}
	if f.port != 0 {
		if given := strconv.Itoa(f.port); port != "" && port != given {
			return o, usageError{fmt.Errorf("--port %s, and %s has server %q at port %s", given, f.configFile, f.id, port)}
		} else {
			port = given
		}
	}
	if port == "" {
		return o, usageError{fmt.Errorf("no --port: want one, such as 8001")}
	}
	if f.host != "" {
		host = f.host
	}
	o.Advertise = net.JoinHostPort(host, port)
	return o, nil
}
