package eventloop

import (
	"bytes"
	"io"
	"math"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/valyala/fasthttp"
)

// This file reads requests. Package http1 has the grammar, which is strict: it rejects
// input that two parsers could read in different ways.

// readHead reads the head of a request. The head stays in c.in. If the request must be
// rejected, status is the status for the response, and otherwise 0. An error means that
// the client cannot get a response.
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
		c.uncork() // the responses to earlier requests
		if err := c.fillAll(until, headRead); err != nil {
			if deadlinePassed(err) && len(buf) > 0 {
				return nil, fasthttp.StatusRequestTimeout, nil
			}
			return nil, 0, err
		}
	}
}

// readRequest reads a request, with its body unless the body becomes a stream.
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

// bodyLimit returns the maximum length of a body.
func (cfg *HTTPServerConfig) bodyLimit() int64 {
	if cfg.MaxBodyBytes < 0 {
		return math.MaxInt64
	}
	return cfg.MaxBodyBytes
}

// startBody reads the body of r, or makes it a stream.
func (c *httpConn) startBody(r *HTTPRequest) (status int, err error) {
	cfg := c.s.cfg
	limit, length := cfg.bodyLimit(), r.head.Length
	if length > limit {
		return fasthttp.StatusRequestEntityTooLarge, nil
	}
	c.body.expect = r.head.Expect
	c.body.Limit, c.body.MaxTrailer = limit, cfg.MaxHeaderBytes
	if r.head.Chunked {
		c.body.Chunked()
		length = -1
	} else {
		c.body.Fixed(length)
	}
	err = r.readBody(c, length)
	c.body.streamed = r.stream != nil
	if status = bodyRefusal(err); status != 0 {
		err = nil
	}
	return status, err
}

// A bodyReader is the state of reading a request body. Incomplete framing stays in the
// connection's input, so a read may be interrupted anywhere.
type bodyReader struct {
	http1.Body
	until    time.Duration // the deadline; zero before the first wait
	given    int           // the length of the last piece, which is still in the input
	streamed bool          // a wake-up ends a wait for more of the body
	expect   bool          // the client waits for 100 Continue
}

// peekBody returns at least one byte of the body, and waits if none has arrived. The bytes
// are valid until the next call of any method of c. At the end of the body it returns
// io.EOF.
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
			return nil, bodyTooLarge(c.s.cfg.bodyLimit())
		default:
			return nil, errBadBody
		}
		if err := c.fillBody(); err != nil {
			return nil, err
		}
	}
}

// nextPiece implements bodySource. If the client disconnects during a streamed body,
// nextPiece ends the request, which also ends the body.
func (c *httpConn) nextPiece() ([]byte, error) {
	c.consumePiece()
	if c.body.streamed {
		c.body.until = 0 // each wait has its own deadline
	}
	p, err := c.peekBody()
	c.body.given = len(p)
	switch {
	case err == nil, err == io.EOF, err == netcore.ErrWoken:
	case bodyRefusal(err) != 0:
		c.linger = true
	default:
		c.eof = true
		if c.body.streamed {
			c.cur.lose(c.opError(OpRequest, err))
			return nil, netcore.ErrWoken
		}
	}
	return p, err
}

// consumePiece discards the last piece from the input.
func (c *httpConn) consumePiece() {
	if n := c.body.given; n > 0 {
		c.body.given = 0
		c.in.discard(n)
		c.body.Consume(n)
	}
}

var continueHead = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// fillBody waits for more of the body. It first sends 100 Continue if the client waits for
// that.
func (c *httpConn) fillBody() error {
	c.allowBody()
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

// bodySize returns the size of the next read of the body.
func (c *httpConn) bodySize() int {
	left := c.body.Left()
	if left == 0 { // between chunks
		return 16 << 10
	}
	return int(min(max(left, headRead), bodyRead))
}

// allowBody sends 100 Continue if the client waits for it, unless a response has begun.
// Interim responses come before the final one (RFC 9110 section 15.2). After the final
// response the client sends the body without a 100, or not at all.
func (c *httpConn) allowBody() {
	if !c.body.expect {
		return
	}
	c.body.expect = false
	c.core.Lock()
	defer c.core.Unlock()
	if c.cur == nil || !c.cur.begun() {
		c.queue(continueHead)
		c.core.Send()
	}
}
