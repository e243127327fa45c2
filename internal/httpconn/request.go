package httpconn

import (
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/onloop/eventloop/internal/sockio"
)

// A Head is the head of a request. Fields keep their order and the case of their
// names; what Content-Length and the like say is what was added, nothing is made
// up.
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

// Release gives the Head back.
func (h *Head) Release() {
	h.h.Reset()
	heads.Put(h)
}

// maxInline is the longest body that is sent together with its head, in a single
// write.
const maxInline = 48 << 10

// Inline reports whether a body of n bytes can be sent by Send.
func Inline(n int) bool { return n <= maxInline }

// Send sends the head and the body, which must be Inline.
func (h *Head) Send(c *Conn, body []byte) error {
	b := bufferFor(body)
	defer b.Release()
	_, err := c.Write(h.append(b, body))
	return err
}

// Queue is Send for a connection that has a keeper: TryFlush writes it. It returns
// false, and queues nothing, if it is too much for that.
func (h *Head) Queue(c *Conn, body []byte) bool {
	b := bufferFor(body)
	n := len(h.append(b, body))
	if n > len(b.Room()) {
		b.Release()
		return false
	}
	b.Fill(n)
	c.queue(b)
	return true
}

func bufferFor(body []byte) *sockio.Buffer {
	size := 4 << 10
	if len(body) > size/2 {
		size = len(body) + size
	}
	return sockio.GetBuffer(size)
}

// append writes head and body into b, if there is room, and returns them.
func (h *Head) append(b *sockio.Buffer, body []byte) []byte {
	return append(h.h.AppendBytes(b.Room()[:0]), body...)
}

// ErrBodyLength is the error of a body that is not as long as was announced.
var ErrBodyLength = errors.New("eventloop: request body is not as long as was said")

// SendBody sends what r gives until io.EOF: n bytes, or chunks if n is negative.
// readErr is an error of r, or ErrBodyLength; writeErr one of the connection.
func SendBody(c *Conn, r io.Reader, n int64) (readErr, writeErr error) {
	b := sockio.GetBuffer(32 << 10)
	defer b.Release()
	if n < 0 {
		return sendChunks(c, r, b.Room())
	}
	return sendFixed(c, r, n, b.Room())
}

func sendFixed(c *Conn, r io.Reader, left int64, buf []byte) (readErr, writeErr error) {
	for {
		n, err := readSome(r, buf)
		if int64(n) > left {
			return ErrBodyLength, nil
		}
		left -= int64(n)
		if _, werr := c.Write(buf[:n]); werr != nil {
			return nil, werr
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

// Room for the size of a chunk before it and the line end behind it.
const chunkBefore, chunkAfter = 10, 2

// sendChunks sends each piece as soon as r has it. The size is written into buf
// right before the piece, and so the chunk goes out in one write.
func sendChunks(c *Conn, r io.Reader, buf []byte) (readErr, writeErr error) {
	for {
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
		}
		if _, werr := c.Write(buf[start:end]); werr != nil {
			return nil, werr
		}
		if err == io.EOF {
			return nil, nil
		}
	}
}

const lastChunk = "0\r\n\r\n"

// readSome reads at least one byte, or an error, and does not believe a reader
// that returns nothing for ever.
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
