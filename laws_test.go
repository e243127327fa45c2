package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/pipelistener"
)

// The tests of this file are named after the laws of the package that need no
// socket to be shown; those of connections are with the connections.

func TestLaw1CallbacksNeverOverlapAndAllRunOnTheDispatcher(t *testing.T) {
	// Neither counter is synchronised: the race detector sees what the depth
	// does not.
	depth, calls := 0, 0
	callback := func() {
		if depth++; depth != 1 {
			t.Errorf("%d callbacks run at once", depth)
		}
		calls++
		runtime.Gosched()
		depth--
	}
	const goroutines, each = 16, 200
	mustRun(t, nil, func(l *eventloop.Loop) {
		ticks := 0
		var interval *eventloop.Timer
		interval = l.Every(50*time.Microsecond, func() {
			callback()
			if ticks++; ticks == each {
				interval.Stop()
			}
		})
		for range goroutines {
			release := l.Hold()
			go func() {
				defer release()
				for i := range each {
					switch i % 3 {
					case 0:
						l.Post(callback)
					case 1:
						l.AfterFunc(time.Duration(i), callback)
					case 2:
						f, resolve := eventloop.NewFuture[int](l)
						f.Then(func(int, error) { callback() })
						resolve(i, nil)
					}
				}
			}()
		}
		l.OnExit(callback)
	})
	wantEqual(t, "calls", calls, goroutines*each+each+1)
}

func TestLaw2NoCallRunsUserCode(t *testing.T) {
	inCall, ran := false, 0
	callback := func() {
		ran++
		if inCall {
			t.Error("a callback ran inside the call that registered it")
		}
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		inCall = true
		l.Post(callback)
		l.AfterFunc(0, callback)
		l.AfterFunc(-time.Hour, callback)
		interval := l.Every(1, callback)
		time.Sleep(time.Microsecond)
		l.OnExit(callback)
		f, resolve := eventloop.NewFuture[int](l)
		f.Then(func(int, error) { callback() })
		resolve(1, nil)
		f.Then(func(int, error) { callback() })
		eventloop.All(l, f).Then(func([]int, error) { callback() })
		interval.Reset(1)
		l.Shutdown(-1)
		inCall = false
		l.Post(func() { interval.Stop() })
	})
	if want := 7; ran < want {
		t.Errorf("callbacks = %d, want at least %d", ran, want)
	}
}

func TestLaw2ACallbackRunsInALaterTurnThanTheCallThatRegisteredIt(t *testing.T) {
	var turns []uint64
	mustRun(t, nil, func(l *eventloop.Loop) {
		turn := func() uint64 { return l.Stats().Loop.IterationsTotal }
		for _, register := range []func(f func()){
			func(f func()) { l.Post(f) },
			func(f func()) { l.AfterFunc(0, f) },
			func(f func()) { l.AfterFunc(-1, f) },
		} {
			here := turn()
			register(func() { turns = append(turns, turn()-here) })
		}
		f, resolve := eventloop.NewFuture[int](l)
		here := turn()
		f.Then(func(int, error) { turns = append(turns, turn()-here) })
		resolve(0, nil)
	})
	wantSlice(t, "turns later", turns, []uint64{1, 1, 1, 1})
}

func TestLaw3ACallThatReturnsAnErrorNeverCallsItsCallback(t *testing.T) {
	called := 0
	f := func() { called++ }
	var l *eventloop.Loop
	mustRun(t, nil, func(running *eventloop.Loop) {
		l = running
		if err := l.Post(nil); err == nil {
			t.Error("Post of a nil function returned nil")
		}
		l.OnExit(func() {
			if err := l.Post(f); err != eventloop.ErrLoopClosed {
				t.Errorf("Post in an exit callback returned %v, want ErrLoopClosed", err)
			}
		})
	})
	if err := l.Post(f); err != eventloop.ErrLoopClosed {
		t.Errorf("Post after the end returned %v, want ErrLoopClosed", err)
	}
	if err := l.Run(t.Context()); err != eventloop.ErrLoopClosed {
		t.Errorf("Run after the end returned %v, want ErrLoopClosed", err)
	}
	wantEqual(t, "calls", called, 0)
}

