package drakma

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/onloop/eventloop"
)

// ErrFileChanged matches the error of a request with a file that changed while it was sent.
var ErrFileChanged = errors.New("the file has changed")

// A body is the body of a request. Its methods are called for one attempt at a time.
type body interface {
	contentType() string
	// prepare determines the length. It may block, and is called once, if blocks reports true.
	prepare() error
	blocks() bool
	// apply sets the body in the options of an attempt.
	apply(opts *eventloop.HTTPOptions)
	// again reports whether apply may be called again.
	again() bool
	// close closes the readers of the application. It is called if apply is not.
	close()
}

// memory is a body in memory. prepare has nothing to do.
type memory struct {
	mediaType string
	p         []byte
}

func bytesBody(mediaType string, p []byte) *memory { return &memory{mediaType, p} }

func (b *memory) contentType() string               { return b.mediaType }
func (b *memory) prepare() error                    { return nil }
func (b *memory) blocks() bool                      { return false }
func (b *memory) again() bool                       { return true }
func (b *memory) close()                            {}
func (b *memory) apply(opts *eventloop.HTTPOptions) { opts.Body = b.p }

// readerBody is a reader of the application.
type readerBody struct {
	mediaType string
	r         io.Reader
	used      bool
}

func (b *readerBody) contentType() string { return b.mediaType }
func (b *readerBody) prepare() error      { return nil }
func (b *readerBody) blocks() bool        { return false }
func (b *readerBody) again() bool         { return !b.used }
func (b *readerBody) close()              { closeReader(b.r) }
func (b *readerBody) apply(opts *eventloop.HTTPOptions) {
	b.used = true
	opts.BodyReader = b.r
}

// fileBody is a file.
type fileBody struct {
	mediaType string
	file      Part
}

func (b *fileBody) contentType() string { return b.mediaType }
func (b *fileBody) prepare() error      { return b.file.stat() }
func (b *fileBody) blocks() bool        { return true }
func (b *fileBody) again() bool         { return true }
func (b *fileBody) close()              {}
func (b *fileBody) apply(opts *eventloop.HTTPOptions) {
	setReader(opts, b.file.size, func() io.ReadCloser { return b.file.open() })
}

// setReader sets a reader with a length, which the HTTP client can open again.
func setReader(opts *eventloop.HTTPOptions, size int64, open func() io.ReadCloser) {
	if size == 0 {
		return // a ContentLength of 0 would mean an unknown length
	}
	opts.BodyReader = open()
	opts.ContentLength = max(size, 0)
	if size > 0 {
		opts.GetBody = func() (io.ReadCloser, error) { return open(), nil }
	}
}

// A Part is a part of a form for [Request.Multipart]. [Field], [File], [Data] and [Reader]
// return parts.
type Part struct {
	name      string
	fileName  string // "": the part is a field
	mediaType string
	data      []byte
	path      string    // of a file
	r         io.Reader // of Reader
	size      int64     // -1 if unknown
	modTime   time.Time
}

// Field returns a part with a value.
func Field(name, value string) Part {
	return Part{name: name, data: []byte(value), size: int64(len(value))}
}

// File returns a part with the content of a file. The file is read while it is sent, see
// [Request.BodyFile]. The file name of the part is the last element of path. Its extension
// determines the media type.
func File(name, path string) Part {
	return Part{name: name, fileName: filepath.Base(path), path: path, mediaType: mediaTypeOf(path)}
}

// Data returns a part that looks to the server like a file with this name and media type. If
// mediaType is empty, the extension of fileName determines it. p must not change until the
// request has ended.
func Data(name, fileName, mediaType string, p []byte) Part {
	if mediaType == "" {
		mediaType = mediaTypeOf(fileName)
	}
	return Part{name: name, fileName: fileName, mediaType: mediaType, data: p, size: int64(len(p))}
}

// Reader is like Data, with the content of r. Its length is unknown, so the request is sent
// in chunks. The request can be sent only once: see [Request.Body].
func Reader(name, fileName, mediaType string, r io.Reader) Part {
	p := Data(name, fileName, mediaType, nil)
	p.r, p.size = r, -1
	return p
}

