package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// virtually runs a loop in virtual time and returns its error.
func virtually(t *testing.T, cfg *eventloop.Config, start func(l *eventloop.Loop)) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		err = eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			start(l)
			return nil
		})
	})
	return err
}

// inTask runs f as the only task of a loop, in virtual time. The loop has to end
// without an error.
func inTask(t *testing.T, f func(k *eventloop.Task) error) {
	t.Helper()
	err := virtually(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), f).Then(func(_ struct{}, err error) {
			if err != nil {
				t.Errorf("the task failed: %v", err)
			}
		})
	})
	if err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}

// never returns a future that stays pending and does not keep the loop alive.
func never(l *eventloop.Loop) *eventloop.Future[int] {
	f, _ := eventloop.NewFuture[int](l)
	f.Unref()
	return f
}

// wantErr fails the test if got does not match want.
func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// wantErrs fails the test unless the errors in got match those in want, in order.
func wantErrs(t testing.TB, what string, got []error, want ...error) {
	t.Helper()
	if !slices.EqualFunc(got, want, errors.Is) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// A logBook collects the output of a Logger for a test to read.
type logBook struct {
	mu  sync.Mutex
	out strings.Builder
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func TestGoRunsTheTaskInALaterTurnAndKeepsTheLoopAlive(t *testing.T) {
	var order []string
	err := virtually(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			order = append(order, "task")
			err := k.Sleep(time.Hour)
			order = append(order, "slept")
			return err
		})
		order = append(order, "Go returned")
	})
	wantEqual(t, "Run", err, nil)
	wantSlice(t, "order", order, []string{"Go returned", "task", "slept"})
}

func TestGoBeforeRunStartsWithRun(t *testing.T) {
	l := eventloop.New(nil)
	ran := 0
	done := l.Go(context.Background(), func(k *eventloop.Task) error { ran++; return k.Yield() })
	wantEqual(t, "runs before Run", ran, 0)
	wantEqual(t, "Run", l.Run(t.Context()), nil)
	wantEqual(t, "runs", ran, 1)
	_, err := done.Result()
	wantEqual(t, "result", err, nil)
}

func TestGoOfALoopThatNeverRunsLeavesNothingBehind(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	l.Go(context.Background(), func(k *eventloop.Task) error { return nil })
}

func TestGoAfterTheEndFailsWithErrLoopClosed(t *testing.T) {
	l := eventloop.New(nil)
	l.Run(t.Context())
	_, err := l.Go(context.Background(), func(k *eventloop.Task) error { return nil }).Result()
	wantErr(t, "result", err, eventloop.ErrLoopClosed)
}

func TestGoWithANilFunctionFails(t *testing.T) {
	var result error
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), nil).Then(func(_ struct{}, err error) { result = err })
	})
	if result == nil {
		t.Error("the future of a nil function succeeded")
	}
}

func TestATaskHasItsLoopAndAContextThatEndsWithIt(t *testing.T) {
	type key struct{}
	var inside context.Context
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.WithValue(context.Background(), key{}, "v"), func(k *eventloop.Task) error {
			wantEqual(t, "Loop", k.Loop(), l)
			inside = k.Context()
			wantEqual(t, "value", inside.Value(key{}), any("v"))
			wantEqual(t, "Err while the task runs", inside.Err(), nil)
			return nil
		})
	})
	wantErr(t, "Err after the task", inside.Err(), context.Canceled)
}

func TestSleepTakesAsLongAsItSays(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		for _, d := range []time.Duration{time.Nanosecond, time.Second, 48 * time.Hour} {
			began := time.Now()
			if err := k.Sleep(d); err != nil {
				return err
			}
			wantEqual(t, "time slept", time.Since(began), d)
		}
		return nil
	})
}

func TestSleepOfZeroIsYield(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		for _, d := range []time.Duration{0, -1, -time.Hour} {
			ran := false
			k.Loop().Post(func() { ran = true })
			if err := k.Sleep(d); err != nil {
				return err
			}
			wantEqual(t, "the posted callback ran", ran, true)
		}
		return nil
	})
}

func TestTasksAndCallbacksTakeTurns(t *testing.T) {
	var order []string
	inTask(t, func(k *eventloop.Task) error {
		say := func(s string) func() { return func() { order = append(order, s) } }
		k.Loop().Post(say("post 1"))
		k.Loop().Go(k.Context(), func(k *eventloop.Task) error {
			say("other")()
			k.Yield()
			say("other again")()
			return nil
		})
		say("task")()
		k.Yield()
		say("task again")()
		k.Loop().Post(say("post 2"))
		k.Yield()
		k.Yield()
		return nil
	})
	wantSlice(t, "order", order, []string{"task", "post 1", "other", "task again", "other again", "post 2"})
}

func TestAwaitGivesValueAndError(t *testing.T) {
	broken := errors.New("broken")
	inTask(t, func(k *eventloop.Task) error {
		f, resolve := eventloop.NewFuture[int](k.Loop())
		k.Loop().AfterFunc(time.Second, func() { resolve(7, nil) })
		v, err := f.Await(k)
		wantEqual(t, "value", v, 7)
		wantEqual(t, "error", err, nil)

		g, resolve := eventloop.NewFuture[int](k.Loop())
		go resolve(0, broken)
		_, err = g.Await(k)
		wantEqual(t, "error", err, broken)
		_, err = g.Await(k)
		wantEqual(t, "error of a second Await", err, broken)
		return nil
	})
}

