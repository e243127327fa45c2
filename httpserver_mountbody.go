package eventloop

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// A mountBody reads the body of a request from a foreign server. A streamed body has its
// own goroutine for that, because a response cannot interrupt a read from such a server.
type mountBody struct {
	loop      *Loop
	src       io.Reader
	left      int64          // unread bytes of the announced length; negative if none was announced
	err       error          // of src, after the last piece
	buf       *sockio.Buffer // for the pieces
	interrupt func()         // makes a read return soon
	feed      wakeChan       // wakes the goroutine
	ended     chan struct{}  // closed by the goroutine
}

// nextPiece implements bodySource.
func (b *mountBody) nextPiece() ([]byte, error) {
	for b.err == nil {
		room := b.buf.Room()
		n, err := b.src.Read(room)
		n, err = netcore.CheckCount("Read", b.src, len(room), n, err)
		b.left -= int64(n)
		b.err = b.whole(err)
		b.loop.count.httpBytesIn.Add(uint64(n))
		if n > 0 {
			return room[:n], nil
		}
	}
	return nil, b.err
}

// whole translates an error of the server. An early end of the body, which fasthttp does
// not report, becomes io.ErrUnexpectedEOF.
func (b *mountBody) whole(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == io.EOF && b.left > 0:
		return io.ErrUnexpectedEOF
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge.Limit)
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return fmt.Errorf("%w: %w", ErrHTTPTooLarge, err)
	}
	return err
}

// takeBody reads the body of r, or makes it a stream if it is long. length is the announced
// length, or -1 if there is none.
func (r *HTTPRequest) takeBody(src io.Reader, length int64, interrupt func()) error {
	if length == 0 {
		return nil
	}
	b := &mountBody{loop: r.loop, src: src, left: length, interrupt: interrupt, buf: sockio.GetBuffer(16 << 10)}
	err := r.readBody(b, length)
	if r.stream == nil {
		b.buf.Release()
		return err
	}
	b.feed, b.ended = newWakeChan(), make(chan struct{})
	r.mount().body = b
	return nil
}

// startBody starts the goroutine that reads a streamed body.
func (r *HTTPRequest) startBody() {
	if r.mount().body != nil {
		go r.pumpBody()
	}
}

// stopBody stops reading a streamed body, when the response is sent or lost. Afterwards no
// goroutine reads the body, and no callback has a piece of it.
func (r *HTTPRequest) stopBody() {
	b := r.mount().body
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

// isPumping reports whether the goroutine of a streamed body is running.
func (r *HTTPRequest) isPumping() bool {
	b := r.mount().body
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

// pumpBody is the goroutine of a streamed body. It reads a piece when the application
// wants one.
func (r *HTTPRequest) pumpBody() {
	b := r.mount().body
	defer close(b.ended)
	defer b.buf.Release()
	for r.awaitFeed() {
		r.moveBody()
	}
}

// awaitFeed waits until the application wants a piece. It returns false if it will want no
// more.
func (r *HTTPRequest) awaitFeed() bool {
	for {
		r.mu.Lock()
		st, over := r.stream, r.over()
		wanted, busy := st.wanted(), st.inUse(over)
		over = over || st.ended
		r.mu.Unlock()
		switch {
		case busy: // the dispatcher has a piece, even if the request is over
		case over:
			return false
		case wanted:
			return true
		}
		select {
		case <-r.mount().body.feed:
		case <-r.loop.ctx.Done():
			return false // no callback runs any more
		}
	}
}

// soon returns the read deadline for a body that is no longer wanted.
func soon() time.Time { return time.Now().Add(lingerTimeout) }
