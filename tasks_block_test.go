package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestAwaitTimeoutReturnsErrTimeoutAndLeavesTheFutureUnchanged(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		f, resolve := eventloop.NewFuture[int](k.Loop())
		start := time.Now()
		_, err := f.AwaitTimeout(k, time.Minute)
		wantErr(t, "AwaitTimeout", err, eventloop.ErrTimeout)
		wantErr(t, "AwaitTimeout", err, os.ErrDeadlineExceeded)
		wantEqual(t, "waited", time.Since(start), time.Minute)
		k.Loop().AfterFunc(time.Second, func() { resolve(42, nil) })
		v, err := f.AwaitTimeout(k, time.Minute)
		wantEqual(t, "value", v, 42)
		wantEqual(t, "err", err, nil)
		wantEqual(t, "waited", time.Since(start), time.Minute+time.Second)
		return nil
	})
}

func TestAwaitTimeoutThatIsNotPositiveReturnsAtOnce(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		f, resolve := eventloop.NewFuture[int](k.Loop())
		start := time.Now()
		for _, d := range []time.Duration{0, -1, -time.Hour} {
			_, err := f.AwaitTimeout(k, d)
			wantErr(t, "AwaitTimeout", err, eventloop.ErrTimeout)
		}
		resolve(42, nil)
		for _, d := range []time.Duration{0, -1, time.Hour} {
			v, err := f.AwaitTimeout(k, d)
			wantEqual(t, "value", v, 42)
			wantEqual(t, "err", err, nil)
		}
		wantEqual(t, "waited", time.Since(start), 0)
		return nil
	})
}

func TestAwaitTimeoutIsEndedByTheContextFirst(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l := k.Loop()
		done := l.Go(ctx, func(k *eventloop.Task) error {
			_, err := never(l).AwaitTimeout(k, time.Hour)
			wantErr(t, "AwaitTimeout", err, context.DeadlineExceeded)
			for _, d := range []time.Duration{0, time.Hour} {
				_, err = never(l).AwaitTimeout(k, d)
				wantErr(t, "AwaitTimeout after the end of the context", err, context.DeadlineExceeded)
			}
			return nil
		})
		_, err := done.Await(k)
		return err
	})
}

func TestAResultInTheTurnOfTheTimeoutCounts(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		f, resolve := eventloop.NewFuture[int](k.Loop())
		k.Loop().AfterFunc(time.Second, func() { resolve(42, nil) }) // before the timer of AwaitTimeout
		v, err := f.AwaitTimeout(k, time.Second)
		wantEqual(t, "value", v, 42)
		wantEqual(t, "err", err, nil)
		return k.Sleep(time.Second) // the timer must not end this
	})
}

func TestAwaitTimeoutBelongsToItsTask(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		f := never(k.Loop())
		_, err := f.AwaitTimeout(nil, time.Second)
		wantErr(t, "without a task", err, eventloop.ErrNotOnTask)
		k.Loop().Post(func() {
			_, err := f.AwaitTimeout(k, time.Second)
			wantErr(t, "in a callback", err, eventloop.ErrNotOnTask)
		})
		_, err = (*eventloop.Future[int])(nil).AwaitTimeout(k, time.Second)
		if err == nil {
			t.Error("AwaitTimeout of a nil future returned nil")
		}
		return k.Sleep(time.Second)
	})
}

func TestBlockReturnsTheResultAndTheLoopContinues(t *testing.T) {
	ticks := 0
	inTask(t, func(k *eventloop.Task) error {
		tick := k.Loop().Every(time.Second, func() { ticks++ })
		defer tick.Stop()
		s, err := eventloop.Block(k, func(ctx context.Context) (string, error) {
			time.Sleep(3500 * time.Millisecond)
			return "read", errors.ErrUnsupported
		})
		wantEqual(t, "value", s, "read")
		wantErr(t, "err", err, errors.ErrUnsupported)
		return nil
	})
	wantEqual(t, "ticks", ticks, 3)
}

