package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"pgregory.net/rapid"
)

func TestWorkRunsBesideTheLoopAndItsResultComesBackToIt(t *testing.T) {
	ticks := 0
	err := virtually(t, nil, func(l *eventloop.Loop) {
		l.Every(time.Second, func() { ticks++ }).Unref()
		eventloop.Work(context.Background(), l, func(ctx context.Context) (string, error) {
			time.Sleep(10500 * time.Millisecond) // blocks
			return "done", nil
		}).Then(func(v string, err error) {
			wantEqual(t, "value", v, "done")
			wantEqual(t, "error", err, nil)
			wantEqual(t, "ticks meanwhile", ticks, 10)
		})
	})
	wantEqual(t, "Run", err, nil)
}

func TestWorkGivesTheErrorOfItsFunction(t *testing.T) {
	broken := errors.New("broken")
	inTask(t, func(k *eventloop.Task) error {
		v, err := eventloop.Work(k.Context(), k.Loop(), func(context.Context) (int, error) { return 3, broken }).Await(k)
		wantEqual(t, "value", v, 3)
		wantEqual(t, "error", err, broken)
		return nil
	})
}

func TestWorkRunsAtMostMaxWorkFunctionsAtATimeInOrder(t *testing.T) {
	for _, c := range []struct{ max, want int }{{1, 1}, {3, 3}, {0, 64}, {-1, 64}} {
		t.Run(fmt.Sprint(c.max), func(t *testing.T) {
			var running, most atomic.Int32
			var mu sync.Mutex
			var started []int
			err := virtually(t, &eventloop.Config{MaxWork: c.max}, func(l *eventloop.Loop) {
				for i := range 200 {
					eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
						n := running.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						mu.Lock()
						started = append(started, i)
						mu.Unlock()
						time.Sleep(time.Second)
						running.Add(-1)
						return 0, nil
					})
				}
				wantEqual(t, "Stats().Work", l.Stats().Loop.Work, 200)
			})
			wantEqual(t, "Run", err, nil)
			wantEqual(t, "most at a time", int(most.Load()), c.want)
			wantEqual(t, "functions run", len(started), 200)
			for i := 0; i < len(started); i += c.want { // those of one second run in any order
				batch := slices.Sorted(slices.Values(started[i:min(i+c.want, len(started))]))
				if batch[0] != i || batch[len(batch)-1] != i+len(batch)-1 {
					t.Fatalf("functions %d to %d started as %v", i, i+len(batch)-1, batch)
				}
			}
		})
	}
}

func TestWorkThatIsCanceledBeforeItStartsNeverRuns(t *testing.T) {
	why := errors.New("enough")
	err := virtually(t, &eventloop.Config{MaxWork: 1}, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancelCause(context.Background())
		eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
			time.Sleep(time.Minute)
			return 0, nil
		})
		began := time.Now()
		results := 0
		for range 100 {
			eventloop.Work(ctx, l, func(context.Context) (int, error) {
				t.Error("canceled work ran")
				return 0, nil
			}).Then(func(_ int, err error) {
				results++
				wantEqual(t, "error", err, why)
				wantEqual(t, "time", time.Since(began), time.Second)
			})
		}
		ran := false
		eventloop.Work(context.Background(), l, func(context.Context) (int, error) { ran = true; return 0, nil }).
			Then(func(int, error) {
				wantEqual(t, "results", results, 100)
				wantEqual(t, "the one behind them ran", ran, true)
			})
		l.AfterFunc(time.Second, func() { cancel(why) })
	})
	wantEqual(t, "Run", err, nil)
}

func TestWorkWithAContextThatHasEndedNeverRuns(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	for _, max := range []int{1, 64} {
		mustRun(t, &eventloop.Config{MaxWork: max}, func(l *eventloop.Loop) {
			eventloop.Work(context.Background(), l, func(context.Context) (int, error) { return 0, nil })
			eventloop.Work(ctx, l, func(context.Context) (int, error) {
				t.Error("canceled work ran")
				return 0, nil
			}).Then(func(_ int, err error) { wantEqual(t, "error", err, why) })
		})
	}
}

