package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

var errFuture = errors.New("the future's error")

func TestThenIsCalledWithTheResultOnceAndInOrder(t *testing.T) {
	var calls []string
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](l)
		for i := range 3 {
			f.Then(func(v int, err error) { calls = append(calls, fmt.Sprint(i, v, err)) })
		}
		f.Then(nil)
		resolve(42, nil)
		resolve(43, errFuture) // has no effect
		f.Then(func(v int, err error) { calls = append(calls, fmt.Sprint("late ", v, err)) })
	})
	wantSlice(t, "calls", calls, []string{"0 42 <nil>", "1 42 <nil>", "2 42 <nil>", "late 42 <nil>"})
}

func TestThenReceivesValueAndErrorUnchanged(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[string](l)
		f.Then(func(v string, err error) {
			wantEqual(t, "value", v, "partial")
			wantEqual(t, "error", err, errFuture)
		})
		resolve("partial", errFuture)
	})
}

func TestAFutureResolvedByAnotherGoroutineCallsThenOnTheLoop(t *testing.T) {
	const futures = 200
	sum := 0 // not synchronized
	var wg sync.WaitGroup
	mustRun(t, nil, func(l *eventloop.Loop) {
		for i := range futures {
			f, resolve := eventloop.NewFuture[int](l)
			f.Then(func(v int, err error) { sum += v })
			wg.Go(func() { resolve(i, nil) })
			wg.Go(func() { f.Then(func(v int, err error) { sum += v }) })
		}
		wg.Wait() // a Then after the natural end would not be called
	})
	wantEqual(t, "sum", sum, futures*(futures-1))
}

func TestOnlyTheFirstOfManyResolvesCounts(t *testing.T) {
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](l)
		f.Then(func(v int, err error) {
			calls++
			got, _ := f.Result()
			wantEqual(t, "result", got, v)
		})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { resolve(i, nil) })
		}
		wg.Wait()
	})
	wantEqual(t, "calls", calls, 1)
}

func TestAPendingFutureKeepsTheLoopAliveUnlessItIsUnrefd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, called := time.Now(), 0
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			f, resolve := eventloop.NewFuture[int](l)
			f.Then(func(int, error) { called++ })
			time.AfterFunc(time.Hour, func() { resolve(0, nil) })
			unrefd, late := eventloop.NewFuture[int](l)
			unrefd.Unref()
			unrefd.Then(func(int, error) { t.Error("Then was called after the end") })
			time.AfterFunc(2*time.Hour, func() { late(0, nil) })
			return nil
		})
		wantEqual(t, "time until Run returned", time.Since(began), time.Hour)
		wantEqual(t, "calls", called, 1)
		time.Sleep(2 * time.Hour)
	})
}

func TestResultIsErrPendingUntilThereIsOne(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](l)
		v, err := f.Result()
		wantEqual(t, "value before", v, 0)
		wantEqual(t, "error before", err, eventloop.ErrPending)
		resolve(7, errFuture)
		v, err = f.Result()
		wantEqual(t, "value", v, 7)
		wantEqual(t, "error", err, errFuture)
	})
}

func TestDoneIsClosedWhenThereIsAResult(t *testing.T) {
	l, end := startLoop(t, nil)
	early, resolve := eventloop.NewFuture[int](l)
	done := early.Done()
	select {
	case <-done:
		t.Error("Done is closed before there is a result")
	default:
	}
	resolve(1, nil)
	<-done
	<-early.Done()
	late, resolve := eventloop.NewFuture[int](l)
	resolve(1, nil)
	<-late.Done()
	end()
}

func TestWaitReturnsTheResultToOtherGoroutines(t *testing.T) {
	l, end := startLoop(t, nil)
	f, resolve := eventloop.NewFuture[int](l)
	const waiters = 10
	var wg sync.WaitGroup
	for range waiters {
		wg.Go(func() {
			v, err := f.Wait(t.Context())
			wantEqual(t, "value", v, 5)
			wantEqual(t, "error", err, nil)
		})
	}
	l.Post(func() { resolve(5, nil) })
	wg.Wait()
	end()
}

