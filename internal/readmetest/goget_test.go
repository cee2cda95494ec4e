package readmetest

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const module = "example.com/chat"

// TestGoGet: the tree is served as a module; an empty module gets it, builds the README's program, and runs it;
// and the demo runs from the module, too.
func TestGoGet(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds two programs")
	}
	files := tree(t)
	version := publish(t, files)
	cache := strings.TrimSpace(goRun(t, "", nil, "env", "GOMODCACHE"))
	env := []string{
		"GOPROXY=file://" + proxy(t) + "," + strings.TrimSpace(goRun(t, "", nil, "env", "GOPROXY")),
		"GONOSUMDB=" + module, "GONOPROXY=none", "GOPRIVATE=", "GOFLAGS=-modcacherw", "GOWORK=off",
	}
	t.Cleanup(func() { forget(t, cache, version) })

	host := t.TempDir()
	program, err := os.ReadFile(filepath.Join("testdata", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(program), "// PROGRAM", find(t, "go", "chat.New("), 1)
	text = strings.Replace(text, "// CLIENT", find(t, "go", "client.Dial("), 1)
	if err := os.WriteFile(filepath.Join(host, "main.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	test := "package main\n\nimport (\n\t\"testing\"\n\n\t\"example.com/chat/rpc/chattest\"\n\t\"example.com/chat/rpc/client\"\n)\n\nfunc TestHost(t *testing.T) {\n" +
		find(t, "go", "chattest.New") + "\tif err != nil || receipt.Seq != 1 {\n\t\tt.Fatal(receipt, err)\n\t}\n}\n"
	if err := os.WriteFile(filepath.Join(host, "host_test.go"), []byte(test), 0o600); err != nil {
		t.Fatal(err)
	}
	goRun(t, host, env, "mod", "init", "host.example")
	goRun(t, host, env, "get", module+"@"+version)
	goRun(t, host, env, "get", "go.uber.org/zap", "google.golang.org/grpc") // which the program has anyway
	goRun(t, host, env, "vet", ".")
	if out := goRun(t, host, env, "run", "."); !strings.Contains(out, " hello <nil>\n") || !strings.HasSuffix(out, "\nended\n") {
		t.Errorf("the program says %q", out)
	}
	goRun(t, host, env, "test", ".")
	if out := goRun(t, host, env, "run", module+"/examples/standalone@"+version, "--smoke"); !strings.Contains(out, `"lost":0,"duplicated":0`) {
		t.Errorf("the demo says %q", out)
	}
}

// goRun runs the go command, and returns what it prints.
func goRun(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var errs bytes.Buffer
	c.Stderr = &errs
	begun := time.Now()
	out, err := c.Output()
	t.Logf("go %s: %v", strings.Join(args, " "), time.Since(begun).Round(100*time.Millisecond))
	if err != nil {
		t.Fatalf("go %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.Bytes())
	}
	return string(out)
}

// tree lists the files of the module as they are now, without nested modules.
func tree(t *testing.T) (files []string) {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	var nested []string
	all := strings.Fields(string(out))
	for _, f := range all {
		if dir, ok := strings.CutSuffix(f, "/go.mod"); ok {
			nested = append(nested, dir+"/")
		}
	}
next:
	for _, f := range all {
		for _, n := range nested {
			if strings.HasPrefix(f, n) {
				continue next
			}
		}
		if info, err := os.Lstat(filepath.Join(root, f)); err == nil && info.Mode().IsRegular() { // else it was removed
			files = append(files, f)
		}
	}
	return files
}

func proxy(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(os.TempDir(), fmt.Sprintf("readmetest-%d", os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// publish lays files out as a module proxy does, and returns the version, which is another one for other files.
func publish(t *testing.T, files []string) (version string) {
	t.Helper()
	sum := sha256.New()
	for _, f := range files {
		_, _ = fmt.Fprintln(sum, f) // a hash never fails
		_, _ = sum.Write(read(t, f))
	}
	version = fmt.Sprintf("v0.0.0-20260101000000-%.6x", sum.Sum(nil))
	dir := filepath.Join(proxy(t), module, "@v")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(proxy(t)) })
	var packed bytes.Buffer
	w := zip.NewWriter(&packed)
	for _, f := range files {
		to, err := w.Create(module + "@" + version + "/" + f)
		if err == nil {
			_, err = to.Write(read(t, f))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, version),
		version + ".mod":  read(t, "go.mod"),
		version + ".zip":  packed.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return version
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forget takes what was published out of the module cache again.
func forget(t *testing.T, cache, version string) {
	err := os.RemoveAll(filepath.Join(cache, module+"@"+version))
	downloads := filepath.Join(cache, "cache", "download", module, "@v")
	left, _ := fs.Glob(os.DirFS(downloads), version+".*") // the pattern is right
	for _, f := range left {
		if e := os.Remove(filepath.Join(downloads, f)); e != nil {
			err = e
		}
	}
	if err != nil {
		t.Error(err)
	}
}
