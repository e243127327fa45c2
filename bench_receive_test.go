package eventloop_test

import (
	"context"
	"testing"

	"github.com/onloop/eventloop"
)

// A value through a channel to the loop, from one goroutine that sends as fast as it
// can.
func BenchmarkReceive(b *testing.B) {
	for _, buffer := range []struct {
		name string
		size int
	}{{"unbuffered", 0}, {"buffer=1024", 1024}} {
		b.Run(buffer.name, func(b *testing.B) {
			benchmarkReceive(b, buffer.size, func(l *eventloop.Loop, ch <-chan int, count func(n int)) {
				eventloop.Receive(l, ch, func(v int, ok bool) {
					if ok {
						count(1)
					}
				})
			})
		})
	}
}

func BenchmarkReceiveBatch(b *testing.B) {
	benchmarkReceive(b, 1024, func(l *eventloop.Loop, ch <-chan int, count func(n int)) {
		eventloop.ReceiveBatch(l, ch, func(vs []int, ok bool) { count(len(vs)) })
	})
}

func benchmarkReceive(b *testing.B, buffer int, receive func(l *eventloop.Loop, ch <-chan int, count func(n int))) {
	ch, got := make(chan int, buffer), 0
	go func() {
		for i := range b.N {
			ch <- i
		}
		close(ch)
	}()
	b.ReportAllocs()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		receive(l, ch, func(n int) { got += n })
		b.ResetTimer()
		return nil
	})
	b.StopTimer()
	if got != b.N {
		b.Fatalf("%d values, want %d", got, b.N)
	}
}

// A value from the loop to a goroutine that receives as fast as it can.
func BenchmarkSendTo(b *testing.B) {
	for _, buffer := range []struct {
		name string
		size int
	}{{"buffer=1", 1}, {"buffer=1024", 1024}} {
		b.Run(buffer.name, func(b *testing.B) { benchmarkSendTo(b, buffer.size) })
	}
}

func benchmarkSendTo(b *testing.B, buffer int) {
	ch, done := make(chan int, buffer), make(chan int)
	go func() {
		n := 0
		for range ch {
			n++
		}
		done <- n
	}()
	b.ReportAllocs()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		out, left := eventloop.SendTo(l, ch), b.N
		var send func()
		send = func() {
			var last *eventloop.Future[struct{}]
			for n := min(left, 1000); n > 0; n-- {
				left--
				last = out.Send(left)
			}
			if left > 0 {
				last.Then(func(struct{}, error) { send() })
			}
		}
		b.ResetTimer()
		send()
		return nil
	})
	b.StopTimer()
	close(ch)
	if n := <-done; n != b.N {
		b.Fatalf("%d values, want %d", n, b.N)
	}
}
