package eventloop_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

func TestStatsCountWhatWaitsAndWhatIsOpen(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		wantEqual(t, "callbacks at first", l.Stats().Loop.Callbacks, 0)
		for range 3 {
			l.AfterFunc(time.Millisecond, func() {})
		}
		interval := l.Every(time.Hour, func() {})
		for range 4 {
			l.Post(func() {})
		}
		release := l.Hold()
		_, resolve := eventloop.NewFuture[int](l)
		s := l.Stats()
		wantEqual(t, "Timers", s.Loop.Timers, 4)
		wantEqual(t, "Queued", s.Loop.Queued, 4)
		wantEqual(t, "Callbacks", s.Loop.Callbacks, 8)
		wantEqual(t, "Futures", s.Loop.Futures, 1)
		wantEqual(t, "Handles", s.Loop.Handles, 6)
		interval.Stop()
		release()
		resolve(1, nil)
		s = l.Stats()
		wantEqual(t, "Timers", s.Loop.Timers, 3)
		wantEqual(t, "Futures", s.Loop.Futures, 0)
		wantEqual(t, "Handles", s.Loop.Handles, 3)
	})
}

func TestStatsOnTheLoopCountThePostsThatHaveNotRun(t *testing.T) {
	const posts = 1000 // more than run in one turn
	var queued []int
	mustRun(t, nil, func(l *eventloop.Loop) {
		for range posts {
			l.Post(func() { queued = append(queued, l.Stats().Loop.Queued) })
		}
	})
	wantEqual(t, "posts", len(queued), posts)
	for i, n := range queued {
		if want := posts - 1 - i; n != want {
			t.Fatalf("Queued in post %d = %d, want %d", i, n, want)
		}
	}
}

func TestStatsElsewhereCountThePostsOfTheTurnThatGoesOn(t *testing.T) {
	const posts = 1000
	l, end := startLoop(t, nil)
	blocked, goOn := make(chan struct{}), make(chan struct{})
	l.Post(func() {
		for range posts {
			l.Post(func() {})
		}
		l.Post(func() { close(blocked); <-goOn })
		for range posts {
			l.Post(func() {})
		}
	})
	<-blocked
	if got := l.Stats().Loop.Queued; got < posts || got > posts+256 {
		t.Errorf("Queued = %d, want %d, or up to a turn more", got, posts)
	}
	close(goOn)
	end()
	wantEqual(t, "Queued at the end", l.Stats().Loop.Queued, 0)
	wantEqual(t, "QueuePeak", l.Stats().Loop.QueuePeak, 2*posts+1)
}

func TestStatsAndHandlesOnTheLoopSeeTheTimersOfTheTurn(t *testing.T) {
	var timers, handles []int
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			for range 4 {
				l.AfterFunc(time.Second, func() {
					timers = append(timers, l.Stats().Loop.Timers)
					handles = append(handles, len(slices.Collect(l.Handles())))
				})
			}
			return nil
		})
	})
	wantSlice(t, "Timers", timers, []int{3, 2, 1, 0})
	wantSlice(t, "handles", handles, []int{3, 2, 1, 0})
}

func TestStatsTellBusyFromIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l *eventloop.Loop
		eventloop.Run(t.Context(), nil, func(running *eventloop.Loop) error {
			l = running
			l.AfterFunc(10*time.Second, func() {
				s := l.Stats()
				wantEqual(t, "Idle", s.Loop.Idle, 10*time.Second)
				wantEqual(t, "Busy", s.Loop.Busy, 0)
				time.Sleep(3 * time.Second) // the callback takes its time
				s = l.Stats()
				wantEqual(t, "Idle in a long callback", s.Loop.Idle, 10*time.Second)
				wantEqual(t, "Busy in a long callback", s.Loop.Busy, 3*time.Second)
			})
			return nil
		})
		s := l.Stats()
		wantEqual(t, "Idle after the end", s.Loop.Idle, 10*time.Second)
		wantEqual(t, "Busy after the end", s.Loop.Busy, 3*time.Second)
	})
}

func TestStatsFromOutsideSeeASleepingLoopAsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			release := l.Hold()
			go func() {
				time.Sleep(time.Minute)
				s := l.Stats()
				wantEqual(t, "Idle", s.Loop.Idle, time.Minute)
				wantEqual(t, "Busy", s.Loop.Busy, 0)
				release()
			}()
			return nil
		})
	})
}