// Many goroutines post while the loop ends by itself: each
// goroutine goes on until it is refused, and what was accepted has run.
func TestLaw4APostThatReturnedNilRunsExactlyOnceBeforeRunReturns(t *testing.T) {
	const goroutines, rounds = 64, 40
	var accepted atomic.Int64
	executed := 0
	for range rounds {
		var wg sync.WaitGroup
		mustRun(t, nil, func(l *eventloop.Loop) {
			for range goroutines {
				wg.Go(func() {
					for n := rand.IntN(300); n > 0; n-- {
						if err := l.Post(func() { executed++ }); err != nil {
							if err != eventloop.ErrLoopClosed {
								t.Errorf("Post returned %v, want ErrLoopClosed", err)
							}
							return
						}
						accepted.Add(1)
					}
				})
			}
		})
		wg.Wait()
	}
	wantEqual(t, "executed", int64(executed), accepted.Load())
}

func TestLaw4APostThatRacesStopRunsAtMostOnceAndNeverAfterRun(t *testing.T) {
	const goroutines = 64
	for round := range 15 {
		var accepted atomic.Int64
		var wg sync.WaitGroup
		executed := 0
		mustRun(t, nil, func(l *eventloop.Loop) {
			for range goroutines {
				wg.Go(func() {
					for l.Post(func() { executed++ }) == nil {
						accepted.Add(1)
					}
				})
			}
			l.AfterFunc(time.Duration(rand.IntN(int(time.Millisecond))), l.Stop)
		})
		atReturn := executed
		wg.Wait() // ends, because Post is refused
		if atReturn != executed {
			t.Fatalf("round %d: %d callbacks ran after Run had returned", round, executed-atReturn)
		}
		if int64(executed) > accepted.Load() {
			t.Fatalf("round %d: executed %d, accepted %d", round, executed, accepted.Load())
		}
	}
}

func TestLaw4PostsOfOneGoroutineRunInOrder(t *testing.T) {
	const goroutines, each = 16, 2000
	next := make([]int, goroutines)
	mustRun(t, nil, func(l *eventloop.Loop) {
		for g := range goroutines {
			release := l.Hold()
			go func() {
				defer release()
				for i := range each {
					l.Post(func() {
						if next[g] != i {
							t.Errorf("goroutine %d: post %d ran when %d was next", g, i, next[g])
						}
						next[g] = i + 1
					})
				}
			}()
		}
	})
	for g, n := range next {
		wantEqual(t, fmt.Sprint("posts of goroutine ", g), n, each)
	}
}

func TestLaw4ACallbackMayPostAMillionAtOnce(t *testing.T) {
	const posts = 1_000_000
	n := 0
	count := func() { n++ }
	mustRun(t, nil, func(l *eventloop.Loop) {
		for range posts {
			if err := l.Post(count); err != nil {
				t.Fatal(err)
			}
		}
		if n != 0 {
			t.Error("a post ran inside Post")
		}
	})
	wantEqual(t, "posts run", n, posts)
}