func TestWorkThatRunsSeesItsContextEndAndItsResultCounts(t *testing.T) {
	why := errors.New("enough")
	mustRun(t, nil, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancelCause(context.Background())
		eventloop.Work(ctx, l, func(ctx context.Context) (string, error) {
			cancel(why)
			<-ctx.Done()
			wantEqual(t, "cause", context.Cause(ctx), why)
			return "all the same", nil
		}).Then(func(v string, err error) {
			wantEqual(t, "value", v, "all the same")
			wantEqual(t, "error", err, nil)
		})
	})
}

func TestWorkWithANilFunctionFails(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		if _, err := eventloop.Work[int](k.Context(), k.Loop(), nil).Await(k); err == nil {
			t.Error("a nil function succeeded")
		}
		return nil
	})
}

func TestWorkBeforeRunAndAfterTheEndFails(t *testing.T) {
	l := eventloop.New(nil)
	f := func(context.Context) (int, error) { t.Error("it ran"); return 0, nil }
	_, err := eventloop.Work(context.Background(), l, f).Result()
	wantErr(t, "before Run", err, eventloop.ErrNotRunning)
	l.Run(t.Context())
	_, err = eventloop.Work(context.Background(), l, f).Result()
	wantErr(t, "after the end", err, eventloop.ErrLoopClosed)
}

func TestAPanicInWorkIsItsResultAlways(t *testing.T) {
	for _, catch := range []bool{false, true} {
		mustRun(t, &eventloop.Config{CatchPanics: catch, MaxWork: 1}, func(l *eventloop.Loop) {
			eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
				panicInTask()
				return 0, nil
			}).Then(func(_ int, err error) {
				pe, ok := errors.AsType[*eventloop.PanicError](err)
				if !ok || pe.Value != "oh no" || !strings.Contains(string(pe.Stack), "panicInTask") {
					t.Errorf("error = %v, want a PanicError with the stack of the function", err)
				}
			})
			wantNext(t, l)
		})
	}
}

// wantNext fails the test unless the work that comes next runs.
func wantNext(t *testing.T, l *eventloop.Loop) {
	ran := false
	eventloop.Work(context.Background(), l, func(context.Context) (int, error) { return 0, nil }).
		Then(func(_ int, err error) { ran = err == nil })
	l.OnExit(func() { wantEqual(t, "the next function ran", ran, true) })
}

func TestGoexitInWorkIsAnErrorAndTheNextOneRuns(t *testing.T) {
	mustRun(t, &eventloop.Config{MaxWork: 1}, func(l *eventloop.Loop) {
		eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
			runtime.Goexit()
			return 0, nil
		}).Then(func(_ int, err error) {
			if err == nil || !strings.Contains(err.Error(), "Goexit") {
				t.Errorf("error = %v, want one that says Goexit", err)
			}
		})
		wantNext(t, l)
	})
}

func TestTheEndEndsTheContextsOfWorkAndWaitsForIt(t *testing.T) {
	var returned, started atomic.Int32
	var futures []*eventloop.Future[int]
	err := virtually(t, &eventloop.Config{MaxWork: 2}, func(l *eventloop.Loop) {
		for range 10 {
			futures = append(futures, eventloop.Work(context.Background(), l, func(ctx context.Context) (int, error) {
				started.Add(1)
				<-ctx.Done()
				wantErr(t, "cause", context.Cause(ctx), eventloop.ErrLoopClosed)
				time.Sleep(time.Second)
				returned.Add(1)
				return 1, nil
			}))
		}
		l.AfterFunc(time.Second, l.Stop)
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "functions that started", int(started.Load()), 2)
	wantEqual(t, "functions that returned before Run did", int(returned.Load()), 2)
	for _, f := range futures {
		_, err := f.Result()
		wantErr(t, "result", err, eventloop.ErrLoopClosed)
	}
}

func stubborn(release chan int) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return <-release, nil }
}

