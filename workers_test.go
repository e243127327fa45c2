package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/looptest"
)

func TestWorkersHaveALimitOfTheirOwn(t *testing.T) {
	for _, c := range []struct{ n, want int }{{1, 1}, {3, 3}, {0, 64}, {-1, 64}} {
		t.Run(fmt.Sprint(c.n), func(t *testing.T) {
			began := time.Now()
			var took [2]time.Duration
			var most, running atomic.Int32
			err := virtually(t, &eventloop.Config{MaxWork: 2}, func(l *eventloop.Loop) {
				began = time.Now()
				w := eventloop.NewWorkers(l, c.n, "slow")
				second := func(context.Context) (int, error) { time.Sleep(time.Second); return 0, nil }
				for range 4 {
					eventloop.Work(context.Background(), l, second).Then(func(int, error) { took[0] = time.Since(began) })
				}
				for range 128 {
					eventloop.WorkOn(context.Background(), w, func(ctx context.Context) (int, error) {
						n := running.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						defer running.Add(-1)
						return second(ctx)
					}).Then(func(int, error) { took[1] = time.Since(began) })
				}
				wantEqual(t, "Running", w.Running(), c.want)
				wantEqual(t, "Waiting", w.Waiting(), 128-c.want)
				wantEqual(t, "Work", l.Stats().Loop.Work, 132)
				wantEqual(t, "WorkWaiting", l.Stats().Loop.WorkWaiting, 2+128-c.want)
				l.OnExit(func() {
					wantEqual(t, "Running at the end", w.Running(), 0)
					wantEqual(t, "Waiting at the end", w.Waiting(), 0)
					wantEqual(t, "WorkWaiting at the end", l.Stats().Loop.WorkWaiting, 0)
				})
			})
			wantEqual(t, "Run", err, nil)
			wantEqual(t, "most at a time", int(most.Load()), c.want)
			wantEqual(t, "time of Work", took[0], 2*time.Second)
			rounds := (128 + c.want - 1) / c.want
			wantEqual(t, "time of WorkOn", took[1], time.Duration(rounds)*time.Second)
		})
	}
}

// However the function ends, a function that its callback starts does not wait for it.
func TestAWorkerIsFreeWhenTheResultOfItsFunctionArrives(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		w := eventloop.NewWorkers(l, 1, "")
		rounds := 0
		var next func(int, error)
		next = func(int, error) {
			wantEqual(t, "Running", w.Running(), 0)
			if rounds++; rounds > 300 {
				return
			}
			eventloop.WorkOn(context.Background(), w, func(context.Context) (int, error) {
				switch rounds % 10 {
				case 1:
					panic("oops")
				case 2:
					runtime.Goexit()
				}
				return 0, nil
			}).Then(next)
			wantEqual(t, "Waiting", w.Waiting(), 0)
		}
		next(0, nil)
	})
}

func TestWorkersStandInTheNamesOfTheirFunctions(t *testing.T) {
	release := make(chan int)
	cfg := &eventloop.Config{WorkGrace: -1, Logger: slog.New(slog.DiscardHandler)}
	err := runLoop(t, cfg, func(l *eventloop.Loop) {
		w := eventloop.NewWorkers(l, 1, "mongo")
		began := make(chan int)
		eventloop.WorkOn(context.Background(), w, func(ctx context.Context) (int, error) {
			close(began)
			return stubborn(release)(ctx)
		})
		<-began
		for h := range l.Handles() {
			if h.Kind != eventloop.KindWork || !strings.HasPrefix(h.Name, "mongo: ") || !strings.Contains(h.Name, "TestWorkersStand") {
				t.Errorf("handle %v, want the name of the workers and of the function", h)
			}
		}
		l.Stop()
	})
	wantErr(t, "Run", err, eventloop.ErrWorkLeft)
	if err == nil || !strings.Contains(err.Error(), "mongo: ") {
		t.Errorf("Run returned %v, want the name of the workers", err)
	}
	release <- 0
}