func TestAwaitByManyTasksWakesThemInOrder(t *testing.T) {
	var order []int
	inTask(t, func(k *eventloop.Task) error {
		f, resolve := eventloop.NewFuture[string](k.Loop())
		g := k.Group()
		for i := range 5 {
			g.Go(func(k *eventloop.Task) error {
				v, err := f.Await(k)
				wantEqual(t, "value", v, "go")
				order = append(order, i)
				return err
			})
		}
		k.Loop().AfterFunc(1, func() { resolve("go", nil) })
		return g.Wait()
	})
	wantSlice(t, "order", order, []int{0, 1, 2, 3, 4})
}

func TestAwaitOfAnotherLoopsFuture(t *testing.T) {
	other, _ := startLoop(t, nil)
	f, resolve := eventloop.NewFuture[int](other)
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			other.Post(func() { resolve(3, nil) })
			v, err := f.Await(k)
			wantEqual(t, "value", v, 3)
			return err
		})
	})
}

func TestANilFutureIsAnErrorForEveryMethodThatReturnsItsResult(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		var f *eventloop.Future[int]
		if _, err := f.Await(k); err == nil {
			t.Error("Await of a nil future succeeded")
		}
		if _, err := f.AwaitTimeout(k, time.Hour); err == nil || errors.Is(err, eventloop.ErrTimeout) {
			t.Errorf("AwaitTimeout of a nil future: %v", err)
		}
		if _, err := f.Result(); err == nil || errors.Is(err, eventloop.ErrPending) {
			t.Errorf("Result of a nil future: %v", err)
		}
		if _, err := f.Wait(t.Context()); err == nil || errors.Is(err, eventloop.ErrOnLoop) {
			t.Errorf("Wait for a nil future: %v", err)
		}
		if _, err := eventloop.All(k.Loop(), f).Await(k); err == nil {
			t.Error("All of a nil future succeeded")
		}
		return nil
	})
}

// everything calls all operations that only a task may call.
func everything(k *eventloop.Task, f *eventloop.Future[int]) map[string]error {
	_, await := f.Await(k)
	return map[string]error{"Await": await, "Sleep": k.Sleep(time.Hour), "Sleep(0)": k.Sleep(0), "Yield": k.Yield()}
}

func TestOnlyTheTasksOwnCodeMayUseIt(t *testing.T) {
	check := func(who string, k *eventloop.Task, f *eventloop.Future[int]) {
		for what, err := range everything(k, f) {
			wantErr(t, what+" by "+who, err, eventloop.ErrNotOnTask)
		}
		if v, _ := outcome(func() { k.Group() }); v != eventloop.ErrNotOnTask {
			t.Errorf("Group by %s panics with %v, want ErrNotOnTask", who, v)
		}
	}
	var kept *eventloop.Task
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			kept = k
			f := never(l)
			resolved, resolve := eventloop.NewFuture[int](l)
			resolve(1, nil)
			_, err := resolved.Await(nil)
			wantErr(t, "Await without a task", err, eventloop.ErrNotOnTask)

			asked := l.Hold()
			go func() {
				check("another goroutine", k, f)
				check("another goroutine", k, resolved)
				l.Post(func() { check("a callback", k, f) })
				l.Go(context.Background(), func(*eventloop.Task) error {
					check("another task", k, f)
					asked()
					return nil
				})
			}()
			return k.Sleep(50 * time.Millisecond)
		})
		l.OnExit(func() { check("an exit callback", kept, never(l)) })
	})
	check("code outside any task after the end", kept, never(eventloop.New(nil)))
}

func TestOtherTasksRunWhileOneIsMisusedByAnother(t *testing.T) {
	var steps []string
	inTask(t, func(a *eventloop.Task) error {
		g := a.Group()
		g.Go(func(b *eventloop.Task) error {
			wantErr(t, "Sleep of the parent by the child", a.Sleep(1), eventloop.ErrNotOnTask)
			steps = append(steps, "child")
			return b.Sleep(1)
		})
		err := g.Wait()
		steps = append(steps, "parent")
		return err
	})
	wantSlice(t, "steps", steps, []string{"child", "parent"})
}

func TestWaitInATaskReturnsErrOnLoop(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		f := never(k.Loop())
		_, err := f.Wait(context.Background())
		wantErr(t, "Wait", err, eventloop.ErrOnLoop)
		k.Yield()
		_, err = f.Wait(context.Background())
		wantErr(t, "Wait after a suspension", err, eventloop.ErrOnLoop)
		_, err = eventloop.Call(context.Background(), k.Loop(), func() (int, error) { return 0, nil })
		wantErr(t, "Call", err, eventloop.ErrOnLoop)
		return nil
	})
}