func TestBlockReturnsNoEarlierThanItsFunctionWhenTheContextEnds(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		k.Loop().AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		l := k.Loop()
		_, err := l.Go(ctx, func(k *eventloop.Task) error {
			shared := 0
			v, err := eventloop.Block(k, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				wantEqual(t, "cause", context.Cause(ctx), cause)
				time.Sleep(time.Second) // cleanup
				shared++
				return 42, nil
			})
			shared++ // no concurrent access, which the race detector checks
			wantEqual(t, "value", v, 42)
			wantEqual(t, "err", err, nil)
			wantEqual(t, "waited", time.Since(start), 2*time.Second)
			_, err = eventloop.Block(k, func(ctx context.Context) (int, error) {
				t.Error("f ran although the context had already ended")
				return 0, nil
			})
			wantErr(t, "Block after the end of the context", err, cause)
			return nil
		}).Await(k)
		return err
	})
}

func TestOnlyTheEndOfTheLoopInterruptsBlock(t *testing.T) {
	returned := false
	err := virtually(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			_, err := eventloop.Block(k, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				time.Sleep(time.Second)
				returned = true
				return 0, nil
			})
			wantErr(t, "Block", err, eventloop.ErrLoopClosed)
			return err
		})
		l.AfterFunc(time.Second, l.Stop)
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "f had returned when Run did", returned, true)
}

func TestBlockReturnsAPanicAndRejectsMisuse(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		boom := func(context.Context) (int, error) { panic("boom") }
		_, err := eventloop.Block(k, boom)
		var pe *eventloop.PanicError
		if !errors.As(err, &pe) || pe.Value != "boom" {
			t.Errorf("err = %v, want the panic", err)
		}
		_, err = eventloop.Block(nil, boom)
		wantErr(t, "without a task", err, eventloop.ErrNotOnTask)
		if _, err = eventloop.Block[int](k, nil); err == nil {
			t.Error("Block of nil returned nil")
		}
		k.Loop().Post(func() {
			_, err := eventloop.Block(k, func(context.Context) (int, error) {
				t.Error("ran for a callback")
				return 0, nil
			})
			wantErr(t, "in a callback", err, eventloop.ErrNotOnTask)
		})
		return k.Sleep(time.Second)
	})
}

func TestAGroupWithALimitRunsNoMoreTasksThanItsLimitAndStartsThemInOrder(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 100} {
		inTask(t, func(k *eventloop.Task) error {
			g := k.Group()
			g.SetLimit(limit)
			running, most := 0, 0
			var order []int
			for i := range 7 {
				g.Go(func(k *eventloop.Task) error {
					order = append(order, i)
					running++
					most = max(most, running)
					err := k.Sleep(time.Duration(i%3+1) * time.Second)
					running--
					return err
				})
			}
			err := g.Wait()
			wantEqual(t, fmt.Sprintf("most with a limit of %d", limit), most, min(limit, 7))
			wantSlice(t, "order", order, []int{0, 1, 2, 3, 4, 5, 6})
			return err
		})
	}
}

func TestTasksOfAGroupWithALimitWaitInOrder(t *testing.T) {
	var order []string
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		g.SetLimit(3)
		for _, name := range []string{"a", "b"} {
			g.Go(func(k *eventloop.Task) error {
				for i := range 2 {
					g.Go(func(k *eventloop.Task) error {
						order = append(order, fmt.Sprint(name, i))
						return k.Sleep(time.Second)
					})
				}
				return nil
			})
		}
		return g.Wait()
	})
	// a takes the third place, and its second call waits ahead of the first call of b.
	wantSlice(t, "order", order, []string{"a0", "a1", "b0", "b1"})
}

func TestTheFirstErrorLetsAGroupWithALimitEnd(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		failure := errors.New("failure")
		g := k.Group()
		g.SetLimit(1)
		var ends []error
		g.Go(func(k *eventloop.Task) error { k.Sleep(time.Second); return failure })
		for range 2 {
			g.Go(func(k *eventloop.Task) error { // starts, as with errgroup, in an ended context
				ends = append(ends, context.Cause(k.Context()))
				return nil
			})
		}
		wantErr(t, "Wait", g.Wait(), failure)
		wantSlice(t, "contexts", ends, []error{failure, failure})
		return nil
	})
}

