// Command chatclient is a program that chats.
package main

import (
	"context"
	"log"

	"example.com/chat/rpc/client"
)

func main() {
	ctx := context.Background()
	c, err := client.Dial(ctx, []string{"localhost:1"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, client.SubscribeOptions{}); err != nil {
		log.Fatal(err)
	}
	if _, err := c.Send(ctx, client.ToUser("bob"), client.Draft{Text: "hello"}); err != nil {
		log.Fatal(err)
	}
}
