package eventloop

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// This file reads requests. The parser is fasthttp's; checkHead goes before it
// and refuses what it would let pass although RFC 9112 forbids it, or wants it
// treated in a way that has been the source of request smuggling: folded lines,
// a length next to a transfer coding, codings other than chunked, lines that end
// in a bare LF, control characters, versions that are not ours.

// A headInfo is what the server itself has to know of a header.
type headInfo struct {
	http11    bool
	close     bool // the connection is not to be kept
	upgrade   bool // Connection: upgrade
	chunked   bool
	hasLength bool
	expect    bool  // 100-continue
	length    int64 // of the body; 0 if none was announced
}

// checkHead looks at the header of a request, with the empty line that ends it.
// It returns the status of the refusal, or 0.
func checkHead(head []byte) (info headInfo, status int) {
	line, rest, ok := cutLine(head)
	if !ok {
		return info, fasthttp.StatusBadRequest
	}
	if info.http11, status = checkVersion(line); status != 0 {
		return info, status
	}
	keepAlive, te := false, false
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return info, fasthttp.StatusBadRequest
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return info, fasthttp.StatusBadRequest
		}
		switch {
		case foldIs(name, "content-length"):
			if info.hasLength {
				return info, fasthttp.StatusBadRequest
			}
			info.hasLength = true
			if info.length, ok = parseLength(value); !ok {
				return info, fasthttp.StatusBadRequest
			}
		case foldIs(name, "transfer-encoding"):
			if te {
				return info, fasthttp.StatusBadRequest
			}
			te = true
			info.chunked = foldIs(value, "chunked")
		case foldIs(name, "connection"):
			for element := range bytes.SplitSeq(value, comma) {
				switch element = bytes.Trim(element, " \t"); {
				case foldIs(element, "close"):
					info.close = true
				case foldIs(element, "keep-alive"):
					keepAlive = true
				case foldIs(element, "upgrade"):
					info.upgrade = true
				}
			}
		case foldIs(name, "host"):
			if !isHost(value) { // whether it is there, once, is for the parser
				return info, fasthttp.StatusBadRequest
			}
		case foldIs(name, "expect"):
			if !foldIs(value, "100-continue") {
				return info, fasthttp.StatusExpectationFailed
			}
			info.expect = info.http11 // RFC 9110 section 10.1.1
		}
	}
	info.close = info.close || !info.http11 && !keepAlive
	switch {
	case te && (info.hasLength || !info.http11):
		return info, fasthttp.StatusBadRequest
	case te && !info.chunked:
		return info, fasthttp.StatusNotImplemented
	}
	return info, 0
}

var comma = []byte(",")

// cutLine cuts a line that ends in CRLF. A CR or LF elsewhere is no line.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}

// checkVersion finds out the version in a request line.
func checkVersion(line []byte) (http11 bool, status int) {
	switch version := line[bytes.LastIndexByte(line, ' ')+1:]; {
	case string(version) == "HTTP/1.1":
		return true, 0
	case string(version) == "HTTP/1.0":
		return false, 0
	case len(version) == 8 && bytes.HasPrefix(version, []byte("HTTP/")) &&
		isDigit(version[5]) && version[6] == '.' && isDigit(version[7]):
		return false, fasthttp.StatusHTTPVersionNotSupported
	}
	return false, fasthttp.StatusBadRequest
}

// cutField cuts a line of the header into name and value. A line that begins
// with white space continues the one before (obs-fold, RFC 9112 section 5.2) and
// is no field, as is one with control characters or without a proper name.
func cutField(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return nil, nil, false
	}
	name, value = line[:colon], line[colon+1:]
	for _, c := range name {
		if !tokenByte[c] {
			return nil, nil, false
		}
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, false
		}
	}
	return name, bytes.Trim(value, " \t"), true
}

// foldIs reports whether b is the lower-case word s in any case.
func foldIs(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if lowerASCII(b[i]) != s[i] {
			return false
		}
	}
	return true
}

