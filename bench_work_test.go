package eventloop_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/onloop/eventloop"
)

// BenchmarkWork compares Work with what it replaces: a goroutine that posts its result.
// 32 functions are in flight. A function does nothing; or needs a deep stack, as clients
// of databases do; or waits for a reply of another goroutine.
func BenchmarkWork(b *testing.B) {
	const inFlight = 32
	asks := make(chan chan int)
	defer close(asks)
	for range inFlight {
		go func() {
			for ask := range asks {
				ask <- 1
			}
		}()
	}
	for _, f := range []struct {
		name string
		work func(ctx context.Context) (int, error)
	}{
		{"nothing", func(context.Context) (int, error) { return 1, nil }},
		{"deep", func(context.Context) (int, error) { return int(useStack(24)), nil }},
		{"waits", func(context.Context) (int, error) {
			reply := make(chan int)
			asks <- reply
			return <-reply, nil
		}},
	} {
		b.Run(fmt.Sprintf("%s/goroutine", f.name), func(b *testing.B) {
			benchWork(b, inFlight, func(l *eventloop.Loop, done func(v int, err error)) {
				release := l.Hold()
				go func() {
					v, err := f.work(context.Background())
					l.Post(func() { done(v, err) })
					release()
				}()
			})
		})
		b.Run(fmt.Sprintf("%s/Work", f.name), func(b *testing.B) {
			benchWork(b, inFlight, func(l *eventloop.Loop, done func(v int, err error)) {
				eventloop.Work(context.Background(), l, f.work).Then(done)
			})
		})
	}
}

// useStack needs at least kb kilobytes of stack.
//
//go:noinline
func useStack(kb int) byte {
	var frame [1024]byte
	frame[kb] = byte(kb)
	if kb == 0 {
		return frame[0]
	}
	return useStack(kb-1) + frame[kb]
}

// benchWork starts b.N functions, n at a time.
func benchWork(b *testing.B, n int, start func(l *eventloop.Loop, done func(v int, err error))) {
	b.ReportAllocs()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		left := b.N
		var next func(int, error)
		next = func(int, error) {
			if left--; left >= 0 {
				start(l, next)
			}
		}
		for range n {
			next(0, nil)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