func TestLaw4TwoLoopsThatPostToEachOtherAMillionTimesDoNotHang(t *testing.T) {
	const posts = 1_000_000
	a, endA := startLoop(t, nil)
	b, endB := startLoop(t, nil)
	// Both post all their share at once, from callbacks, while the other does the
	// same: with a bounded queue that blocks this is a deadlock.
	var onA, onB int
	var wg sync.WaitGroup
	wg.Add(2)
	flood := func(to *eventloop.Loop, n *int) func() {
		count := func() { *n++ }
		return func() {
			defer wg.Done()
			for range posts / 2 {
				if err := to.Post(count); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}
	a.Post(flood(b, &onB))
	b.Post(flood(a, &onA))
	wg.Wait()
	endA()
	endB()
	wantEqual(t, "posts", onA+onB, posts)
}

func TestLaw4AFutureTravelsBetweenTwoLoops(t *testing.T) {
	const rounds = 100_000
	a, endA := startLoop(t, nil)
	b, endB := startLoop(t, nil)
	done := make(chan struct{})
	n := 0
	var ping, pong func()
	ping = func() {
		if n++; n == rounds {
			close(done)
			return
		}
		b.Post(pong)
	}
	pong = func() { a.Post(ping) }
	a.Post(ping)
	<-done
	endA()
	endB()
	wantEqual(t, "rounds", n, rounds)
}

func TestLaw5RunReturnsAsSoonAsNothingKeepsTheLoopAlive(t *testing.T) {
	tests := map[string]func(l *eventloop.Loop, last func()){
		"nothing at all": func(l *eventloop.Loop, last func()) { last() },
		"a post":         func(l *eventloop.Loop, last func()) { l.Post(last) },
		"a one-shot":     func(l *eventloop.Loop, last func()) { l.AfterFunc(time.Hour, last) },
		"a stopped timer": func(l *eventloop.Loop, last func()) {
			timer := l.AfterFunc(3*time.Hour, func() {})
			l.AfterFunc(time.Hour, func() { timer.Stop(); last() })
		},
		"a stopped interval": func(l *eventloop.Loop, last func()) {
			var interval *eventloop.Timer
			interval = l.Every(time.Hour, func() { interval.Stop(); last() })
		},
		"an interval stopped elsewhere": func(l *eventloop.Loop, last func()) {
			interval := l.Every(time.Hour, func() {})
			go func() {
				time.Sleep(90 * time.Minute)
				last()
				interval.Stop()
			}()
		},
		"a hold": func(l *eventloop.Loop, last func()) {
			release := l.Hold()
			go func() {
				time.Sleep(time.Hour)
				last()
				release()
			}()
		},
		"a future": func(l *eventloop.Loop, last func()) {
			_, resolve := eventloop.NewFuture[int](l)
			go func() {
				time.Sleep(time.Hour)
				last()
				resolve(1, nil)
			}()
		},
		"an unref'd timer": func(l *eventloop.Loop, last func()) {
			l.AfterFunc(time.Hour, func() { t.Error("an unref'd timer ran") }).Unref()
			last()
		},
		"an unref'd due timer": func(l *eventloop.Loop, last func()) {
			l.AfterFunc(0, func() { t.Error("an unref'd timer ran") }).Unref()
			last()
		},
		"a timer unref'd elsewhere": func(l *eventloop.Loop, last func()) {
			timer := l.AfterFunc(3*time.Hour, func() { t.Error("an unref'd timer ran") })
			go func() {
				time.Sleep(time.Hour)
				last()
				timer.Unref()
			}()
		},
		"an interval that unrefs itself": func(l *eventloop.Loop, last func()) {
			var interval *eventloop.Timer
			interval = l.Every(time.Hour, func() { interval.Unref(); last() })
		},
		"an unref'd future": func(l *eventloop.Loop, last func()) {
			f, _ := eventloop.NewFuture[int](l)
			f.Unref()
			last()
		},
		"statistics": func(l *eventloop.Loop, last func()) { l.Stats(); l.Handles(); last() },
		"a task": func(l *eventloop.Loop, last func()) {
			l.Go(context.Background(), func(task *eventloop.Task) error { defer last(); return task.Sleep(time.Hour) })
		},
		"a task that is canceled": func(l *eventloop.Loop, last func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			l.Go(ctx, func(task *eventloop.Task) error { task.Sleep(time.Hour); last(); return nil })
			l.OnExit(cancel)
		},
		"work": func(l *eventloop.Loop, last func()) {
			eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
				time.Sleep(time.Hour)
				last()
				return 0, nil
			})
		},
		"a receiver whose channel is closed": func(l *eventloop.Loop, last func()) {
			ch := make(chan int)
			eventloop.Receive(l, ch, func(_ int, ok bool) {
				if !ok {
					last()
				}
			})
			go func() { ch <- 1; time.Sleep(time.Hour); close(ch) }()
		},
		"a receiver that is stopped elsewhere": func(l *eventloop.Loop, last func()) {
			r := eventloop.Receive(l, make(chan int), func(int, bool) {})
			go func() { time.Sleep(time.Hour); last(); r.Stop() }()
		},
		"a sender whose value is taken": func(l *eventloop.Loop, last func()) {
			ch := make(chan int)
			eventloop.SendTo(l, ch).Send(1)
			go func() { time.Sleep(time.Hour); last(); <-ch }()
		},
		"a connection whose peer leaves": func(l *eventloop.Loop, last func()) {
			near, far := net.Pipe()
			l.Adopt(near, &eventloop.ConnConfig{OnClose: func(*eventloop.Conn) { last() }})
			go func() { time.Sleep(time.Hour); far.Close() }()
		},
		"a connection that times out": func(l *eventloop.Loop, last func()) {
			near, far := net.Pipe()
			l.Adopt(near, &eventloop.ConnConfig{
				ReadTimeout: time.Hour,
				OnEvent:     func(*eventloop.Conn, error) {},
				OnClose:     func(*eventloop.Conn) { far.Close(); last() },
			})
		},
		"a connection that is aborted elsewhere": func(l *eventloop.Loop, last func()) {
			near, far := net.Pipe()
			c, _ := l.Adopt(near, &eventloop.ConnConfig{OnClose: func(*eventloop.Conn) { far.Close(); last() }})
			go func() { time.Sleep(time.Hour); c.Abort() }()
		},
		"a listener": func(l *eventloop.Loop, last func()) {
			ln, _ := l.Serve(pipelistener.New(), nil)
			go func() { time.Sleep(time.Hour); last(); ln.Close() }()
		},
		"an HTTP server": func(l *eventloop.Loop, last func()) {
			s, _ := l.ServeHTTP(pipelistener.New(), hai, nil)
			go func() { time.Sleep(time.Hour); last(); s.Close() }()
		},
		"Shutdown with the last task": func(l *eventloop.Loop, last func()) {
			l.Every(time.Minute, func() {})
			l.Go(context.Background(), func(task *eventloop.Task) error { defer last(); return task.Sleep(90 * time.Second) })
			l.AfterFunc(80*time.Second, func() { l.Shutdown(-1) })
		},
	}
	for name, start := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var last time.Time
				err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					start(l, func() { last = time.Now() })
					return nil
				})
				if err != nil {
					t.Errorf("Run returned %v, want nil", err)
				}
				if last.IsZero() {
					t.Error("Run returned too early")
				}
				// In a bubble time passes only while everything waits, so the
				// moment is exact: the ten milliseconds that are allowed are for
				// the scheduler of a machine that is busy.
				wantEqual(t, "time until Run returned", time.Since(last), 0)
			})
		})
	}
}

