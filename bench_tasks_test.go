package eventloop_test

import (
	"context"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// benchLoop runs start on a loop, for benchmarks.
func benchLoop(b *testing.B, start func(l *eventloop.Loop)) {
	b.Helper()
	b.ReportAllocs()
	err := eventloop.Run(b.Context(), nil, func(l *eventloop.Loop) error {
		start(l)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// benchTask runs f as a task.
func benchTask(b *testing.B, f func(t *eventloop.Task) error) {
	b.Helper()
	benchLoop(b, func(l *eventloop.Loop) { l.Go(context.Background(), f) })
}

// BenchmarkCallback is what a suspension is measured by: a posted callback.
func BenchmarkCallback(b *testing.B) {
	benchLoop(b, func(l *eventloop.Loop) {
		n := 0
		var f func()
		f = func() {
			if n++; n < b.N {
				l.Post(f)
			}
		}
		l.Post(f)
	})
}

// BenchmarkFutureThen is a callback of a future that a posted callback resolves:
// what BenchmarkAwait does without a task.
func BenchmarkFutureThen(b *testing.B) {
	benchLoop(b, func(l *eventloop.Loop) {
		n := 0
		var f func()
		f = func() {
			if n++; n >= b.N {
				return
			}
			result, resolve := eventloop.NewFuture[int](l)
			result.Then(func(int, error) { f() })
			l.Post(func() { resolve(n, nil) })
		}
		l.Post(f)
	})
}

// BenchmarkAwait suspends a task until a posted callback resolves a future.
func BenchmarkAwait(b *testing.B) {
	benchTask(b, func(t *eventloop.Task) error {
		for n := range b.N {
			result, resolve := eventloop.NewFuture[int](t.Loop())
			t.Loop().Post(func() { resolve(n, nil) })
			if _, err := result.Await(t); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkAwaitResolved does not suspend the task, but every so often.
func BenchmarkAwaitResolved(b *testing.B) {
	benchTask(b, func(t *eventloop.Task) error {
		result, resolve := eventloop.NewFuture[int](t.Loop())
		resolve(1, nil)
		for range b.N {
			if _, err := result.Await(t); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkYield(b *testing.B) {
	benchTask(b, func(t *eventloop.Task) error {
		for range b.N {
			if err := t.Yield(); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkTimer is what BenchmarkSleep is measured by.
func BenchmarkTimer(b *testing.B) {
	benchLoop(b, func(l *eventloop.Loop) {
		n := 0
		var timer *eventloop.Timer
		timer = l.AfterFunc(1, func() {
			if n++; n < b.N {
				timer.Reset(1)
			}
		})
	})
}

func BenchmarkSleep(b *testing.B) {
	benchTask(b, func(t *eventloop.Task) error {
		for range b.N {
			if err := t.Sleep(time.Nanosecond); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkGo is the whole life of a task that does nothing.
func BenchmarkGo(b *testing.B) {
	benchTask(b, func(t *eventloop.Task) error {
		for range b.N {
			done := t.Loop().Go(context.Background(), func(*eventloop.Task) error { return nil })
			if _, err := done.Await(t); err != nil {
				return err
			}
		}
		return nil
	})
}