func TestRunNamesTheWorkThatDoesNotReturn(t *testing.T) {
	for _, c := range []struct{ grace, want time.Duration }{{0, 5 * time.Second}, {time.Minute, time.Minute}, {-1, 0}} {
		t.Run(c.grace.String(), func(t *testing.T) {
			book := &logBook{}
			cause := errors.New("the end")
			synctest.Test(t, func(t *testing.T) {
				release := make(chan int)
				ctx, cancel := context.WithCancelCause(t.Context())
				var began time.Time
				cfg := &eventloop.Config{WorkGrace: c.grace, Logger: book.logger()}
				err := eventloop.Run(ctx, cfg, func(l *eventloop.Loop) error {
					eventloop.Work(context.Background(), l, stubborn(release))
					l.AfterFunc(time.Second, func() { began = time.Now(); cancel(cause) })
					return nil
				})
				wantErr(t, "Run", err, eventloop.ErrWorkLeft)
				wantErr(t, "Run", err, cause)
				if !strings.Contains(err.Error(), "stubborn") {
					t.Errorf("Run returned %v, want the name of the function", err)
				}
				wantEqual(t, "time", time.Since(began), c.want)
				release <- 0 // after the loop has ended
			})
			if n := strings.Count(book.String(), "stubborn"); n != 1 {
				t.Errorf("the log names the function %d times:\n%s", n, book)
			}
		})
	}
}

// The loop ends while the ends of many functions wait to be noticed.
func TestRunDoesNotNameWorkThatHasReturned(t *testing.T) {
	for _, grace := range []time.Duration{-1, 1, time.Microsecond, time.Millisecond} {
		for _, n := range []int{1, 10, 1000, 3000} { // more than the loop's channel holds
			for range 30 / min(n, 30) * 2 {
				synctest.Test(t, func(t *testing.T) {
					release := make(chan int)
					cfg := &eventloop.Config{WorkGrace: grace, MaxWork: n + 1, Logger: slog.New(slog.DiscardHandler)}
					err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
						eventloop.Work(context.Background(), l, stubborn(release))
						for range n {
							eventloop.Work(context.Background(), l, obliging)
						}
						synctest.Wait() // for all of them
						l.Stop()
						return nil
					})
					wantErr(t, "Run", err, eventloop.ErrWorkLeft)
					if strings.Count(err.Error(), "stubborn") != 1 || strings.Contains(err.Error(), "obliging") {
						t.Errorf("Run returned %v, want the function that did not return", err)
					}
					release <- 0
				})
			}
		}
	}
}

func obliging(context.Context) (int, error) { return 1, nil }

// On one processor the goroutines of the functions get no turn before Stop, nor
// before a grace that is over at once.
func TestRunDoesNotNameWorkThatNeverBegan(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 100 {
		err := runLoop(t, &eventloop.Config{WorkGrace: -1}, func(l *eventloop.Loop) {
			for range 20 {
				eventloop.Work(context.Background(), l, obliging)
			}
			l.Stop()
		})
		wantEqual(t, "Run", err, nil)
	}
}

func TestAPanicInWorkAfterTheEndIsLogged(t *testing.T) {
	book := &logBook{}
	err := virtually(t, &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) {
		eventloop.Work(context.Background(), l, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			panic("too late")
		})
		l.AfterFunc(time.Second, l.Stop)
	})
	wantEqual(t, "Run", err, nil)
	if n := strings.Count(book.String(), "panic in a callback: too late"); n != 1 {
		t.Errorf("the log has the panic %d times:\n%s", n, book)
	}
}

func TestWorkFromEverywhereWhileTheLoopEnds(t *testing.T) {
	for range 50 {
		l, end := startLoop(t, &eventloop.Config{MaxWork: 2})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					f := eventloop.Work(context.Background(), l, func(ctx context.Context) (int, error) { return 1, nil })
					if _, err := f.Wait(context.Background()); err != nil {
						wantErr(t, "error", err, eventloop.ErrLoopClosed)
						return
					}
				}
			})
		}
		time.AfterFunc(100*time.Microsecond, l.Stop)
		wantEqual(t, "Run", end(), nil)
		all.Wait()
	}
}

// Call.

func TestCallReturnsWhatTheFunctionDoesOnTheLoop(t *testing.T) {
	l, _ := startLoop(t, nil)
	broken := errors.New("broken")
	state := 0
	for i := range 100 {
		v, err := eventloop.Call(t.Context(), l, func() (int, error) { state++; return state, broken })
		wantEqual(t, "value", v, i+1)
		wantEqual(t, "error", err, broken)
	}
}

func TestCallOnTheLoopReturnsErrOnLoop(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		_, err := eventloop.Call(t.Context(), l, func() (int, error) { t.Error("it ran"); return 0, nil })
		wantErr(t, "error", err, eventloop.ErrOnLoop)
	})
}