// The rules for iterators in doc.go.
func TestCodeOfAPulledIteratorIsNotOnTheLoopAndThatOfARangedOneIs(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		asked := func(yield func(own, wait error) bool) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_, wait := never(k.Loop()).Wait(ctx)
			yield(k.Yield(), wait)
		}
		for own, wait := range asked {
			wantErr(t, "Yield in a range", own, nil)
			wantErr(t, "Wait in a range", wait, eventloop.ErrOnLoop)
		}
		next, stop := iter.Pull2(asked)
		defer stop()
		own, wait, _ := next()
		wantErr(t, "Yield in a pulled iterator", own, eventloop.ErrNotOnTask)
		wantErr(t, "Wait in a pulled iterator", wait, context.DeadlineExceeded)
		return nil
	})
}

// Fairness.

// spinning holds operations that do not wait, and whether their task needs a context
// that has ended.
var spinning = map[string]struct {
	ended bool
	spin  func(k *eventloop.Task, resolved, pending *eventloop.Future[int]) error
}{
	"Await of a result": {false, func(k *eventloop.Task, resolved, _ *eventloop.Future[int]) error {
		_, err := resolved.Await(k)
		return err
	}},
	"Yield":                        {false, func(k *eventloop.Task, _, _ *eventloop.Future[int]) error { return k.Yield() }},
	"Yield under an ended context": {true, func(k *eventloop.Task, _, _ *eventloop.Future[int]) error { return k.Yield() }},
	"Sleep under an ended context": {true, func(k *eventloop.Task, _, _ *eventloop.Future[int]) error {
		return k.Sleep(time.Hour)
	}},
	"Await under an ended context": {true, func(k *eventloop.Task, _, pending *eventloop.Future[int]) error {
		_, err := pending.Await(k)
		return err
	}},
}

// spin starts a task that repeats an operation until stop returns true, whatever the
// operation returns.
func spin(l *eventloop.Loop, name string, stop func(k *eventloop.Task, err error) bool) {
	ctx, cancel := context.WithCancel(context.Background())
	if spinning[name].ended {
		cancel()
	}
	resolved, resolve := eventloop.NewFuture[int](l)
	resolve(1, nil)
	pending := never(l)
	l.Go(ctx, func(k *eventloop.Task) error {
		defer cancel()
		for !stop(k, spinning[name].spin(k, resolved, pending)) {
		}
		return nil
	})
}

func TestATaskThatNeverWaitsDoesNotStarveTheLoop(t *testing.T) {
	for name := range spinning {
		t.Run(name, func(t *testing.T) {
			stopped := false
			mustRun(t, nil, func(l *eventloop.Loop) {
				spin(l, name, func(*eventloop.Task, error) bool { return stopped })
				l.AfterFunc(time.Millisecond, func() { stopped = true })
			})
		})
	}
}

func TestATaskThatNeverWaitsCannotPreventStop(t *testing.T) {
	for name := range spinning {
		t.Run(name, func(t *testing.T) {
			mustRun(t, nil, func(l *eventloop.Loop) {
				spin(l, name, func(k *eventloop.Task, err error) bool {
					return err == eventloop.ErrLoopClosed || context.Cause(k.Context()) == eventloop.ErrLoopClosed
				})
				time.AfterFunc(time.Millisecond, l.Stop)
			})
		})
	}
}

// Contexts.

func TestTheEndOfTheContextEndsWhatATaskWaitsFor(t *testing.T) {
	why := errors.New("enough")
	waits := map[string]func(k *eventloop.Task) error{
		"Sleep": func(k *eventloop.Task) error { return k.Sleep(time.Hour) },
		"Await": func(k *eventloop.Task) error { _, err := never(k.Loop()).Await(k); return err },
		"Yield": func(k *eventloop.Task) error {
			for {
				if err := k.Yield(); err != nil {
					return err
				}
			}
		},
	}
	for name, wait := range waits {
		t.Run(name+" while it waits", func(t *testing.T) {
			var got []error
			mustRun(t, nil, func(l *eventloop.Loop) {
				ctx, cancel := context.WithCancelCause(context.Background())
				l.Go(ctx, func(k *eventloop.Task) error {
					got = append(got, wait(k), wait(k), k.Context().Err())
					return nil
				})
				l.AfterFunc(time.Millisecond, func() { cancel(why) })
			})
			wantSlice(t, "errors", got, []error{why, why, context.Canceled})
		})
		t.Run(name+" before it waits", func(t *testing.T) {
			var got error
			mustRun(t, nil, func(l *eventloop.Loop) {
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(why)
				l.Go(ctx, func(k *eventloop.Task) error { got = wait(k); return nil })
			})
			wantEqual(t, "error", got, why)
		})
		t.Run(name+" by the task itself", func(t *testing.T) {
			var got error
			mustRun(t, nil, func(l *eventloop.Loop) {
				ctx, cancel := context.WithCancelCause(context.Background())
				l.Go(ctx, func(k *eventloop.Task) error { cancel(why); got = wait(k); return nil })
			})
			wantEqual(t, "error", got, why)
		})
	}
}

func TestADeadlineOfTheContextEndsASleepAtItsTime(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err := k.Loop().Go(ctx, func(k *eventloop.Task) error { return k.Sleep(time.Hour) }).Await(k)
		wantErr(t, "result", err, context.DeadlineExceeded)
		wantEqual(t, "time", time.Since(began), time.Minute)
		return nil
	})
}

