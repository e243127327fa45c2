package eventloop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// This file finds the length of a BodyReader, and reads it again for a retry or redirect.

// An uploadSource is the state of BodyReader. The goroutine of the current upload writes
// it with the lock of its uploadBody held. The goroutine of the request reads it with that
// lock, or after the end of the upload.
type uploadSource struct {
	begun bool  // a Read has begun
	seeks bool  // it can seek back to start
	start int64 // its first position
	file  bool  // the length is that of a file, which may change
}

// isNilBody reports whether r is a nil pointer of a type whose Len we call. That call
// would panic.
func isNilBody(r io.Reader) bool {
	switch r := r.(type) {
	case *bytes.Buffer:
		return r == nil
	case *bytes.Reader:
		return r == nil
	case *strings.Reader:
		return r == nil
	}
	return false
}

// bodyLength returns the length of the body, or -1 if it is unknown.
func (c *httpCall) bodyLength() int64 {
	o := c.opts
	if o.BodyReader == nil {
		return int64(len(o.Body))
	}
	if r, ok := o.BodyReader.(*bytes.Buffer); ok && o.GetBody == nil {
		data := r.Bytes()
		o.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	}
	if o.ContentLength > 0 {
		return o.ContentLength
	}
	switch r := o.BodyReader.(type) {
	case *bytes.Buffer:
		return int64(r.Len())
	case *bytes.Reader:
		return int64(r.Len())
	case *strings.Reader:
		return int64(r.Len())
	case *os.File:
		if n := fileLength(r); n >= 0 {
			c.more().source.file = true
			return n
		}
	}
	return -1
}

// fileLength returns the number of bytes after the offset of f, or -1 if it is unknown. It
// takes two system calls on an open file, so Do can call it.
func fileLength(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1
	}
	if n := info.Size() - offset; n > 0 {
		return n
	}
	// Files that the kernel generates, as in /proc, report a size of zero.
	if n, err := f.ReadAt(make([]byte, 1), offset); n > 0 || err != io.EOF {
		return -1
	}
	return 0
}

// trailerLines returns the trailer section with these fields.
func trailerLines(fields HTTPHeaders) ([]byte, error) {
	if err := fields.validate(); err != nil {
		return nil, err
	}
	for _, f := range fields {
		if http1.IsForbiddenTrailer(http.CanonicalHeaderKey(f.Name)) {
			return nil, fmt.Errorf("%w: %s in the trailer", ErrHTTPHeader, f.Name)
		}
	}
	return fields.appendTo(nil), nil
}

// canSendAgain reports whether the body can be sent again. If it can because none of it
// was read, canSendAgain ensures that none of it is read until the next upload.
func (c *httpCall) canSendAgain() bool {
	if c.opts.BodyReader == nil || c.opts.GetBody != nil {
		return true
	}
	if c.client.cfg.Transport != nil {
		return false
	}
	u := c.more().upload
	if u == nil {
		return true
	}
	b := u.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.from.begun {
		b.ended = true
		return true
	}
	return b.from.seeks
}

// prepare sets the body to its beginning: with GetBody or Seek if it was read before.
func (u *httpUpload) prepare() error {
	b := u.body
	if b.own {
		return nil
	}
	var err error
	if u.again && u.getBody != nil {
		// The last upload closes BodyReader after it has sent it, but the server may have
		// responded faster. What GetBody returned then is closed by end.
		u.call.closeBody()
		err = b.fetch(u.call, u.getBody)
	} else {
		err = u.seek()
	}
	u.before = nil
	if err == nil && b.from.file && u.length >= 0 {
		b.src = &fileBody{r: b.src, left: u.length}
	}
	return err
}

var errNilGetBody = errors.New("GetBody returned nil")

// fetch replaces the body with the reader that getBody returns.
func (b *uploadBody) fetch(c *httpCall, getBody func() (io.ReadCloser, error)) error {
	var r io.ReadCloser
	what := func() string { return "GetBody of the request " + c.describe() }
	if err := c.client.loop.aside(what, func() (err error) { r, err = getBody(); return err }); err != nil {
		return err
	}
	if r == nil {
		return errNilGetBody
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.src, b.fetched = r, &bodyCloser{body: r}
	return nil
}

// seek stores the first position of a Seeker, or sets it back to that position.
func (u *httpUpload) seek() error {
	b := u.body
	s, ok := b.src.(io.Seeker)
	if !ok || u.getBody != nil {
		return nil
	}
	if u.before != nil {
		<-u.before.done // it may be in Seek or Read, which cannot be interrupted
	}
	offset, whence := int64(0), io.SeekCurrent
	if u.again {
		offset, whence = b.from.start, io.SeekStart
	}
	var start int64
	err := u.call.asideFor("Seek of", s, func() (err error) { start, err = s.Seek(offset, whence); return err })
	if u.again || isUncaught(err) || err == ErrLoopClosed {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.from.start, b.from.seeks = start, err == nil
	return nil
}

// closeSent closes the body after it was sent, unless it may be needed again: a body that
// can seek, and a body of which nothing was read. The end of the request closes these.
func (u *httpUpload) closeSent() {
	b := u.body
	if b.own {
		return
	}
	if u.again && u.getBody != nil {
		u.closeFetched()
		return
	}
	b.mu.Lock()
	sent := !b.ended && b.from.begun && !b.from.seeks
	b.mu.Unlock()
	if sent {
		u.call.closeBody()
	}
}

// closeFetched closes the reader that GetBody has returned, once.
func (u *httpUpload) closeFetched() {
	b := u.body
	b.mu.Lock()
	f := b.fetched
	b.mu.Unlock()
	if f == nil {
		return
	}
	f.close(u.call)
	if f.panicked() != nil {
		u.call.client.loop.reportUnowned(f.panicked())
	}
}

// A fileBody is a file, of which left bytes remain to be sent. Before it returns the last
// of them, it checks whether more follow. So a file that has grown is never sent as a
// complete body: the server could respond before the request fails.
type fileBody struct {
	r    io.Reader
	left int64
}

func (f *fileBody) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.left -= int64(n); f.left > 0 || err != nil {
		return n, err
	}
	var more [1]byte
	if extra, err := f.r.Read(more[:]); extra > 0 || f.left < 0 {
		return 0, httpclient.ErrBodyLength
	} else if err == nil {
		return n, nil
	} else {
		return n, err
	}
}
