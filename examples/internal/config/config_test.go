package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRead(t *testing.T) {
	f, err := Read(write(t, `{"servers":{"b":"h:2","a":"h:1"},"id":"a","port":8001,"data-dir":"there"}`))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Addrs(), []string{"h:1", "h:2"}) || f.Flags["id"] != "a" || f.Flags["port"] != "8001" || f.Flags["data-dir"] != "there" || len(f.Flags) != 3 {
		t.Errorf("got %+v", f)
	}
}

// TestRead_Refuses: what is wrong is named, with the file.
func TestRead_Refuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"severs":{}}`:         `"severs" is no key; "servers" is near`,
		`{"data_dir":"x"}`:      `"data-dir" is near`,
		`{"frobnicate":1}`:      "the keys are servers, id",
		`{"servers":"h:1"}`:     "of another kind",
		`{"id":{}}`:             "of another kind",
		`{"servers":{"a":1}}`:   `server "a": 1 is no address`,
		`{"port":true}`:         "neither a text nor a number",
		`{"join":["a"]}`:        "neither a text nor a number",
		`{}`:                    "no servers",
		`{"servers":{}}`:        "no servers",
		``:                      "EOF",
		`{"id":"a"} x`:          "behind",
		`[]`:                    "cannot unmarshal",
		`{"id":"a","id":"b"`:    "EOF",
		strings.Repeat("[", 20): "EOF",
	} {
		name := write(t, text)
		if _, err := Read(name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}
