package eventloop

import (
	"bytes"
	"errors"
	"io"
	"math"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/valyala/fasthttp"
)

// This file reads requests. Package http1 has the grammar, which is strict: what
// two parsers could read in different ways is refused.

// readHead reads the header of a request, which stays in the reader. It returns
// the status of the refusal, or 0; an error means that there is no client to refuse.
func (c *httpConn) readHead() (head []byte, status int, err error) {
	limit := c.s.cfg.MaxHeaderBytes
	var until time.Duration
	var search http1.HeadSearch
	for {
		buf := c.in.p
		// Empty lines before a request are ignored (RFC 9112 section 2.2).
		if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
			c.in.discard(2)
			search = http1.HeadSearch{}
			continue
		}
		end, bad := search.Find(buf)
		switch {
		case end > 0 && end <= limit:
			return buf[:end], 0, nil
		case bad:
			return nil, fasthttp.StatusBadRequest, nil
		case len(buf) >= limit && bytes.IndexByte(buf, '\n') < 0:
			return nil, fasthttp.StatusRequestURITooLong, nil
		case len(buf) >= limit:
			return nil, fasthttp.StatusRequestHeaderFieldsTooLarge, nil
		}
		if until == 0 {
			until = after(c.s.cfg.ReadHeaderTimeout)
		}
		c.uncork() // responses to requests before this one
		if err := c.fillAll(until, headRead); err != nil {
			if pastDeadline(err) && len(buf) > 0 {
				return nil, fasthttp.StatusRequestTimeout, nil
			}
			return nil, 0, err
		}
	}
}

// readRequest reads a request, with its body unless that is to be a stream.
func (c *httpConn) readRequest() (r *HTTPRequest, status int, err error) {
	head, status, err := c.readHead()
	if err != nil || status != 0 {
		return nil, status, err
	}
	info, status := http1.ParseRequest(head)
	if status != 0 {
		return nil, status, nil
	}
	r = &HTTPRequest{loop: c.s.loop, via: c, mu: &c.core.Mutex, head: requestHead{text: string(head), Request: info}}
	c.in.discard(len(head))
	c.body = bodyReader{}
	if info.Chunked || info.Length > 0 {
		if status, err = c.startBody(r); status != 0 || err != nil {
			return nil, status, err
		}
	}
	return r, 0, nil
}

// startBody reads the body of r, or makes it a stream.
func (c *httpConn) startBody(r *HTTPRequest) (status int, err error) {
	cfg := c.s.cfg
	limit := cfg.MaxBodyBytes
	if limit < 0 {
		limit = math.MaxInt64
	}
	length := r.head.Length
	if length > limit {
		return fasthttp.StatusRequestEntityTooLarge, nil
	}
	c.body.expect = r.head.Expect
	c.body.Limit, c.body.MaxTrailer = limit, cfg.MaxHeaderBytes
	if r.head.Chunked {
		c.body.Chunked()
	} else {
		c.body.Fixed(length)
	}
	if over := cfg.MaxInlineBody; over > 0 && length > over {
		c.body.streamed = true
		r.stream = &bodyStream{}
		return 0, nil
	}
	return c.readBody(r)
}

// readBody reads a body whole, or until it is long enough to be a stream.
func (c *httpConn) readBody(r *HTTPRequest) (status int, err error) {
	over := c.s.cfg.MaxInlineBody
	for {
		p, err := c.peekBody()
		if err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return c.bodyStatus(err)
		}
		if r.body == nil {
			// Not for all that was announced: the rest may never come.
			r.body = make([]byte, 0, min(c.body.Left(), 64<<10))
		}
		r.body = append(r.body, p...)
		c.consumeBody(len(p))
		if over > 0 && r.head.Chunked && int64(len(r.body)) > over {
			c.body.streamed = true
			r.stream = &bodyStream{first: r.body}
			r.body = nil
			return 0, nil
		}
	}
}

// bodyStatus returns the refusal that an error of the body leads to.
func (c *httpConn) bodyStatus(err error) (status int, _ error) {
	switch {
	case err == errBadBody:
		return fasthttp.StatusBadRequest, nil
	case err == fasthttp.ErrBodyTooLarge:
		return fasthttp.StatusRequestEntityTooLarge, nil
	case pastDeadline(err):
		return fasthttp.StatusRequestTimeout, nil
	}
	return 0, err
}