func mediaTypeOf(name string) string {
	if t := mime.TypeByExtension(filepath.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// stat determines the size of a file.
func (p *Part) stat() error {
	if p.path == "" {
		return nil
	}
	info, err := os.Stat(p.path)
	if err != nil {
		return fmt.Errorf("drakma: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("drakma: %s is not a regular file", p.path)
	}
	p.size, p.modTime = info.Size(), info.ModTime()
	return nil
}

// open returns the content. It does not block: the first Read opens a file.
func (p *Part) open() io.ReadCloser {
	switch {
	case p.path != "":
		return &fileReader{path: p.path, left: p.size, size: p.size, modTime: p.modTime}
	case p.r != nil:
		if c, ok := p.r.(io.ReadCloser); ok {
			return c
		}
		return io.NopCloser(p.r)
	}
	return io.NopCloser(bytes.NewReader(p.data))
}

// A fileReader reads a file, and fails if the file has changed since stat. One goroutine
// calls Read. Any goroutine may call Close at the same time.
type fileReader struct {
	path    string
	size    int64
	modTime time.Time
	left    int64 // the number of unread bytes; only for the goroutine that reads

	mu     sync.Mutex // guards the following; not held during file system calls
	f      *os.File   // nil before the first Read
	closed bool
}

func (r *fileReader) Read(b []byte) (int, error) {
	f, err := r.file()
	if err != nil {
		return 0, err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := f.Read(b[:min(int64(len(b)), r.left)])
	r.left -= int64(n)
	switch {
	case err == io.EOF:
		return n, fmt.Errorf("%s: %w", r.path, ErrFileChanged)
	case err != nil:
		return n, err
	case r.left == 0:
		// If the file has changed, the last bytes are not sent, so that the server cannot
		// mistake the request for a complete one.
		if err := r.unchanged(f); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// file returns the file. The first call opens it.
func (r *fileReader) file() (*os.File, error) {
	if f, err := r.opened(nil); f != nil || err != nil {
		return f, err
	}
	f, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	if _, err := r.opened(f); err != nil {
		f.Close() // Close came first
		return nil, err
	}
	return f, r.unchanged(f)
}

// opened sets the file to f, if f is not nil, and returns the file if it is open.
func (r *fileReader) opened(f *os.File) (*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, os.ErrClosed
	}
	if f != nil {
		r.f = f
	}
	return r.f, nil
}

func (r *fileReader) unchanged(f *os.File) error {
	info, err := f.Stat()
	if err == nil && (info.Size() != r.size || !info.ModTime().Equal(r.modTime)) {
		err = fmt.Errorf("%s: %w", r.path, ErrFileChanged)
	}
	return err
}

func (r *fileReader) Close() error {
	r.mu.Lock()
	f := r.f
	r.f, r.closed = nil, true
	r.mu.Unlock()
	if f == nil {
		return nil
	}
	return f.Close()
}

// A multipart is a form of parts.
type multipart struct {
	parts    []Part
	boundary string
	used     bool
}

func newMultipart(parts []Part) *multipart {
	var b [16]byte
	rand.Read(b[:])
	return &multipart{parts: append([]Part(nil), parts...), boundary: hex.EncodeToString(b[:])}
}

func (m *multipart) contentType() string { return "multipart/form-data; boundary=" + m.boundary }

func (m *multipart) blocks() bool {
	for i := range m.parts {
		if m.parts[i].path != "" {
			return true
		}
	}
	return false
}

func (m *multipart) prepare() error {
	for i := range m.parts {
		if err := m.parts[i].stat(); err != nil {
			return err
		}
	}
	return nil
}

func (m *multipart) again() bool {
	for i := range m.parts {
		if m.parts[i].r != nil {
			return !m.used
		}
	}
	return true
}

func (m *multipart) close() {
	for i := range m.parts {
		defer closeReader(m.parts[i].r) // deferred, so that a panic in one does not skip the others
	}
}

// head returns the boundary and header that precede the content of a part.
func (m *multipart) head(i int) string {
	p := &m.parts[i]
	var b strings.Builder
	if i > 0 {
		b.WriteString("\r\n")
	}
	b.WriteString("--" + m.boundary + "\r\nContent-Disposition: form-data; name=\"" + escapeName(p.name) + `"`)
	if p.fileName != "" {
		b.WriteString(`; filename="` + escapeName(p.fileName) + `"`)
	}
	b.WriteString("\r\n")
	if p.mediaType != "" {
		b.WriteString("Content-Type: " + p.mediaType + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

var nameEscapes = strings.NewReplacer("\r", "%0D", "\n", "%0A", `"`, "%22")

// escapeName escapes the characters that would end a name, as the HTML standard requires.
func escapeName(s string) string { return nameEscapes.Replace(s) }

func (m *multipart) tail() string {
	if len(m.parts) == 0 {
		return "--" + m.boundary + "--\r\n"
	}
	return "\r\n--" + m.boundary + "--\r\n"
}

func (m *multipart) apply(opts *eventloop.HTTPOptions) {
	m.used = true
	size := int64(len(m.tail()))
	for i := range m.parts {
		if m.parts[i].size < 0 {
			size = -1
			break
		}
		size += int64(len(m.head(i))) + m.parts[i].size
	}
	setReader(opts, size, m.open)
}

// open returns the form.
func (m *multipart) open() io.ReadCloser {
	var list []io.ReadCloser
	for i := range m.parts {
		list = append(list, io.NopCloser(strings.NewReader(m.head(i))), m.parts[i].open())
	}
	return &readers{list: append(list, io.NopCloser(strings.NewReader(m.tail())))}
}

// readers reads from several readers, one after another, and closes each at its end. One
// goroutine calls Read. Any goroutine may call Close at the same time. Close closes the
// current reader, so that a blocked Read returns.
type readers struct {
	mu     sync.Mutex      // guards the following; not held while a reader is called
	list   []io.ReadCloser // the readers that are not closed yet
	closed bool
}

func (r *readers) Read(b []byte) (int, error) {
	for {
		first, err := r.first()
		if err != nil {
			return 0, err
		}
		n, err := first.Read(b)
		if err == io.EOF {
			err = r.closeFirst()
		}
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// first returns the reader to read next.
func (r *readers) first() (io.Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, os.ErrClosed
	case len(r.list) == 0:
		return nil, io.EOF
	}
	return r.list[0], nil
}

// closeFirst closes the first reader, unless Close does.
func (r *readers) closeFirst() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return os.ErrClosed
	}
	first := r.list[0]
	r.list = r.list[1:]
	r.mu.Unlock()
	return first.Close()
}

func (r *readers) Close() (err error) {
	r.mu.Lock()
	list := r.list
	r.list, r.closed = nil, true
	r.mu.Unlock()
	for _, c := range list {
		defer func() { err = errors.Join(err, c.Close()) }() // deferred because of panics, see above
	}
	return nil
}

func closeReader(r io.Reader) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}