func TestWaitReturnsTheCauseOfItsContext(t *testing.T) {
	l, end := startLoop(t, nil)
	f, resolve := eventloop.NewFuture[int](l)
	cause := errors.New("no patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := f.Wait(ctx)
	wantEqual(t, "error", err, cause)
	resolve(1, nil)
	v, err := f.Wait(ctx) // a result takes precedence over the end of the context
	wantEqual(t, "value", v, 1)
	wantEqual(t, "error", err, nil)
	end()
}

// An available result does not change what Wait returns. Otherwise the outcome would
// depend on timing.
func TestWaitOnItsOwnLoopAlwaysReturnsErrOnLoop(t *testing.T) {
	waits := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](l)
		refused := func(where string, f *eventloop.Future[int]) {
			waits++
			v, err := f.Wait(t.Context())
			wantEqual(t, "value "+where, v, 0)
			wantEqual(t, "error "+where, err, eventloop.ErrOnLoop)
		}
		refused("in the start function", f)
		l.AfterFunc(0, func() {
			refused("in a timer", f)
			resolve(3, nil)
			refused("with a result", f)
			v, err := f.Result()
			wantEqual(t, "result", v, 3)
			wantEqual(t, "error of the result", err, nil)
		})
		f.Then(func(int, error) {
			g, _ := eventloop.NewFuture[int](l)
			g.Unref()
			refused("in Then", g)
			refused("in Then, of its own future", f)
			g.Then(nil)
		})
		l.Go(t.Context(), func(task *eventloop.Task) error {
			refused("in a task", f)
			task.Yield()
			refused("after a suspension", f)
			f.Await(task)
			refused("after Await", f)
			return nil
		})
		failed, fail := eventloop.NewFuture[int](l)
		fail(0, errFuture)
		refused("of a failure", failed)
		failed.Then(nil)
		l.OnExit(func() { refused("in an exit callback", f) })
	})
	wantEqual(t, "waits", waits, 10)
}

func TestWaitOnAnotherLoopIsAllowed(t *testing.T) {
	other, end := startLoop(t, nil)
	mustRun(t, nil, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](other)
		other.Post(func() { resolve(9, nil) })
		v, err := f.Wait(t.Context())
		wantEqual(t, "value", v, 9)
		wantEqual(t, "error", err, nil)
	})
	end()
}

func TestAFuturePendingAtTheEndByForceEndsWithErrLoopClosed(t *testing.T) {
	ends := map[string]func(l *eventloop.Loop){
		"Stop":  func(l *eventloop.Loop) { l.Stop() },
		"panic": func(l *eventloop.Loop) { panics() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			waited := make(chan error, 1)
			var f *eventloop.Future[int]
			var resolve func(int, error)
			outcome(func() {
				eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
					f, resolve = eventloop.NewFuture[int](l)
					f.Then(func(int, error) { t.Error("Then was called") })
					go func() {
						_, err := f.Wait(context.Background())
						waited <- err
					}()
					end(l)
					return nil
				})
			})
			wantEqual(t, "error of Wait", <-waited, eventloop.ErrLoopClosed)
			resolve(1, nil) // too late
			<-f.Done()
			_, err := f.Result()
			wantEqual(t, "error of Result", err, eventloop.ErrLoopClosed)
			f.Then(func(int, error) { t.Error("Then was called after the end") })
		})
	}
}

func TestAFutureMadeAfterTheEndHasFailed(t *testing.T) {
	l := eventloop.New(nil)
	l.Run(t.Context())
	f, resolve := eventloop.NewFuture[int](l)
	resolve(1, nil)
	<-f.Done()
	_, err := f.Wait(t.Context())
	wantEqual(t, "error", err, eventloop.ErrLoopClosed)
	f.Ref()
	f.Unref()
}

// makeFutures returns n futures and the functions that resolve them.
func makeFutures(l *eventloop.Loop, n int) (fs []*eventloop.Future[int], resolve []func(int, error)) {
	for range n {
		f, r := eventloop.NewFuture[int](l)
		fs, resolve = append(fs, f), append(resolve, r)
	}
	return fs, resolve
}

func TestAllGivesTheResultsInOrder(t *testing.T) {
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		fs, resolve := makeFutures(l, 3)
		resolve[1](1, nil) // before All
		all := eventloop.All(l, fs...)
		all.Then(func(vs []int, err error) {
			called++
			wantSlice(t, "values", vs, []int{0, 1, 2})
			wantEqual(t, "error", err, nil)
		})
		resolve[2](2, nil)
		if _, err := all.Result(); err != eventloop.ErrPending {
			t.Errorf("Result before the last = %v, want ErrPending", err)
		}
		resolve[0](0, nil)
	})
	wantEqual(t, "calls", called, 1)
}