func TestLagIsHowLateTimersAreAndHowLongTurnsTake(t *testing.T) {
	const long = 2 * time.Second
	for name, start := range map[string]func(l *eventloop.Loop){
		"a timer behind a callback": func(l *eventloop.Loop) {
			l.AfterFunc(time.Second, func() {})
			time.Sleep(time.Second + long)
		},
		"a post behind a callback": func(l *eventloop.Loop) {
			l.Post(func() {})
			time.Sleep(long)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l *eventloop.Loop
				eventloop.Run(t.Context(), nil, func(running *eventloop.Loop) error {
					l = running
					start(l)
					return nil
				})
				if s := l.Stats(); s.Loop.LagMax < long || s.Loop.LagP99 < s.Loop.LagP50 || s.Loop.LagMax < s.Loop.LagP99 {
					t.Errorf("lag: max %v, p99 %v, p50 %v, want at least %v and in order", s.Loop.LagMax, s.Loop.LagP99, s.Loop.LagP50, long)
				}
			})
		})
	}
}

func TestStatsBeforeRunAndAfterTheEnd(t *testing.T) {
	l := eventloop.New(nil)
	l.AfterFunc(time.Millisecond, func() {})
	l.Post(func() { l.Post(func() {}) }) // which takes two turns
	s := l.Stats()
	wantEqual(t, "Timers before Run", s.Loop.Timers, 1)
	wantEqual(t, "Queued before Run", s.Loop.Queued, 1)
	wantEqual(t, "Busy before Run", s.Loop.Busy, 0)
	wantEqual(t, "Idle before Run", s.Loop.Idle, 0)
	l.Run(t.Context())
	after := l.Stats()
	time.Sleep(time.Millisecond)
	wantEqual(t, "Busy some time after the end", l.Stats().Loop.Busy, after.Loop.Busy)
	wantEqual(t, "Handles after the end", after.Loop.Handles, 0)
	if after.Loop.IterationsTotal < 2 {
		t.Errorf("IterationsTotal = %d, want at least 2", after.Loop.IterationsTotal)
	}
}

func TestIterationsCountTurns(t *testing.T) {
	var l *eventloop.Loop
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(running *eventloop.Loop) error {
			l = running
			ticks := 0
			var interval *eventloop.Timer
			interval = l.Every(time.Second, func() {
				if ticks++; ticks == 10 {
					interval.Stop()
				}
			})
			return nil
		})
	})
	wantEqual(t, "IterationsTotal: the start and ten ticks", l.Stats().Loop.IterationsTotal, 11)
}

func TestHandlesSayWhatKeepsTheLoopAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			release := l.Hold()
			_, resolve := eventloop.NewFuture[int](l)
			timer := l.AfterFunc(time.Hour, func() {})
			interval := l.Every(2*time.Hour, func() {})
			interval.Unref()
			l.AfterFunc(time.Minute, func() {
				var got []string
				for h := range l.Handles() {
					got = append(got, h.String())
				}
				slices.Sort(got)
				wantSlice(t, "handles", got, []string{
					"future of int 1m0s", "hold 1m0s", "interval 1m0s, due in 1h59m0s (unref)", "timer 1m0s, due in 59m0s",
				})
				for h := range l.Handles() {
					if h.Kind == "hold" && (!h.Ref || h.Age != time.Minute) {
						t.Errorf("hold: ref %v, age %v, want true, 1m", h.Ref, h.Age)
					}
					break // a sequence may be left early
				}
				timer.Stop()
				release()
				resolve(0, nil)
			})
			return nil
		})
	})
}

