package main

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"
	goja_eventloop "github.com/dop251/goja_nodejs/eventloop"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/bench/internal/proc"
)

// A kernel does n pieces of work of a loop that has nothing to do with a network,
// and returns when all is done.
type kernel func(n int)

// kernels are those that this program has in itself, by library and name.
var kernels = map[string]map[string]kernel{
	ours: {
		"posts-1":     func(n int) { loopPosts(n, 1) },
		"posts-4":     func(n int) { loopPosts(n, 4) },
		"posts-32":    func(n int) { loopPosts(n, 32) },
		"timers-fire": loopTimersFire,
		"timers-stop": loopTimersStop,
		"tasks-start": loopTasksStart,
		"tasks-taken": loopTasksTaken,
		"tasks-yield": loopTasksYield,
	},
	goroutines: {
		"tasks-start": goroutinesStart,
		"tasks-taken": goroutinesStart,
		"tasks-yield": goroutinesYield,
	},
	gojaLib: {
		"posts-1":     func(n int) { gojaPosts(n, 1) },
		"posts-4":     func(n int) { gojaPosts(n, 4) },
		"posts-32":    func(n int) { gojaPosts(n, 32) },
		"timers-fire": gojaTimersFire,
		"timers-stop": gojaTimersStop,
	},
}

// A kernelResult is what running a kernel came to.
type kernelResult struct {
	Ops     int
	Seconds float64
	CPU     time.Duration
	RSS     int64
}

// runKernel is the main function of a process that runs a kernel.
func runKernel(lib, name string, n int) *kernelResult {
	f := kernels[lib][name]
	f(n / 10) // warm up
	runtime.GC()
	before, began := proc.Of(os.Getpid()), time.Now()
	f(n)
	r := &kernelResult{Ops: n, Seconds: time.Since(began).Seconds()}
	after := proc.Of(os.Getpid())
	r.CPU, r.RSS = after.CPU-before.CPU, after.RSS
	return r
}

// maxFireDelay is the range of the delays of timers that are to fire, stopDelay
// that of timers that are stopped before.
const (
	maxFireDelay = 50 * time.Millisecond
	stopDelay    = time.Minute
)

// delays returns n delays in random order, the same ones each time.
func delays(n int, within time.Duration) []time.Duration {
	r := rand.New(rand.NewPCG(1, 2))
	d := make([]time.Duration, n)
	for i := range d {
		d[i] = time.Duration(r.Int64N(int64(within)))
	}
	return d
}

func loopPosts(n, posters int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		release, left := l.Hold(), n/posters*posters
		f := func() {
			if left--; left == 0 {
				release()
			}
		}
		for range posters {
			go func() {
				for range n / posters {
					l.Post(f)
				}
			}()
		}
		return nil
	})
}

func loopTimersFire(n int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for _, d := range delays(n, maxFireDelay) {
			l.AfterFunc(d, func() {})
		}
		return nil
	})
}

func loopTimersStop(n int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		timers := make([]*eventloop.Timer, 0, n)
		for _, d := range delays(n, stopDelay) {
			timers = append(timers, l.AfterFunc(d, func() {}))
		}
		for _, t := range timers {
			t.Stop()
		}
		return nil
	})
}

// gojaLoop runs f on a loop until done is called.
func gojaLoop(f func(l *goja_eventloop.EventLoop, done func())) {
	l := goja_eventloop.NewEventLoop()
	l.Start()
	defer l.Stop()
	var wg sync.WaitGroup
	wg.Add(1)
	l.RunOnLoop(func(*goja.Runtime) { f(l, wg.Done) })
	wg.Wait()
}

func gojaPosts(n, posters int) {
	gojaLoop(func(l *goja_eventloop.EventLoop, done func()) {
		left := n / posters * posters
		f := func(*goja.Runtime) {
			if left--; left == 0 {
				done()
			}
		}
		for range posters {
			go func() {
				for range n / posters {
					l.RunOnLoop(f)
				}
			}()
		}
	})
}

func gojaTimersFire(n int) {
	gojaLoop(func(l *goja_eventloop.EventLoop, done func()) {
		var left atomic.Int64
		left.Store(int64(n))
		for _, d := range delays(n, maxFireDelay) {
			l.SetTimeout(func(*goja.Runtime) {
				if left.Add(-1) == 0 {
					done()
				}
			}, d)
		}
	})
}

func gojaTimersStop(n int) {
	gojaLoop(func(l *goja_eventloop.EventLoop, done func()) {
		timers := make([]*goja_eventloop.Timer, 0, n)
		for _, d := range delays(n, stopDelay) {
			timers = append(timers, l.SetTimeout(func(*goja.Runtime) {}, d))
		}
		for _, t := range timers {
			l.ClearTimeout(t)
		}
		done()
	})
}

// yielders is how many tasks, or goroutines, take turns.
const yielders = 100

func loopTasksStart(n int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for range n {
			l.Go(context.Background(), func(*eventloop.Task) error { return nil })
		}
		return nil
	})
}

func loopTasksTaken(n int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for range n {
			l.Go(context.Background(), func(*eventloop.Task) error { return nil }).Then(func(struct{}, error) {})
		}
		return nil
	})
}

func loopTasksYield(n int) {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for range yielders {
			l.Go(context.Background(), func(t *eventloop.Task) error {
				for range n / yielders {
					if err := t.Yield(); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return nil
	})
}

func goroutinesStart(n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {})
	}
	wg.Wait()
}

// goroutinesYield has one goroutine serve the others, who ask and wait: the usual
// way to keep state without locks.
func goroutinesYield(n int) {
	asked := make(chan chan struct{})
	var wg sync.WaitGroup
	for range yielders {
		wg.Go(func() {
			answer := make(chan struct{}, 1)
			for range n / yielders {
				asked <- answer
				<-answer
			}
		})
	}
	go func() {
		wg.Wait()
		close(asked)
	}()
	for answer := range asked {
		answer <- struct{}{}
	}
}