func TestAllFailsWithTheFirstErrorAndDoesNotWaitForTheRest(t *testing.T) {
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		fs, resolve := makeFutures(l, 3)
		eventloop.All(l, fs...).Then(func(vs []int, err error) {
			called++
			wantEqual(t, "values", len(vs), 0)
			wantEqual(t, "error", err, errFuture)
			resolve[0](0, nil)
			resolve[1](0, errors.New("the second error"))
		})
		resolve[2](0, errFuture)
	})
	wantEqual(t, "calls", called, 1)
}

func TestAnyGivesTheFirstSuccess(t *testing.T) {
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		fs, resolve := makeFutures(l, 3)
		eventloop.Any(l, fs...).Then(func(v int, err error) {
			called++
			wantEqual(t, "value", v, 1)
			wantEqual(t, "error", err, nil)
		})
		resolve[2](2, errFuture)
		resolve[1](1, nil)
		resolve[0](0, nil)
	})
	wantEqual(t, "calls", called, 1)
}

func TestAnyFailsWithAllErrorsIfNoneSucceeds(t *testing.T) {
	errOther := errors.New("another error")
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		fs, resolve := makeFutures(l, 2)
		eventloop.Any(l, fs...).Then(func(v int, err error) {
			called++
			if !errors.Is(err, errFuture) || !errors.Is(err, errOther) {
				t.Errorf("error = %v, want both errors", err)
			}
		})
		resolve[1](0, errOther)
		resolve[0](0, errFuture)
	})
	wantEqual(t, "calls", called, 1)
}

func TestRaceGivesTheFirstResultWhetherSuccessOrFailure(t *testing.T) {
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		fs, resolve := makeFutures(l, 3)
		eventloop.Race(l, fs...).Then(func(v int, err error) {
			called++
			wantEqual(t, "error", err, errFuture)
		})
		resolve[2](2, errFuture)
		resolve[1](1, nil)
		resolve[0](0, nil)
	})
	wantEqual(t, "calls", called, 1)
}

func TestAllAnyAndRaceOfNothing(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		all, err := eventloop.All[int](l).Result()
		if err != nil || all == nil || len(all) != 0 {
			t.Errorf("All of nothing = %v, %v, want an empty slice", all, err)
		}
		if _, err := eventloop.Any[int](l).Result(); err == nil || err == eventloop.ErrPending {
			t.Errorf("Any of nothing = %v, want an error", err)
		}
		if _, err := eventloop.Race[int](l).Result(); err == nil || err == eventloop.ErrPending {
			t.Errorf("Race of nothing = %v, want an error", err)
		}
	})
}

func TestAllOfFuturesOfSeveralLoops(t *testing.T) {
	const loops = 4
	var fs []*eventloop.Future[int]
	var ends []func() error
	for i := range loops {
		l, end := startLoop(t, nil)
		f, resolve := eventloop.NewFuture[int](l)
		l.Post(func() { resolve(i, nil) })
		fs, ends = append(fs, f), append(ends, end)
	}
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		eventloop.All(l, fs...).Then(func(vs []int, err error) {
			called++
			wantSlice(t, "values", vs, []int{0, 1, 2, 3})
		})
	})
	wantEqual(t, "calls", called, 1)
	for _, end := range ends {
		end()
	}
}

func TestAllEndsWithErrLoopClosedWhenALoopOfItsFuturesIsStopped(t *testing.T) {
	other, end := startLoop(t, nil)
	f, _ := eventloop.NewFuture[int](other)
	called := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		eventloop.All(l, f).Then(func(vs []int, err error) {
			called++
			wantEqual(t, "error", err, eventloop.ErrLoopClosed)
		})
		other.Stop()
	})
	wantEqual(t, "calls", called, 1)
	end()
}

func TestAnUnhandledFailureIsReportedAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		began := time.Now()
		cfg := &eventloop.Config{EventHandler: func(err error) {
			events = append(events, err)
			wantEqual(t, "time of the report", time.Since(began), time.Second)
		}}
		err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			_, resolve := eventloop.NewFuture[int](l)
			resolve(0, errFuture)
			_, resolve = eventloop.NewFuture[int](l)
			resolve(0, nil) // a success is not reported
			l.AfterFunc(time.Hour, func() {})
			return nil
		})
		wantEqual(t, "error of Run", err, nil)
		wantSlice(t, "events", events, []error{errFuture})
	})
}