func TestWorkersBeforeRunAndAfterTheEnd(t *testing.T) {
	l := eventloop.New(nil)
	w := eventloop.NewWorkers(l, 1, "w")
	f := func(context.Context) (int, error) { t.Error("it ran"); return 0, nil }
	_, err := eventloop.WorkOn(context.Background(), w, f).Result()
	wantErr(t, "before Run", err, eventloop.ErrNotRunning)
	if _, err := eventloop.WorkOn[int](context.Background(), w, nil).Result(); err == nil {
		t.Error("a nil function succeeded")
	}
	l.Run(t.Context())
	_, err = eventloop.WorkOn(context.Background(), w, f).Result()
	wantErr(t, "after the end", err, eventloop.ErrLoopClosed)
}

// idleWorkers returns how many goroutines wait for a function of Work.
func idleWorkers() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*worker).beIdle(")
}

func TestAGoroutineOfWorkIsUsedAgainWhileItIsIdleAndThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := func(context.Context) (goid.ID, error) { return goid.Current(), nil }
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			l.Go(t.Context(), func(k *eventloop.Task) error {
				first, _ := eventloop.Block(k, id)
				for range 10 {
					k.Sleep(eventloop.IdleTime - 1)
					again, err := eventloop.Block(k, id)
					if again != first || err != nil {
						t.Errorf("goroutine = %v, %v, want the first one, %v", again, err, first)
					}
				}
				synctest.Wait()
				wantEqual(t, "idle goroutines", idleWorkers(), 1)
				k.Sleep(eventloop.IdleTime)
				synctest.Wait()
				wantEqual(t, "idle goroutines later", idleWorkers(), 0)
				_, err := eventloop.Block(k, id)
				return err
			})
			return nil
		})
		wantEqual(t, "Run", err, nil)
	})
}

// The function starts at the moment at which the goroutine stops waiting for one.
func TestAFunctionThatMeetsTheEndOfTheIdleTimeRuns(t *testing.T) {
	for range 200 {
		inTask(t, func(k *eventloop.Task) error {
			for range 3 {
				if v, err := eventloop.Block(k, func(context.Context) (int, error) { return 1, nil }); v != 1 || err != nil {
					t.Errorf("result = %d, %v, want 1", v, err)
				}
				k.Sleep(eventloop.IdleTime)
			}
			return nil
		})
	}
}

func TestIdleGoroutinesOfWorkDoNotDelayTheEnd(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop){"natural": func(*eventloop.Loop) {}, "Stop": (*eventloop.Loop).Stop} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					left := 100
					for range 100 {
						eventloop.WorkOn(context.Background(), eventloop.NewWorkers(l, 1, ""), obliging).Then(func(int, error) {
							if left--; left == 0 {
								end(l)
							}
						})
					}
					return nil
				})
				wantEqual(t, "Run", err, nil)
				wantEqual(t, "time", time.Since(began), 0)
				synctest.Wait() // a goroutine may still have to return
				wantEqual(t, "idle goroutines", idleWorkers(), 0)
			})
		})
	}
}

// The functions of a batch never wait for a goroutine that is busy.
func TestIdleGoroutinesOfWorkLimitNothing(t *testing.T) {
	inTask(t, func(k *eventloop.Task) error {
		for _, n := range []int{1, 10, 3, 64, 20} {
			var all []*eventloop.Future[int]
			began := time.Now()
			for range n {
				all = append(all, eventloop.Work(k.Context(), k.Loop(), func(context.Context) (int, error) {
					time.Sleep(time.Millisecond)
					return 1, nil
				}))
			}
			if _, err := eventloop.All(k.Loop(), all...).Await(k); err != nil {
				return err
			}
			wantEqual(t, "time", time.Since(began), time.Millisecond)
		}
		return nil
	})
}

func TestAFunctionOfWorkDoesNotSeeTheLabelsOfTheLastOne(t *testing.T) {
	bg := context.Background()
	mustRun(t, &eventloop.Config{Name: "labelled"}, func(l *eventloop.Loop) {
		l.Go(bg, func(k *eventloop.Task) error {
			eventloop.Block(k, func(context.Context) (int, error) {
				pprof.SetGoroutineLabels(pprof.WithLabels(bg, pprof.Labels("mine", "yes")))
				return 0, nil
			})
			labels, _ := eventloop.Block(k, func(context.Context) (string, error) {
				var profile strings.Builder
				pprof.Lookup("goroutine").WriteTo(&profile, 1)
				for goroutine := range strings.SplitSeq(profile.String(), "\n\n") {
					if strings.Contains(goroutine, "pprof.writeGoroutine") { // this one
						return goroutine, nil
					}
				}
				return "", nil
			})
			if strings.Contains(labels, `"mine"`) || !strings.Contains(labels, `"eventloop":"labelled"`) {
				t.Errorf("labels:\n%s", labels)
			}
			return nil
		})
	})
}

