package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"example.com/chat/rpc/peer/peerpb"
)

// maxFrame is how many bytes of a frame are taken, far fewer than the 4 MiB that a gRPC server with default options
// receives.
const maxFrame = 64 << 10

// fullFrame is how many are sent: with its head the frame then fits into a buffer of 32 KiB. What is larger takes one of
// 1 MiB of gRPC's pool, which clears it each time, on both sides (mem/buffer_pool.go, defaultBufferPoolSizeExponents).
const fullFrame = 32<<10 - 16

// ahead is how many frames are received before they are read, and how many are written before they are sent. Each has
// many hands to go through, and with none in between each hand waits for the next one's turn on a busy processor.
// Strangers, of whom there are maxStrangers at most, can have this node keep as many.
const ahead = 8

// linger is how long a closed Conn waits for the other side to take what was written.
const linger = 5 * time.Second

// Both sides send an empty frame every pulse, which says that they are there, and a tunnel on which
// nothing comes for silence is over. TCP would take up to hours to notice that the other machine is
// gone; raft would wait that long in the middle of a snapshot, deaf to everybody, and PeerService for
// answers. HTTP/2 has pings for this, and a server with default options punishes who uses them.
const (
	pulse   = 4 * time.Second
	silence = 3 * pulse
)

// errSilent ends a tunnel: see silence.
var errSilent = fmt.Errorf("tunnel: nothing has come for %v", silence)

// Conn is a net.Conn over a bidirectional gRPC stream of byte frames. It passes nettest.TestConn.
// Frames keep their borders for those who use ReadFrame, and Write with at most fullFrame bytes.
//
// Sending and receiving on a stream know no deadline, so two goroutines do it, pump and push; both
// end with the stream. Nothing here holds a mutex while it waits: a goroutine that waits for a
// mutex is not durably blocked for testing/synctest, and fake time would stand still.
type Conn struct {
	frames  frames
	life    context.Context // ends with the stream
	hangUp  func()          // ends our side of the stream after what was sent
	abort   func()          // ends the stream at once
	local   Addr
	remote  Addr
	in      chan []byte // from pump, which closes it
	inErr   error       // why in was closed; read it only after that
	out     chan []byte // to push
	broken  chan struct{}
	outErr  error         // why broken was closed; read it only after that
	reading chan struct{} // holds one token while Read runs; guards frame and rest
	frame   []byte        // that Read is in
	rest    []byte        // of it
	writing chan struct{} // holds one token while Write runs
	done    chan struct{} // closed by Close
	once    sync.Once
	readBy  *deadline
	writeBy *deadline
}

var _ net.Conn = (*Conn)(nil)

// Addr names one end of a tunnel: a node, and what the tunnel is for.
type Addr struct {
	Node    string
	Purpose Purpose
}

// Network is "tunnel".
func (a Addr) Network() string { return "tunnel" }

func (a Addr) String() string { return a.Node }

// frames is one side of a stream.
type frames interface {
	// context is called before all else. From then on gRPC does not move a stream to another connection when the first one
	// broke before it had sent anything of it (see Context of grpc.ClientStream): it would wait for the other one with a
	// mutex held that send and receive take. Whoever wants a tunnel dials again.
	context() context.Context
	send([]byte) error
	// keeps reports whether somebody may still look at a frame that was sent, as a host's stats handler may.
	keeps() bool
	receive() ([]byte, error)
}

type clientFrames struct {
	s  grpc.BidiStreamingClient[peerpb.TunnelRequest, peerpb.TunnelResponse]
	in *received
}

func (f clientFrames) context() context.Context { return f.s.Context() }
func (f clientFrames) send(b []byte) error      { return f.s.Send(&peerpb.TunnelRequest{Data: b}) }
func (f clientFrames) keeps() bool              { return false } // grpcdial dials with no stats handler
func (f clientFrames) receive() ([]byte, error) {
	err := f.s.RecvMsg(f.in)
	return f.in.take(), err
}

type serverFrames struct {
	s  grpc.BidiStreamingServer[peerpb.TunnelRequest, peerpb.TunnelResponse]
	in *received
}

func (f serverFrames) context() context.Context { return f.s.Context() }
func (f serverFrames) send(b []byte) error      { return f.s.Send(&peerpb.TunnelResponse{Data: b}) }
func (f serverFrames) keeps() bool              { return true }
func (f serverFrames) receive() ([]byte, error) {
	err := f.s.RecvMsg(f.in)
	return f.in.take(), err
}

func newConn(f frames, hangUp, abort func()) *Conn {
	c := &Conn{
		frames: f, life: f.context(), hangUp: hangUp, abort: abort,
		in: make(chan []byte, ahead), out: make(chan []byte, ahead), broken: make(chan struct{}), done: make(chan struct{}),
		reading: make(chan struct{}, 1), writing: make(chan struct{}, 1),
		readBy: newDeadline(), writeBy: newDeadline(),
	}
	go c.pump()
	go c.push()
	return c
}

