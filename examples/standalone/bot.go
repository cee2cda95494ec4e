package main

import (
	"context"
	"strings"
	"sync"

	"example.com/chat/rpc/client"
)

// bot answers who writes to it, so that one person alone has somebody to talk to.
type bot struct {
	client *client.Client
	work   sync.WaitGroup
	halt   context.CancelFunc
}

const botName = "echo"

// startBot makes the account and begins to answer.
func startBot(ctx context.Context, addrs []string) (*bot, error) {
	c, err := login(ctx, botName, addrs)
	if err != nil {
		return nil, err
	}
	life, halt := context.WithCancel(ctx)
	b := &bot{client: c, halt: halt}
	var lobby client.Room // for people; there it says nothing
	events, err := c.Subscribe(ctx, client.SubscribeOptions{})
	if err == nil {
		lobby, err = enter(ctx, c, "lobby")
	}
	if err != nil {
		b.close()
		return nil, err
	}
	b.work.Go(func() {
		for e, err := range events.All(life) {
			if err != nil {
				return // life has ended, or the bot was deleted
			}
			if m := e.Message; e.Kind == client.MessageSent && m.Sender != botName && m.RoomID != lobby.ID {
				_, _ = c.Send(life, client.ToRoom(m.RoomID), client.Draft{Text: answer(m.Text)}) // who wants an answer asks again
			}
		}
	})
	return b, nil
}

// answer is what the bot says to a text.
func answer(text string) string {
	if words := strings.Fields(text); len(words) > 0 && strings.EqualFold(words[0], "hello") {
		return "hello! press k in the other terminal, and write on"
	}
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "…"
	}
	return "you said: " + text
}

func (b *bot) close() {
	b.halt()
	b.work.Wait()
	_ = b.client.Close() // nothing is lost with a connection
}