func TestGoexitInAFunctionTakesNoGoroutineFromTheOthers(t *testing.T) {
	for range 20 {
		mustRun(t, nil, func(l *eventloop.Loop) {
			w := eventloop.NewWorkers(l, 2, "")
			results := 0
			for i := range 100 {
				eventloop.WorkOn(context.Background(), w, func(context.Context) (int, error) {
					if i%3 == 0 {
						runtime.Goexit()
					}
					return i, nil
				}).Then(func(v int, err error) {
					results++
					if goexit := err != nil; goexit != (i%3 == 0) || !goexit && v != i {
						t.Errorf("result of %d = %d, %v", i, v, err)
					}
				})
			}
			l.OnExit(func() {
				wantEqual(t, "results", results, 100)
				wantEqual(t, "Running", w.Running(), 0)
			})
		})
	}
}

// A function may start others, and the loop may end, at any moment.
func TestWorkersWhileTheLoopEnds(t *testing.T) {
	for range 100 {
		l, end := startLoop(t, nil)
		ws := []*eventloop.Workers{eventloop.NewWorkers(l, 1, "a"), eventloop.NewWorkers(l, 3, "b")}
		var all sync.WaitGroup
		for g := range 4 {
			all.Go(func() {
				for i := 0; ; i++ {
					ctx, cancel := context.WithCancel(context.Background())
					f := eventloop.WorkOn(ctx, ws[(i+g)%2], func(ctx context.Context) (int, error) { return 1, nil })
					if i%3 == 0 {
						cancel()
					}
					_, err := f.Wait(context.Background())
					cancel()
					if errors.Is(err, eventloop.ErrLoopClosed) {
						return
					}
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Errorf("error = %v", err)
					}
				}
			})
		}
		time.AfterFunc(200*time.Microsecond, l.Stop)
		wantEqual(t, "Run", end(), nil)
		all.Wait()
		for _, w := range ws {
			wantEqual(t, "Waiting", w.Waiting(), 0)
		}
	}
}

// In any order of events the functions of each Workers start in order, at most so many
// at a time, and a canceled one runs if and only if it had started.
func TestWorkersInAnyOrder(t *testing.T) {
	looptest.Seeds(t, 50, func(t *testing.T, l *eventloop.Loop) error {
		why := errors.New("enough")
		for n := 1; n <= 3; n++ {
			w := eventloop.NewWorkers(l, n, fmt.Sprint("limit ", n))
			var mu sync.Mutex
			var started []int
			running, results := 0, 0
			ctx, cancel := context.WithCancelCause(t.Context())
			for i := range 10 {
				c := t.Context()
				if i%4 == 3 {
					c = ctx
				}
				eventloop.WorkOn(c, w, func(context.Context) (int, error) {
					mu.Lock()
					started = append(started, i)
					if running++; running > n {
						t.Errorf("%d functions run, want at most %d", running, n)
					}
					mu.Unlock()
					time.Sleep(time.Duration(1+i%3) * time.Second)
					mu.Lock()
					running--
					mu.Unlock()
					return i, nil
				}).Then(func(v int, err error) {
					results++
					mu.Lock()
					ran := slices.Contains(started, i)
					mu.Unlock()
					if ran != (err == nil) || ran && v != i || !ran && err != why {
						t.Errorf("result of %d = %d, %v, and it ran: %v", i, v, err, ran)
					}
				})
			}
			l.AfterFunc(time.Duration(n)*time.Second+1, func() { cancel(why) })
			l.OnExit(func() {
				wantEqual(t, "results", results, 10)
				if n == 1 && !slices.IsSorted(started) {
					t.Errorf("the functions started in the order %v", started)
				}
			})
		}
		return nil
	})
}
