package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestRunCallsStartOnTheLoopAndReturnsNilAtTheNaturalEnd(t *testing.T) {
	started := 0
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		started++
		return nil
	})
	if err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	wantEqual(t, "calls of start", started, 1)
}

func TestRunReturnsTheErrorOfStartAndRunsNothingElse(t *testing.T) {
	errStart := errors.New("no")
	exits := 0
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		l.Post(func() { t.Error("a post ran") })
		l.AfterFunc(0, func() { t.Error("a timer ran") })
		l.OnExit(func() { exits++ })
		return errStart
	})
	if err != errStart {
		t.Errorf("Run returned %v, want the error of start itself", err)
	}
	wantEqual(t, "exit callbacks", exits, 1)
}

func TestRunWithANilStartIsAnError(t *testing.T) {
	if err := eventloop.Run(t.Context(), nil, nil); err == nil {
		t.Error("Run returned nil")
	}
}

func TestANilContextPanicsInTheCaller(t *testing.T) {
	var none context.Context
	start := func(*eventloop.Loop) error { return nil }
	l, end := startLoop(t, nil)
	f, resolve := eventloop.NewFuture[int](l)
	for name, call := range map[string]func(){
		"Run":         func() { eventloop.Run(none, nil, start) },
		"Loop.Run":    func() { eventloop.New(nil).Run(none) },
		"Group.Run":   func() { eventloop.NewGroup(1, nil).Run(none, start) },
		"Go":          func() { l.Go(none, func(*eventloop.Task) error { return nil }) },
		"Work":        func() { eventloop.Work(none, l, func(context.Context) (int, error) { return 1, nil }) },
		"Call":        func() { eventloop.Call(none, l, func() (int, error) { return 1, nil }) },
		"Wait":        func() { f.Wait(none) },
		"Dial":        func() { l.Dial(none, "tcp", "127.0.0.1:1", nil) },
		"LookupNetIP": func() { l.LookupNetIP(none, "ip", "a.test") },
		"LookupAddr":  func() { l.LookupAddr(none, netip.MustParseAddr("192.0.2.1")) },
		"Query":       func() { l.Query(none, "a.test", 1) },
		"Get":         func() { l.HTTP().Get(none, "http://a.test") },
		"Do":          func() { l.HTTP().Do(none, "GET", "http://a.test", nil) },
	} {
		if p, _ := outcome(call); p != "eventloop: nil context" {
			t.Errorf("%s panicked with %v", name, p)
		}
	}
	resolve(1, nil)
	end()
}

func TestRunOfALoopWithNothingToDoReturnsAtOnce(t *testing.T) {
	l := eventloop.New(nil)
	if err := l.Run(t.Context()); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	select {
	case <-l.Done():
	default:
		t.Error("Done is not closed")
	}
}

func TestALoopThatNeverRunsLeavesNothing(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	l.Post(func() { t.Error("a post ran") })
	l.AfterFunc(0, func() { t.Error("a timer ran") })
	l.Every(1, func() { t.Error("an interval ran") })
	l.OnExit(func() { t.Error("an exit callback ran") })
	l.Hold()
	eventloop.NewFuture[int](l)
	l.Stats()
	l.Stop()
	l.Shutdown(-1)
}

func TestRunASecondTimeIsErrLoopClosed(t *testing.T) {
	l := eventloop.New(nil)
	for i, want := range []error{nil, eventloop.ErrLoopClosed, eventloop.ErrLoopClosed} {
		if err := l.Run(t.Context()); err != want {
			t.Errorf("Run %d returned %v, want %v", i+1, err, want)
		}
	}
}

func TestRunInACallbackOfTheSameLoopIsErrRunning(t *testing.T) {
	var inPost, inTimer, inExit error
	mustRun(t, nil, func(l *eventloop.Loop) {
		inPost = l.Run(t.Context())
		l.AfterFunc(0, func() { inTimer = l.Run(t.Context()) })
		l.OnExit(func() { inExit = l.Run(t.Context()) })
	})
	wantEqual(t, "Run in a post", inPost, eventloop.ErrRunning)
	wantEqual(t, "Run in a timer", inTimer, eventloop.ErrRunning)
	wantEqual(t, "Run in an exit callback", inExit, eventloop.ErrLoopClosed)
}

