package eventloop_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// The benchmarks of this file set the loop beside what a Go program would use
// without it, under the same load:
//
//	go test -run '^$' -bench 'Post|Timers|Stats' -benchmem .

// benchOnLoop runs a benchmark in a callback of a loop.
func benchOnLoop(b *testing.B, f func(l *eventloop.Loop)) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		f(l)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPost hands b.N functions to another goroutine, which calls them.
func BenchmarkPost(b *testing.B) {
	for _, senders := range []int{1, 4, 32} {
		b.Run(fmt.Sprintf("post/%d", senders), func(b *testing.B) {
			b.ReportAllocs()
			l := eventloop.New(nil)
			n := 0
			f := func() { n++ }
			release := l.Hold()
			ended := make(chan struct{})
			go func() { l.Run(context.Background()); close(ended) }()
			send(b, senders, func() { l.Post(f) })
			release()
			<-ended
			wantEqual(b, "calls", n, b.N)
		})
		b.Run(fmt.Sprintf("channel/%d", senders), func(b *testing.B) {
			b.ReportAllocs()
			ch := make(chan func(), 1024)
			n := 0
			f := func() { n++ }
			ended := make(chan struct{})
			go func() {
				for f := range ch {
					f()
				}
				close(ended)
			}()
			send(b, senders, func() { ch <- f })
			close(ch)
			<-ended
			wantEqual(b, "calls", n, b.N)
		})
	}
}

// send calls post b.N times, from several goroutines.
func send(b *testing.B, senders int, post func()) {
	var wg sync.WaitGroup
	for i := range senders {
		n := b.N / senders
		if i == 0 {
			n += b.N % senders
		}
		wg.Go(func() {
			for range n {
				post()
			}
		})
	}
	wg.Wait()
}

// BenchmarkPostPingPong posts a function and waits for its answer, over and over.
func BenchmarkPostPingPong(b *testing.B) {
	b.Run("post", func(b *testing.B) {
		b.ReportAllocs()
		l := eventloop.New(nil)
		release := l.Hold()
		ended := make(chan struct{})
		go func() { l.Run(context.Background()); close(ended) }()
		answer := make(chan struct{}, 1)
		f := func() { answer <- struct{}{} }
		for b.Loop() {
			l.Post(f)
			<-answer
		}
		release()
		<-ended
	})
	b.Run("channel", func(b *testing.B) {
		b.ReportAllocs()
		ask, answer := make(chan func(), 1), make(chan struct{}, 1)
		go func() {
			for f := range ask {
				f()
			}
		}()
		f := func() { answer <- struct{}{} }
		for b.Loop() {
			ask <- f
			<-answer
		}
		close(ask)
	})
}

// million is how many timers there are at a time.
const million = 1_000_000

// BenchmarkTimersArmStop arms b.N timers, a million at a time, and stops them in
// another order. It gives the time for one.
func BenchmarkTimersArmStop(b *testing.B) {
	order := rand.Perm(million)
	b.Run("loop", func(b *testing.B) {
		benchOnLoop(b, func(l *eventloop.Loop) {
			armStop(b, order, func(d time.Duration) interface{ Stop() bool } { return l.AfterFunc(d, func() {}) })
		})
	})
	b.Run("time", func(b *testing.B) {
		armStop(b, order, func(d time.Duration) interface{ Stop() bool } { return time.AfterFunc(d, func() {}) })
	})
}

func armStop(b *testing.B, order []int, arm func(d time.Duration) interface{ Stop() bool }) {
	b.ReportAllocs()
	timers := make([]interface{ Stop() bool }, million)
	b.ResetTimer()
	for left := b.N; left > 0; left -= million {
		n := min(left, million)
		for i := range n {
			timers[i] = arm(time.Hour + time.Duration(order[i])*time.Microsecond)
		}
		for _, i := range order {
			if i < n {
				timers[i].Stop()
			}
		}
	}
}

// BenchmarkTimersFire arms b.N timers, a million at a time, with delays of up to
// a millisecond, and waits until they have fired.
func BenchmarkTimersFire(b *testing.B) {
	order := rand.Perm(million)
	b.Run("loop", func(b *testing.B) {
		b.ReportAllocs()
		benchOnLoop(b, func(l *eventloop.Loop) {
			fired, left := 0, b.N
			var batch func()
			fire := func() {
				if fired++; fired == min(left, million) {
					left -= fired
					batch()
				}
			}
			batch = func() {
				fired = 0
				for i := range min(left, million) {
					l.AfterFunc(time.Duration(order[i]), fire)
				}
			}
			b.ResetTimer()
			batch()
		})
	})
	b.Run("time", func(b *testing.B) {
		b.ReportAllocs()
		for left := b.N; left > 0; left -= million {
			n := min(left, million)
			var fired atomic.Int64
			done := make(chan struct{})
			fire := func() {
				if fired.Add(1) == int64(n) {
					close(done)
				}
			}
			for i := range n {
				time.AfterFunc(time.Duration(order[i]), fire)
			}
			<-done
		}
	})
}

// BenchmarkTimersReset postpones one of a thousand timers, as a deadline that
// moves with each message does.
func BenchmarkTimersReset(b *testing.B) {
	const timers = 1000
	b.Run("loop", func(b *testing.B) {
		b.ReportAllocs()
		benchOnLoop(b, func(l *eventloop.Loop) {
			var ts [timers]*eventloop.Timer
			for i := range ts {
				ts[i] = l.AfterFunc(time.Hour, func() {})
			}
			i := 0
			for b.Loop() {
				ts[i%timers].Reset(time.Hour)
				i++
			}
			l.Stop()
		})
	})
	b.Run("time", func(b *testing.B) {
		b.ReportAllocs()
		var ts [timers]*time.Timer
		for i := range ts {
			ts[i] = time.AfterFunc(time.Hour, func() {})
		}
		i := 0
		for b.Loop() {
			ts[i%timers].Reset(time.Hour)
			i++
		}
		for _, t := range ts {
			t.Stop()
		}
	})
}

// BenchmarkStats reads the statistics of a loop that has a thousand timers.
func BenchmarkStats(b *testing.B) {
	b.ReportAllocs()
	benchOnLoop(b, func(l *eventloop.Loop) {
		for range 1000 {
			l.AfterFunc(time.Hour, func() {})
		}
		for b.Loop() {
			l.Stats()
		}
		l.Stop()
	})
}