func TestAnAvailableResultTakesPrecedenceOverAnEndedContext(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		l.Go(ctx, func(k *eventloop.Task) error {
			f, resolve := eventloop.NewFuture[int](l)
			resolve(5, nil)
			v, err := f.Await(k)
			wantEqual(t, "value", v, 5)
			wantEqual(t, "error", err, nil)
			return nil
		})
	})
}

func TestALateWakeUpHasNoEffect(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		// The future is resolved and the context ends in the same turn. The later of
		// the two must not end the next wait of the task.
		for range 100 {
			ctx, cancel := context.WithCancel(context.Background())
			f, resolve := eventloop.NewFuture[int](k.Loop())
			done := k.Loop().Go(ctx, func(k *eventloop.Task) error {
				f.Await(k)
				began := time.Now()
				k.Loop().Post(cancel)
				k.Yield()
				k.Sleep(0)
				wantEqual(t, "time", time.Since(began), 0)
				return nil
			})
			k.Loop().AfterFunc(1, func() { resolve(1, nil); cancel(); resolve(2, nil) })
			if _, err := done.Await(k); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestManyContextsAndFuturesAtOnceLoseNoWakeUp(t *testing.T) {
	const tasks = 300
	ended := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		for i := range tasks {
			ctx, cancel := context.WithCancel(context.Background())
			f, resolve := eventloop.NewFuture[int](l)
			l.Go(ctx, func(k *eventloop.Task) error {
				v, err := f.Await(k)
				if err == nil && v != i || err != nil && err != context.Canceled {
					t.Errorf("Await of task %d = %d, %v", i, v, err)
				}
				k.Sleep(time.Microsecond)
				ended++
				return nil
			})
			go resolve(i, nil)
			go cancel()
		}
	})
	wantEqual(t, "tasks that ended", ended, tasks)
}

// Futures that stay pending.

func TestAFutureThatIsNoLongerAwaitedRetainsNothing(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		l := k.Loop()
		service := never(l)
		began := liveHeap()
		for range 20_000 {
			part, resolve := eventloop.NewFuture[int](l)
			l.Post(func() { resolve(1, nil) })
			if _, err := eventloop.Race(l, service, part).Await(k); err != nil {
				return err
			}
		}
		for range 2_000 {
			ctx, cancel := context.WithCancel(context.Background())
			done := l.Go(ctx, func(k *eventloop.Task) error { service.Await(k); return nil })
			l.Post(cancel)
			if _, err := done.Await(k); err != nil {
				return err
			}
		}
		if grown := liveHeap() - began; grown > 1<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		return nil
	})
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAllAnyAndRaceWithTasks(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		l := k.Loop()
		sleeper := func(d time.Duration, v int, err error) *eventloop.Future[int] {
			f, resolve := eventloop.NewFuture[int](l)
			l.Go(k.Context(), func(k *eventloop.Task) error {
				k.Sleep(d)
				resolve(v, err)
				return nil
			})
			return f
		}
		broken := errors.New("broken")
		began := time.Now()
		all, err := eventloop.All(l, sleeper(3, 3, nil), sleeper(1, 1, nil)).Await(k)
		wantSlice(t, "All", all, []int{3, 1})
		wantEqual(t, "error of All", err, nil)
		wantEqual(t, "time of All", time.Since(began), 3)

		_, err = eventloop.All(l, sleeper(3, 3, nil), sleeper(1, 0, broken)).Await(k)
		wantEqual(t, "error of All", err, broken)
		v, err := eventloop.Any(l, sleeper(1, 0, broken), sleeper(2, 2, nil), sleeper(9, 9, nil)).Await(k)
		wantEqual(t, "Any", v, 2)
		wantEqual(t, "error of Any", err, nil)
		_, err = eventloop.Any(l, sleeper(1, 0, broken), sleeper(2, 0, broken)).Await(k)
		wantErr(t, "Any of failures", err, broken)
		_, err = eventloop.Race(l, sleeper(2, 2, nil), sleeper(1, 0, broken)).Await(k)
		wantEqual(t, "error of Race", err, broken)

		g1 := l.Go(k.Context(), func(k *eventloop.Task) error { return k.Sleep(time.Second) })
		g2 := l.Go(k.Context(), func(k *eventloop.Task) error { return nil })
		_, err = eventloop.All(l, g1, g2).Await(k)
		return err
	})
}

func TestATaskAwaitsAllAnyAndRaceOfNoFutures(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		all, err := eventloop.All[int](k.Loop()).Await(k)
		if len(all) != 0 || err != nil {
			t.Errorf("All of nothing = %v, %v", all, err)
		}
		if _, err := eventloop.Any[int](k.Loop()).Await(k); err == nil {
			t.Error("Any of nothing succeeded")
		}
		if _, err := eventloop.Race[int](k.Loop()).Await(k); err == nil {
			t.Error("Race of nothing succeeded")
		}
		return nil
	})
}

// Results.

