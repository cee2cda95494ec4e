package main

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"example.com/chat"
	"example.com/chat/examples/internal/config"
	"example.com/chat/examples/internal/nearest"
)

// fromEnvironment sets the flags of a node that were not given: --data-dir from CHAT_DATA_DIR.
func fromEnvironment(s *flag.FlagSet) error {
	given := flagsGiven(s)
	for _, name := range append([]string{"config-file"}, config.Flags...) {
		variable := "CHAT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		value, ok := os.LookupEnv(variable)
		if !ok || given[name] {
			continue
		}
		if err := s.Set(name, value); err != nil {
			return fmt.Errorf("%s=%q: %w", variable, value, err)
		}
	}
	return nil
}

// fromFile reads --config-file and sets the flags that were not given, neither as such nor in the environment.
func (f *flags) fromFile(s *flag.FlagSet) error {
	c, err := config.Read(f.configFile)
	if err != nil {
		return err
	}
	f.servers = c.Servers
	given := flagsGiven(s)
	for name, value := range c.Flags {
		if given[name] {
			continue
		}
		if err := s.Set(name, value); err != nil {
			return fmt.Errorf("%s: %q: %q: %w", f.configFile, name, value, err)
		}
	}
	return nil
}

func flagsGiven(s *flag.FlagSet) map[string]bool {
	given := map[string]bool{}
	s.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
}

// noCommand is the error of a word that is no command.
func noCommand(word string) error {
	names := slices.Sorted(maps.Keys(tools))
	if near := nearest.Name(word, append(names, "node", "client")); near != "" {
		return fmt.Errorf("%q is no command; %q is near", word, near)
	}
	return fmt.Errorf("%q is no command; --help lists them", word)
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
	if len(f.servers) > 0 {
		own, ok := f.servers[f.id]
		switch {
		case !ok && f.join == "":
			return o, usageError{fmt.Errorf("%s has no server %q: want it there, or --join", f.configFile, f.id)}
		case ok:
			var err error
			if host, port, err = net.SplitHostPort(own); err != nil {
				return o, usageError{fmt.Errorf("%s: server %q: %w", f.configFile, f.id, err)}
			}
			o.BootstrapExpect = len(f.servers)
		}
		o.Seeds = slices.AppendSeq(o.Seeds, maps.Values(f.servers))
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