func TestAnUnhandledFailureIsReportedAtTheNaturalExitAndDoesNotDelayIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		began := time.Now()
		cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
		eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			_, resolve := eventloop.NewFuture[int](l)
			resolve(0, errFuture)
			return nil
		})
		wantSlice(t, "events", events, []error{errFuture})
		wantEqual(t, "time until Run returned", time.Since(began), 0)
	})
}

func TestAnUnhandledFailureIsLoggedWithoutAnEventHandlerAndNeverEndsTheLoop(t *testing.T) {
	for _, forced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			after := 0
			cfg := &eventloop.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
			err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
				_, resolve := eventloop.NewFuture[int](l)
				resolve(0, errFuture)
				l.AfterFunc(2*time.Second, func() { after++ })
				if forced {
					l.AfterFunc(time.Millisecond, l.Stop)
				}
				return nil
			})
			wantEqual(t, "error of Run", err, nil)
			wantEqual(t, "the loop continued", after == 1, !forced)
			if n := strings.Count(log.String(), errFuture.Error()); n != 1 {
				t.Errorf("the log names the failure %d times, want once: %q", n, log.String())
			}
		})
	}
}

// The caller received ErrOnLoop and not the failure.
func TestAFailedWaitDoesNotMarkAFailureAsHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
		eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			f, resolve := eventloop.NewFuture[int](l)
			f.Wait(t.Context())
			resolve(0, errFuture)
			f.Wait(t.Context())
			l.AfterFunc(time.Minute, func() {})
			return nil
		})
		wantSlice(t, "events", events, []error{errFuture})
	})
}

func TestAHandledFailureIsNotReported(t *testing.T) {
	asks := map[string]func(l *eventloop.Loop, f *eventloop.Future[int]){
		"Then":     func(_ *eventloop.Loop, f *eventloop.Future[int]) { f.Then(func(int, error) {}) },
		"Then nil": func(_ *eventloop.Loop, f *eventloop.Future[int]) { f.Then(nil) },
		"Done":     func(_ *eventloop.Loop, f *eventloop.Future[int]) { f.Done() },
		"Result":   func(_ *eventloop.Loop, f *eventloop.Future[int]) { f.Result() },
		"Wait":     func(_ *eventloop.Loop, f *eventloop.Future[int]) { go f.Wait(context.Background()); synctest.Wait() },
		"All":      func(l *eventloop.Loop, f *eventloop.Future[int]) { eventloop.All(l, f).Then(nil) },
		"Any":      func(l *eventloop.Loop, f *eventloop.Future[int]) { eventloop.Any(l, f).Then(nil) },
		"Race":     func(l *eventloop.Loop, f *eventloop.Future[int]) { eventloop.Race(l, f).Then(nil) },
	}
	for name, ask := range asks {
		for _, when := range []string{"before it fails", "after it failed"} {
			t.Run(name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := &eventloop.Config{EventHandler: func(err error) { t.Errorf("reported: %v", err) }}
					eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
						f, resolve := eventloop.NewFuture[int](l)
						if when == "before it fails" {
							ask(l, f)
							resolve(0, errFuture)
						} else {
							resolve(0, errFuture)
							l.AfterFunc(999*time.Millisecond, func() { ask(l, f) })
						}
						l.AfterFunc(time.Minute, func() {})
						return nil
					})
				})
			})
		}
	}
}

func TestAnUnhandledFailureOfAllIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
		eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			fs, resolve := makeFutures(l, 2)
			eventloop.All(l, fs...)
			resolve[0](0, errFuture)
			resolve[1](0, errFuture)
			l.AfterFunc(time.Minute, func() {})
			return nil
		})
		wantSlice(t, "events", events, []error{errFuture})
	})
}

func TestFuturesPendingAtTheEndAreNotReported(t *testing.T) {
	var log bytes.Buffer
	cfg := &eventloop.Config{
		EventHandler: func(err error) { t.Errorf("reported: %v", err) },
		Logger:       slog.New(slog.NewTextHandler(&log, nil)),
	}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		f, _ := eventloop.NewFuture[int](l)
		eventloop.All(l, f)
		eventloop.Any(l, f)
		eventloop.Race(l, f)
		l.Stop()
	})
	wantEqual(t, "log", log.String(), "")
}
