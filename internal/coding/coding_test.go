package coding

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"
)

func gzipped(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.Bytes()
}

var coders = map[string]func(s string) []byte{
	"gzip": gzipped,
	"br":   func(s string) []byte { return fasthttp.AppendBrotliBytes(nil, []byte(s)) },
	"zstd": func(s string) []byte { return fasthttp.AppendZstdBytes(nil, []byte(s)) },
}

func TestBytesAfterTheDataAreIgnored(t *testing.T) {
	for name, code := range coders {
		for _, data := range []string{"", "hi", strings.Repeat("some text and more ", 50_000)} {
			coded := code(data)
			for _, tail := range []string{"", "\r\n", "\x00\x00\x00\x00\x00", "text", "\x1f", "\x1f\x8b", "\x1f\x8b\x08\x00\x00", "\x28\xb5\x2f", strings.Repeat("x", 200_000)} {
				got, err := Decode(name, append(bytes.Clone(coded), tail...), 1<<30)
				if err != nil || string(got) != data {
					t.Errorf("%s, %d bytes and %.10q: %d bytes, %v", name, len(data), tail, len(got), err)
				}
			}
		}
	}
}

func TestSeveralMembersAreOneBody(t *testing.T) {
	for _, name := range []string{"gzip", "zstd"} {
		code := coders[name]
		coded := append(append(code("one "), code("two ")...), code("three")...)
		if got, err := Decode(name, coded, 100); string(got) != "one two three" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	skippable := append([]byte("\x53\x2a\x4d\x18\x02\x00\x00\x00xx"), coders["zstd"]("hi")...)
	if got, err := Decode("zstd", skippable, 100); string(got) != "hi" || err != nil {
		t.Errorf("after a skippable frame: %q, %v", got, err)
	}
}

func TestBrokenDataIsAnError(t *testing.T) {
	for name, code := range coders {
		coded := code(strings.Repeat("some text and more ", 1000))
		for n := 1; n < len(coded); n++ {
			if got, err := Decode(name, coded[:n], 1<<20); err == nil {
				t.Errorf("%s: %d of %d bytes are accepted: %d bytes", name, n, len(coded), len(got))
			}
		}
		if _, err := Decode(name, []byte("no such coding"), 100); err == nil {
			t.Errorf("%s: text is taken", name)
		}
	}
	wrong := gzipped("hello")
	wrong[len(wrong)-6] ^= 1 // the checksum
	if _, err := Decode("gzip", wrong, 100); err == nil {
		t.Error("gzip with a wrong checksum is accepted")
	}
}

func TestDataUpToItsBoundIsAcceptedAndNoByteMore(t *testing.T) {
	for name, code := range coders {
		for _, size := range []int{1, 1000, 100_000} {
			coded := code(strings.Repeat("x", size))
			if got, err := Decode(name, coded, size); len(got) != size || err != nil {
				t.Errorf("%s, %d bytes: %d, %v", name, size, len(got), err)
			}
			if _, err := Decode(name, coded, size-1); size > 1 && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s, %d bytes with a bound of one less: %v, want ErrTooLarge", name, size, err)
			}
			if got, err := Decode(name, coded, math.MaxInt); len(got) != size || err != nil {
				t.Errorf("%s, without a bound: %d, %v", name, len(got), err)
			}
		}
	}
}

// A frame specifies the memory that its decoder needs. A short frame can ask for a lot.
func TestAShortZstdFrameDoesNotAllocateALargeWindow(t *testing.T) {
	block := []byte{1 | 1<<3, 0, 0, 'x'}
	le := func(n uint32) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)} }
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, frame := range map[string][]byte{
		"content size":                join(magic, []byte{0xa0}, le(60<<20), block),
		"window":                      join(magic, []byte{0x00, 16 << 3}, block),
		"window and content size":     join(magic, []byte{0x80, 16 << 3}, le(60<<20), block),
		"second frame":                join(coders["zstd"]("hi"), magic, []byte{0xa0}, le(60<<20), block),
		"small window, large content": join(magic, []byte{0x80, 0}, le(60<<20), block),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Decode("zstd", frame, 64<<20)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 || err == nil {
			t.Errorf("%s: %d bytes allocate %d: %d bytes, %v", name, len(frame), n, len(got), err)
		}
	}
}

func TestGunzipReturnsTheErrorOfItsReader(t *testing.T) {
	boom := errors.New("boom")
	for _, tail := range []string{"", "tail"} {
		coded := append(gzipped("hello"), tail...)
		for n := range len(coded) + 1 {
			src := io.MultiReader(bytes.NewReader(coded[:n]), iotest.ErrReader(boom))
			if _, err := io.ReadAll(NewGunzip(iotest.OneByteReader(src))); !errors.Is(err, boom) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for name, code := range coders {
		f.Add(name == "gzip", name == "br", append(code("hello hello hello"), "tail"...))
	}
	f.Fuzz(func(t *testing.T, gz, br bool, coded []byte) {
		name := "zstd"
		if gz {
			name = "gzip"
		} else if br {
			name = "br"
		}
		if got, err := Decode(name, coded, 1000); err == nil && len(got) > 1000 {
			t.Errorf("%d bytes", len(got))
		}
	})
}
