// Command cli chats in a terminal. Without a command it is interactive; with one it does that and
// ends, as the user that the last login of this kind left. "standalone client" is the same.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"example.com/chat/examples/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, "cli", os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