func TestRunOfAnotherLoopInACallbackIsNested(t *testing.T) {
	var order []string
	mustRun(t, nil, func(outer *eventloop.Loop) {
		outer.Post(func() { order = append(order, "outer post") })
		err := eventloop.Run(t.Context(), nil, func(inner *eventloop.Loop) error {
			inner.AfterFunc(time.Millisecond, func() { order = append(order, "inner timer") })
			return nil
		})
		if err != nil {
			t.Errorf("the inner Run returned %v, want nil", err)
		}
		order = append(order, "start")
	})
	wantSlice(t, "order", order, []string{"inner timer", "start", "outer post"})
}

func TestSeveralLoopsRunSideBySide(t *testing.T) {
	const loops, ticks = 8, 20
	var wg sync.WaitGroup
	counts := make([]int, loops)
	checkLeaks(t)
	for i := range loops {
		wg.Go(func() {
			eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				var interval *eventloop.Timer
				interval = l.Every(100*time.Microsecond, func() {
					if counts[i]++; counts[i] == ticks {
						interval.Stop()
					}
				})
				return nil
			})
		})
	}
	wg.Wait()
	for i, n := range counts {
		if n != ticks {
			t.Errorf("loop %d: ticks = %d, want %d", i, n, ticks)
		}
	}
}

func TestWhatIsAskedForBeforeRunStartsWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		add := func(s string) func() { return func() { order = append(order, s) } }
		l := eventloop.New(nil)
		l.OnExit(add("exit"))
		timer := l.AfterFunc(time.Second, add("timer"))
		var interval *eventloop.Timer
		interval = l.Every(400*time.Millisecond, func() {
			add("tick")()
			if len(order) == 4 {
				interval.Stop()
			}
		})
		release := l.Hold()
		f, resolve := eventloop.NewFuture[int](l)
		f.Then(func(int, error) { add("then")() })
		resolve(1, nil)
		if err := l.Post(add("post")); err != nil {
			t.Errorf("Post before Run returned %v", err)
		}
		stopped := l.AfterFunc(0, add("stopped"))
		if !stopped.Stop() {
			t.Error("Stop of a timer before Run reported false")
		}

		time.Sleep(time.Hour) // does not count
		began := time.Now()
		go func() {
			time.Sleep(5 * time.Second)
			release()
		}()
		if err := l.Run(t.Context()); err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		wantEqual(t, "time that Run took", time.Since(began), 5*time.Second)
		wantSlice(t, "order", order, []string{"then", "post", "tick", "tick", "timer", "exit"})
		wantEqual(t, "timer.Stop after it fired", timer.Stop(), false)
	})
}

func TestStopLetsTheCallbackFinishAndStartsNoOther(t *testing.T) {
	finished := false
	mustRun(t, nil, func(l *eventloop.Loop) {
		fail := func() { t.Error("a callback ran after Stop") }
		l.Post(fail)
		l.AfterFunc(0, fail)
		f, resolve := eventloop.NewFuture[int](l)
		f.Then(func(int, error) { fail() })
		l.Stop()
		resolve(1, nil)
		wantEqual(t, "Post after Stop", l.Post(fail), eventloop.ErrLoopClosed)
		l.AfterFunc(0, fail)
		l.Stop() // does nothing more
		finished = true
	})
	wantEqual(t, "the callback that called Stop finished", finished, true)
}

func TestStopInATimerKeepsTheOthersOfTheTurnFromRunning(t *testing.T) {
	ran := 0
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			for range 10 {
				l.AfterFunc(time.Second, func() { ran++; l.Stop() })
			}
			return nil
		})
	})
	wantEqual(t, "timers that ran", ran, 1)
}

func TestStopBeforeRunMakesRunReturnAtOnce(t *testing.T) {
	for name, stop := range map[string]func(l *eventloop.Loop){
		"Stop":     func(l *eventloop.Loop) { l.Stop() },
		"Shutdown": func(l *eventloop.Loop) { l.Shutdown(-1) },
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			l := eventloop.New(nil)
			exits := 0
			l.Post(func() { t.Error("a post ran") })
			l.AfterFunc(0, func() { t.Error("a timer ran") })
			l.Hold()
			l.OnExit(func() { exits++ })
			stop(l)
			if err := l.Run(t.Context()); err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
			wantEqual(t, "exit callbacks", exits, 1)
		})
	}
}

