// Package coding decodes the content codings of HTTP: gzip, br and zstd. Bytes
// after the end of the coded data are ignored, as in browsers: some servers append
// a line end, zeros or a footer.
package coding

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"
)

// ErrTooLarge means that the decoded data is longer than its limit.
var ErrTooLarge = errors.New("decoded data is too large")

// Decode decodes a whole body. The result may have at most max bytes. The coding is
// "gzip", "br" or "zstd".
func Decode(coding string, body []byte, max int) ([]byte, error) {
	out := &bounded{max: max}
	var err error
	switch coding {
	case "gzip":
		_, err = io.Copy(out, NewGunzip(bytes.NewReader(body)))
	case "br":
		// The data is already written when the decoder detects the bytes after it.
		_, err = fasthttp.WriteUnbrotli(out, body)
		if err != nil && strings.Contains(err.Error(), "excessive input") {
			err = nil
		}
	case "zstd":
		return unzstd(body, max)
	default:
		return nil, errors.New("unknown coding " + coding)
	}
	return out.data, err
}

// bounded collects the data that is written to it, up to max bytes.
type bounded struct {
	data []byte
	max  int
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.max-len(b.data) {
		return 0, ErrTooLarge
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// A Gunzip decodes a gzip stream of one or more members. It reads the coded bytes
// to their end, unless more than maxGarbage of them follow the stream.
type Gunzip struct {
	coded *bufio.Reader
	zr    *gzip.Reader
	err   error
}

// NewGunzip returns a Gunzip of coded.
func NewGunzip(coded io.Reader) *Gunzip { return &Gunzip{coded: bufio.NewReader(coded)} }

// zippers holds gzip.Readers: one takes 40 KB.
var zippers sync.Pool

// Read reads data. Before any data, io.EOF means that the body is empty.
func (g *Gunzip) Read(p []byte) (n int, err error) {
	for n == 0 && g.err == nil && len(p) > 0 {
		if g.zr == nil {
			g.err = g.begin()
			continue
		}
		n, err = g.zr.Read(p)
		if err == io.EOF {
			err = g.next()
		}
		if g.err = err; err != nil {
			zippers.Put(g.zr)
			g.zr = nil
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, g.err
}

// begin reads the header of the first member.
func (g *Gunzip) begin() (err error) {
	if _, err = g.coded.Peek(1); err != nil {
		return err // no body at all
	}
	zr, ok := zippers.Get().(*gzip.Reader)
	if !ok {
		zr = new(gzip.Reader)
	}
	if err = zr.Reset(g.coded); err != nil {
		zippers.Put(zr)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	zr.Multistream(false)
	g.zr = zr
	return nil
}

// next starts the next member. If no member follows, it drops the remaining bytes
// and returns io.EOF at the end.
func (g *Gunzip) next() error {
	if magic, _ := g.coded.Peek(2); string(magic) == "\x1f\x8b" {
		if err := g.zr.Reset(g.coded); err == nil {
			g.zr.Multistream(false)
			return nil
		}
	}
	if _, err := io.CopyN(io.Discard, g.coded, maxGarbage); err != nil {
		return err // io.EOF, or the error of the connection
	}
	return io.EOF
}

// maxGarbage is the maximum number of bytes that are read after the data.
const maxGarbage = 64 << 10

// maxWindow is the largest window that a zstd frame may need in HTTP (RFC 9659).
// The decoder allocates the window that a frame requests, however short the body
// is.
const maxWindow = 8 << 20

var (
	errWindow = errors.New("zstd window over 8 MB")
	errFrame  = errors.New("malformed zstd frame")
)

func unzstd(body []byte, max int) ([]byte, error) {
	end, err := zstdEnd(body)
	if err != nil {
		return nil, err
	}
	var res fasthttp.Response
	res.SetBodyRaw(body[:end])
	data, err := res.BodyUnzstdWithLimit(min(max, math.MaxInt/2)) // fasthttp adds to it
	if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		err = ErrTooLarge
	}
	return data, err
}

// zstdEnd returns the end of the last frame of body. It checks the windows of all
// frames.
func zstdEnd(body []byte) (end int, err error) {
	for {
		n, err := zstdFrame(body[end:])
		if n == 0 && end > 0 {
			return end, nil // no frame follows
		}
		if err != nil {
			return 0, err
		}
		end += n
	}
}

const (
	zstdMagic     = 0xfd2fb528
	zstdSkippable = 0x184d2a50 // and the next 15
)

// zstdFrame returns the length of the frame at the beginning of b (RFC 8878 section
// 3), or 0 and an error if there is none.
func zstdFrame(b []byte) (n int, err error) {
	if len(b) < 8 {
		return 0, errFrame
	}
	switch magic := binary.LittleEndian.Uint32(b); {
	case magic&^0xf == zstdSkippable:
		size := uint64(binary.LittleEndian.Uint32(b[4:])) + 8
		if size > uint64(len(b)) {
			return 0, errFrame
		}
		return int(size), nil
	case magic != zstdMagic:
		return 0, errFrame
	}
	descriptor := b[4]
	n = 5
	window := uint64(0)
	single := descriptor&0x20 != 0
	if !single {
		exponent, mantissa := b[5]>>3, b[5]&7
		window = 1 << (10 + exponent)
		window += window / 8 * uint64(mantissa)
		n++
	}
	n += []int{0, 1, 2, 4}[descriptor&3] // dictionary
	size := []int{0, 2, 4, 8}[descriptor>>6]
	if size == 0 && single {
		size = 1
	}
	if len(b) < n+size {
		return len(b), nil // the decoder rejects it
	}
	if single {
		var content [8]byte
		copy(content[:], b[n:n+size])
		window = binary.LittleEndian.Uint64(content[:])
		if size == 2 {
			window += 256
		}
	}
	if window > maxWindow {
		return len(b), errWindow
	}
	n += size
	for last := false; !last; {
		if len(b) < n+3 {
			return len(b), nil
		}
		header := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
		last = header&1 != 0
		n += 3
		if header>>1&3 == 1 { // one byte, repeated
			n++
		} else {
			n += int(header >> 3)
		}
	}
	if descriptor&4 != 0 { // checksum
		n += 4
	}
	return min(n, len(b)), nil
}