// pump receives some frames ahead of Read; HTTP/2 flow control does the rest. After Close it goes on
// and throws frames away until the other side has ended too.
func (c *Conn) pump() {
	defer close(c.in)
	quiet := time.AfterFunc(silence, c.abort)
	for {
		quiet.Reset(silence)
		frame, err := c.frames.receive()
		if !quiet.Stop() && err != nil {
			err = errSilent
		}
		if err == nil && len(frame) == 0 {
			continue
		}
		if err == nil && len(frame) > maxFrame {
			err = fmt.Errorf("tunnel: a frame of %d bytes", len(frame))
			c.abort()
		}
		if err != nil {
			c.inErr = err
			return
		}
		select {
		case c.in <- frame:
		case <-c.done:
		case <-c.life.Done(): // nobody reads, and the stream was aborted
			c.inErr = c.life.Err()
			return
		}
	}
}

// ReadFrame returns the next frame whole. It is not to be mixed with Read.
func (c *Conn) ReadFrame() ([]byte, error) {
	passed := c.readBy.wait()
	select { // a deadline in the past wins over data, as in package net
	case <-passed:
		return nil, os.ErrDeadlineExceeded
	case <-c.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case f, ok := <-c.in:
		if !ok && errors.Is(c.inErr, io.EOF) {
			return nil, io.EOF
		} else if !ok {
			return nil, fmt.Errorf("tunnel from %q: %w", c.remote.Node, c.inErr)
		}
		return f, nil
	case <-passed:
		return nil, os.ErrDeadlineExceeded
	case <-c.done:
		return nil, net.ErrClosed
	}
}

func (c *Conn) Read(p []byte) (int, error) {
	select {
	case c.reading <- struct{}{}:
	case <-c.done:
		return 0, net.ErrClosed
	case <-c.readBy.wait():
		return 0, os.ErrDeadlineExceeded
	}
	defer func() { <-c.reading }()
	for len(c.rest) == 0 && len(p) > 0 {
		f, err := c.ReadFrame()
		if err != nil {
			return 0, err
		}
		c.frame, c.rest = f, f
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		reuse(c.frame)
		c.frame = nil
	}
	return n, nil
}

// Write returns when the frames are handed to push, as a write to a socket returns when the kernel
// has the bytes: a failure to send shows in a later call.
func (c *Conn) Write(p []byte) (n int, err error) {
	passed := c.writeBy.wait()
	select {
	case c.writing <- struct{}{}:
	case <-c.done:
		return 0, net.ErrClosed
	case <-passed:
		return 0, os.ErrDeadlineExceeded
	}
	defer func() { <-c.writing }()
	for n < len(p) {
		select { // a deadline in the past wins over room
		case <-passed:
			return n, os.ErrDeadlineExceeded
		case <-c.done:
			return n, net.ErrClosed
		default:
		}
		frame := c.copied(p[n:min(len(p), n+fullFrame)])
		select {
		case c.out <- frame:
			n += len(frame)
		case <-c.broken:
			return n, fmt.Errorf("tunnel to %q: %w", c.remote.Node, c.outErr)
		case <-passed:
			return n, os.ErrDeadlineExceeded
		case <-c.done:
			return n, net.ErrClosed
		}
	}
	return n, nil
}

// copied is a frame for push.
func (c *Conn) copied(p []byte) []byte {
	if c.frames.keeps() {
		return append([]byte(nil), p...)
	}
	f := used.Get().(*[fullFrame]byte)
	return f[:copy(f[:], p)]
}

// push sends one frame at a time, so that HTTP/2 flow control reaches Write. After Close it sends what was written.
func (c *Conn) push() {
	defer close(c.broken)
	beat := time.NewTicker(pulse)
	defer beat.Stop()
	for {
		var f []byte
		select {
		case f = <-c.out:
		case <-beat.C:
		case <-c.done:
			select {
			case f = <-c.out:
			default:
				c.outErr = net.ErrClosed
				c.hangUp()
				return
			}
		case <-c.life.Done():
			c.outErr = c.life.Err()
			return
		}
		if c.outErr = c.frames.send(f); c.outErr != nil {
			return
		}
		if !c.frames.keeps() {
			reuse(f)
		}
	}
}

// Close lets what was written go out, for as long as linger. It does not wait for it.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.done)
		time.AfterFunc(linger, c.abort)
	})
	return nil
}

func (c *Conn) LocalAddr() net.Addr                { return c.local }
func (c *Conn) RemoteAddr() net.Addr               { return c.remote }
func (c *Conn) SetReadDeadline(t time.Time) error  { c.readBy.set(t); return nil }
func (c *Conn) SetWriteDeadline(t time.Time) error { c.writeBy.set(t); return nil }
func (c *Conn) SetDeadline(t time.Time) error      { c.readBy.set(t); c.writeBy.set(t); return nil }