func TestStopFromAnotherGoroutineEndsASleepingLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			began := time.Now()
			l.Every(time.Hour, func() {})
			go func() {
				time.Sleep(90 * time.Minute)
				l.Stop()
				<-l.Done()
				took = time.Since(began)
			}()
			return nil
		})
		synctest.Wait()
		if err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		wantEqual(t, "time until the end", took, 90*time.Minute)
	})
}

func TestTheEndOfTheContextEndsTheLoopWithItsCause(t *testing.T) {
	cause := errors.New("the building is on fire")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		exits := 0
		err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
			l.Every(time.Hour, func() {})
			l.OnExit(func() { exits++ })
			time.AfterFunc(time.Minute, func() { cancel(cause) })
			return nil
		})
		wantEqual(t, "error of Run", err, cause)
		wantEqual(t, "exit callbacks", exits, 1)
	})
}

func TestADeadlineOfTheContextEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ticks := 0
		err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
			l.Every(7*time.Second, func() { ticks++ })
			return nil
		})
		wantEqual(t, "error of Run", err, context.DeadlineExceeded)
		wantEqual(t, "ticks", ticks, 8)
	})
}

func TestAContextThatHasEndedLetsNothingRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		t.Error("start ran")
		return nil
	})
	wantEqual(t, "error of Run", err, context.Canceled)
}

func TestTheFirstReasonToEndCounts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		l.Stop()
		cancel()
		return errors.New("too late")
	})
	if err != nil {
		t.Errorf("Run returned %v, want nil: Stop came first", err)
	}
}

func TestShutdownStopsIntervalsAndLetsTheRestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, ticks, shots := time.Now(), 0, 0
		err := eventloop.Run(t.Context(), logged(t, nil), func(l *eventloop.Loop) error {
			l.Every(time.Second, func() { ticks++ })
			l.Every(time.Second, func() {}).Unref()
			release := l.Hold()
			time.AfterFunc(time.Hour, func() { release() })
			l.AfterFunc(time.Minute, func() { shots++ })
			l.AfterFunc(3500*time.Millisecond, func() {
				l.Shutdown(-1)
				l.Shutdown(-1) // does nothing more
				if err := l.Post(func() { shots++ }); err != nil {
					t.Errorf("Post after Shutdown returned %v, want nil", err)
				}
			})
			return nil
		})
		if err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		wantEqual(t, "ticks", ticks, 3)
		wantEqual(t, "one-shots", shots, 2)
		wantEqual(t, "time until Run returned", time.Since(began), time.Hour)
	})
}

func TestHoldKeepsTheLoopAliveUntilTheLastRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			for i := range 3 {
				release := l.Hold()
				time.AfterFunc(time.Duration(i+1)*time.Minute, func() {
					release()
					release() // must not release another's hold
				})
			}
			return nil
		})
		wantEqual(t, "time until Run returned", time.Since(began), 3*time.Minute)
	})
}

func TestReleaseAfterTheEndDoesNothing(t *testing.T) {
	var release, late func()
	l := eventloop.New(nil)
	l.Post(func() { release = l.Hold(); l.Stop() })
	l.Run(t.Context())
	late = l.Hold()
	release()
	late()
	wantEqual(t, "handles", l.Stats().Loop.Handles, 0)
}