// isHost reports whether value has only bytes that a host and a port may have
// (RFC 3986 section 3.2.2).
func isHost(value []byte) bool {
	for _, c := range value {
		if !isDigit(c) && !('a' <= lowerASCII(c) && lowerASCII(c) <= 'z') &&
			strings.IndexByte("!$%&'()*+,-.:;=[]_~", c) < 0 {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// parseLength parses a Content-Length: digits and nothing else.
func parseLength(value []byte) (n int64, ok bool) {
	if len(value) == 0 || len(value) > 18 {
		return 0, false
	}
	for _, c := range value {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

// readHead reads the header of a request, which stays in the reader. It returns
// the status of the refusal, or 0; an error means that there is nobody to refuse.
func (c *httpConn) readHead() (head []byte, status int, err error) {
	limit := c.s.cfg.MaxHeaderBytes
	var until time.Duration
	searched := 0
	for {
		buf := c.buffered()
		// Empty lines before a request are to be ignored (RFC 9112 section 2.2).
		if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
			c.br.Discard(2)
			searched = 0
			continue
		}
		from := max(searched-3, 0)
		if i := bytes.Index(buf[from:], []byte("\r\n\r\n")); i >= 0 && from+i+4 <= limit {
			return buf[:from+i+4], 0, nil
		}
		searched = len(buf)
		switch {
		case hasBareLF(buf): // it would be waited for in vain
			return nil, fasthttp.StatusBadRequest, nil
		case len(buf) >= limit && bytes.IndexByte(buf, '\n') < 0:
			return nil, fasthttp.StatusRequestURITooLong, nil
		case len(buf) >= limit:
			return nil, fasthttp.StatusRequestHeaderFieldsTooLarge, nil
		}
		if until == 0 {
			until = after(c.s.cfg.ReadHeaderTimeout)
		}
		if err := c.flush(); err != nil { // answers to requests before this one
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

// hasBareLF reports whether b has an LF that follows no CR.
func hasBareLF(b []byte) bool {
	for i := 0; ; i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return false
		}
		if i += n; i == 0 || b[i-1] != '\r' {
			return true
		}
	}
}

// readRequest reads a request, with its body unless that is to be a stream.
func (c *httpConn) readRequest() (r *HTTPRequest, status int, err error) {
	head, status, err := c.readHead()
	if err != nil || status != 0 {
		return nil, status, err
	}
	info, status := checkHead(head)
	if status != 0 {
		return nil, status, nil
	}
	if r, status = c.parseHead(head, info); status != 0 {
		return nil, status, nil
	}
	c.body = bodyReader{}
	if info.chunked || info.length > 0 {
		if status, err = c.startBody(r, info); status != 0 || err != nil {
			return nil, status, err
		}
	}
	return r, 0, nil
}

// parseHead makes a request of a header that was checked.
func (c *httpConn) parseHead(head []byte, info headInfo) (r *HTTPRequest, status int) {
	text := string(head)
	h := &c.br.header
	before := c.br.Buffered()
	if err := h.Read(c.br.Reader); err != nil || before-c.br.Buffered() != len(text) {
		return nil, fasthttp.StatusBadRequest
	}
	method := len(h.Method())
	r = &HTTPRequest{
		loop: c.s.loop,
		conn: c,
		head: requestHead{
			text:      text,
			methodEnd: int32(method),
			uriEnd:    int32(method + 1 + len(h.RequestURI())),
			fields:    int32(strings.IndexByte(text, '\n') + 1),
		},
		info: info,
	}
	return r, 0
}

// startBody reads the body of r, or makes it a stream.
func (c *httpConn) startBody(r *HTTPRequest, info headInfo) (status int, err error) {
	cfg := c.s.cfg
	limit := cfg.MaxBodyBytes
	if limit < 0 {
		limit = math.MaxInt64
	}
	if info.length > limit {
		return fasthttp.StatusRequestEntityTooLarge, nil
	}
	c.body = bodyReader{chunked: info.chunked, left: info.length, limit: limit, expect: info.expect}
	if over := cfg.StreamBodyOver; over > 0 && info.length > over {
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
			r.body = make([]byte, 0, min(c.body.left, 64<<10))
		}
		r.body = append(r.body, p...)
		c.consumeBody(len(p))
		if over > 0 && c.body.chunked && int64(len(r.body)) > over {
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

// maxChunkLine bounds the line with the size of a chunk. Extensions have no use
// that anybody knows of, but have been used to hide bytes (CVE-2023-39326).
const maxChunkLine = 256

// A bodyReader knows how far the body of a request has been read. Nothing that
// arrived in part is taken from the connection's reader, so a read may be
// interrupted anywhere.
type bodyReader struct {
	until   time.Duration   // when the wait for it ends, once there was one
	wake    <-chan struct{} // ends a wait for more of a stream
	limit   int64           // bytes that may still come
	left    int64           // of the body, or of the current chunk
	trailer int             // bytes of trailers so far
	chunked bool
	inChunk bool // the CRLF after the current chunk is still to come
	atEnd   bool // the last chunk has come, the trailers have not
	expect  bool // the client waits for 100 Continue
}

// over reports whether the whole body has been read.
func (b *bodyReader) over() bool { return !b.chunked && b.left == 0 }

// peekBody returns bytes of the body that have arrived, at least one; they are
// valid until the next call of any method of c. It waits if need be. At the end
// of the body it returns io.EOF.
func (c *httpConn) peekBody() ([]byte, error) {
	b := &c.body
	for {
		switch {
		case b.over():
			return nil, io.EOF
		case b.left > 0:
			if buf := c.buffered(); len(buf) > 0 {
				return buf[:min(int64(len(buf)), b.left)], nil
			}
			if err := c.fillBody(); err != nil {
				return nil, err
			}
		default:
			if err := c.readChunkLine(); err != nil {
				return nil, err
			}
		}
	}
}

// consumeBody takes the first n bytes of what peekBody returned.
func (c *httpConn) consumeBody(n int) {
	c.br.Discard(n)
	c.body.left -= int64(n)
	if !c.body.chunked {
		c.body.limit -= int64(n)
	}
}

// fillBody waits for more of the body, for which the client may have to be asked
// first.
func (c *httpConn) fillBody() error {
	if c.body.expect {
		c.body.expect = false
		c.send([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	if err := c.flush(); err != nil {
		return err
	}
	if len(c.buffered()) >= c.s.readerSize() {
		return errBadBody // a line that does not end
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

// readChunkLine reads what is between the data of two chunks: the end of the one,
// the size of the next, and after the last the trailers, which are checked and
// dropped.
func (c *httpConn) readChunkLine() error {
	line, err := c.bodyLine()
	if err != nil {
		return err
	}
	b, n := &c.body, len(line)+2
	switch {
	case b.inChunk:
		if len(line) > 0 {
			return errBadBody
		}
		b.inChunk = false
	case b.atEnd:
		if len(line) == 0 {
			b.chunked, b.atEnd = false, false
			break
		}
		if _, _, ok := cutField(line); !ok {
			return errBadBody
		}
		if b.trailer += n; b.trailer > c.s.cfg.MaxHeaderBytes {
			return errBadBody
		}
	default:
		size, ok := parseChunkSize(line)
		switch {
		case !ok:
			return errBadBody
		case size > b.limit:
			return fasthttp.ErrBodyTooLarge
		case size == 0:
			b.atEnd = true
		default:
			b.left, b.inChunk = size, true
			b.limit -= size
		}
	}
	c.br.Discard(n)
	return nil
}

// bodyLine waits for a line and returns it without its CRLF; it stays in the
// reader.
func (c *httpConn) bodyLine() ([]byte, error) {
	for {
		buf := c.buffered()
		if bytes.IndexByte(buf, '\n') >= 0 {
			line, _, ok := cutLine(buf)
			if !ok {
				return nil, errBadBody
			}
			return line, nil
		}
		if c.body.inChunk && len(buf) > 1 || !c.body.atEnd && len(buf) > maxChunkLine {
			return nil, errBadBody
		}
		if err := c.fillBody(); err != nil {
			return nil, err
		}
	}
}

// parseChunkSize parses the line before a chunk: the size in hexadecimal digits,
// and perhaps extensions, which are ignored (RFC 9112 section 7.1).
func parseChunkSize(line []byte) (n int64, ok bool) {
	if len(line) > maxChunkLine {
		return 0, false
	}
	size, ext, has := bytes.Cut(line, []byte(";"))
	if len(size) == 0 || len(size) > 15 {
		return 0, false
	}
	for _, c := range size {
		switch c = lowerASCII(c); {
		case isDigit(c):
			n = n<<4 + int64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 + int64(c-'a') + 10
		default:
			return 0, false
		}
	}
	if has && !isFieldValue(string(ext)) {
		return 0, false
	}
	return n, true
}
