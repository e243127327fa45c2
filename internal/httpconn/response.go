package httpconn

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// A Response reads one answer: ReadHead, then Read until io.EOF, or ReadAll.
//
// Status line, fields, framing and chunks are parsed by fasthttp. Added to it are
// what its reader does not keep or say: the order of the fields; bounds that grow
// with what arrives, not with what is announced; answers that are no HTTP told
// at their first bytes; and the error of the connection instead of the parser's
// idea of it, so that a reset within the framing is no end of the body.
type Response struct {
	Status int
	Reason string
	Proto  string // "HTTP/1.1" or "HTTP/1.0"

	c      *Conn
	raw    string // the head
	resp   *fasthttp.Response
	body   io.Reader // nil: none
	length int       // of the body: -1 chunked, -2 until the end of the connection
	over   bool      // the body was read to its end
	noBody bool
	reuse  bool
}

func malformed(err error) error {
	return fmt.Errorf("%w: %v", ErrMalformed, err)
}

func tooLarge(what string) error { return fmt.Errorf("%w: %s", ErrTooLarge, what) }

// ReadHead reads the head of the final answer to a request with that method. Head
// fields may have max bytes, those of interim answers (1xx) included, which
// interim, if not nil, is told of.
func (r *Response) ReadHead(c *Conn, method string, max int, interim Interim) error {
	r.c, r.resp = c, fasthttp.AcquireResponse()
	for {
		block, err := c.readHead(max)
		if err != nil {
			return err
		}
		max -= len(block)
		canonicalNames(block)
		r.raw = string(block)
		if err := r.resp.Header.Read(c.br); err != nil {
			return c.cause(err)
		}
		if err := r.takeHead(); err != nil {
			return err
		}
		if r.Status < 200 && r.Status != fasthttp.StatusSwitchingProtocols {
			if interim != nil {
				interim.Interim(r.Status)
			}
			continue
		}
		return r.beginBody(method)
	}
}

// An Interim is told of interim answers.
type Interim interface{ Interim(status int) }

// takeHead checks and keeps what the parser found.
func (r *Response) takeHead() error {
	h := &r.resp.Header
	r.Status = h.StatusCode() // which makes 200 of "000"
	switch string(h.Protocol()) {
	case "HTTP/1.1":
		r.Proto = "HTTP/1.1"
	case "HTTP/1.0":
		r.Proto = "HTTP/1.0"
	default:
		return malformed(fmt.Errorf("version %q", h.Protocol()))
	}
	line, _, _ := strings.Cut(r.raw, "\r\n")
	_, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimLeft(rest, " ")
	if r.Status < 100 || strings.HasPrefix(rest, "0") {
		return malformed(fmt.Errorf("status line %q", line))
	}
	_, r.Reason, _ = strings.Cut(rest, " ")
	return nil
}

// beginBody finds out where the body ends (RFC 9112 section 6.3).
func (r *Response) beginBody(method string) error {
	h := &r.resp.Header
	r.length = h.ContentLength()
	r.noBody = method == "HEAD" || r.Status < 200 || r.Status == 204 || r.Status == 304
	// The parser says close of every answer without a length; one without a body
	// needs none.
	r.reuse = !h.ConnectionClose() || r.noBody && r.length == -2 && r.keepsAlive()
	if r.Status < 200 {
		r.reuse = false // the connection speaks something else from now on
	}
	if r.noBody {
		r.over = true
		return nil
	}
	if r.length == -1 && strings.Contains(r.raw, "\nContent-Length:") {
		r.reuse = false // RFC 9112 section 6.3: it might be an attack
	}
	r.c.slack = 0
	r.resp.StreamBody = true
	if err := r.resp.ReadBody(r.c.br, 0); err != nil {
		return r.c.cause(err)
	}
	r.body = r.resp.BodyStream()
	return nil
}

// keepsAlive reports whether the fields of the answer let the connection live.
func (r *Response) keepsAlive() bool {
	said := strings.ToLower(r.Fields().Get("Connection"))
	if r.Proto == "HTTP/1.0" {
		return hasElement(said, "keep-alive")
	}
	return !hasElement(said, "close")
}

func hasElement(list, element string) bool {
	for e := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(e) == element {
			return true
		}
	}
	return false
}

