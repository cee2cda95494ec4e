// Command hostcost says what a program pays for chat: modules, size, and what an idle node takes.
//
//	go run ./internal/hostcost
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const programs = "example.com/chat/internal/hostcost/"

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hostcost:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	dir, err := os.MkdirTemp("", "hostcost-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is temporary anyway
	_, _ = fmt.Fprintf(out, "%-28s %8s %12s\n", "a program with", "modules", "binary MiB")
	for _, p := range []struct{ name, what string }{
		{"plainserver", "a grpc.Server"}, {"chatserver", "a grpc.Server and chat"},
		{"plainclient", "a gRPC connection"}, {"chatclient", "a chat client"},
	} {
		modules, err := modules(programs + p.name)
		if err != nil {
			return err
		}
		size, err := build(filepath.Join(dir, p.name), programs+p.name)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "%-28s %8d %12.1f\n", p.what, modules, size)
	}
	return idle(filepath.Join(dir, "chatserver"), dir, out)
}

// modules counts those that a program links, its own not.
func modules(pkg string) (int, error) {
	list, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", pkg).Output()
	if err != nil {
		return 0, err
	}
	all := strings.Fields(string(list))
	slices.Sort(all)
	return len(slices.Compact(all)), nil
}

// build makes a binary as it would be shipped, and returns its size in MiB.
func build(to, pkg string) (float64, error) {
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, pkg).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	info, err := os.Stat(to)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / (1 << 20), nil
}

// idle runs three nodes with nobody there, each in a process of its own.
func idle(program, dir string, out io.Writer) (err error) {
	const nodes = 3
	addrs, err := freeAddrs(nodes)
	if err != nil {
		return err
	}
	var lines []*bufio.Scanner
	for i := range nodes {
		own := append([]string{addrs[i]}, slices.Delete(slices.Clone(addrs), i, i+1)...)
		id := fmt.Sprintf("n%d", i+1)
		c := exec.Command(program, "-id", id, "-addrs", strings.Join(own, ","), "-dir", filepath.Join(dir, id))
		c.Stderr = os.Stderr
		stdin, ierr := c.StdinPipe()
		stdout, oerr := c.StdoutPipe()
		if err := errors.Join(ierr, oerr, c.Start()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stdin.Close(), c.Wait()) }()
		lines = append(lines, bufio.NewScanner(stdout))
	}
	_, _ = fmt.Fprintf(out, "\n%-28s %10s %10s %10s %12s\n", "an idle node of three", "goroutines", "heap MiB", "RSS MiB", "CPU % of one")
	for i, l := range lines {
		var n struct {
			Goroutines int     `json:"goroutines"`
			HeapMiB    float64 `json:"heap_mib"`
			RSSMiB     float64 `json:"rss_mib"`
			CPUPercent float64 `json:"cpu_percent"`
		}
		l.Scan()
		if err := errors.Join(l.Err(), json.Unmarshal(l.Bytes(), &n)); err != nil {
			return fmt.Errorf("node %d: %w", i+1, err)
		}
		_, _ = fmt.Fprintf(out, "%-28s %10d %10.1f %10.1f %12.2f\n", fmt.Sprintf("n%d", i+1), n.Goroutines, n.HeapMiB, n.RSSMiB, n.CPUPercent)
	}
	return nil
}

func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
