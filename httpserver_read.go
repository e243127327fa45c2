package eventloop

import (
	"bytes"
	"errors"
	"io"
	"math"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/valyala/fasthttp"
)

// This file reads requests. Package http1 has the grammar, which is strict: what
// two parsers could read in different ways is refused.

// readHead reads the header of a request, which stays in the reader. It returns
// the status of the refusal, or 0; an error means that there is nobody to refuse.
func (c *httpConn) readHead() (head []byte, status int, err error) {
	limit := c.s.cfg.MaxHeaderBytes
	var until time.Duration
	var search http1.HeadSearch
	for {
		buf := c.buffered()
		// Empty lines before a request are ignored (RFC 9112 section 2.2).
		if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
			c.br.Discard(2)
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
		if err := c.flush(); err != nil { // responses to requests before this one
			return nil, 0, err
		}
		if err := c.fill(until); err != nil {
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
	r = &HTTPRequest{loop: c.s.loop, conn: c, head: requestHead{text: string(head), Request: info}}
	c.br.Discard(len(head))
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
	if over := cfg.StreamBodyOver; over > 0 && length > over {
		c.body.wake = c.back
		r.stream = &bodyStream{}
		return 0, nil
	}
	return c.readBody(r)
}

// readBody reads a body whole, or until it is long enough to be a stream.
func (c *httpConn) readBody(r *HTTPRequest) (status int, err error) {
	over := c.s.cfg.StreamBodyOver
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
			c.body.wake = c.back
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
	until  time.Duration   // when the wait for it ends, once there was one
	wake   <-chan struct{} // ends a wait for more of a stream
	expect bool            // the client waits for 100 Continue
}

// peekBody returns bytes of the body that have arrived, at least one; they are
// valid until the next call of any method of c. It waits if need be. At the end
// of the body it returns io.EOF.
func (c *httpConn) peekBody() ([]byte, error) {
	for {
		skip, n, err := c.body.Next(c.buffered())
		if skip > 0 {
			c.br.Discard(skip)
		}
		switch err {
		case nil:
			return c.buffered()[:n], nil
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
	c.br.Discard(n)
	c.body.Consume(n)
}

var continueHead = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// fillBody waits for more of the body, for which the client may have to be asked
// first.
func (c *httpConn) fillBody() error {
	if c.body.expect {
		c.body.expect = false
		c.send(continueHead)
	}
	if err := c.flush(); err != nil {
		return err
	}
	if c.body.until == 0 {
		c.body.until = after(c.s.cfg.ReadTimeout)
	}
	err := c.fillOr(c.body.until, c.body.wake, false)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