// Read reads from the body. Any end but its own is an error.
func (r *Response) Read(p []byte) (int, error) {
	if r.over {
		return 0, io.EOF
	}
	n, err := r.body.Read(p)
	if n > 0 {
		r.c.slack = 0
	}
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, r.c.cause(err)
	case r.length == -1 && r.c.failed != nil:
		return n, r.c.cause(err) // within the last chunk
	case r.length == -2 && r.c.failed != io.EOF:
		return n, r.c.cause(err)
	}
	r.over = true
	return n, io.EOF
}

const maxInt = int(^uint(0) >> 1)

// firstRoom is what is set aside for a body before any of it has come, at most.
const firstRoom = 64 << 10

// ReadAll reads the body to its end. It may have max bytes.
func (r *Response) ReadAll(max int) ([]byte, error) {
	if r.noBody || r.length == 0 {
		r.over = true
		return nil, nil
	}
	if r.length > max {
		return nil, tooLarge("body of " + strconv.Itoa(r.length) + " bytes")
	}
	max = min(max, maxInt-1) // so that one more is a number too
	var body []byte
	if r.length > 0 {
		body = make([]byte, 0, min(r.length, firstRoom))
	} else {
		body = make([]byte, 0, min(512+r.c.br.Buffered(), max+1))
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
		case len(body) == cap(body) && len(body) == r.length:
			continue // only the end is to be read, into no room
		case len(body) == cap(body):
			body = r.grow(body, max)
		}
	}
}

// grow makes room for as much again, but for no more than there can be.
func (r *Response) grow(body []byte, max int) []byte {
	most := max + 1 // one more tells a body that is too long
	if r.length > 0 {
		most = r.length
	}
	more := min(cap(body), most-cap(body))
	if r.length > 0 {
		grown := make([]byte, len(body), cap(body)+more)
		copy(grown, body)
		return grown
	}
	return slices.Grow(body, more)
}

// Over reports whether the body was read to its end.
func (r *Response) Over() bool { return r.over }

// Discard reads the rest of the body, of at most max bytes, and reports whether
// it came to the end. It does not if the connection is of no use afterwards.
func (r *Response) Discard(max int) bool {
	if !r.reuse || r.length > max {
		return false
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r, int64(max)+1))
	return err == nil && n <= int64(max) && r.over
}

// Length returns the length of the body that was announced, -1 if none was.
func (r *Response) Length() int { return max(r.length, -1) }

// HasBody reports whether the answer can have a body.
func (r *Response) HasBody() bool { return !r.noBody }

// Reusable reports whether, as far as the answer goes, its connection may carry
// another request.
func (r *Response) Reusable() bool { return r.reuse && r.over }

// KeepAliveTimeout returns how long the server says it will keep the connection
// (Keep-Alive: timeout=5), or zero.
func (r *Response) KeepAliveTimeout() time.Duration {
	if !strings.Contains(r.raw, "\nKeep-Alive:") {
		return 0
	}
	for e := range strings.SplitSeq(r.Fields().Get("Keep-Alive"), ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(e), "=")
		n, err := strconv.Atoi(v)
		if strings.EqualFold(k, "timeout") && err == nil && n > 0 && n < 1<<20 {
			return time.Duration(n) * time.Second
		}
	}
	return 0
}

// Close gives back what the Response holds. Its strings stay valid.
func (r *Response) Close() {
	if r.resp == nil {
		return
	}
	r.resp.CloseBodyStream()
	fasthttp.ReleaseResponse(r.resp)
	r.resp, r.body = nil, nil
	r.over = true
}

// Fields returns the fields of the head in their order. Names are in canonical
// case; a value that was folded is joined by spaces.
func (r *Response) Fields() Fields {
	_, rest, _ := strings.Cut(r.raw, "\n")
	return Fields{rest}
}

// FieldCount returns how many Fields there are at most.
func (r *Response) FieldCount() int { return max(strings.Count(r.raw, "\n")-2, 0) }

// Trailers returns the fields that came after a chunked body.
func (r *Response) Trailers() Fields {
	if r.resp == nil || r.length != -1 || r.noBody {
		return Fields{}
	}
	return Fields{string(r.resp.Header.TrailerHeader())}
}

// Fields are the fields of a message that Next has not returned yet.
type Fields struct{ block string }

