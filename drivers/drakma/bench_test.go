package drakma

import (
	"context"
	"net"
	"testing"

	"github.com/onloop/eventloop"
)

// hundredBytes is a server that answers each request with 100 bytes and costs next to nothing.
func hundredBytes(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	out := []byte(answered(200, string(make([]byte, 100)), ""))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for p := make([]byte, 4096); ; {
					if _, err := c.Read(p); err != nil {
						return
					}
					if _, err := c.Write(out); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String() + "/"
}

// benchmarkGet sends one request after the other.
func benchmarkGet[T any](b *testing.B, get func(ctx context.Context, l *eventloop.Loop, url string) func() *eventloop.Future[T]) {
	url := hundredBytes(b)
	b.ReportAllocs()
	err := eventloop.Run(b.Context(), nil, func(l *eventloop.Loop) error {
		do := get(b.Context(), l, url)
		n := 0
		var next func(v T, err error)
		next = func(_ T, err error) {
			if err != nil {
				b.Fatal(err)
			}
			if n++; n <= b.N {
				do().Then(next)
			}
		}
		do().Then(next)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkGet(b *testing.B) {
	b.Run("eventloop", func(b *testing.B) {
		benchmarkGet(b, func(ctx context.Context, l *eventloop.Loop, url string) func() *eventloop.Future[*eventloop.HTTPResponse] {
			return func() *eventloop.Future[*eventloop.HTTPResponse] { return l.HTTP().Get(ctx, url) }
		})
	})
	b.Run("drakma", func(b *testing.B) {
		benchmarkGet(b, func(ctx context.Context, l *eventloop.Loop, url string) func() *eventloop.Future[*Response] {
			d := New(l, Options{})
			return func() *eventloop.Future[*Response] { return d.Get(ctx, url).Decompress(false).Do() }
		})
	})
}
