package eventloop_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
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

// BenchmarkSuspendedTask reports the memory of a task that waits, of which most
// is its stack: heap and stacks, with everything that waiting takes.
func BenchmarkSuspendedTask(b *testing.B) {
	waits := map[string]func(k *eventloop.Task, f *eventloop.Future[int]) error{
		"Sleep": func(k *eventloop.Task, _ *eventloop.Future[int]) error { return k.Sleep(time.Hour) },
		"Await": func(k *eventloop.Task, f *eventloop.Future[int]) error { _, err := f.Await(k); return err },
	}
	const tasks = 10_000
	for name, wait := range waits {
		b.Run(name, func(b *testing.B) {
			var bytes float64
			for b.Loop() {
				benchLoop(b, func(l *eventloop.Loop) {
					f := never(l)
					start := func() {
						for range tasks {
							l.Go(context.Background(), func(k *eventloop.Task) error { return wait(k, f) })
						}
					}
					// The runtime sizes new stacks by those that it knows from
					// the last collection: measure among others of their kind.
					start()
					l.AfterFunc(time.Second, func() {
						before := memoryInUse()
						start()
						l.AfterFunc(time.Second, func() {
							bytes = float64(memoryInUse()-before) / tasks
							l.Stop()
						})
					})
				})
			}
			b.ReportMetric(bytes, "B/task")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkStreamEcho compares an echo of 64 bytes by callbacks with one by tasks, each
// message of every connection after the answer to the last. The two take turns,
// in short rounds, so that what else the machine does falls on both alike: "ratio"
// is the median of the throughput of tasks over that of callbacks of each pair.
func BenchmarkStreamEcho(b *testing.B) {
	for _, conns := range []int{50, 500} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			callbacks := newEcho(b, conns, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) },
			})
			tasks := newEcho(b, conns, &eventloop.ConnConfig{
				OnConnect: func(c *eventloop.Conn) {
					c.Loop().Go(context.Background(), func(k *eventloop.Task) error {
						nc, p := c.NetConn(k), make([]byte, 4096)
						for {
							n, err := nc.Read(p)
							if err != nil {
								return nil
							}
							if _, err := nc.Write(p[:n]); err != nil {
								return nil
							}
						}
					})
				},
			})
			const round = 100 * time.Millisecond
			var ratios []float64
			var byTasks time.Duration
			messages := 0
			for b.Loop() {
				var rate [2]float64
				order := []int{0, 1}
				if len(ratios)%2 == 1 {
					slices.Reverse(order)
				}
				for _, i := range order {
					n, took := []*echoBench{callbacks, tasks}[i].round(round)
					rate[i] = float64(n) / took.Seconds()
					if i == 1 {
						messages += n
						byTasks += took
					}
				}
				ratios = append(ratios, rate[1]/rate[0])
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
			b.ReportMetric(float64(messages)/byTasks.Seconds(), "messages/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// An echoBench is a server and its clients.
type echoBench struct {
	conns []net.Conn
}

func newEcho(b *testing.B, conns int, cfg *eventloop.ConnConfig) *echoBench {
	l := eventloop.New(nil)
	l.Hold()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(context.Background()) }()
	ln, err := eventloop.Call(b.Context(), l, func() (*eventloop.Listener, error) {
		return l.Listen("tcp", "127.0.0.1:0", cfg)
	})
	if err != nil {
		b.Fatal(err)
	}
	e := &echoBench{}
	for range conns {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		e.conns = append(e.conns, nc)
	}
	b.Cleanup(func() {
		for _, nc := range e.conns {
			nc.Close()
		}
		l.Stop()
		<-ended
	})
	return e
}

// round lets all clients talk for d and returns the number of messages.
func (e *echoBench) round(d time.Duration) (messages int, took time.Duration) {
	var total atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for _, nc := range e.conns {
		all.Go(func() {
			p, n := make([]byte, 64), 0
			for time.Since(began) < d {
				nc.Write(p)
				if _, err := io.ReadFull(nc, p); err != nil {
					break
				}
				n++
			}
			total.Add(int64(n))
		})
	}
	all.Wait()
	return int(total.Load()), time.Since(began)
}
