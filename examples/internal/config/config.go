// Package config reads the file that says where the nodes of a cluster are and, for a node, the rest of its flags.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"example.com/chat/examples/internal/nearest"
)

// servers is the key of File.Servers.
const servers = "servers"

// Flags are those of a node that may stand in a file.
var Flags = []string{"id", "port", "host", "data-dir", "join"}

// File is what stands in one.
type File struct {
	// Servers has the address, host:port, of each node that forms the cluster, by node id.
	Servers map[string]string
	// Flags are those of one node, by name.
	Flags map[string]string
}

// Addrs are the addresses of the servers, in order.
func (f File) Addrs() []string { return slices.Sorted(maps.Values(f.Servers)) }

// Read reads a file, such as {"servers":{"server1":"localhost:8001"},"id":"server1","data-dir":"/var/lib/chat"}.
// What it does not know is an error that names the key which is nearest.
func Read(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = f.Close() }() // only read
	c, err := parse(f)
	if err != nil {
		return File{}, fmt.Errorf(`%s: %w; want {"servers":{"server1":"localhost:8001", ...}}`, name, err)
	}
	return c, nil
}

func parse(r io.Reader) (File, error) {
	c := File{Flags: map[string]string{}}
	d := json.NewDecoder(r)
	d.UseNumber()
	var keys map[string]any
	if err := d.Decode(&keys); err != nil {
		return c, err
	}
	if _, err := d.Token(); err != io.EOF {
		return c, errors.New("something stands behind the configuration")
	}
	for key, value := range keys {
		switch v := value.(type) {
		case map[string]any:
			if key != servers {
				return c, unknown(key)
			}
			c.Servers = map[string]string{}
			for id, addr := range v {
				text, ok := addr.(string)
				if !ok {
					return c, fmt.Errorf("server %q: %v is no address", id, addr)
				}
				c.Servers[id] = text
			}
		case string, json.Number:
			if !slices.Contains(Flags, key) {
				return c, unknown(key)
			}
			c.Flags[key] = fmt.Sprint(v)
		default:
			return c, fmt.Errorf("%q: %v is neither a text nor a number", key, value)
		}
	}
	if len(keys) == 0 || c.Servers != nil && len(c.Servers) == 0 {
		return c, errors.New("no servers")
	}
	return c, nil
}

func unknown(key string) error {
	keys := append([]string{servers}, Flags...)
	if near := nearest.Name(key, keys); near != "" && near != key {
		return fmt.Errorf("%q is no key; %q is near", key, near)
	}
	return fmt.Errorf("%q is no key, or its value is of another kind; the keys are %s", key, strings.Join(keys, ", "))
}
