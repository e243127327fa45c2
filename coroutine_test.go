package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// goroutineNumber returns the number of the calling goroutine, which is never reused.
func goroutineNumber() string {
	buf := make([]byte, 64)
	header, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	return string(header)
}

func TestATaskReusesTheGoroutineOfAnEndedTask(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		var numbers []string
		for range 3 {
			k.Loop().Go(bg, func(k *eventloop.Task) error {
				numbers = append(numbers, goroutineNumber())
				return k.Sleep(time.Second)
			}).Await(k)
		}
		wantSlice(t, "goroutines", numbers, []string{numbers[0], numbers[0], numbers[0]})
		return nil
	})
}

func TestTasksThatEndLeaveABoundedNumberOfGoroutines(t *testing.T) {
	const tasks = eventloop.MaxIdleCoroutines + 100
	mustRun(t, nil, func(l *eventloop.Loop) {
		before := runtime.NumGoroutine()
		var all []*eventloop.Future[struct{}]
		for range tasks {
			all = append(all, l.Go(bg, func(k *eventloop.Task) error { return k.Sleep(time.Millisecond) }))
		}
		eventloop.All(l, all...).Then(func([]struct{}, error) {
			l.Post(func() {
				most := before + eventloop.MaxIdleCoroutines
				if !eventually(func() bool { return runtime.NumGoroutine() <= most }) {
					t.Errorf("%d goroutines after the tasks, want at most %d", runtime.NumGoroutine(), most)
				}
			})
		})
	})
}

func TestTasksContinueAfterThePanicOfAnother(t *testing.T) {
	cfg := &eventloop.Config{CatchPanics: true}
	var first, second string
	err := virtually(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			first = goroutineNumber()
			panic("oh no")
		}).Then(func(_ struct{}, err error) {
			var pe *eventloop.PanicError
			if !errors.As(err, &pe) {
				t.Errorf("error = %v, want a PanicError", err)
			}
			l.Go(bg, func(k *eventloop.Task) error {
				second = goroutineNumber()
				return k.Yield()
			})
		})
	})
	wantEqual(t, "Run", err, nil)
	if first == second || second == "" {
		t.Errorf("the tasks ran on %q and %q, want two goroutines", first, second)
	}
}

func TestTheStackOfAPanicContainsNothingOfTheTaskBefore(t *testing.T) {
	cfg := &eventloop.Config{CatchPanics: true}
	var first, second string
	err := virtually(t, cfg, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error { first = goroutineNumber(); return sleepInTask(k) }).Then(func(struct{}, error) {
			l.Go(bg, func(k *eventloop.Task) error {
				second = goroutineNumber()
				panicInTask()
				return nil
			}).Then(func(_ struct{}, err error) {
				var pe *eventloop.PanicError
				if !errors.As(err, &pe) {
					t.Fatalf("error = %v, want a PanicError", err)
				}
				if s := string(pe.Stack); strings.Contains(s, "sleepInTask") || !strings.Contains(s, "panicInTask") {
					t.Errorf("the stack is not that of the second task:\n%s", s)
				}
			})
		})
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "goroutine of the second task", second, first)
}

func sleepInTask(k *eventloop.Task) error { return k.Sleep(time.Second) }

func TestTheNextTaskOnAGoroutineCannotUseTheEndedOne(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		var ended *eventloop.Task
		k.Loop().Go(bg, func(k *eventloop.Task) error { ended = k; return k.Sleep(1) }).Await(k)
		_, err := k.Loop().Go(bg, func(k *eventloop.Task) error {
			wantErr(t, "Sleep of the ended task", ended.Sleep(1), eventloop.ErrNotOnTask)
			_, err := never(k.Loop()).Await(ended)
			wantErr(t, "Await of the ended task", err, eventloop.ErrNotOnTask)
			return k.Sleep(1)
		}).Await(k)
		return err
	})
}

// The context of the first task ends while the second waits on the same goroutine.
func TestTheContextOfAnEndedTaskDoesNotWakeTheNextTask(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		ctx, cancel := context.WithCancel(bg)
		k.Loop().Go(ctx, func(k *eventloop.Task) error { return k.Sleep(1) }).Await(k)
		second := k.Loop().Go(bg, func(k *eventloop.Task) error {
			began := time.Now()
			err := k.Sleep(time.Second)
			wantEqual(t, "time slept", time.Since(began), time.Second)
			return err
		})
		k.Yield()
		cancel()
		_, err := second.Await(k)
		return err
	})
}

