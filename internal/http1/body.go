package http1

import (
	"bytes"
	"errors"
	"io"
	"math"
)

// Errors of Body.Next.
var (
	// ErrMore means that more input is needed.
	ErrMore = errors.New("http1: more input is needed")

	// ErrChunk means that the chunks are malformed.
	ErrChunk = errors.New("malformed chunk")

	// ErrChunkLimit means that the line before a chunk is longer than its limit.
	ErrChunkLimit = errors.New("chunk line over its limit")

	// ErrTrailer means that a trailer field is malformed.
	ErrTrailer = errors.New("malformed trailer field")

	// ErrLimit means that the body is longer than its limit.
	ErrLimit = errors.New("body over its limit")

	// ErrTrailerLimit means that the trailer section is longer than its limit.
	ErrTrailerLimit = errors.New("trailers over their limit")
)

// Limits of the line before a chunk. The only known use of extensions is to hide
// bytes (CVE-2023-39326).
const (
	maxChunkLine    = 256
	maxLenientChunk = 4 << 10
)

// A Body decodes the framing of a message body (RFC 9112 section 6). It takes only
// complete elements from the input, so reading may be interrupted anywhere.
type Body struct {
	// Limit is the number of bytes of the body that may still follow.
	Limit int64

	// MaxTrailer is the maximum size of the trailer section.
	MaxTrailer int

	// Lenient accepts what HTTP clients accept: spaces after the size of a chunk,
	// longer extensions, and trailer lines that are folded or end in a bare LF.
	Lenient bool

	// KeepTrailer makes Next append the trailer lines to Trailer.
	KeepTrailer bool
	Trailer     []byte

	state   bodyState
	left    int64 // of the body, or of the current chunk
	trailer int   // bytes of the trailer section so far
}

type bodyState uint8

const (
	bodyOver   bodyState = iota
	bodyFixed            // left bytes follow
	bodyOpen             // the body ends with the connection
	chunkSize            // a line with a size follows
	chunkData            // left bytes of a chunk follow
	chunkEnd             // the CRLF after a chunk follows
	chunkTrail           // a line of the trailer section follows
)

// Fixed makes b a body of n bytes.
func (b *Body) Fixed(n int64) {
	b.left, b.state = n, bodyFixed
	if n == 0 {
		b.state = bodyOver
	}
}

// Chunked makes b a body in chunks.
func (b *Body) Chunked() { b.state = chunkSize }

// UntilClose makes b a body that ends with the connection.
func (b *Body) UntilClose() { b.left, b.state = math.MaxInt64, bodyOpen }

// Over reports whether all of the body was consumed.
func (b *Body) Over() bool { return b.state == bodyOver }

// IsOpen reports whether b ends with the connection.
func (b *Body) IsOpen() bool { return b.state == bodyOpen }

// InChunk reports whether Left bytes of a chunk follow.
func (b *Body) InChunk() bool { return b.state == chunkData }

// BehindChunk reports whether the line end after a chunk follows.
func (b *Body) BehindChunk() bool { return b.state == chunkEnd }

// InTrailer reports whether the last chunk has been read, but the trailer section
// has not.
func (b *Body) InTrailer() bool { return b.state == chunkTrail }

// End marks the end of a body that ends with the connection.
func (b *Body) End() { b.state = bodyOver }

// Left returns how many bytes of the body, or of the current chunk, have not been consumed
// yet. Bytes after them are not part of the body or chunk.
func (b *Body) Left() int64 {
	switch b.state {
	case bodyFixed, bodyOpen, chunkData:
		return b.left
	}
	return 0
}

// TrailerFields returns the fields of the trailer section, if they were kept,
// without fields that are not allowed there.
func (b *Body) TrailerFields() Fields {
	if len(b.Trailer) == 0 {
		return Fields{}
	}
	Canonicalize(b.Trailer)
	return Fields{block: string(b.Trailer), trailer: true}
}

// Next examines in, the input that has not been taken yet. The first skip bytes are
// framing; the caller takes them now. The next n bytes belong to the body; the
// caller takes them with Consume. If n is 0, the error is io.EOF at the end of the
// body, ErrMore if in is incomplete, or another error if in is malformed.
func (b *Body) Next(in []byte) (skip, n int, err error) {
	for {
		switch rest := in[skip:]; b.state {
		case bodyOver:
			return skip, 0, io.EOF
		case bodyFixed, bodyOpen, chunkData:
			if len(rest) == 0 {
				return skip, 0, ErrMore
			}
			return skip, int(min(int64(len(rest)), b.left)), nil
		default:
			took, err := b.line(rest)
			if skip += took; err != nil {
				return skip, 0, err
			}
		}
	}
}

