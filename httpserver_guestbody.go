package eventloop

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// A guestBody reads the body of a request that came through a server that is not ours.
// If the body is a stream, a goroutine of its own does, because a response cannot
// interrupt a read from such a server.
type guestBody struct {
	loop      *Loop
	src       io.Reader
	left      int64          // of what was announced; negative: nothing was
	err       error          // of src, that follows the last piece
	buf       *sockio.Buffer // that pieces are read into
	interrupt func()         // makes a read return soon
	feed      bell           // wakes the goroutine
	ended     chan struct{}  // closed by it
}

// nextPiece implements bodySource.
func (b *guestBody) nextPiece() ([]byte, error) {
	for b.err == nil {
		n, err := b.src.Read(b.buf.Room())
		b.left -= int64(n)
		b.err = b.whole(err)
		b.loop.count.httpBytesIn.Add(uint64(n))
		if n > 0 {
			return b.buf.Room()[:n], nil
		}
	}
	return nil, b.err
}

// whole returns err as an error of ours, and for an end that comes too early, of which
// fasthttp does not tell, one.
func (b *guestBody) whole(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == io.EOF && b.left > 0:
		return io.ErrUnexpectedEOF
	case errors.As(err, &tooLarge):
		return fasthttp.ErrBodyTooLarge
	}
	return err
}

// takeBody reads the body of r, or makes it a stream if it is long. length is
// what was announced, -1 if nothing was.
func (r *HTTPRequest) takeBody(src io.Reader, length int64, interrupt func()) error {
	if length == 0 {
		return nil
	}
	b := &guestBody{loop: r.loop, src: src, left: length, interrupt: interrupt, buf: sockio.GetBuffer(16 << 10)}
	err := r.readBody(b, length)
	if r.stream == nil {
		b.buf.Release()
		return err
	}
	b.feed, b.ended = newBell(), make(chan struct{})
	r.guest().body = b
	return nil
}

// startBody begins to read a body that is a stream.
func (r *HTTPRequest) startBody() {
	if r.guest().body != nil {
		go r.pumpBody()
	}
}

// stopBody ends the reading of a body that is a stream, when the response is out or
// will not come. Afterwards nothing reads it, and no callback has a piece of it.
func (r *HTTPRequest) stopBody() {
	b := r.guest().body
	if b == nil {
		return
	}
	r.mu.Lock()
	left := !r.stream.ended
	r.mu.Unlock()
	if left {
		b.interrupt()
	}
	<-b.ended
}

// isPumping reports whether a body that is a stream may be being read.
func (r *HTTPRequest) isPumping() bool {
	b := r.guest().body
	if b == nil {
		return false
	}
	select {
	case <-b.ended:
		return false
	default:
		return true
	}
}

// pumpBody is the goroutine. It reads a piece when the application wants one.
func (r *HTTPRequest) pumpBody() {
	b := r.guest().body
	defer close(b.ended)
	defer b.buf.Release()
	for r.awaitFeed() {
		r.moveBody()
	}
}

// awaitFeed waits until a piece is wanted, and returns false if none will be.
func (r *HTTPRequest) awaitFeed() bool {
	for {
		r.mu.Lock()
		st, over := r.stream, r.over()
		wanted, busy := st.wanted(), st.inUse(over)
		over = over || st.ended
		r.mu.Unlock()
		switch {
		case busy: // the dispatcher has the piece, whatever has become of the request
		case over:
			return false
		case wanted:
			return true
		}
		select {
		case <-r.guest().body.feed:
		case <-r.loop.ctx.Done():
			return false // no callback runs any more
		}
	}
}

// soon is when a read for a body that is not wanted any more ends.
func soon() time.Time { return time.Now().Add(lingerTimeout) }