func TestATaskStartsWithTheLabelsOfItsLoop(t *testing.T) {
	// Other goroutines, which may have any labels, come and go.
	profile := func() string {
		var b strings.Builder
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		for part := range strings.SplitSeq(b.String(), "\n\n") {
			if strings.Contains(part, "pprof.writeGoroutine") {
				return part
			}
		}
		return b.String()
	}
	mustRun(t, &eventloop.Config{Name: "labelled"}, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			pprof.SetGoroutineLabels(pprof.WithLabels(bg, pprof.Labels("mine", "yes")))
			if p := profile(); !strings.Contains(p, `"mine":"yes"`) {
				t.Errorf("the profile does not have the label of the task:\n%s", p)
			}
			return nil
		}).Then(func(struct{}, error) {
			l.Go(bg, func(k *eventloop.Task) error {
				p := profile()
				if strings.Contains(p, `"mine":"yes"`) {
					t.Errorf("the second task has the label of the first:\n%s", p)
				}
				if !strings.Contains(p, `"eventloop":"labelled"`) {
					t.Errorf("the profile does not have the label of the loop:\n%s", p)
				}
				return nil
			})
		})
	})
}

func TestTheContextOfATaskEndsWithTheTaskEvenIfItIsCreatedLater(t *testing.T) {
	var early, late context.Context
	inTask(t, func(k *eventloop.Task) error {
		var inner *eventloop.Task
		k.Loop().Go(bg, func(k *eventloop.Task) error {
			inner, early = k, k.Context()
			return nil
		}).Await(k)
		late = inner.Context()
		wantEqual(t, "context after the end", late, early)
		wantEqual(t, "cause", context.Cause(early), context.Canceled)

		k.Loop().Go(bg, func(k *eventloop.Task) error { inner = k; return nil }).Await(k)
		wantEqual(t, "cause of a context that is created after the end", context.Cause(inner.Context()), context.Canceled)
		return nil
	})
}

func TestTheContextOfAnUnwoundTaskEndsWithErrLoopClosed(t *testing.T) {
	var tasks []*eventloop.Task
	err := virtually(t, nil, func(l *eventloop.Loop) {
		for range 2 {
			l.Go(bg, func(k *eventloop.Task) error {
				if tasks = append(tasks, k); len(tasks) == 1 {
					k.Context() // the other one is created below
				}
				return k.Sleep(time.Hour)
			})
		}
		l.AfterFunc(time.Second, l.Stop)
	})
	wantEqual(t, "Run", err, nil)
	for _, k := range tasks {
		wantEqual(t, "cause", context.Cause(k.Context()), error(eventloop.ErrLoopClosed))
	}
}

func TestLoopsInTwoBubblesShareNoCoroutines(t *testing.T) {
	numbers := make(map[string]bool)
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
				l.Go(bg, func(k *eventloop.Task) error { numbers[goroutineNumber()] = true; return k.Sleep(time.Second) })
				return nil
			})
			wantEqual(t, "Run", err, nil)
		})
	}
	wantEqual(t, "goroutines", len(numbers), 2)
}

// The stacks of idle coroutines shrink like all others.
func TestStacksOfTasksThatEndedShrink(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes stacks larger")
	}
	const tasks, depth = 32, 4000
	stacks := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.StackInuse)
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		before := stacks()
		var all []*eventloop.Future[struct{}]
		for range tasks {
			all = append(all, l.Go(bg, func(k *eventloop.Task) error {
				deepStack(depth)
				return k.Sleep(time.Millisecond)
			}))
		}
		eventloop.All(l, all...).Then(func([]struct{}, error) {
			grown := stacks() - before
			if grown < tasks*depth*64 {
				t.Errorf("the stacks grew by only %d bytes, too few for the test", grown)
			}
			for range 20 {
				runtime.GC()
			}
			if left := stacks() - before; left > grown/8 {
				t.Errorf("of %d bytes of stacks, %d are still in use", grown, left)
			}
		})
	})
}

//go:noinline
func deepStack(n int) byte {
	var b [64]byte
	if n == 0 {
		return b[0]
	}
	b[n%len(b)] = deepStack(n - 1)
	return b[0]
}
