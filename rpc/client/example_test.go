package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"time"

	"example.com/chat/rpc/client"
)

// One address is enough, since the others are learned; more help while some nodes are down.
func ExampleDial() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, []string{"app-1.internal:8443", "app-2.internal:8443"}, client.WithTLS(&tls.Config{}))
	if err != nil {
		log.Fatal(err) // no node has answered
	}
	defer c.Close()
	if _, err := c.Login(ctx, "alice", "correct horse battery staple"); errors.Is(err, client.ErrBadCredentials) {
		log.Fatal("wrong name or password")
	} else if err != nil {
		log.Fatal(err)
	}
	rooms := 0
	for room, err := range c.Rooms(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s%s has %d unread messages\n", room.Name, room.Peer, room.Unread)
		rooms++
	}
	fmt.Println(rooms, "rooms")
}

// Send tries every node until its context ends. When it cannot tell whether the message was sent, the
// same draft may be sent again, now or after a restart of the program: it appears once.
func ExampleClient_Send() {
	var c *client.Client // from Dial
	draft := client.Draft{Text: "Hello!", OperationID: c.NewOperationID()}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		receipt, err := c.Send(ctx, client.ToUser("bob"), draft)
		cancel()
		switch {
		case err == nil:
			fmt.Println("message", receipt.Seq, "of", receipt.RoomID)
			return
		case errors.Is(err, client.ErrUnknownOutcome), errors.Is(err, client.ErrNoLeader), errors.Is(err, client.ErrOverloaded):
			time.Sleep(time.Second) // and again with the same id
		default:
			log.Fatal(err) // refused: it will be refused again
		}
	}
}