// Next returns the next field. The parser has approved the block before.
func (f *Fields) Next() (name, value string, ok bool) {
	for f.block != "" {
		line := f.line()
		colon := strings.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		name, value = trimRight(line[:colon]), trim(line[colon+1:])
		for f.block != "" && (f.block[0] == ' ' || f.block[0] == '\t') {
			value = trim(value + " " + trim(f.line()))
		}
		return name, value, true
	}
	return "", "", false
}

// line takes the next line.
func (f *Fields) line() (line string) {
	end := strings.IndexByte(f.block, '\n')
	if end < 0 {
		end = len(f.block) - 1
	}
	line, f.block = f.block[:end+1], f.block[end+1:]
	return line
}

// trim is strings.Trim(s, " \t\r\n") without its table: most strings have one space.
func trim(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return trimRight(s)
}

func trimRight(s string) string {
	for s != "" && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// Get returns the values of the fields with that name, joined as a list.
func (f Fields) Get(name string) (list string) {
	for n, v, ok := f.Next(); ok; n, v, ok = f.Next() {
		switch {
		case n != name:
		case list == "":
			list = v
		default:
			list += ", " + v
		}
	}
	return list
}

// canonicalNames changes the names of the fields in block to canonical case, as
// fasthttp and net/http do.
func canonicalNames(block []byte) {
	_, rest, _ := bytes.Cut(block, []byte("\n"))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		i := bytes.IndexByte(line, ':')
		if i > 0 && line[0] != ' ' && line[0] != '\t' {
			canonicalName(line[:i])
		}
	}
}

func canonicalName(name []byte) {
	if i := bytes.IndexByte(name, ' '); i >= 0 && len(bytes.TrimRight(name[i:], " \t")) > 0 {
		return // no token: left as it is
	}
	upper := true
	for i, c := range name {
		if upper && 'a' <= c && c <= 'z' {
			name[i] = c - 'a' + 'A'
		} else if !upper && 'A' <= c && c <= 'Z' {
			name[i] = c - 'A' + 'a'
		}
		upper = c == '-'
	}
}

// readHead waits until a whole head is in the buffer, and returns it without
// taking it out.
func (c *Conn) readHead(max int) ([]byte, error) {
	c.slack = 0
	searched := 0
	for {
		b, _ := c.br.Peek(c.br.Buffered())
		if err := plausible(b); err != nil {
			return nil, err
		}
		end, err := headEnd(b, searched)
		switch {
		case err != nil:
			return nil, err
		case end > max || end == 0 && len(b) >= max:
			return nil, tooLarge("head")
		case end > 0:
			return b[:end], nil
		}
		searched = len(b) - min(len(b), len("\r\n\r"))
		if len(b) == c.br.Size() {
			c.growReader(min(4*len(b), max))
			continue
		}
		c.slack = 0
		if _, err := c.br.Peek(len(b) + 1); err != nil {
			if len(b) == 0 {
				return nil, err
			}
			return nil, c.cause(err)
		}
	}
}

// headEnd returns where the head in b ends, 0 if not within b; it does not end
// before from. An empty line after, or of, a bare LF is an error: where the head
// ends must not be a matter of opinion.
func headEnd(b []byte, from int) (int, error) {
	for i := from; ; i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0, nil
		}
		i += n
		rest := b[i+1:]
		switch {
		case len(rest) > 0 && rest[0] == '\n',
			len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n' && (i == 0 || b[i-1] != '\r'):
			return 0, malformed(errors.New("empty line without CRLF"))
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3, nil
		}
	}
}

// growReader replaces the buffer, which is full, by a larger one.
func (c *Conn) growReader(size int) {
	b, _ := c.br.Peek(c.br.Buffered())
	c.prefix = bytes.Clone(b)
	old := c.br
	c.br = bufio.NewReaderSize((*reader)(c), size)
	c.br.Peek(len(b)) // from prefix
	if old.Size() == readerSize {
		old.Reset(nil)
		readers.Put(old)
	}
}

const version = "HTTP/1."

// plausible tells what is no answer as soon as it can be known: a server of
// another protocol may speak first and then wait.
func plausible(b []byte) error {
	n := min(len(b), len(version))
	if string(b[:n]) != version[:n] {
		return malformed(fmt.Errorf("begins with %q", b[:min(len(b), 32)]))
	}
	if i := bytes.IndexByte(b, '\n'); i > 0 && b[i-1] != '\r' {
		return malformed(fmt.Errorf("line %q does not end in CRLF", b[:min(i, 64)]))
	}
	return nil
}