var errBadBody = errors.New("eventloop: malformed request body")

// A bodyReader is the state of reading a request body. What has not arrived whole
// stays in the connection's reader, so a read may be interrupted anywhere.
type bodyReader struct {
	http1.Body
	until    time.Duration // when the wait for it ends, once there was one
	streamed bool          // an order ends a wait for more
	expect   bool          // the client waits for 100 Continue
}

// peekBody returns bytes of the body that have arrived, at least one; they are
// valid until the next call of any method of c. It waits if need be. At the end
// of the body it returns io.EOF.
func (c *httpConn) peekBody() ([]byte, error) {
	for {
		skip, n, err := c.body.Next(c.in.p)
		if skip > 0 {
			c.in.discard(skip)
		}
		switch err {
		case nil:
			return c.in.p[:n], nil
		case io.EOF:
			return nil, io.EOF
		case http1.ErrMore:
		case http1.ErrLimit:
			return nil, fasthttp.ErrBodyTooLarge
		default:
			return nil, errBadBody
		}
		if err := c.fillBody(); err != nil {
			return nil, err
		}
	}
}

// consumeBody takes the first n bytes of what peekBody returned.
func (c *httpConn) consumeBody(n int) {
	c.in.discard(n)
	c.body.Consume(n)
}

var continueHead = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// fillBody waits for more of the body, for which the client may have to be asked
// first.
func (c *httpConn) fillBody() error {
	if !c.body.streamed {
		c.allowBody(nil)
	}
	c.uncork()
	if c.body.until == 0 {
		c.body.until = after(c.s.cfg.ReadTimeout)
	}
	fill := c.fillAll
	if c.body.streamed {
		fill = c.fill
	}
	err := fill(c.body.until, c.bodySize())
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// bodySize is the size of a read of the body.
func (c *httpConn) bodySize() int {
	left := c.body.Left()
	if left == 0 { // between chunks
		return 16 << 10
	}
	return int(min(max(left, headRead), bodyRead))
}

// allowBody sends 100 Continue if the client waits for it, unless the response to r
// has begun: interim responses come before the final one (RFC 9110 section 15.2),
// and after that the client sends the body unasked or not at all. r is nil before it
// is handed over.
func (c *httpConn) allowBody(r *HTTPRequest) {
	if !c.body.expect {
		return
	}
	c.body.expect = false
	c.core.Lock()
	defer c.core.Unlock()
	if r == nil || !r.begun() {
		c.queueOwn(continueHead)
		c.core.Send()
	}
}

// moveBody hands a piece of the body to the dispatcher.
func (c *httpConn) moveBody(r *HTTPRequest) {
	st := r.stream
	piece := st.first
	if st.first = nil; len(piece) == 0 {
		c.body.until = 0 // each wait has its own time
		if len(c.in.p) == 0 {
			c.allowBody(r)
		}
		p, err := c.peekBody()
		if err != nil {
			c.endBody(r, err)
			return
		}
		piece = p
		st.peeked = len(p)
	}
	c.core.Lock()
	if st.ended { // lost meanwhile, and the dispatcher may be telling so just now
		c.core.Unlock()
		return
	}
	st.piece, st.held = piece, true
	c.core.Unlock()
	c.s.loop.send((*httpBodyTask)(r))
}

// consumePiece frees the room of a piece that the dispatcher is done with.
func (c *httpConn) consumePiece(st *bodyStream) {
	if st.peeked > 0 {
		c.consumeBody(st.peeked)
		st.peeked = 0
	}
}

// endBody tells r how its streamed body ended.
func (c *httpConn) endBody(r *HTTPRequest, err error) {
	st := r.stream
	gone := false
	switch {
	case err == io.EOF:
		err = nil
	case err == netcore.ErrWoken:
		return
	case err == errBadBody, err == fasthttp.ErrBodyTooLarge, pastDeadline(err):
		c.linger = true
		err = c.opError(OpRequest, err)
	default:
		gone, c.eof = true, true
		err = c.opError(OpRequest, err)
	}
	c.core.Lock()
	if st.ended { // lost meanwhile
		c.core.Unlock()
		return
	}
	st.ended, st.err = true, err
	c.core.Unlock()
	c.s.loop.send((*httpBodyTask)(r))
	if gone {
		r.lose(err)
	}
}
