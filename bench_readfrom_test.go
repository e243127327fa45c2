package eventloop_test

import (
	"context"
	"io"
	"os"
	"testing"

	"github.com/onloop/eventloop"
)

// BenchmarkReadFrom reads pieces of 64 KB from a pipe: with ReadFrom, and with io.Copy
// in a goroutine.
func BenchmarkReadFrom(b *testing.B) {
	const size = 64 << 10
	source := func(b *testing.B) io.ReadCloser {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			defer w.Close()
			p := make([]byte, size)
			for range b.N {
				w.Write(p)
			}
		}()
		b.SetBytes(size)
		return r
	}
	b.Run("loop", func(b *testing.B) {
		r, n := source(b), 0
		err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			b.ResetTimer()
			eventloop.ReadFrom(l, r, func(p []byte) { n += len(p) }, nil)
			return nil
		})
		if err != nil || n != b.N*size {
			b.Fatalf("%d bytes of %d, %v", n, b.N*size, err)
		}
	})
	b.Run("copy", func(b *testing.B) {
		r := source(b)
		b.ResetTimer()
		var w countWriter
		n, err := io.CopyBuffer(&w, struct{ io.Reader }{r}, make([]byte, size))
		if err != nil || n != int64(b.N*size) {
			b.Fatalf("%d bytes of %d, %v", n, b.N*size, err)
		}
		r.Close()
	})
}

// A countWriter counts bytes, as the callback does.
type countWriter int

func (w *countWriter) Write(p []byte) (int, error) {
	*w += countWriter(len(p))
	return len(p), nil
}
