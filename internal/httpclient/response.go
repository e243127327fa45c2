package httpclient

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
)

// A Response reads one response: ReadHead, then Read until io.EOF, or ReadAll.
// Package http1 has the grammar. A Response adds memory limits that grow with the received
// bytes, not with the announced length. If a response ends early because the connection
// failed, it returns the error of the connection.
type Response struct {
	http1.Response

	c    *Conn
	raw  string    // the head
	src  io.Reader // source of the body; nil: the connection
	body http1.Body
}

func malformed(err error) error {
	return fmt.Errorf("%w: %v", ErrMalformed, err)
}

func tooLarge(what string) error { return fmt.Errorf("%w: %s", ErrTooLarge, what) }

// ReadHead reads the head of the final response to a request with the given method. The head
// may have up to max bytes, including the heads of interim responses (1xx). ReadHead calls
// interim, if it is not nil, for each interim response. The trailer section may have max bytes
// as well.
func (r *Response) ReadHead(c *Conn, method string, max int, interim Interim) error {
	r.c = c
	for left := max; ; {
		block, err := c.readHead(left)
		if err != nil {
			return err
		}
		left -= len(block)
		http1.Canonicalize(block)
		r.raw = string(block)
		c.take(len(block))
		if r.Response, err = http1.ParseResponse(r.raw, method); err != nil {
			return malformed(err)
		}
		if r.Status >= 200 || r.Status == 101 {
			r.begin(max)
			return nil
		}
		if interim != nil {
			interim.Interim(r.Status)
		}
	}
}

// An Interim is called for each interim response.
type Interim interface{ Interim(status int) }

// Upgrade makes all input after a response with status 101 its body.
func (r *Response) Upgrade() { r.body.UntilClose() }

// begin begins the body.
func (r *Response) begin(maxTrailer int) {
	r.c.slack = 0
	b := &r.body
	*b = http1.Body{Limit: math.MaxInt64, MaxTrailer: maxTrailer, Lenient: true, KeepTrailer: true}
	switch {
	case r.NoBody:
	case r.Length == http1.LengthChunked:
		b.Chunked()
	case r.Length == http1.LengthOpen:
		b.UntilClose()
	default:
		b.Fixed(r.Length)
	}
}

// Read reads from the body. It returns io.EOF only at the complete end of the body.
func (r *Response) Read(p []byte) (int, error) {
	if r.src != nil && !r.body.Over() {
		return r.readSource(p)
	}
	c := r.c
	for {
		skip, n, err := r.body.Next(c.window)
		c.take(skip)
		if n > 0 {
			n = copy(p, c.window[:n])
			c.take(n)
			c.slack = 0
			r.body.Consume(n)
			return n, nil
		}
		if err := r.fill(err); err != nil {
			return 0, err
		}
	}
}

// Excerpt reads the beginning of the body of an error response: at most max bytes, and no
// more than arrives within d. The connection cannot be reused afterwards.
func (r *Response) Excerpt(max int, d time.Duration) []byte {
	r.c.limit(time.Now().Add(d))
	body := make([]byte, min(512+len(r.c.window), max))
	for n := 0; ; {
		if n == len(body) {
			if n == max {
				return body
			}
			body = append(body, make([]byte, min(n, max-n))...)
		}
		m, err := r.Read(body[n:])
		if n += m; err != nil {
			return body[:n:n]
		}
	}
}

// FromReader returns a Conn without a connection, for the response to a request with the given
// method. The names of the fields in head must be canonical. Read reads the body from src until
// io.EOF.
func FromReader(head, method string, src io.Reader) (*Conn, error) {
	r := &Response{}
	c := &Conn{firstAt: time.Now(), resp: r}
	var err error
	if r.Response, err = http1.ParseResponse(head, method); err != nil {
		return nil, malformed(err)
	}
	r.c, r.raw = c, head
	r.Length, r.KeepAlive = http1.LengthOpen, true
	if r.begin(0); !r.NoBody {
		r.src = src
	}
	return c, nil
}

// readSource reads from src.
func (r *Response) readSource(p []byte) (int, error) {
	n, err := readSome(r.src, p)
	if err == io.EOF {
		r.body.End()
	}
	return n, err
}

// ErrWait is returned by ReadBuffer if it would have to wait.
var ErrWait = errors.New("httpclient: nothing is there yet")

// ReadBuffer is Read into a new buffer, which the caller owns. It waits only if wait is true.
func (r *Response) ReadBuffer(wait bool) (*sockio.Buffer, error) {
	if r.src != nil && !r.body.Over() {
		return r.bufferSource(wait)
	}
	c := r.c
	for {
		skip, n, err := r.body.Next(c.window)
		c.take(skip)
		switch {
		case n > 0:
			c.slack = 0
			b := c.takeBuffer(n)
			r.body.Consume(b.Len())
			return b, nil
		case err != http1.ErrMore || wait:
			if err = r.fill(err); err != nil {
				return nil, err
			}
		default:
			return nil, ErrWait
		}
	}
}