func TestCallWithANilFunctionOrContext(t *testing.T) {
	l, _ := startLoop(t, nil)
	if _, err := eventloop.Call[int](t.Context(), l, nil); err == nil {
		t.Error("a nil function succeeded")
	}
	v, err := eventloop.Call(context.Background(), l, func() (int, error) { return 1, nil })
	wantEqual(t, "value", v, 1)
	wantEqual(t, "error", err, nil)
}

func TestCallWhoseContextEndsFirstDoesNotRunTheFunction(t *testing.T) {
	l, end := startLoop(t, nil)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	blocked, release := make(chan int), make(chan int)
	l.Post(func() { close(blocked); <-release })
	<-blocked
	cancel(why)
	_, err := eventloop.Call(ctx, l, func() (int, error) { t.Error("it ran"); return 0, nil })
	wantEqual(t, "error", err, why)
	close(release)
	end()
}

func TestCallWhoseContextEndsWhileTheFunctionRunsHasItsResult(t *testing.T) {
	l, _ := startLoop(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	v, err := eventloop.Call(ctx, l, func() (int, error) {
		cancel()
		time.Sleep(time.Millisecond) // time for Call to notice
		return 5, nil
	})
	wantEqual(t, "value", v, 5)
	wantEqual(t, "error", err, nil)
}

func TestCallOfAPanicReturns(t *testing.T) {
	l, _ := startLoop(t, &eventloop.Config{CatchPanics: true})
	_, err := eventloop.Call(t.Context(), l, func() (int, error) { panic("oh no") })
	if pe, ok := errors.AsType[*eventloop.PanicError](err); !ok || pe.Value != "oh no" {
		t.Errorf("error = %v, want a PanicError", err)
	}

	m := eventloop.New(nil)
	m.Hold()
	panicked := make(chan any)
	go func() {
		v, _ := outcome(func() { m.Run(context.Background()) })
		panicked <- v
	}()
	_, err = eventloop.Call(t.Context(), m, func() (int, error) { panic("oh no") })
	wantErr(t, "error without CatchPanics", err, eventloop.ErrLoopClosed)
	if pe, ok := (<-panicked).(*eventloop.PanicError); !ok || pe.Value != "oh no" {
		t.Error("Run did not panic")
	}
}

func TestCallOfGoexitReturns(t *testing.T) {
	l := eventloop.New(nil)
	l.Hold()
	exited := make(chan bool)
	go func() {
		_, x := outcome(func() { l.Run(context.Background()) })
		exited <- x
	}()
	_, err := eventloop.Call(t.Context(), l, func() (int, error) { runtime.Goexit(); return 0, nil })
	wantErr(t, "error", err, eventloop.ErrLoopClosed)
	wantEqual(t, "Goexit went through Run", <-exited, true)
}

func TestCallReturnsWhenTheLoopEnds(t *testing.T) {
	l, end := startLoop(t, nil)
	blocked, release := make(chan int), make(chan int)
	l.Post(func() { close(blocked); <-release; l.Stop() })
	<-blocked
	got := make(chan error)
	for range 10 {
		go func() {
			_, err := eventloop.Call(context.Background(), l, func() (int, error) { t.Error("it ran"); return 0, nil })
			got <- err
		}()
	}
	for l.Stats().Loop.Queued < 10 {
		runtime.Gosched()
	}
	close(release)
	for range 10 {
		wantErr(t, "error", <-got, eventloop.ErrLoopClosed)
	}
	end()
	_, err := eventloop.Call(context.Background(), l, func() (int, error) { return 0, nil })
	wantErr(t, "error after the end", err, eventloop.ErrLoopClosed)
}

func TestCallFromWorkDoesNotHoldUpTheEnd(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		eventloop.Work(context.Background(), l, func(context.Context) (int, error) {
			l.Post(l.Stop)
			_, err := eventloop.Call(context.Background(), l, func() (int, error) { return 0, nil })
			wantErr(t, "error", err, eventloop.ErrLoopClosed)
			return 0, nil
		})
	})
	wantEqual(t, "Run", err, nil)
}

// Receive.

