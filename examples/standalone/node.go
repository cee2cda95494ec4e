package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"example.com/chat"
)

const (
	// drainTime is how long a node may take to leave in good order.
	drainTime = 10 * time.Second
	// greetTime is how long a new connection may say nothing. Stop waits for those that do, and gRPC gives them two
	// minutes.
	greetTime = 3 * time.Second
)

// serve runs one node until ctx ends, or until it fails.
func serve(ctx context.Context, f flags, in io.Reader, out, log io.Writer) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	o.Logger = logger(log, f.verbose)
	lis, err := net.Listen("tcp", o.Advertise)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program: choose another --port, or end that program", o.Advertise)
	}
	if err != nil {
		// Not %w: what else to do when permission is denied is for files.
		return fmt.Errorf("%v; want --host to be this machine, and a --port that this user may take", err)
	}
	defer func() { _ = lis.Close() }() // the server has closed it, if it came so far
	node, err := chat.New(o)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ConnectionTimeout(greetTime))
	node.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	if err := node.Start(ctx); err != nil {
		server.Stop()
		return errors.Join(err, node.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f.child {
		go func() { // ends with standard input
			_, _ = io.Copy(io.Discard, in) // that it has ended is all that counts
			cancel()
		}()
	}
	_, _ = fmt.Fprintf(out, "%s listens on %s and keeps its data in %s; Ctrl-C ends it\n", o.NodeID, o.Advertise, o.DataDir)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		announce(ctx, node, out)
	}()
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintf(out, "%s hands over and ends\n", o.NodeID)
	case <-node.Done():
		err = node.Err()
	case err = <-served:
	}
	cancel()
	<-announced
	return errors.Join(err, leave(node, server))
}

// announce says when the node can serve, and until then what it waits for.
func announce(ctx context.Context, node *chat.Node, out io.Writer) {
	for said := ""; ; {
		some, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := node.Ready(some)
		cancel()
		s := node.Status()
		select {
		case <-node.Done():
			return
		default:
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			_, _ = fmt.Fprintf(out, "%s is ready; the leader is %s\n", s.NodeID, s.Leader)
			return
		case s.Detail != "" && s.Detail != said:
			said = s.Detail
			_, _ = fmt.Fprintf(out, "%s waits: %s\n", s.NodeID, said)
		}
	}
}

// leave takes a node out of service without a gap for its clients, and in bounded time: what could not
// be drained is cut off.
func leave(node *chat.Node, server *grpc.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if node.Err() != nil {
		server.Stop()    // it serves nothing any more
		_ = node.Close() // what a disk that has failed says again
		return nil
	}
	_ = node.Drain(ctx) // what it says is not for who ends the program
	stop := context.AfterFunc(ctx, server.Stop)
	server.GracefulStop()
	stop()
	return node.Close()
}

// logger writes what an operator may want to act on, and each thing a few times only while it goes on:
// raft says of a peer that is down with every heartbeat that it is.
func logger(w io.Writer, verbose bool) *zap.Logger {
	level := zapcore.WarnLevel
	if verbose {
		level = zapcore.InfoLevel
	}
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime = zapcore.ISO8601TimeEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(c), zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(zapcore.NewSamplerWithOptions(core, 10*time.Second, 2, 0))
}