func TestTheEndOfAContextDoesNotOvertakeTheLimitOfAGroup(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		running := 0
		_, err := k.Loop().Go(ctx, func(k *eventloop.Task) error {
			g := k.Group()
			g.SetLimit(1)
			for range 3 {
				g.Go(func(k *eventloop.Task) error {
					running++
					wantEqual(t, "running", running, 1)
					_, err := eventloop.Block(k, func(context.Context) (int, error) { // ignores its context
						time.Sleep(2 * time.Second)
						return 0, nil
					})
					running--
					return err
				})
			}
			wantErr(t, "Wait", g.Wait(), context.DeadlineExceeded)
			return nil
		}).Await(k)
		return err
	})
}

func TestAGroupWithALimitOfZeroStartsNothing(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			g := k.Group()
			g.SetLimit(0)
			g.Go(func(k *eventloop.Task) error { t.Error("started"); return nil })
			wantErr(t, "Sleep after Go", k.Sleep(time.Second), eventloop.ErrLoopClosed)
			return g.Wait()
		})
		l.AfterFunc(time.Hour, l.Stop)
	})
	wantEqual(t, "Run", err, nil)
}

func TestMisuseOfALimitPanics(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		g := k.Group()
		g.SetLimit(1)
		g.SetLimit(-1)
		g.SetLimit(1)
		g.Go(func(k *eventloop.Task) error { return k.Sleep(time.Second) })
		panics := func(what string, f func()) {
			t.Helper()
			defer func() {
				t.Helper()
				if recover() == nil {
					t.Errorf("%s does not panic", what)
				}
			}()
			f()
		}
		panics("SetLimit while a task runs", func() { g.SetLimit(2) })
		k.Loop().Post(func() {
			panics("Go beyond the limit in a callback", func() { g.Go(func(*eventloop.Task) error { return nil }) })
		})
		if v, _ := outcome(func() { g.SetLimit(2) }); v == nil {
			t.Error("SetLimit off the loop does not panic")
		}
		err := g.Wait()
		k.Loop().Post(func() { g.Go(func(*eventloop.Task) error { return nil }) }) // below the limit it may
		return errors.Join(err, k.Yield(), g.Wait())
	})
}

func TestAFailureThatIsIgnoredIsNotReported(t *testing.T) {
	var reported []error
	failure := errors.New("failure")
	cfg := &eventloop.Config{EventHandler: func(err error) { reported = append(reported, err) }}
	err := virtually(t, cfg, func(l *eventloop.Loop) {
		f, resolve := eventloop.NewFuture[int](l)
		resolve(0, failure)
		f.Ignore()
		l.AfterFunc(500*time.Millisecond, func() {
			l.Go(context.Background(), func(*eventloop.Task) error { return failure }).Ignore()
		})
		late, resolveLate := eventloop.NewFuture[int](l)
		l.AfterFunc(500*time.Millisecond, func() { resolveLate(0, failure) })
		l.AfterFunc(time.Second, late.Ignore)
		l.AfterFunc(time.Hour, func() {})
	})
	wantEqual(t, "Run", err, nil)
	if len(reported) > 0 {
		t.Errorf("reported: %v", reported)
	}
}

func TestTheEndOfTheLoopEndsTasksThatWaitInGoOfAGroup(t *testing.T) {
	var ends []error
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				g := k.Group()
				g.SetLimit(2)
				for range 3 {
					g.Go(func(k *eventloop.Task) error {
						ends = append(ends, k.Sleep(time.Hour))
						return nil
					})
				}
				ends = append(ends, g.Wait())
				return nil
			})
			l.AfterFunc(time.Second, l.Stop)
			return nil
		})
	})
	if len(ends) != 3 || slices.ContainsFunc(ends, func(err error) bool { return !errors.Is(err, eventloop.ErrLoopClosed) }) {
		t.Errorf("ends = %v, want ErrLoopClosed of two tasks and of Wait", ends)
	}
}