func TestReceiveDeliversAllInOrderAndThenTheEnd(t *testing.T) {
	for _, buffer := range []int{0, 1, 100} {
		ch := make(chan int, buffer)
		go func() {
			for i := range 1000 {
				ch <- i
			}
			close(ch)
		}()
		next, ends := 0, 0
		mustRun(t, nil, func(l *eventloop.Loop) {
			eventloop.Receive(l, ch, func(v int, ok bool) {
				if !ok {
					ends++
					wantEqual(t, "value at the end", v, 0)
					wantEqual(t, "Stats().Receivers", l.Stats().Loop.Receivers, 1)
					return
				}
				wantEqual(t, "value", v, next)
				next++
			})
		})
		wantEqual(t, "values", next, 1000)
		wantEqual(t, "ends", ends, 1)
	}
}

func TestReceiveBeforeRunBeginsWithRun(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	ch := make(chan int, 1)
	ch <- 7
	var got []int
	var r *eventloop.Receiver[int]
	r = eventloop.Receive(l, ch, func(v int, ok bool) {
		got = append(got, v)
		r.Stop()
	})
	stopped := eventloop.Receive(l, make(chan int), func(int, bool) { t.Error("called") })
	wantSlice(t, "Stop before Run", stopped.Stop(), nil)
	wantEqual(t, "Run", l.Run(t.Context()), nil)
	wantSlice(t, "values", got, []int{7})
}

func TestReceiveOfALoopThatNeverRunsLeavesNothing(t *testing.T) {
	checkLeaks(t)
	eventloop.Receive(eventloop.New(nil), make(chan int), func(int, bool) {})
}

func TestReceiveAfterTheEndReceivesNothing(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	l.Run(t.Context())
	ch := make(chan int, 1)
	ch <- 1
	r := eventloop.Receive(l, ch, func(int, bool) { t.Error("called") })
	r.Pause()
	r.Resume()
	r.Unref()
	r.Ref()
	wantSlice(t, "Stop", r.Stop(), nil)
	wantEqual(t, "values left in the channel", len(ch), 1)
}

func TestReceiveOfNilPanics(t *testing.T) {
	l := eventloop.New(nil)
	for what, f := range map[string]func(){
		"channel":  func() { eventloop.Receive[int](l, nil, func(int, bool) {}) },
		"function": func() { eventloop.Receive(l, make(chan int), nil) },
		"SendTo":   func() { eventloop.SendTo[int](l, nil) },
	} {
		if v, _ := outcome(f); v == nil {
			t.Errorf("a nil %s does not panic", what)
		}
	}
}

func TestReceiverKeepsTheLoopAliveUnlessUnrefd(t *testing.T) {
	ch := make(chan int)
	mustRun(t, nil, func(l *eventloop.Loop) {
		eventloop.Receive(l, ch, func(int, bool) { t.Error("called") }).Unref()
	})
	l, end := startLoop(t, nil)
	r := eventloop.Receive(l, ch, func(int, bool) {})
	time.AfterFunc(5*time.Millisecond, func() { r.Stop() })
	wantEqual(t, "Run", end(), nil)
}

func TestPauseOfAReceiverHoldsValuesBackAndResumeGivesThem(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		ch := make(chan int, 10)
		var got []int
		var r *eventloop.Receiver[int]
		r = eventloop.Receive(l, ch, func(v int, ok bool) {
			if !ok {
				got = append(got, -1)
				return
			}
			got = append(got, v)
			if v == 1 {
				r.Pause()
			}
		})
		for i := range 5 {
			ch <- i
		}
		close(ch)
		l.AfterFunc(time.Second, func() {
			wantSlice(t, "values before Resume", got, []int{0, 1})
			r.Resume()
			r.Resume()
			r.Pause()
			r.Resume()
		})
		l.OnExit(func() { wantSlice(t, "values", got, []int{0, 1, 2, 3, 4, -1}) })
	})
	wantEqual(t, "Run", err, nil)
}

func TestTheEndOfAChannelWaitsForResume(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		ch := make(chan int)
		ends := 0
		r := eventloop.Receive(l, ch, func(_ int, ok bool) { ends++ })
		l.AfterFunc(1, func() { r.Pause(); close(ch) })
		l.AfterFunc(time.Hour, func() { wantEqual(t, "ends", ends, 0); r.Resume() })
		l.OnExit(func() { wantEqual(t, "ends", ends, 1) })
	})
	wantEqual(t, "Run", err, nil)
}

