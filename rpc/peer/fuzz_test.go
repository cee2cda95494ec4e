package peer

import (
	"bytes"
	"context"
	"io"
	"testing"

	"google.golang.org/grpc/status"

	"example.com/chat/rpc/peer/peerpb"
)

// script is one side of a stream that has everything to say in advance.
type script struct {
	ctx  context.Context
	in   [][]byte
	sent chan []byte
}

func (s *script) context() context.Context { return s.ctx }

func (s *script) send(b []byte) error {
	select {
	case s.sent <- b:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (*script) keeps() bool { return true }

func (s *script) receive() ([]byte, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	f := s.in[0]
	s.in = s.in[1:]
	return f, nil
}

func scripted(frames ...[]byte) (c *Conn, sent chan []byte, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &script{ctx: ctx, in: frames, sent: make(chan []byte, 100)}
	return newConn(s, func() {}, cancel), s.sent, cancel
}

// FuzzAnswer: whatever a stranger sends, with or without the secret, and with or without the right
// beginning, he gets an answer and no tunnel, for he cannot know the nonce.
func FuzzAnswer(f *testing.F) {
	x := NewTunnels(options("b", nil))
	good := hello(f, x, func(*peerpb.Hello) {})
	f.Add([]byte{}, []byte{}, false)
	f.Add(good, []byte("proof"), false)
	f.Add(good[32:], []byte("proof"), true)
	f.Add([]byte("\x08\x01\x12\xff\xff\xff\xff\x0f"), []byte{}, true)
	f.Add(make([]byte, maxHello+1), make([]byte, maxFrame+1), false)
	f.Fuzz(func(t *testing.T, first, second []byte, sign bool) {
		if sign {
			first = append(x.mac("hello", first), first...)
		}
		c, _, end := scripted(first, second)
		defer end()
		err := x.answer(c)
		if _, ok := status.FromError(err); err == nil || !ok {
			t.Errorf("got %v", err)
		}
	})
}

// FuzzGreet: whatever answers, with or without the secret, is not taken for another node than the
// one that was called, and breaks nothing.
func FuzzGreet(f *testing.F) {
	x := NewTunnels(options("a", nil))
	f.Add([]byte{0}, false)
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte("x"), nonceSize+32+1), false)
	f.Add([]byte("0123456789abcdefb"), true)
	f.Add([]byte("0123456789abcdefc"), true)
	f.Fuzz(func(t *testing.T, answer []byte, sign bool) {
		if len(answer) == 0 && !sign {
			return // is silence
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s := &echo{script: script{ctx: ctx, sent: make(chan []byte, 100)}, first: make(chan []byte, 1), answer: func(hello []byte) []byte {
			if !sign {
				return answer
			}
			n, id := cut(answer, nonceSize)
			return bytes.Join([][]byte{n, x.mac("accept", hello[32:], n, id), id}, nil)
		}}
		c := newConn(s, func() {}, cancel)
		c.local, c.remote = Addr{"a", Call}, Addr{"b", Call}
		err := x.greet(c)
		if right := sign && len(answer) == nonceSize+1 && answer[nonceSize] == 'b'; right != (err == nil) {
			t.Errorf("got %v", err)
		}
	})
}

// echo answers the first frame.
type echo struct {
	script
	first  chan []byte
	answer func([]byte) []byte
	over   bool
}

func (e *echo) send(b []byte) error {
	select {
	case e.first <- b:
	default:
	}
	return nil
}

func (e *echo) receive() ([]byte, error) {
	if e.over {
		<-e.ctx.Done()
		return nil, e.ctx.Err()
	}
	e.over = true
	select {
	case b := <-e.first:
		return e.answer(b), nil
	case <-e.ctx.Done():
		return nil, e.ctx.Err()
	}
}

// FuzzRead: Read gives the bytes of all frames one after the other, whatever their borders and its
// own, and nothing of a frame that is too large.
func FuzzRead(f *testing.F) {
	f.Add([]byte("one, two"), uint16(3), uint8(2), false)
	f.Add([]byte{}, uint16(0), uint8(0), true)
	f.Add(bytes.Repeat([]byte("x"), 1000), uint16(1), uint8(255), true)
	f.Fuzz(func(t *testing.T, data []byte, frame uint16, buffer uint8, tooLarge bool) {
		var frames [][]byte
		for rest := data; len(rest) > 0; {
			var first []byte
			first, rest = cut(rest, int(frame)+1)
			frames = append(frames, first, nil) // between frames the other side may say that it is there
		}
		if tooLarge {
			frames = append(frames, make([]byte, maxFrame+1))
		}
		c, _, end := scripted(frames...)
		defer end()
		var got []byte
		p := make([]byte, int(buffer)+1)
		for {
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				if (err == io.EOF) == tooLarge {
					t.Errorf("got %v", err)
				}
				break
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, want %d", len(got), len(data))
		}
	})
}
