package client

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	"example.com/chat/rpc/chatpb"
)

// quick answers all sends of a frame at once.
func quick(s talk) error {
	if err := s.Send(&chatpb.ConnectResponse{MaxInFlight: 1024}); err != nil {
		return err
	}
	for number := uint64(1); ; {
		f, err := s.Recv()
		if err != nil {
			return nil
		}
		answer := &chatpb.ConnectResponse{}
		for range f.Sends {
			answer.Outcomes = append(answer.Outcomes, receipt(number, number))
			number++
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

// BenchmarkSend: n senders on one client, and a node that answers at once. cpu-ns/op counts both.
func BenchmarkSend(b *testing.B) {
	for _, n := range []int{1, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			nd := &node{server: grpc.NewServer(), c: &cluster{}, connect: quick}
			chatpb.RegisterClusterServiceServer(nd.server, nd)
			chatpb.RegisterEventServiceServer(nd.server, nd)
			go func() { _ = nd.server.Serve(lis) }() // ends with Stop
			defer nd.server.Stop()
			c, err := Dial(b.Context(), []string{lis.Addr().String()}, WithoutDiscovery())
			if err != nil {
				b.Fatal(err)
			}
			defer func() {
				if err := c.Close(); err != nil {
					b.Error(err)
				}
			}()
			draft := Draft{Text: strings.Repeat("x", 200)}
			var work sync.WaitGroup
			errs := make(chan error, n)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu()
			for i := range n {
				work.Go(func() {
					var err error
					for range (b.N + n - 1 - i) / n {
						_, failed := c.Send(b.Context(), ToRoom("01JZZZZZZZZZZZZZZZZZZZZZZZ"), draft)
						err = errors.Join(err, failed)
					}
					errs <- err
				})
			}
			work.Wait()
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			for range n {
				if err := <-errs; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cpu is what this process has used, in nanoseconds.
func cpu() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return r.Utime.Nano() + r.Stime.Nano()
}