// countUp sends 0, 1, 2, ... on a channel, unbuffered: what the sender got rid of
// was taken. quit ends that and returns how many were.
func countUp() (ch chan int, quit func() int) {
	ch, stop, sent := make(chan int), make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case ch <- n:
			case <-stop:
				sent <- n
				return
			}
		}
	}()
	return ch, func() int { close(stop); return <-sent }
}

func TestStopOfAReceiverReturnsWhatWasTaken(t *testing.T) {
	checkLeaks(t)
	for i := range 300 {
		ch, quit := countUp()
		got := 0
		mustRun(t, nil, func(l *eventloop.Loop) {
			var r *eventloop.Receiver[int]
			stopped := false
			r = eventloop.Receive(l, ch, func(v int, ok bool) {
				wantEqual(t, "value", v, got)
				wantEqual(t, "stopped", stopped, false)
				got++
				if i%3 == 0 && got > i {
					stopped = true
					got += len(r.Stop())
				}
			})
			if i%3 != 0 {
				l.AfterFunc(time.Duration(i)*time.Microsecond, func() {
					if i%3 == 1 {
						r.Pause()
					}
					stopped = true
					got += len(r.Stop())
					wantSlice(t, "a second Stop", r.Stop(), nil)
				})
			}
		})
		wantEqual(t, "values delivered and returned", got, quit())
	}
}

// flood fills the queue of the dispatcher, which must be the caller: goroutines
// that have something for it wait until it goes on.
func flood(l *eventloop.Loop) {
	closed := make(chan int)
	close(closed)
	for range 1100 {
		eventloop.Receive(l, closed, func(int, bool) {})
	}
	for l.Stats().Loop.Queued < 1024 {
		runtime.Gosched()
	}
}

// The dispatcher in Stop must not wait for a goroutine that waits for the
// dispatcher.
func TestStopOfAReceiverWhileTheLoopIsFlooded(t *testing.T) {
	for _, how := range []string{"value", "end"} {
		t.Run(how, func(t *testing.T) {
			mustRun(t, nil, func(l *eventloop.Loop) {
				ch := make(chan int, 1)
				r := eventloop.Receive(l, ch, func(int, bool) { t.Error("called") })
				afterTurns(l, 2, func() { // the receiver has a goroutine
					flood(l)
					var want []int
					if how == "value" {
						ch <- 7
						want = []int{7}
						for len(ch) > 0 {
							runtime.Gosched()
						}
					} else {
						close(ch)
						time.Sleep(time.Millisecond) // it takes the end now, or Stop is first
					}
					wantSlice(t, "Stop", r.Stop(), want)
				})
			})
		})
	}
}

// The value was delivered after Resume, before the goroutine could hand it over.
func TestStopOfAReceiverInItsCallbackWhileTheLoopIsFlooded(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		ch := make(chan int, 1)
		calls := 0
		var r *eventloop.Receiver[int]
		r = eventloop.Receive(l, ch, func(int, bool) {
			calls++
			wantSlice(t, "Stop", r.Stop(), nil)
		})
		afterTurns(l, 2, func() { // the receiver has a goroutine
			flood(l)
			ch <- 1
			for len(ch) > 0 {
				runtime.Gosched()
			}
			time.Sleep(time.Millisecond) // the goroutine has it and waits
			r.Pause()
			r.Resume()
		})
		l.OnExit(func() { wantEqual(t, "calls", calls, 1) })
	})
}

func TestReceiverAtTheEndByForce(t *testing.T) {
	for _, paused := range []bool{false, true} {
		var r *eventloop.Receiver[int]
		ch, quit := countUp()
		got := 0
		mustRun(t, nil, func(l *eventloop.Loop) {
			r = eventloop.Receive(l, ch, func(int, bool) { got++ })
			l.AfterFunc(time.Millisecond, func() {
				if paused {
					r.Pause()
				}
			})
			l.AfterFunc(2*time.Millisecond, l.Stop)
		})
		wantEqual(t, "values delivered, and left for Stop", got+len(r.Stop()), quit())
	}
}

