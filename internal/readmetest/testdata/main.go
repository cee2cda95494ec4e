// Command host is the README's program, which a test puts in place of the comments, three times in one
// process, on TLS; and the README's client.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/chat"
	"example.com/chat/rpc/client"
)

func serve(ctx context.Context, grpcServer *grpc.Server, listener net.Listener, id, dataDir, addr string, addrs []string,
	secret []byte, tlsConfig *tls.Config, zapLogger *zap.Logger) error {
	// PROGRAM
	return nil
}

func chatter(ctx context.Context, addrs []string, tlsConfig *tls.Config, password string) error {
	// CLIENT
	return err
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	serving, stop := context.WithCancel(ctx)
	dir, err := os.MkdirTemp("", "host-")
	must(err)
	defer os.RemoveAll(dir)
	cert, conf := certificate()
	secret := make([]byte, 32)
	rand.Read(secret)
	var listeners []net.Listener
	var addrs []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		listeners = append(listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	var nodes sync.WaitGroup
	for i, l := range listeners {
		nodes.Go(func() {
			server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
			id := fmt.Sprintf("app-%d", i+1)
			must(serve(serving, server, l, id, filepath.Join(dir, id), addrs[i], addrs, secret, conf, zap.NewNop()))
		})
	}
	c, err := client.Dial(ctx, addrs, client.WithTLS(conf))
	must(err)
	const password = "correct horse"
	for _, name := range []string{"alice", "bob"} {
		_, err = c.Register(ctx, name, password)
		must(err)
	}
	must(c.Close())
	until("hello <nil>", func(ctx context.Context) { must(chatter(ctx, addrs, conf, password)) })
	for _, addr := range addrs {
		must(ready(ctx, addr, conf))
	}
	stop()
	nodes.Wait()
	fmt.Println("ended")
}

// ready waits until the program at an address has gone on after its Ready: two of three can chat before the third.
func ready(ctx context.Context, addr string, tlsConfig *tls.Config) error {
	c, err := client.Dial(ctx, []string{addr}, client.WithTLS(tlsConfig), client.WithoutDiscovery())
	if err != nil {
		return err
	}
	defer c.Close()
	for s, err := c.Status(ctx); err != nil || !s.Ready; s, err = c.Status(ctx) {
		if ctx.Err() != nil {
			return fmt.Errorf("%s is not ready: %w", addr, ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// until ends the context of f when a line with a word was printed.
func until(word string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := os.Stdout
	r, w, err := os.Pipe()
	must(err)
	os.Stdout = w
	var work sync.WaitGroup
	work.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(out, lines.Text())
			if strings.Contains(lines.Text(), word) {
				cancel()
			}
		}
	})
	f(ctx)
	must(w.Close())
	work.Wait()
	os.Stdout = out
}

func certificate() (tls.Certificate, *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(err)
	parsed, err := x509.ParseCertificate(der)
	must(err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, &tls.Config{RootCAs: roots}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