func TestAnUnhandledFailureOfATaskIsReportedOnce(t *testing.T) {
	broken := errors.New("broken")
	for name, ask := range map[string]func(f *eventloop.Future[struct{}]){
		"no call": nil,
		"Then":    func(f *eventloop.Future[struct{}]) { f.Then(nil) },
		"Done":    func(f *eventloop.Future[struct{}]) { f.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			var events []error
			cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
			err := virtually(t, cfg, func(l *eventloop.Loop) {
				f := l.Go(context.Background(), func(k *eventloop.Task) error { return broken })
				if ask != nil {
					ask(f)
				}
				l.AfterFunc(time.Hour, func() {})
			})
			wantEqual(t, "Run", err, nil)
			if ask != nil {
				wantErrs(t, "events", events)
			} else {
				wantErrs(t, "events", events, broken)
			}
		})
	}
}

func TestAnUnhandledFailureOfATaskIsReportedAtTheNaturalExit(t *testing.T) {
	broken := errors.New("broken")
	var events []error
	cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
	virtually(t, cfg, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error { return broken })
	})
	wantErrs(t, "events", events, broken)
}

func TestAPanicInATaskLeavesRunWithTheStackOfTheTask(t *testing.T) {
	checkLeaks(t)
	var order []string
	l := eventloop.New(nil)
	f := l.Go(context.Background(), func(k *eventloop.Task) error {
		defer func() { order = append(order, "deferred") }()
		k.Yield()
		panicInTask()
		return nil
	})
	l.Go(context.Background(), func(k *eventloop.Task) error {
		wantErr(t, "Sleep of another task", k.Sleep(time.Hour), eventloop.ErrLoopClosed)
		order = append(order, "unwound")
		return nil
	})
	l.OnExit(func() { order = append(order, "exit") })
	v, _ := outcome(func() { l.Run(t.Context()) })
	pe, ok := v.(*eventloop.PanicError)
	if !ok || pe.Value != "oh no" {
		t.Fatalf("Run panicked with %v, want a PanicError of oh no", v)
	}
	if !strings.Contains(string(pe.Stack), "panicInTask") {
		t.Errorf("the stack does not contain the function that panicked:\n%s", pe.Stack)
	}
	wantSlice(t, "order", order, []string{"deferred", "unwound", "exit"})
	_, err := f.Result()
	wantErr(t, "result", err, pe)
}

func panicInTask() { panic("oh no") }

func TestACaughtPanicInATaskIsItsResult(t *testing.T) {
	var events []error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
	var results []error
	err := virtually(t, cfg, func(l *eventloop.Loop) {
		for _, f := range []func(k *eventloop.Task) error{
			func(k *eventloop.Task) error { panic("at once") },
			func(k *eventloop.Task) error { k.Sleep(1); panic("later") },
			func(k *eventloop.Task) error { defer func() { panic("deferred") }(); return nil },
			func(k *eventloop.Task) error {
				defer k.Sleep(1) // a suspension in the middle of a panic
				panic("suspended")
			},
		} {
			l.Go(context.Background(), f).Then(func(_ struct{}, err error) { results = append(results, err) })
		}
		l.Go(context.Background(), func(k *eventloop.Task) error { panic("unhandled") })
	})
	wantEqual(t, "Run", err, nil)
	var values []string
	for _, err := range slices.Concat(results, events) {
		if pe, ok := errors.AsType[*eventloop.PanicError](err); ok {
			values = append(values, fmt.Sprint(pe.Value))
		} else {
			t.Errorf("%v is not a PanicError", err)
		}
	}
	slices.Sort(values)
	wantSlice(t, "panics", values, []string{"at once", "deferred", "later", "suspended", "unhandled"})
	wantEqual(t, "events", len(events), 1)
}

func TestGoexitInATaskClosesEverything(t *testing.T) {
	for _, suspendFirst := range []bool{false, true} {
		for _, suspendInDefer := range []bool{false, true} {
			t.Run(fmt.Sprint(suspendFirst, suspendInDefer), func(t *testing.T) {
				checkLeaks(t)
				var order []string
				l := eventloop.New(nil)
				l.Go(context.Background(), func(k *eventloop.Task) error {
					wantErr(t, "Sleep of another task", k.Sleep(time.Hour), eventloop.ErrLoopClosed)
					order = append(order, "unwound")
					return nil
				})
				l.Go(context.Background(), func(k *eventloop.Task) error {
					defer func() {
						if suspendInDefer {
							k.Sleep(1)
						}
						order = append(order, "deferred")
					}()
					if suspendFirst {
						k.Sleep(1)
					}
					runtime.Goexit()
					return nil
				})
				l.OnExit(func() { order = append(order, "exit") })
				_, exited := outcome(func() { l.Run(t.Context()) })
				wantEqual(t, "Goexit went through Run", exited, true)
				wantSlice(t, "order", order, []string{"deferred", "unwound", "exit"})
				<-l.Done()
			})
		}
	}
}

// The end of the loop.