func TestLaw6NothingIsLeftWhenRunReturns(t *testing.T) {
	errStart := errors.New("start")
	tests := map[string]struct {
		end  func(l *eventloop.Loop, cancel context.CancelFunc) error
		want error
	}{
		"natural exit": {func(*eventloop.Loop, context.CancelFunc) error { return nil }, nil},
		"Stop":         {func(l *eventloop.Loop, _ context.CancelFunc) error { l.Stop(); return nil }, nil},
		"Shutdown": {func(l *eventloop.Loop, _ context.CancelFunc) error {
			l.Shutdown(-1)
			return nil
		}, nil},
		"context": {func(_ *eventloop.Loop, cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled},
		"error":   {func(*eventloop.Loop, context.CancelFunc) error { return errStart }, errStart},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var l *eventloop.Loop
			err := eventloop.Run(ctx, nil, func(running *eventloop.Loop) error {
				l = running
				for range 10 {
					l.AfterFunc(time.Millisecond, func() {})
					l.Every(time.Hour, func() {}).Unref()
					eventloop.NewFuture[int](l)
				}
				if name == "natural exit" || name == "Shutdown" {
					l.AfterFunc(2*time.Millisecond, l.Stop) // the futures stay pending
				}
				return test.end(l, cancel)
			})
			if err != test.want {
				t.Errorf("Run returned %v, want %v", err, test.want)
			}
			s := l.Stats()
			wantEqual(t, "handles left", s.Loop.Handles, 0)
			wantEqual(t, "callbacks left", s.Loop.Callbacks, 0)
			for h := range l.Handles() {
				t.Errorf("left: %v", h)
			}
			select {
			case <-l.Done():
			default:
				t.Error("Done is not closed")
			}
		})
	}
}