// bufferSource is ReadBuffer for src.
func (r *Response) bufferSource(wait bool) (*sockio.Buffer, error) {
	if !wait {
		return nil, ErrWait
	}
	b := sockio.GetBuffer(sockio.MaxBuffer / 4)
	n, err := r.readSource(b.Room())
	if b.Fill(n); n > 0 {
		return b, nil // the next read returns the error again
	}
	b.Release()
	return nil, err
}

// fill reads more input. err is the error of the body that made it necessary. If err is not
// http1.ErrMore, fill reads nothing and returns the matching error.
func (r *Response) fill(err error) error {
	c := r.c
	switch {
	case err == io.EOF:
		return io.EOF
	case err == http1.ErrTrailerLimit, err == http1.ErrChunkLimit:
		return tooLarge(err.Error())
	case err != http1.ErrMore:
		return malformed(err)
	}
	if r.body.InTrailer() {
		c.slack = 0 // the trailer section has its own limit
	}
	if err := c.more(); err != nil {
		if r.body.IsOpen() && c.failed == io.EOF {
			r.body.End()
			return io.EOF
		}
		return c.cause(err)
	}
	return nil
}

const maxInt = int(^uint(0) >> 1)

// firstRoom is the maximum number of bytes that are allocated for a body before any of it
// arrives.
const firstRoom = 64 << 10

// ReadAll reads the body to its end. The body may have up to max bytes.
func (r *Response) ReadAll(max int) ([]byte, error) {
	if r.body.Over() {
		return nil, nil
	}
	if r.Length > int64(max) {
		return nil, tooLarge("body of " + strconv.FormatInt(r.Length, 10) + " bytes")
	}
	max = min(max, maxInt-1) // so that max+1 does not overflow
	length := int(r.Length)
	var body []byte
	if length > 0 {
		body = make([]byte, 0, min(length, firstRoom))
	} else {
		body = make([]byte, 0, min(512+len(r.c.window), max+1))
	}
	for {
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > max:
			return nil, tooLarge("body of more than " + strconv.Itoa(max) + " bytes")
		case err == io.EOF:
			return body, nil
		case err != nil:
			return body, err
		case len(body) == length: // only io.EOF remains, which needs no room
		case len(body) == cap(body):
			body = grow(body, length, max)
		}
	}
}

// grow doubles the capacity of body, up to the maximum length of the body.
func grow(body []byte, length, max int) []byte {
	if length > 0 {
		grown := make([]byte, len(body), min(2*cap(body), length))
		copy(grown, body)
		return grown
	}
	// The byte after max shows that a body is too long.
	return slices.Grow(body, min(cap(body), max+1-cap(body)))
}

// Discard reads up to max bytes of the rest of the body, and reports whether it reached the
// end. It reads nothing if the connection cannot be reused, or if Length exceeds max.
func (r *Response) Discard(max int) bool {
	if !r.KeepAlive || !r.NoBody && r.Length > int64(max) {
		return false
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r, int64(max)+1))
	return err == nil && n <= int64(max) && r.body.Over()
}

// Reusable reports whether the connection may carry another request, judging only by the
// response.
func (r *Response) Reusable() bool { return r.KeepAlive && r.body.Over() }

// KeepAliveTimeout returns how long the server announces to keep the connection (Keep-Alive:
// timeout=5), zero if it announces nothing, or a negative duration if it does not keep the
// connection (timeout=0).
func (r *Response) KeepAliveTimeout() time.Duration {
	if !strings.Contains(r.raw, "\nKeep-Alive:") {
		return 0
	}
	for e := range strings.SplitSeq(r.Fields.Get("Keep-Alive"), ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(e), "=")
		n, err := strconv.Atoi(v)
		if strings.EqualFold(k, "timeout") && err == nil && n >= 0 && n < 1<<20 {
			if n == 0 {
				return -1
			}
			return time.Duration(n) * time.Second
		}
	}
	return 0
}

// Trailers returns the fields after a chunked body, without the fields that are not allowed
// there.
func (r *Response) Trailers() http1.Fields { return r.body.TrailerFields() }

// readHead waits until the window contains a whole head, and returns the head without taking
// it.
func (c *Conn) readHead(max int) ([]byte, error) {
	searched := 0
	for {
		b := c.window
		if err := http1.CheckStart(b); err != nil {
			return nil, malformed(err)
		}
		end := http1.HeadEnd(b, searched)
		switch {
		case end > max || end == 0 && len(b) >= max:
			return nil, tooLarge("head")
		case end > 0:
			return b[:end], nil
		}
		searched = len(b)
		c.slack = 0
		if err := c.more(); err != nil {
			switch {
			case len(b) > 0:
				return nil, c.cause(err)
			case c.failed == netcore.ErrTruncated:
				return nil, io.EOF
			}
			return nil, err
		}
	}
}
