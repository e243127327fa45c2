package http1

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// decode reads a body from in, which arrives in steps of piece bytes.
func decode(b *Body, in []byte, piece int) (body []byte, rest int, err error) {
	there := 0
	taken := 0
	for {
		skip, n, err := b.Next(in[taken:there])
		taken += skip
		switch {
		case n > 0:
			body = append(body, in[taken:taken+n]...)
			taken += n
			b.Consume(n)
		case err == ErrMore && there < len(in):
			there = min(there+piece, len(in))
		default:
			return body, len(in) - taken, err
		}
	}
}

func newBody(lenient bool) *Body {
	b := &Body{Limit: math.MaxInt64, MaxTrailer: 100, Lenient: lenient, KeepTrailer: lenient}
	b.Chunked()
	return b
}

func TestChunksAreDecodedHoweverTheyArrive(t *testing.T) {
	for _, test := range []struct {
		in              string
		strict, lenient error // nil: accepted
	}{
		{"5\r\nhello\r\n0\r\n\r\n", nil, nil},
		{"0000000000000002\r\nhe\r\n3;a=\"b\"\r\nllo\r\n000\r\nT: u\r\nV: w\r\n\r\n", nil, nil},
		{"5 ;a\r\nhello\r\n0\t ;b\r\n\r\n", nil, nil},
		{"5 \r\nhello\r\n0 \r\n\r\n", ErrChunk, nil},
		{"5;" + strings.Repeat("x", 300) + "\r\nhello\r\n0\r\n\r\n", ErrChunkLimit, nil},
		{"5\r\nhello\r\n0\r\nT: u\n\n", ErrChunk, nil},
		{"5\r\nhello\r\n0\r\nT: u\r\n v\r\n\r\n", ErrTrailer, nil},
		{"5\r\nhello\r\n0\r\nT : u\r\n\r\n", ErrTrailer, nil},
		{"5\r\nhello\r\n0\r\n T: u\r\n\r\n", ErrTrailer, nil},
		{"5\nhello\r\n0\r\n\r\n", ErrChunk, ErrChunk},
		{"5;a\nb\r\nhello\r\n0\r\n\r\n", ErrChunk, ErrChunk},
		{"5\r\nhello\n0\r\n\r\n", ErrChunk, ErrChunk},
		{"5\r\nhellooo\r\n0\r\n\r\n", ErrChunk, ErrChunk},
		{" 5\r\nhello\r\n", ErrChunk, ErrChunk},
		{"+5\r\nhello\r\n", ErrChunk, ErrChunk},
		{"0x5\r\nhello\r\n", ErrChunk, ErrChunk},
		{"\r\nhello\r\n", ErrChunk, ErrChunk},
		{";a\r\nhello\r\n", ErrChunk, ErrChunk},
		{"5;\x01\r\nhello\r\n", ErrChunk, ErrChunk},
		{"8000000000000000\r\nhello\r\n", ErrChunk, ErrChunk},
		{"00000000000000005\r\nhello\r\n", ErrChunk, ErrChunk},
		{"5;" + strings.Repeat("x", 5000), ErrChunkLimit, ErrChunkLimit},
		{"5\r\nhello\r\n0\r\nT\r\n\r\n", ErrTrailer, ErrTrailer},
		{"5\r\nhello\r\n0\r\nT: \x01\r\n\r\n", ErrTrailer, ErrTrailer},
		{"5\r\nhello\r\n0\r\nT: " + strings.Repeat("u", 100) + "\r\n\r\n", ErrTrailerLimit, ErrTrailerLimit},
		{"5\r\nhello\r\n0\r\n" + strings.Repeat("T: u\r\n", 17) + "\r\n", ErrTrailerLimit, ErrTrailerLimit},
		{"5\r\nhello\r\n0\r\n", ErrMore, ErrMore},
		{"5\r\nhello", ErrMore, ErrMore},
		{"5", ErrMore, ErrMore},
	} {
		for _, lenient := range []bool{false, true} {
			want := test.strict
			if lenient {
				want = test.lenient
			}
			if want == nil {
				want = io.EOF
			}
			for piece := 1; piece <= len(test.in)+1; piece += 1 + piece/8 {
				b := newBody(lenient)
				body, rest, err := decode(b, []byte(test.in+"NEXT"), piece)
				if errors.Is(want, ErrMore) {
					b = newBody(lenient)
					body, rest, err = decode(b, []byte(test.in), piece)
					rest += len("NEXT")
				}
				if err != want || err == io.EOF && (string(body) != "hello" || rest != len("NEXT") || !b.Over()) {
					t.Fatalf("%.60q lenient %v, in pieces of %d: %q, %d left, %v; want %v", test.in, lenient, piece, body, rest, err, want)
				}
			}
		}
	}
}

func TestBodiesWithAndWithoutALengthEndAtTheRightByte(t *testing.T) {
	b := &Body{Limit: 10}
	b.Fixed(5)
	if body, rest, err := decode(b, []byte("hello!"), 2); string(body) != "hello" || rest != 1 || err != io.EOF || b.Limit != 5 {
		t.Errorf("%q, %d left, %v, limit %d", body, rest, err, b.Limit)
	}
	b = &Body{}
	b.Fixed(0)
	if _, rest, err := decode(b, []byte("!"), 1); rest != 1 || err != io.EOF || !b.Over() {
		t.Errorf("%d left, %v", rest, err)
	}
	b = &Body{}
	b.UntilClose()
	if body, _, err := decode(b, []byte("hello"), 2); string(body) != "hello" || err != ErrMore || !b.IsOpen() {
		t.Errorf("%q, %v", body, err)
	}
}

func TestAChunkOverTheLimitIsRejectedBeforeItArrives(t *testing.T) {
	b := newBody(false)
	b.Limit = 7
	if body, _, err := decode(b, []byte("5\r\nhello\r\n3\r\n"), 100); string(body) != "hello" || err != ErrLimit {
		t.Errorf("%q, %v; want ErrLimit", body, err)
	}
}

// The result does not depend on how chunks arrive, and the lenient side accepts
// everything that the strict side accepts.
func FuzzBody(f *testing.F) {
	f.Add([]byte("5 ;a\r\nhello\r\n0\r\nT: u\r\n\r\nrest"), uint8(3))
	f.Add([]byte("A\r\n0123456789\r\n0\r\nT: u\n v\n\n"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		var bodies [2][]byte
		var rests [2]int
		var errs [2]error
		for i, lenient := range []bool{false, true} {
			b := newBody(lenient)
			bodies[i], rests[i], errs[i] = decode(b, in, len(in)+1)
			again := newBody(lenient)
			body, rest, err := decode(again, in, 1+int(piece))
			if !bytes.Equal(body, bodies[i]) || (err == io.EOF) != (errs[i] == io.EOF) || err == io.EOF && rest != rests[i] {
				t.Fatalf("at once: %q, %d, %v; in pieces: %q, %d, %v", bodies[i], rests[i], errs[i], body, rest, err)
			}
			if err == io.EOF && !slices.Equal(b.Trailer, again.Trailer) {
				t.Fatalf("trailer %q at once, %q in pieces", b.Trailer, again.Trailer)
			}
		}
		if errs[0] == io.EOF && (errs[1] != io.EOF || rests[0] != rests[1] || !bytes.Equal(bodies[0], bodies[1])) {
			t.Fatalf("strict: %q, %d; lenient: %q, %d, %v", bodies[0], rests[0], bodies[1], rests[1], errs[1])
		}
	})
}