func TestHandlesTellAgeAndDueOfTimersFromWhenTheyWereArmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := eventloop.New(nil)
		timer := l.AfterFunc(time.Hour, func() {}) // Run is a second away
		time.Sleep(time.Second)
		check := func(what, kind string, age, due time.Duration) {
			t.Helper()
			var all []string
			for h := range l.Handles() {
				if h.Kind == kind && h.Age == age && h.Due == due {
					return
				}
				all = append(all, h.String())
			}
			t.Errorf("%s: handles = %q, want one %s of age %v, due in %v", what, all, kind, age, due)
		}
		check("before Run", "timer", 0, time.Hour)
		var interval *eventloop.Timer
		l.Post(func() {
			interval = l.Every(10*time.Second, func() {})
			l.AfterFunc(25*time.Second, func() {
				check("armed before Run", "timer", 25*time.Second, time.Hour-25*time.Second)
				check("after two ticks", "interval", 25*time.Second, 5*time.Second)
				timer.Reset(time.Minute)
				interval.Reset(time.Minute)
			})
			l.AfterFunc(26*time.Second, func() {
				check("reset", "interval", time.Second, 59*time.Second)
				timer.Stop()
				interval.Stop()
			})
			// In one turn: the second is due while the first one runs.
			l.AfterFunc(2*time.Second, func() {
				time.Sleep(time.Second)
				interval.Unref()
				n := 0
				for h := range l.Handles() {
					if h.Kind == "timer" && h.Due == 0 {
						n++
						wantEqual(t, "due: Age", h.Age, 3*time.Second)
						wantEqual(t, "due: String", h.String(), "timer 3s")
					}
				}
				wantEqual(t, "timers that are due", n, 1)
				interval.Ref()
			})
			l.AfterFunc(2*time.Second, func() {})
		})
		l.Run(t.Context())
	})
}

func TestHandlesAreASnapshot(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		before := l.Handles()
		release := l.Hold()
		wantEqual(t, "handles of a snapshot before Hold", len(slices.Collect(before)), 0)
		after := l.Handles()
		release()
		wantEqual(t, "handles of a snapshot before release", len(slices.Collect(after)), 1)
		wantEqual(t, "the same once more", len(slices.Collect(after)), 1)
	})
}

func TestHandleStringNamesKindNameAgeAndRef(t *testing.T) {
	h := eventloop.Handle{Kind: "conn", Name: "127.0.0.1:80", Ref: true, Age: 1234567 * time.Microsecond}
	wantEqual(t, "String", h.String(), "conn 127.0.0.1:80 1.235s")
	h = eventloop.Handle{Kind: "timer", Age: time.Second, Due: 2 * time.Second}
	wantEqual(t, "String", h.String(), "timer 1s, due in 2s (unref)")
}

// The tests below hold what the benchmarks showed: a callback costs no memory.

func TestPostOfAStoredFunctionAllocatesNothing(t *testing.T) {
	l, end := startLoop(t, nil)
	answer := make(chan struct{})
	f := func() { answer <- struct{}{} }
	allocates(t, 0, func() {
		l.Post(f)
		<-answer
	})
	c := &caller{answer: answer}
	method := c.call
	allocates(t, 0, func() {
		l.Post(method)
		<-answer
	})
	end()
}

type caller struct{ answer chan struct{} }

func (c *caller) call() { c.answer <- struct{}{} }

func TestTimersAllocateNothingButThemselves(t *testing.T) {
	f := func() {}
	mustRun(t, nil, func(l *eventloop.Loop) {
		allocates(t, 1, func() { l.AfterFunc(time.Hour, f).Stop() })
		timer := l.AfterFunc(time.Hour, f)
		allocates(t, 0, func() { timer.Reset(time.Hour) })
		allocates(t, 0, func() { timer.Stop(); timer.Reset(time.Minute) })
		timer.Stop()
	})
}

func TestTicksAllocateNothing(t *testing.T) {
	l, end := startLoop(t, nil)
	tick, enough := make(chan struct{}), make(chan struct{})
	interval := l.Every(10*time.Microsecond, func() {
		select {
		case tick <- struct{}{}:
		case <-enough:
		}
	})
	allocates(t, 0, func() { <-tick })
	interval.Stop()
	close(enough)
	end()
}

// allocates fails the test if f allocates more than max times.
func allocates(t *testing.T, max float64, f func()) {
	t.Helper()
	for range 100 {
		f() // queues and pools grow to their size
	}
	if got := testing.AllocsPerRun(500, f); got > max {
		t.Errorf("allocations = %v, want at most %v", got, max)
	}
}

func TestDoneOfALoopThatEndsByItself(t *testing.T) {
	l := eventloop.New(nil)
	done := l.Done()
	l.OnExit(func() {
		select {
		case <-done:
			t.Error("Done is closed before the exit callbacks have run")
		default:
		}
	})
	l.Run(context.Background())
	<-done
}