// An exit is a way to end a loop.
var exits = map[string]struct {
	cfg  eventloop.Config
	end  func(l *eventloop.Loop, cancel context.CancelFunc) error // in the start function
	want func(err error, panicked any, exited bool) bool
}{
	"natural": {
		end:  func(*eventloop.Loop, context.CancelFunc) error { return nil },
		want: func(err error, p any, exited bool) bool { return err == nil && p == nil && !exited },
	},
	"Stop": {
		end:  func(l *eventloop.Loop, _ context.CancelFunc) error { l.Stop(); return nil },
		want: func(err error, p any, exited bool) bool { return err == nil && p == nil && !exited },
	},
	"Shutdown": {
		end:  func(l *eventloop.Loop, _ context.CancelFunc) error { l.Shutdown(-1); return nil },
		want: func(err error, p any, exited bool) bool { return err == nil && p == nil && !exited },
	},
	"context": {
		end:  func(l *eventloop.Loop, cancel context.CancelFunc) error { l.Hold(); cancel(); return nil },
		want: func(err error, p any, exited bool) bool { return err == context.Canceled && p == nil && !exited },
	},
	"error of start": {
		end:  func(*eventloop.Loop, context.CancelFunc) error { return errExit },
		want: func(err error, p any, exited bool) bool { return err == errExit && p == nil && !exited },
	},
	"panic": {
		end: func(*eventloop.Loop, context.CancelFunc) error { panic(errExit) },
		want: func(err error, p any, exited bool) bool {
			pe, ok := p.(*eventloop.PanicError)
			return ok && pe.Value == errExit && !exited
		},
	},
	"panic in the event handler": {
		cfg: eventloop.Config{CatchPanics: true, EventHandler: func(error) { panic(errExit) }},
		end: func(*eventloop.Loop, context.CancelFunc) error { panic("first") },
		want: func(err error, p any, exited bool) bool {
			pe, ok := p.(*eventloop.PanicError)
			return ok && pe.Value == errExit && !exited
		},
	},
	"Goexit": {
		end:  func(*eventloop.Loop, context.CancelFunc) error { runtime.Goexit(); return nil },
		want: func(err error, p any, exited bool) bool { return exited && p == nil },
	},
}

var errExit = errors.New("the way out")

func TestExitCallbacksRunLastInFirstOutAtEveryKindOfExit(t *testing.T) {
	for name, exit := range exits {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var order []int
			var handles int
			var err error
			var l *eventloop.Loop
			panicked, exited := outcome(func() {
				err = eventloop.Run(ctx, &exit.cfg, func(running *eventloop.Loop) error {
					l = running
					l.OnExit(nil)
					l.OnExit(func() { order = append(order, 1); handles = l.Stats().Loop.Handles })
					l.OnExit(func() { order = append(order, 2) })
					l.OnExit(func() {
						order = append(order, 3)
						l.OnExit(func() { order = append(order, 4) }) // in an exit callback: the next
					})
					l.Every(time.Hour, func() {}).Unref()
					f, _ := eventloop.NewFuture[int](l)
					f.Unref()
					return exit.end(l, cancel)
				})
			})
			wantSlice(t, "order", order, []int{3, 4, 2, 1})
			wantEqual(t, "handles in the last exit callback", handles, 0)
			if !exit.want(err, panicked, exited) {
				t.Errorf("Run ended with error %v, panic %v, Goexit %v", err, panicked, exited)
			}
			select {
			case <-l.Done():
			default:
				t.Error("Done is not closed")
			}
		})
	}
}

func TestAPanicInAnExitCallbackDoesNotKeepTheOthersFromRunning(t *testing.T) {
	checkLeaks(t)
	ran := 0
	first, second := errors.New("first"), errors.New("second")
	panicked, _ := outcome(func() {
		eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			l.OnExit(func() { ran++ })
			l.OnExit(func() { ran++; panic(second) })
			l.OnExit(func() { ran++; panic(first) })
			l.OnExit(func() { ran++ })
			return nil
		})
	})
	wantEqual(t, "exit callbacks", ran, 4)
	pe, ok := panicked.(*eventloop.PanicError)
	if !ok || pe.Value != first {
		t.Errorf("Run panicked with %v, want a *PanicError with the first panic", panicked)
	}
}

func TestAPanicInACallbackCountsMoreThanOneInAnExitCallback(t *testing.T) {
	panicked, _ := outcome(func() {
		eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			l.OnExit(func() { panic("in exit") })
			panic("in callback")
		})
	})
	if pe, ok := panicked.(*eventloop.PanicError); !ok || pe.Value != "in callback" {
		t.Errorf("Run panicked with %v, want the panic of the callback", panicked)
	}
}

func TestGoexitInAnExitCallbackDoesNotKeepTheOthersFromRunning(t *testing.T) {
	checkLeaks(t)
	ran := 0
	var l *eventloop.Loop
	_, exited := outcome(func() {
		eventloop.Run(context.Background(), nil, func(running *eventloop.Loop) error {
			l = running
			l.OnExit(func() { ran++ })
			l.OnExit(func() { ran++; runtime.Goexit() })
			l.OnExit(func() { ran++; runtime.Goexit() })
			l.OnExit(func() { ran++ })
			return nil
		})
	})
	wantEqual(t, "exit callbacks", ran, 4)
	wantEqual(t, "Goexit left Run", exited, true)
	<-l.Done()
}

