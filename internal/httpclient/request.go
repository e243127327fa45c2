package httpclient

import (
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/onloop/eventloop/internal/sockio"
)

// A Head is the head of a request. Fields keep their order and the case of their names. The
// Head adds no fields, such as Content-Length, and changes none.
type Head struct{ h fasthttp.RequestHeader }

var heads = sync.Pool{New: func() any { return new(Head) }}

// GetHead returns a Head without fields.
func GetHead(method, target string) *Head {
	h := heads.Get().(*Head)
	h.h.DisableSpecialHeader()
	h.h.DisableNormalizing()
	h.h.SetNoDefaultContentType(true)
	h.h.SetMethod(method)
	h.h.SetRequestURI(target)
	return h
}

// Add appends a field. Name and value must be valid.
func (h *Head) Add(name, value string) { h.h.Add(name, value) }

// Release returns the Head to its pool.
func (h *Head) Release() {
	h.h.Reset()
	heads.Put(h)
}

// maxInline is the longest body that is sent together with its head, in a single
// write.
const maxInline = 48 << 10

// Inline reports whether a body of n bytes can be part of a Message.
func Inline(n int) bool { return n <= maxInline }

// A Message is the part of a request that is sent in one write.
type Message struct {
	buf   *sockio.Buffer // holds bytes; nil: they are too long for a buffer
	bytes []byte
}

// Message returns the head followed by body. The caller must send or release it.
func (h *Head) Message(body []byte) *Message {
	size := 4 << 10
	if len(body) > size/2 {
		size = len(body) + size
	}
	m := messages.Get().(*Message)
	m.buf = sockio.GetBuffer(size)
	m.bytes = append(h.h.AppendBytes(m.buf.Room()[:0]), body...)
	if len(m.bytes) > len(m.buf.Room()) {
		m.buf.Release()
		m.buf = nil
	}
	return m
}

var messages = sync.Pool{New: func() any { return new(Message) }}

// moveTo moves the message to q.
func (m *Message) moveTo(q *sockio.Queue) {
	if m.buf != nil {
		m.buf.Fill(len(m.bytes))
		q.AppendBuffer(m.buf)
		m.buf = nil
	} else {
		q.Append(m.bytes)
	}
	m.Release()
}

// Release returns the message to its pool. It has no effect on a nil Message.
func (m *Message) Release() {
	if m == nil {
		return
	}
	if m.buf != nil {
		m.buf.Release()
	}
	*m = Message{}
	messages.Put(m)
}

// ErrBodyLength is the error of a body that does not have the announced length.
var ErrBodyLength = errors.New("eventloop: request body is not as long as was said")

// A Trailer returns the trailer section of a request: lines that end in CRLF. It is
// called at the end of the body.
type Trailer func() ([]byte, error)

// SendBody sends the bytes of r until io.EOF. It sends n bytes or, if n is negative, chunks
// and then the trailer section, unless trailer is nil. readErr is an error of r or of
// trailer, or ErrBodyLength. writeErr is an error of the connection.
func SendBody(c *Conn, r io.Reader, n int64, trailer Trailer) (readErr, writeErr error) {
	b := sockio.GetBuffer(32 << 10)
	defer b.Release()
	if n < 0 {
		return sendChunks(c, r, b.Room(), trailer)
	}
	return sendFixed(c, r, n, b.Room())
}

func sendFixed(c *Conn, r io.Reader, left int64, buf []byte) (readErr, writeErr error) {
	for {
		if left > 0 { // otherwise only io.EOF remains to be read
			if werr := c.AwaitRoom(); werr != nil {
				return nil, werr
			}
		}
		n, err := readSome(r, buf)
		if int64(n) > left {
			return ErrBodyLength, nil
		}
		left -= int64(n)
		if n > 0 {
			if werr := c.Write(buf[:n], left == 0); werr != nil {
				return nil, werr
			}
		}
		switch {
		case err == io.EOF && left > 0:
			return ErrBodyLength, nil
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// Room for the size line before the data of a chunk, and for the line end after it.
const chunkBefore, chunkAfter = 10, 2

// sendChunks sends each piece of data as soon as r returns it. The size line is placed in buf
// directly before the piece, so the chunk is sent in one write.
func sendChunks(c *Conn, r io.Reader, buf []byte, trailer Trailer) (readErr, writeErr error) {
	for {
		if werr := c.AwaitRoom(); werr != nil {
			return nil, werr
		}
		n, err := readSome(r, buf[chunkBefore:len(buf)-chunkAfter-len(lastChunk)])
		if err != nil && err != io.EOF {
			return err, nil
		}
		start, end := chunkBefore, chunkBefore
		if n > 0 {
			var size [chunkBefore]byte
			line := append(strconv.AppendUint(size[:0], uint64(n), 16), "\r\n"...)
			start -= copy(buf[chunkBefore-len(line):], line)
			end += n
			end += copy(buf[end:], "\r\n")
		}
		if err == io.EOF {
			end += copy(buf[end:], lastChunk)
			return sendLast(c, buf[start:end], trailer)
		}
		if werr := c.Write(buf[start:end], false); werr != nil {
			return nil, werr
		}
	}
}

// sendLast sends p, which ends with the last chunk, and inserts the trailer section.
func sendLast(c *Conn, p []byte, trailer Trailer) (readErr, writeErr error) {
	if trailer != nil {
		lines, err := trailer()
		if err != nil {
			return err, nil
		}
		end := len(p) - len("\r\n")
		p = append(append(p[:end:end], lines...), "\r\n"...)
	}
	return nil, c.Write(p, true)
}

const lastChunk = "0\r\n\r\n"

// readSome reads until r returns data or an error. It returns io.ErrNoProgress if r keeps
// returning neither.
func readSome(r io.Reader, p []byte) (int, error) {
	for range 100 {
		n, err := r.Read(p)
		if n < 0 || n > len(p) {
			return 0, errors.New("eventloop: request body returned an invalid count from Read")
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}