func TestAPanicInAReceiversCallback(t *testing.T) {
	var events []error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
	calls := 0
	mustRun(t, cfg, func(l *eventloop.Loop) {
		ch := make(chan int, 2)
		ch <- 1
		ch <- 2
		close(ch)
		eventloop.Receive(l, ch, func(int, bool) { calls++; panic(calls) })
	})
	wantEqual(t, "calls", calls, 3)
	wantEqual(t, "events", len(events), 3)

	checkLeaks(t)
	l := eventloop.New(nil)
	eventloop.Receive(l, make(chan int), func(int, bool) {})
	ch := make(chan int, 1)
	ch <- 1
	eventloop.Receive(l, ch, func(int, bool) { panic("oh no") })
	v, _ := outcome(func() { l.Run(t.Context()) })
	if pe, ok := v.(*eventloop.PanicError); !ok || pe.Value != "oh no" {
		t.Errorf("Run panicked with %v", v)
	}
}

func TestGoexitInAReceiversCallbackClosesEverything(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	ch := make(chan int, 1)
	ch <- 1
	eventloop.Receive(l, ch, func(int, bool) { runtime.Goexit() })
	_, exited := outcome(func() { l.Run(t.Context()) })
	wantEqual(t, "Goexit went through Run", exited, true)
}

// SendTo.

func TestSendNeverBlocksAndItsFutureSaysWhenTheValueWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := make(chan int)
		var got []int
		received := make(chan int)
		go func() {
			defer close(received)
			for v := range ch {
				got = append(got, v)
				time.Sleep(time.Second)
			}
		}()
		began := time.Now()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			s := eventloop.SendTo(l, ch)
			for i := range 5 {
				s.Send(i).Then(func(_ struct{}, err error) {
					wantEqual(t, "error", err, nil)
					wantEqual(t, "time taken", time.Since(began), time.Duration(i)*time.Second)
				})
			}
			wantEqual(t, "time of Send", time.Since(began), 0)
			return nil
		})
		wantEqual(t, "Run", err, nil)
		close(ch)
		<-received
		wantSlice(t, "values", got, []int{0, 1, 2, 3, 4})
	})
}

func TestSendToABufferStartsNoGoroutine(t *testing.T) {
	ch := make(chan int, 10)
	mustRun(t, nil, func(l *eventloop.Loop) {
		s := eventloop.SendTo(l, ch)
		for i := range 10 {
			_, err := s.Send(i).Result()
			wantEqual(t, "error", err, nil)
		}
		wantEqual(t, "Pending", s.Pending(), 0)
		for h := range l.Handles() {
			t.Errorf("%v is open", h)
		}
	})
	for i := range 10 {
		wantEqual(t, "value", <-ch, i)
	}
}

func TestASenderKeepsTheLoopAliveWhileValuesWaitUnlessUnrefd(t *testing.T) {
	for range 3 {
		ch := make(chan int)
		var f *eventloop.Future[struct{}]
		mustRun(t, nil, func(l *eventloop.Loop) {
			s := eventloop.SendTo(l, ch)
			s.Unref()
			go func() { <-ch }()
			l.Go(context.Background(), func(k *eventloop.Task) error {
				if _, err := s.Send(1).Await(k); err != nil {
					return err
				}
				f = s.Send(2)
				return nil
			})
		})
		_, err := f.Result()
		wantErr(t, "result", err, eventloop.ErrLoopClosed)
	}
	ch := make(chan int)
	mustRun(t, nil, func(l *eventloop.Loop) {
		s := eventloop.SendTo(l, ch)
		s.Unref()
		s.Send(1)
		s.Ref()
		go func() { time.Sleep(time.Millisecond); <-ch }()
	})
}

func TestSendBeforeRunAfterStopAndAfterTheEnd(t *testing.T) {
	ch := make(chan int, 10)
	l := eventloop.New(nil)
	s := eventloop.SendTo(l, ch)
	_, err := s.Send(1).Result()
	wantErr(t, "before Run", err, eventloop.ErrNotRunning)
	l.Post(func() {
		stopped := eventloop.SendTo(l, ch)
		wantSlice(t, "Stop", stopped.Stop(), nil)
		_, err := stopped.Send(1).Result()
		wantErr(t, "after Stop", err, net.ErrClosed)
	})
	l.Run(t.Context())
	_, err = s.Send(1).Result()
	wantErr(t, "after the end", err, eventloop.ErrLoopClosed)
	wantEqual(t, "values in the channel", len(ch), 0)
}