func TestTheEndUnwindsTasksInEveryState(t *testing.T) {
	var order []string
	closed := func(k *eventloop.Task, what string, err error) {
		wantErr(t, what, err, eventloop.ErrLoopClosed)
		wantErr(t, "a later Sleep", k.Sleep(1), eventloop.ErrLoopClosed)
		wantErr(t, "a later Yield", k.Yield(), eventloop.ErrLoopClosed)
		_, err = never(k.Loop()).Await(k)
		wantErr(t, "a later Await", err, eventloop.ErrLoopClosed)
		wantErr(t, "cause of the context", context.Cause(k.Context()), eventloop.ErrLoopClosed)
		wantErr(t, "Post", k.Loop().Post(func() {}), eventloop.ErrLoopClosed)
		order = append(order, what)
	}
	tasks := map[string]func(k *eventloop.Task) error{
		"Sleep": func(k *eventloop.Task) error { return k.Sleep(time.Hour) },
		"Await": func(k *eventloop.Task) error { _, err := never(k.Loop()).Await(k); return err },
		"Yield": func(k *eventloop.Task) error {
			for {
				if err := k.Yield(); err != nil {
					return err
				}
			}
		},
		"Wait of a group": func(k *eventloop.Task) error {
			g := k.Group()
			g.Go(func(k *eventloop.Task) error { return k.Sleep(time.Hour) })
			return g.Wait()
		},
		"Await of a task": func(k *eventloop.Task) error {
			_, err := k.Loop().Go(context.Background(), func(k *eventloop.Task) error {
				return k.Sleep(time.Hour)
			}).Await(k)
			return err
		},
	}
	var futures []*eventloop.Future[struct{}]
	mustRun(t, nil, func(l *eventloop.Loop) {
		for what, f := range tasks {
			futures = append(futures, l.Go(context.Background(), func(k *eventloop.Task) (err error) {
				defer func() { closed(k, what, err) }()
				return f(k)
			}))
		}
		afterTurns(l, 3, func() { // each task waits
			l.Go(context.Background(), func(k *eventloop.Task) error {
				t.Error("a task started after Stop")
				return nil
			}).Then(func(struct{}, error) { t.Error("Then was called after Stop") })
			l.Stop()
		})
		l.OnExit(func() { wantEqual(t, "Stats().Tasks at the end", l.Stats().Loop.Tasks, 0) })
	})
	wantEqual(t, "tasks unwound", len(order), len(tasks))
	for _, f := range futures {
		_, err := f.Result()
		wantErr(t, "result", err, eventloop.ErrLoopClosed)
	}
}

func TestATaskThatStopsTheLoopContinuesToItsNextSuspension(t *testing.T) {
	for name, wait := range map[string]func(k *eventloop.Task) error{
		"Sleep": func(k *eventloop.Task) error { return k.Sleep(1) },
		"Yield": (*eventloop.Task).Yield,
		"Await": func(k *eventloop.Task) error { _, err := never(k.Loop()).Await(k); return err },
	} {
		t.Run(name, func(t *testing.T) {
			var order []string
			mustRun(t, nil, func(l *eventloop.Loop) {
				l.Go(context.Background(), func(k *eventloop.Task) error {
					l.Post(func() { t.Error("a callback ran after Stop") })
					l.Stop()
					order = append(order, "after Stop")
					wantErr(t, name, wait(k), eventloop.ErrLoopClosed)
					order = append(order, "unwound")
					return nil
				})
			})
			wantSlice(t, "order", order, []string{"after Stop", "unwound"})
		})
	}
}

func TestATaskThatStopsTheLoopInItsLastCallStillHasItsResult(t *testing.T) {
	broken := errors.New("broken")
	var f *eventloop.Future[struct{}]
	mustRun(t, nil, func(l *eventloop.Loop) {
		f = l.Go(context.Background(), func(k *eventloop.Task) error { l.Stop(); return broken })
	})
	_, err := f.Result()
	wantEqual(t, "result", err, broken)
}

func TestTheResultOfAnUnwoundTaskIsWhatItsFunctionReturns(t *testing.T) {
	book := &logBook{}
	lost := errors.New("could not save")
	var saved, failed, wrapped *eventloop.Future[struct{}]
	mustRun(t, &eventloop.Config{Logger: book.logger()}, func(l *eventloop.Loop) {
		saved = l.Go(context.Background(), func(k *eventloop.Task) error { k.Sleep(time.Hour); return nil })
		failed = l.Go(context.Background(), func(k *eventloop.Task) error { k.Sleep(time.Hour); return lost })
		wrapped = l.Go(context.Background(), func(k *eventloop.Task) error { return fmt.Errorf("in it: %w", k.Sleep(time.Hour)) })
		afterTurns(l, 2, l.Stop) // each task waits
	})
	if s := book.String(); strings.Count(s, "could not save") != 1 || strings.Contains(s, "in it") {
		t.Errorf("the log does not consist of the one real error: %s", s)
	}
	_, err := saved.Result()
	wantEqual(t, "result of a task that returned nil", err, nil)
	_, err = failed.Result()
	wantEqual(t, "result of a task that failed", err, lost)
	_, err = wrapped.Result()
	wantErr(t, "result of a task that returned the error of unwinding", err, eventloop.ErrLoopClosed)
}

