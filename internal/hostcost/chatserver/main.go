// Command chatserver is plainserver with chat in it. It waits until it is ready and for as long as
// -idle, and prints what the node has cost meanwhile as a line of JSON; a line on standard input ends it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"example.com/chat"
)

// idle is what is printed.
type idle struct {
	Goroutines int     `json:"goroutines"`  // more than before chat
	HeapMiB    float64 `json:"heap_mib"`    // in use after a collection, more than before chat
	RSSMiB     float64 `json:"rss_mib"`     // the most that the process had
	CPUPercent float64 `json:"cpu_percent"` // of one core
}

func main() {
	id := flag.String("id", "n1", "the node's id")
	addrs := flag.String("addrs", "", "the addresses of all nodes, this one's first")
	dir := flag.String("dir", "", "the data directory")
	wait := flag.Duration("idle", 10*time.Second, "how long to look at the idle node")
	flag.Parse()
	if err := run(*id, strings.Split(*addrs, ","), *dir, *wait); err != nil {
		log.Fatal(err)
	}
}

func run(id string, addrs []string, dir string, wait time.Duration) error {
	ctx := context.Background()
	lis, err := net.Listen("tcp", addrs[0])
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	before, heap := runtime.NumGoroutine(), heapMiB()
	node, err := chat.New(chat.Options{NodeID: id, DataDir: dir, Advertise: addrs[0], Seeds: addrs, BootstrapExpect: len(addrs)})
	if err != nil {
		return err
	}
	node.Register(server)
	go func() { _ = server.Serve(lis) }() // ends with the process
	if err := node.Start(ctx); err != nil {
		return err
	}
	if err := node.Ready(ctx); err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // for what a start leaves to do
	cpu, start := cpuTime(), time.Now()
	time.Sleep(wait)
	out := idle{
		Goroutines: runtime.NumGoroutine() - before,
		CPUPercent: 100 * (cpuTime() - cpu).Seconds() / time.Since(start).Seconds(),
		HeapMiB:    heapMiB() - heap,
		RSSMiB:     float64(usage().Maxrss) / 1024,
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // the others are still measured
	return nil
}

func heapMiB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse) / (1 << 20)
}

func cpuTime() time.Duration {
	u := usage()
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func usage() (u syscall.Rusage) {
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return u
}