func TestSendOnAClosedChannelIsAnError(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		closed := make(chan int)
		close(closed)
		_, err := eventloop.SendTo(l, closed).Send(1).Result()
		wantErr(t, "Send", err, eventloop.ErrChannelClosed)

		if raceEnabled {
			return // it reports the close of a channel that another goroutine sends to
		}
		ch := make(chan int)
		s := eventloop.SendTo(l, ch)
		var errs []error
		for i := range 3 {
			s.Send(i).Then(func(_ struct{}, err error) { errs = append(errs, err) })
		}
		l.AfterFunc(time.Millisecond, func() { close(ch) })
		l.OnExit(func() {
			wantEqual(t, "results", len(errs), 3)
			for _, err := range errs {
				wantErr(t, "result", err, eventloop.ErrChannelClosed)
			}
			_, err := s.Send(4).Result()
			wantErr(t, "Send", err, eventloop.ErrChannelClosed)
			wantSlice(t, "Stop", s.Stop(), nil)
		})
	})
}

func TestStopOfASenderAtTheEndByForceFailsWhatWaits(t *testing.T) {
	var fs []*eventloop.Future[struct{}]
	var s *eventloop.Sender[int]
	mustRun(t, nil, func(l *eventloop.Loop) {
		s = eventloop.SendTo(l, make(chan int))
		for i := range 3 {
			fs = append(fs, s.Send(i))
		}
		l.AfterFunc(time.Millisecond, l.Stop)
	})
	for _, f := range fs {
		_, err := f.Result()
		wantErr(t, "result", err, eventloop.ErrLoopClosed)
	}
	wantEqual(t, "Pending", s.Pending(), 0)
}

// A sender and a receiver, driven at random, deliver every value once, in order,
// or give it back.
func TestSenderAndReceiverLoseNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ch := make(chan int, rapid.IntRange(0, 3).Draw(rt, "buffer"))
		l := eventloop.New(nil)
		l.Hold()
		ended := make(chan error)
		go func() { ended <- l.Run(context.Background()) }()
		call := func(f func()) { eventloop.Call(context.Background(), l, func() (int, error) { f(); return 0, nil }) }

		var sender *eventloop.Sender[int]
		var receiver *eventloop.Receiver[int]
		var got, futures []int // futures: values whose future succeeded
		sent := 0
		receive := func(v int, ok bool) { got = append(got, v) }
		call(func() { sender, receiver = eventloop.SendTo(l, ch), eventloop.Receive(l, ch, receive) })
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(*rapid.T) {
				call(func() {
					v := sent
					sent++
					sender.Send(v).Then(func(_ struct{}, err error) {
						if err == nil {
							futures = append(futures, v)
						}
					})
				})
			},
			"send from elsewhere": func(*rapid.T) {
				v := sent
				sent++
				sender.Send(v).Then(func(_ struct{}, err error) {
					if err == nil {
						futures = append(futures, v)
					}
				})
			},
			"pause":  func(*rapid.T) { receiver.Pause() },
			"resume": func(*rapid.T) { receiver.Resume() },
			"restart the receiver": func(*rapid.T) {
				call(func() {
					got = append(got, receiver.Stop()...)
					receiver = eventloop.Receive(l, ch, receive)
				})
			},
			"restart the receiver from elsewhere": func(*rapid.T) {
				left := receiver.Stop()
				call(func() {
					got = append(got, left...)
					receiver = eventloop.Receive(l, ch, receive)
				})
			},
			"restart the sender": func(*rapid.T) {
				call(func() {
					left := sender.Stop()
					sender = eventloop.SendTo(l, ch)
					for _, v := range left {
						sender.Send(v).Then(func(_ struct{}, err error) {
							if err == nil {
								futures = append(futures, v)
							}
						})
					}
				})
			},
			"wait": func(*rapid.T) { runtime.Gosched() },
		})
		receiver.Resume()
		for done := false; !done; runtime.Gosched() {
			call(func() { done = len(got) >= sent && len(futures) >= sent })
		}
		l.Stop()
		if err := <-ended; err != nil {
			rt.Fatal(err)
		}
		for _, s := range [][]int{got, futures} {
			if len(s) != sent || !slices.IsSorted(s) || len(slices.Compact(slices.Clone(s))) != sent {
				rt.Fatalf("got %v of %d values", s, sent)
			}
		}
	})
}