func TestAPanicWhileUnwindingLeavesRun(t *testing.T) {
	checkLeaks(t)
	unwound := 0
	l := eventloop.New(nil)
	for i := range 3 {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			k.Sleep(time.Hour)
			unwound++
			panic(i)
		})
	}
	afterTurns(l, 2, l.Stop) // each task waits
	v, _ := outcome(func() { l.Run(t.Context()) })
	if pe, ok := v.(*eventloop.PanicError); !ok || pe.Value != 0 {
		t.Errorf("Run panicked with %v, want the first panic", v)
	}
	wantEqual(t, "tasks unwound", unwound, 3)
}

func TestGoexitWhileUnwindingUnwindsTheOthersToo(t *testing.T) {
	checkLeaks(t)
	unwound, exits := 0, 0
	l := eventloop.New(nil)
	for range 3 {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			k.Sleep(time.Hour)
			unwound++
			runtime.Goexit()
			return nil
		})
	}
	l.OnExit(func() { exits++ })
	afterTurns(l, 2, l.Stop) // each task waits
	_, exited := outcome(func() { l.Run(t.Context()) })
	wantEqual(t, "Goexit went through Run", exited, true)
	wantEqual(t, "tasks unwound", unwound, 3)
	wantEqual(t, "exit callbacks", exits, 1)
}

func TestTheEndOfRunsContextUnwindsTasksWithErrLoopClosed(t *testing.T) {
	checkLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	var got error
	l := eventloop.New(nil)
	l.Go(context.Background(), func(k *eventloop.Task) error { got = k.Sleep(time.Hour); return got })
	afterTurns(l, 2, cancel) // the task waits
	wantErr(t, "Run", l.Run(ctx), context.Canceled)
	wantErr(t, "Sleep", got, eventloop.ErrLoopClosed)
}

func TestAnUnrefdTaskDoesNotKeepTheLoopAlive(t *testing.T) {
	var got error
	began := time.Now()
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			k.Unref()
			got = k.Sleep(time.Hour)
			return nil
		})
	})
	wantErr(t, "Sleep", got, eventloop.ErrLoopClosed)
	if time.Since(began) > time.Minute {
		t.Error("Run waited for the task")
	}
}

func TestShutdownLetsTasksFinish(t *testing.T) {
	finished := false
	err := virtually(t, logged(t, nil), func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			err := k.Sleep(time.Hour)
			finished = err == nil
			return err
		})
		l.AfterFunc(1, func() { l.Shutdown(-1) })
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "the task finished", finished, true)
}

func TestATaskHasTheNameOfItsFunctionAmongTheHandles(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			wantEqual(t, "Stats().Tasks", l.Stats().Loop.Tasks, 1)
			names := handleNames(l)
			if !strings.Contains(names, "task") || !strings.Contains(names, "TestATaskHasTheName") {
				t.Errorf("handles = %q, want a task named after its function", names)
			}
			return nil
		})
	})
}

func TestTasksWorkIfTheDispatcherIsLockedToItsThread(t *testing.T) {
	outcome(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		mustRun(t, nil, func(l *eventloop.Loop) {
			g := 0
			for range 3 {
				l.Go(context.Background(), func(k *eventloop.Task) error {
					for range 3 {
						k.Sleep(time.Millisecond)
						g++
					}
					return nil
				})
			}
			l.OnExit(func() { wantEqual(t, "steps", g, 9) })
		})
	})
}

// Groups.

func TestGroupWaitsForAllAndTheFirstErrorEndsTheOthers(t *testing.T) {
	broken := errors.New("broken")
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		var got []error
		for range 3 {
			g.Go(func(k *eventloop.Task) error {
				err := k.Sleep(time.Hour)
				got = append(got, err)
				return err
			})
		}
		g.Go(func(k *eventloop.Task) error { k.Sleep(time.Second); return broken })
		began := time.Now()
		wantEqual(t, "Wait", g.Wait(), broken)
		wantEqual(t, "time", time.Since(began), time.Second)
		wantSlice(t, "errors of the others", got, []error{broken, broken, broken})
		wantEqual(t, "Wait again", g.Wait(), broken)
		wantEqual(t, "context of the parent", k.Context().Err(), nil)
		wantErr(t, "context of the group", g.Context().Err(), context.Canceled)
		return nil
	})
}

func TestGroupWaitSucceedsForSuccessesAndForNoTasks(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		wantEqual(t, "Wait for nothing", k.Group().Wait(), nil)
		g := k.Group()
		n := 0
		for range 100 {
			g.Go(func(k *eventloop.Task) error { k.Sleep(time.Second); n++; return nil })
		}
		wantEqual(t, "Wait", g.Wait(), nil)
		wantEqual(t, "tasks that ended", n, 100)
		return nil
	})
}

func TestGroupsTasksMayAddToIt(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		n := 0
		var spawn func(depth int)
		spawn = func(depth int) {
			g.Go(func(k *eventloop.Task) error {
				n++
				if depth > 0 {
					spawn(depth - 1)
					spawn(depth - 1)
				}
				return nil
			})
		}
		spawn(4)
		wantEqual(t, "Wait", g.Wait(), nil)
		wantEqual(t, "tasks", n, 31)
		return nil
	})
}