// The callback of a timer panics after it has called what is in before. The panic
// is an event, but of a timer that was stopped it is not the timer's own.
func TestLaw8AfterStopOfATimerItsOnEventDoesNotRun(t *testing.T) {
	tests := map[string]struct {
		before func(timer *eventloop.Timer)
		own    bool
	}{
		"nothing":        {func(*eventloop.Timer) {}, true},
		"Stop":           {func(timer *eventloop.Timer) { timer.Stop() }, false},
		"Stop twice":     {func(timer *eventloop.Timer) { timer.Stop(); timer.Stop() }, false},
		"Stop, OnEvent":  {func(timer *eventloop.Timer) { timer.Stop(); timer.OnEvent(func(error) { t.Error("called") }) }, false},
		"Stop, Ref":      {func(timer *eventloop.Timer) { timer.Stop(); timer.Unref(); timer.Ref() }, false},
		"Reset":          {func(timer *eventloop.Timer) { timer.Reset(time.Hour) }, true},
		"Stop and Reset": {func(timer *eventloop.Timer) { timer.Stop(); timer.Reset(time.Hour) }, true},
		"Reset and Stop": {func(timer *eventloop.Timer) { timer.Reset(time.Hour); timer.Stop() }, false},
	}
	for name, test := range tests {
		for _, kind := range []string{"timer", "interval"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				var own, others []error
				cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { others = append(others, err) }}
				mustRun(t, cfg, func(l *eventloop.Loop) {
					var timer *eventloop.Timer
					f := func() { test.before(timer); panics() }
					if kind == "timer" {
						timer = l.AfterFunc(0, f)
					} else {
						timer = l.Every(time.Millisecond, f)
					}
					timer.OnEvent(func(err error) { own = append(own, err); timer.Stop() })
				})
				want := [2]int{0, 1}
				if test.own {
					want = [2]int{1, 0}
				}
				wantEqual(t, "events of the timer and others", [2]int{len(own), len(others)}, want)
				for _, err := range append(own, others...) {
					checkPanic(t, err)
				}
			})
		}
	}
}

func TestLaw8AfterStopOfATimerHasReturnedOnTheLoopItsCallbackDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			// All are due in one turn, and the first to run stops the rest.
			var timers []*eventloop.Timer
			ran := 0
			stopAll := func() {
				ran++
				for _, timer := range timers {
					timer.Stop()
				}
			}
			for range 50 {
				timers = append(timers, l.AfterFunc(time.Second, stopAll))
				timers = append(timers, l.Every(time.Second, stopAll))
			}
			l.AfterFunc(10*time.Second, func() { wantEqual(t, "timers that ran", ran, 1) })
			return nil
		})
	})
}

func TestLaw13EveryMethodMayBeCalledFromAnyGoroutine(t *testing.T) {
	// For the race detector, and for what hangs.
	cfg := &eventloop.Config{Name: "law 13"}
	l, end := startLoop(t, cfg)
	timer := l.AfterFunc(time.Hour, func() {})
	interval := l.Every(time.Microsecond, func() {})
	f, resolve := eventloop.NewFuture[int](l)
	methods := []func(){
		func() { l.Post(func() {}) },
		func() { l.Hold()() },
		func() { l.OnExit(func() {}) },
		func() { l.Done() },
		func() { l.Stats() },
		func() { handleNames(l) },
		func() { l.ClearSignals() },
		func() {
			if err := l.Run(t.Context()); err != eventloop.ErrRunning {
				t.Errorf("Run while running returned %v, want ErrRunning", err)
			}
		},
		func() { timer.Reset(time.Hour) },
		func() { timer.Stop() },
		func() { timer.Ref() },
		func() { timer.Unref() },
		func() { timer.OnEvent(nil); timer.OnEvent(func(error) {}) },
		func() { interval.Reset(time.Microsecond) },
		func() { interval.Stop() },
		func() { l.AfterFunc(time.Microsecond, func() {}).Unref() },
		func() { l.Every(time.Microsecond, func() {}).Stop() },
		func() { f.Then(func(int, error) {}) },
		func() { f.Result() },
		func() { f.Done() },
		func() { f.Unref() },
		func() { f.Ref() },
		func() { eventloop.All(l, f); eventloop.Any(l, f); eventloop.Race(l, f) },
	}
	var wg sync.WaitGroup
	for _, method := range methods {
		wg.Go(func() { // off the loop
			for range 200 {
				method()
			}
		})
		wg.Go(func() { // and on it
			for range 50 {
				l.Post(method)
			}
		})
	}
	wg.Wait()
	resolve(1, nil)
	timer.Stop()
	interval.Stop()
	l.Stop()
	if err := end(); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}