// Consume takes n of the body bytes that Next returned.
func (b *Body) Consume(n int) {
	switch b.state {
	case bodyFixed:
		if b.left -= int64(n); b.left == 0 {
			b.state = bodyOver
		}
		b.Limit -= int64(n)
	case chunkData:
		if b.left -= int64(n); b.left == 0 {
			b.state = chunkEnd
		}
	}
}

// line takes a line between two chunks, or of the trailer section.
func (b *Body) line(in []byte) (took int, err error) {
	line, rest, ok := b.cut(in)
	if !ok {
		return 0, b.incomplete(in)
	}
	took = len(in) - len(rest)
	switch b.state {
	case chunkEnd:
		if len(line) > 0 {
			return 0, ErrChunk
		}
		b.state = chunkSize
	case chunkTrail:
		return took, b.trailerLine(line, took)
	default:
		return took, b.size(line)
	}
	return took, nil
}

// cut cuts the first line off in.
func (b *Body) cut(in []byte) (line, rest []byte, ok bool) {
	if !b.Lenient || b.state != chunkTrail {
		return cutLine(in)
	}
	i := bytes.IndexByte(in, '\n')
	if i < 0 {
		return nil, in, false
	}
	return bytes.TrimSuffix(in[:i], []byte("\r")), in[i+1:], true
}

// incomplete returns the error for in, which does not begin with a valid line.
func (b *Body) incomplete(in []byte) error {
	switch most := b.maxLine(); {
	case b.state == chunkTrail && len(in) >= most:
		return ErrTrailerLimit
	case b.state == chunkSize && len(in) >= most && bytes.IndexByte(in[:most], '\n') < 0:
		return ErrChunkLimit
	case bytes.IndexByte(in, '\n') >= 0, len(in) >= most, b.state == chunkEnd && len(in) > 0 && in[0] != '\r':
		return ErrChunk
	}
	return ErrMore
}

// maxLine returns the maximum length of the next line.
func (b *Body) maxLine() int {
	switch {
	case b.state == chunkEnd:
		return len("\r\n")
	case b.state == chunkTrail:
		return b.MaxTrailer - b.trailer
	case b.Lenient:
		return maxLenientChunk
	}
	return maxChunkLine
}

// trailerLine takes a line of the trailer section. n is its length with the line
// end.
func (b *Body) trailerLine(line []byte, n int) error {
	if len(line) == 0 {
		b.state = bodyOver
		return nil
	}
	if b.trailer += n; b.trailer > b.MaxTrailer {
		return ErrTrailerLimit
	}
	if b.Lenient {
		folded := b.trailer > n && isSpace(line[0])
		if !folded && bytes.IndexByte(line, ':') < 0 || !IsFieldValue(line) {
			return ErrTrailer
		}
	} else if _, _, ok := cutField(line); !ok {
		return ErrTrailer
	}
	if b.KeepTrailer {
		b.Trailer = append(append(b.Trailer, line...), '\n')
	}
	return nil
}

// size takes the line before a chunk.
func (b *Body) size(line []byte) error {
	size, ok := parseChunkSize(line, b.Lenient)
	switch {
	case len(line) >= b.maxLine():
		return ErrChunkLimit
	case !ok:
		return ErrChunk
	case size > b.Limit:
		return ErrLimit
	case size == 0:
		b.state = chunkTrail
	default:
		b.left, b.state = size, chunkData
		b.Limit -= size
	}
	return nil
}

// parseChunkSize parses the line before a chunk: the size in hexadecimal digits,
// optionally followed by extensions, which are ignored (RFC 9112 section 7.1).
func parseChunkSize(line []byte, lenient bool) (n int64, ok bool) {
	size, ext, extended := bytes.Cut(line, []byte(";"))
	if extended || lenient {
		size = trimRight(size) // "bad whitespace", which recipients accept and senders must not send
	}
	if len(size) == 0 || len(size) > 16 {
		return 0, false
	}
	for _, c := range size {
		d, ok := hexDigit(c)
		if !ok || n > math.MaxInt64>>4 {
			return 0, false
		}
		n = n<<4 + d
	}
	return n, IsFieldValue(ext)
}