func TestTheEndOfTheParentsContextEndsTheGroupAndWaitStillWaits(t *testing.T) {
	why := errors.New("enough")
	mustRun(t, nil, func(l *eventloop.Loop) {
		ctx, cancel := context.WithCancelCause(context.Background())
		l.Go(ctx, func(k *eventloop.Task) error {
			g := k.Group()
			ended := false
			g.Go(func(k *eventloop.Task) error {
				err := k.Sleep(time.Hour)
				eventloop.Work(context.Background(), l, func(context.Context) (int, error) { return 0, nil }).
					Then(func(int, error) { ended = true })
				for !ended {
					k.Yield() // no longer suspends
				}
				return err
			})
			wantEqual(t, "Wait", g.Wait(), why)
			wantEqual(t, "the task of the group has ended", ended, true)
			return nil
		})
		l.AfterFunc(time.Millisecond, func() { cancel(why) })
	})
}

func TestAGroupThatIsNotWaitedForEndsWithItsParentAndReportsItsError(t *testing.T) {
	broken := errors.New("broken")
	var events []error
	cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
	var child error
	err := virtually(t, cfg, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			k.Group().Go(func(k *eventloop.Task) error { child = k.Sleep(time.Hour); return child })
			g := k.Group()
			g.Go(func(k *eventloop.Task) error { return broken })
			return k.Sleep(time.Second)
		})
		l.AfterFunc(time.Minute, func() {})
	})
	wantEqual(t, "Run", err, nil)
	wantErr(t, "Sleep of the other child", child, context.Canceled)
	wantErrs(t, "events", events, broken)
}

func TestGroupGoOffTheLoopPanics(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		v, _ := outcome(func() { g.Go(func(*eventloop.Task) error { return nil }) })
		wantEqual(t, "panic", v, any(eventloop.ErrNotOnTask))
		wantErr(t, "Wait by another", errorOf(func() error { return g.Wait() }), eventloop.ErrNotOnTask)
		g.Go(nil)
		if g.Wait() == nil {
			t.Error("a nil function succeeded")
		}
		return nil
	})
}

// errorOf calls f on another goroutine.
func errorOf(f func() error) error {
	c := make(chan error)
	go func() { c <- f() }()
	return <-c
}

func TestATaskThatCreatesManyGroupsRetainsNothing(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		var before int64
		for i := range 20_000 {
			if i == 100 {
				before = liveHeap()
			}
			g := k.Group()
			g.Go(func(*eventloop.Task) error { return nil })
			if err := g.Wait(); err != nil {
				return err
			}
		}
		if grown := liveHeap() - before; grown > 1<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		return nil
	})
}

// Bounds of memory and allocations.

func TestSuspensionsAllocateNothing(t *testing.T) {
	skipAllocations(t)
	for name, suspend := range map[string]func(k *eventloop.Task) error{
		"Sleep": func(k *eventloop.Task) error { return k.Sleep(time.Nanosecond) },
		"Yield": (*eventloop.Task).Yield,
	} {
		t.Run(name, func(t *testing.T) {
			mustRun(t, nil, func(l *eventloop.Loop) {
				l.Go(context.Background(), func(k *eventloop.Task) error {
					wantEqual(t, "allocations", allocsPerRun(func() { suspend(k) }), 0)
					return nil
				})
			})
		})
	}
}

// allocsPerRun is testing.AllocsPerRun for code that involves other goroutines. It
// returns the average.
func allocsPerRun(f func()) float64 { return testing.AllocsPerRun(1000, f) }

func skipAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
}

func TestTenThousandTasksInAChainRunOneAtATime(t *testing.T) {
	tasks, messages := 10_000, 100
	if raceEnabled || testing.Short() {
		tasks, messages = 1000, 30
	}
	inside, ended := 0, 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		before := liveHeap()
		goroutines := runtime.NumGoroutine()
		var all []*eventloop.Future[struct{}]
		for range tasks {
			all = append(all, l.Go(context.Background(), func(k *eventloop.Task) error {
				for range messages {
					answer, resolve := eventloop.NewFuture[int](l)
					l.Post(func() { resolve(1, nil) })
					if inside++; inside != 1 {
						t.Error("two tasks run at the same time")
					}
					inside--
					if _, err := answer.Await(k); err != nil {
						return err
					}
				}
				ended++
				return nil
			}))
		}
		eventloop.All(l, all...).Then(func(_ []struct{}, err error) {
			wantEqual(t, "error", err, nil)
			wantEqual(t, "tasks that ended", ended, tasks)
			all = nil
			l.AfterFunc(time.Millisecond, func() {
				if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines+eventloop.MaxIdleCoroutines+2 }) {
					t.Errorf("%d goroutines after the test, %d before", runtime.NumGoroutine(), goroutines)
				}
				// The runtime keeps the descriptors of goroutines, half a
				// kilobyte each, for reuse.
				if grown := liveHeap() - before; grown > 8<<20 {
					t.Errorf("the heap is %d bytes larger than before", grown)
				}
			})
		})
	})
}

func TestATaskOfAGroupThatEndsWhileItsParentYieldsWakesNothingLater(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		g.Go(func(*eventloop.Task) error { return nil })
		if err := k.Yield(); err != nil { // during which the task of the group ends
			return err
		}
		began := time.Now()
		err := k.Sleep(time.Second)
		wantEqual(t, "time slept", time.Since(began), time.Second)
		return err
	})
}
