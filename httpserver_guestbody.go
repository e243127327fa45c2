package eventloop

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// A guestBody is the body of a request that came through a server that is not
// ours, and is taken with OnBody. A goroutine of its own reads it, because a
// response cannot interrupt a read from such a server.
type guestBody struct {
	src       io.Reader
	left      int64         // of what was announced; negative: nothing was
	interrupt func()        // makes a read return soon
	feed      chan struct{} // wakes the goroutine; one slot
	ended     chan struct{} // closed by it
}

// takeBody reads the body of r, or makes it a stream if it is long. length is
// what was announced, -1 if nothing was.
func (r *HTTPRequest) takeBody(src io.Reader, length int64, interrupt func()) error {
	over := r.guest().cfg.MaxInlineBody
	whole := src
	if over > 0 && length <= over {
		whole = io.LimitReader(src, over+1)
	}
	var body []byte
	if over <= 0 || length <= over {
		var err error
		if body, err = io.ReadAll(whole); err != nil {
			return err
		}
		if int64(len(body)) < length { // which fasthttp does not tell
			return io.ErrUnexpectedEOF
		}
		if over <= 0 || int64(len(body)) <= over {
			if len(body) > 0 {
				r.body = body
			}
			return nil
		}
	}
	r.stream = &bodyStream{first: body}
	r.guest().body = &guestBody{src: src, left: length, interrupt: interrupt, feed: make(chan struct{}, 1), ended: make(chan struct{})}
	return nil
}

// bodyRefusal returns the status for a body that could not be read.
func bodyRefusal(err error) int {
	var ne net.Error
	switch {
	case isTooLarge(err):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &ne) && ne.Timeout():
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

func isTooLarge(err error) bool {
	var tooLarge *http.MaxBytesError
	return errors.Is(err, fasthttp.ErrBodyTooLarge) || errors.As(err, &tooLarge)
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
	b, st := r.guest().body, r.stream
	defer close(b.ended)
	buf := sockio.GetBuffer(16 << 10)
	defer buf.Release()
	for r.awaitFeed() {
		n, err := len(st.first), error(nil)
		piece := st.first
		if st.first = nil; n == 0 {
			n, err = b.src.Read(buf.Room())
			piece = buf.Room()[:n]
		}
		if b.left >= 0 {
			if b.left -= int64(n); err == io.EOF && b.left > 0 {
				err = io.ErrUnexpectedEOF // which fasthttp does not tell
			}
		}
		r.loop.count.httpBytesIn.Add(uint64(n))
		if n > 0 && !r.giveBody(piece) {
			return
		}
		if err != nil {
			r.endGuestBody(err)
			return
		}
	}
}

// awaitFeed waits until a piece is wanted, and returns false if none will be.
func (r *HTTPRequest) awaitFeed() bool {
	for {
		r.mu.Lock()
		st := r.stream
		wanted, over := st.wanted(), r.over()
		busy := st.held && !st.parked
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

// giveBody hands a piece to the dispatcher, and returns false if the loop has
// ended.
func (r *HTTPRequest) giveBody(piece []byte) bool {
	r.mu.Lock()
	r.stream.piece, r.stream.held = piece, true
	r.mu.Unlock()
	return r.loop.Post((*httpBodyTask)(r).run) == nil
}

// endGuestBody tells r how its body ended, after the last piece.
func (r *HTTPRequest) endGuestBody(err error) {
	r.awaitGiven()
	if err == io.EOF {
		err = nil
	} else {
		err = r.opError(err)
	}
	r.mu.Lock()
	st := r.stream
	told := st.ended // by lose
	if !told {
		st.ended, st.err = true, err
	}
	r.mu.Unlock()
	if !told {
		r.loop.Post((*httpBodyTask)(r).run)
	}
}

// awaitGiven waits until the dispatcher has given the last piece back, which it
// keeps during a pause.
func (r *HTTPRequest) awaitGiven() {
	for {
		r.mu.Lock()
		st := r.stream
		wait := st.held && (!st.parked || !r.over())
		r.mu.Unlock()
		if !wait {
			return
		}
		select {
		case <-r.guest().body.feed:
		case <-r.loop.ctx.Done():
			return
		}
	}
}

// A boundedBody is a body of at most left bytes.
type boundedBody struct {
	src  io.Reader
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fasthttp.ErrBodyTooLarge
	}
	return n, err
}

// soon is when a read for a body that is not wanted any more ends.
func soon() time.Time { return time.Now().Add(lingerTimeout) }