func TestOnExitAfterTheEndIsIgnored(t *testing.T) {
	l := eventloop.New(nil)
	l.Run(t.Context())
	l.OnExit(func() { t.Error("an exit callback ran after the end") })
	l.Run(t.Context())
}

func TestGoexitInACallbackClosesEverything(t *testing.T) {
	places := map[string]func(l *eventloop.Loop){
		"post":  func(l *eventloop.Loop) { l.Post(runtime.Goexit) },
		"timer": func(l *eventloop.Loop) { l.AfterFunc(0, runtime.Goexit) },
		"tick":  func(l *eventloop.Loop) { l.Every(1, runtime.Goexit) },
		"then": func(l *eventloop.Loop) {
			f, resolve := eventloop.NewFuture[int](l)
			f.Then(func(int, error) { runtime.Goexit() })
			resolve(1, nil)
		},
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			var l *eventloop.Loop
			pending := make(chan error, 1)
			_, exited := outcome(func() {
				eventloop.Run(context.Background(), nil, func(running *eventloop.Loop) error {
					l = running
					f, _ := eventloop.NewFuture[int](l)
					go func() {
						_, err := f.Wait(context.Background())
						pending <- err
					}()
					place(l)
					return nil
				})
			})
			wantEqual(t, "Goexit left Run", exited, true)
			wantEqual(t, "error of a pending future", <-pending, eventloop.ErrLoopClosed)
			wantEqual(t, "handles left", l.Stats().Loop.Handles, 0)
			wantEqual(t, "Post", l.Post(func() {}), eventloop.ErrLoopClosed)
		})
	}
}

func TestATaskThatPostsItselfDoesNotStarveATimer(t *testing.T) {
	patiently(t, 10*time.Millisecond, func(d time.Duration) error {
		posts := 0
		var late time.Duration
		mustRun(t, nil, func(l *eventloop.Loop) {
			fired := false
			var again func()
			again = func() {
				if posts++; posts == 1 { // not before: the first post may be late itself
					due := time.Now().Add(d)
					l.AfterFunc(d, func() { fired, late = true, time.Since(due) })
				}
				if !fired {
					l.Post(again)
				}
			}
			l.Post(again)
		})
		if posts < 2 {
			return errors.New("the timer fired before the task could post itself")
		}
		t.Logf("%d posts, the timer was %v late", posts, late)
		return nil
	})
}

func TestATimerThatArmsItselfDoesNotStarvePosts(t *testing.T) {
	posts := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		var again func()
		var timer *eventloop.Timer
		again = func() { timer.Reset(0) }
		timer = l.AfterFunc(0, again)
		var post func()
		post = func() {
			if posts++; posts < 100 {
				l.Post(post)
			} else {
				timer.Stop()
			}
		}
		l.Post(post)
	})
	wantEqual(t, "posts", posts, 100)
}

func TestAFloodOfPostsDoesNotStarveATimer(t *testing.T) {
	// A batch of posts that is already queued must not run in one piece either.
	ran, atTimer := 0, 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		for range 100_000 {
			l.Post(func() { ran++ })
		}
		l.AfterFunc(0, func() { atTimer = ran })
	})
	if atTimer > 1000 {
		t.Errorf("%d posts ran before a timer that was due", atTimer)
	}
}

func TestTheDispatcherCarriesALabelForProfiles(t *testing.T) {
	var profile bytes.Buffer
	mustRun(t, &eventloop.Config{Name: "labelled-loop"}, func(l *eventloop.Loop) {
		pprof.Lookup("goroutine").WriteTo(&profile, 1)
	})
	if want := `"eventloop":"labelled-loop"`; !strings.Contains(profile.String(), want) {
		t.Errorf("the goroutine profile has no label %s", want)
	}
	profile.Reset()
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	if strings.Contains(profile.String(), "labelled-loop") {
		t.Error("the label is still there after Run")
	}
}

func TestNewCopiesItsConfig(t *testing.T) {
	handled := 0
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(error) { handled++ }}
	l := eventloop.New(cfg)
	*cfg = eventloop.Config{}
	l.Post(func() { panic("caught") })
	if err := l.Run(t.Context()); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	wantEqual(t, "events", handled, 1)
}
