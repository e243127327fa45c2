package eventloop_test

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// runInBubble runs a loop in a bubble, where time is virtual, until its natural end.
func runInBubble(t *testing.T, start func(t *testing.T, l *eventloop.Loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			start(t, l)
			return nil
		})
		if err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
}

// stopwatch returns a function that records the time since now, in milliseconds.
func stopwatch(times *[]int) func() {
	began := time.Now()
	return func() { *times = append(*times, int(time.Since(began)/time.Millisecond)) }
}

func TestTimerFiresOnceAtItsTime(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) { l.AfterFunc(2*time.Second, stopwatch(&times)) })
	wantSlice(t, "times", times, []int{2000})
}

func TestLaw9TimersNeverFireEarly(t *testing.T) {
	// With the real clock and its rounding.
	const timers = 300
	fired := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		for i := range timers {
			d := time.Duration(i) * 33 * time.Microsecond
			began := time.Now()
			l.AfterFunc(d, func() {
				fired++
				if early := d - time.Since(began); early > 0 {
					t.Errorf("a timer of %v fired %v early", d, early)
				}
			})
		}
	})
	wantEqual(t, "timers that fired", fired, timers)
}

func TestLaw9TicksNeverComeEarly(t *testing.T) {
	const ticks, period = 100, 97 * time.Microsecond
	n := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		began := time.Now()
		var interval *eventloop.Timer
		interval = l.Every(period, func() {
			n++
			if early := time.Duration(n)*period - time.Since(began); early > 0 {
				t.Errorf("tick %d came %v early", n, early)
			}
			if n == ticks {
				interval.Stop()
			}
		})
	})
	wantEqual(t, "ticks", n, ticks)
}

func TestLaw9EqualDeadlinesFireInOrderOfCreation(t *testing.T) {
	// More than the dispatcher fires in one turn, and created at several times.
	const timers = 1000
	var order []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		deadline := time.Now().Add(time.Minute)
		n := 0
		var create func()
		create = func() {
			for range timers / 10 {
				id := n
				n++
				l.AfterFunc(time.Until(deadline), func() { order = append(order, id) })
			}
			if n < timers {
				l.AfterFunc(time.Second, create)
			}
		}
		create()
	})
	want := make([]int, timers)
	for i := range want {
		want[i] = i
	}
	if !slices.Equal(order, want) {
		t.Errorf("timers with equal deadlines did not fire in the order of their creation: %v", order)
	}
}

func TestLaw9AnEarlierDeadlineFiresFirstWhateverTheOrderOfCreation(t *testing.T) {
	var order []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		for _, s := range []int{5, 1, 4, 2, 3} {
			l.AfterFunc(time.Duration(s)*time.Second, func() { order = append(order, s) })
		}
	})
	wantSlice(t, "order", order, []int{1, 2, 3, 4, 5})
}

func TestLaw9ADelayThatIsNotPositiveMeansTheNextTurn(t *testing.T) {
	for _, d := range []time.Duration{0, -1, -time.Hour, math.MinInt64} {
		t.Run(d.String(), func(t *testing.T) {
			var order []string
			runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
				began, turn := time.Now(), l.Stats().Loop.IterationsTotal
				l.AfterFunc(d, func() {
					order = append(order, "timer")
					wantEqual(t, "turns later", l.Stats().Loop.IterationsTotal-turn, 1)
					wantEqual(t, "time later", time.Since(began), 0)
				})
				order = append(order, "start")
			})
			wantSlice(t, "order", order, []string{"start", "timer"})
		})
	}
}

func TestLaw9AZeroTimerThatArmsItselfRunsOncePerTurn(t *testing.T) {
	var turns []uint64
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		var timer *eventloop.Timer
		timer = l.AfterFunc(0, func() {
			turns = append(turns, l.Stats().Loop.IterationsTotal)
			if len(turns) < 5 {
				timer.Reset(0)
			}
		})
	})
	for i := 1; i < len(turns); i++ {
		wantEqual(t, "turns between two calls", turns[i]-turns[i-1], 1)
	}
	wantEqual(t, "calls", len(turns), 5)
}

func TestLaw9MissedTicksAreDroppedAndNeverRunInABurst(t *testing.T) {
	// The example in the documentation of Every.
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		var interval *eventloop.Timer
		interval = l.Every(50*time.Millisecond, func() {
			switch note(); len(times) {
			case 1:
				time.Sleep(120 * time.Millisecond)
			case 4:
				interval.Stop()
			}
		})
	})
	wantSlice(t, "ticks", times, []int{50, 170, 200, 250})
}

func TestLaw9AnotherCallbackThatTakesLongDropsTicksToo(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		var interval *eventloop.Timer
		interval = l.Every(10*time.Millisecond, func() {
			if note(); len(times) == 3 {
				interval.Stop()
			}
		})
		l.AfterFunc(15*time.Millisecond, func() { time.Sleep(time.Second) })
	})
	wantSlice(t, "ticks", times, []int{10, 1015, 1020})
}

func TestIntervalTicksKeepTheirDistance(t *testing.T) {
	// A callback that takes time does not delay the next tick.
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		var interval *eventloop.Timer
		interval = l.Every(100*time.Millisecond, func() {
			if note(); len(times) == 5 {
				interval.Stop()
			}
			time.Sleep(99 * time.Millisecond)
		})
	})
	wantSlice(t, "ticks", times, []int{100, 200, 300, 400, 500})
}

func TestIntervalThatIsStoppedInTimeTicksThreeTimes(t *testing.T) {
	ticks := 0
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		interval := l.Every(100*time.Millisecond, func() { ticks++ })
		l.AfterFunc(320*time.Millisecond, func() { wantEqual(t, "Stop", interval.Stop(), true) })
	})
	wantEqual(t, "ticks", ticks, 3)
}

func TestLaw9StopInATimersOwnCallback(t *testing.T) {
	ticks, shots := 0, 0
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		var interval, shot *eventloop.Timer
		interval = l.Every(time.Second, func() {
			ticks++
			wantEqual(t, "Stop of an interval in its callback", interval.Stop(), true)
			wantEqual(t, "the second Stop", interval.Stop(), false)
		})
		shot = l.AfterFunc(time.Second, func() {
			shots++
			wantEqual(t, "Stop of a one-shot in its callback", shot.Stop(), false)
		})
	})
	wantEqual(t, "ticks", ticks, 1)
	wantEqual(t, "one-shots", shots, 1)
}

func TestLaw9ResetInATimersOwnCallback(t *testing.T) {
	var shots, ticks []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		noteShot, noteTick := stopwatch(&shots), stopwatch(&ticks)
		var interval, shot *eventloop.Timer
		shot = l.AfterFunc(time.Second, func() {
			if noteShot(); len(shots) < 3 {
				wantEqual(t, "Reset of a one-shot in its callback", shot.Reset(2*time.Second), false)
			}
		})
		interval = l.Every(time.Second, func() {
			switch noteTick(); len(ticks) {
			case 2:
				wantEqual(t, "Reset of an interval in its callback", interval.Reset(10*time.Second), true)
			case 4:
				interval.Stop()
			}
		})
	})
	wantSlice(t, "one-shots", shots, []int{1000, 3000, 5000})
	wantSlice(t, "ticks", ticks, []int{1000, 2000, 12000, 22000})
}

func TestTimerStopReportsWhetherItWasArmed(t *testing.T) {
	var timer *eventloop.Timer
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		timer = l.AfterFunc(time.Hour, func() { t.Error("a stopped timer fired") })
		wantEqual(t, "Stop of an armed timer", timer.Stop(), true)
		wantEqual(t, "Stop of a stopped timer", timer.Stop(), false)
		fired := l.AfterFunc(time.Second, func() {})
		l.AfterFunc(2*time.Second, func() {
			wantEqual(t, "Stop of a timer that has fired", fired.Stop(), false)
		})
	})
}

func TestTimerStopReportsFalseAfterTheEnd(t *testing.T) {
	var armed, due *eventloop.Timer
	l := eventloop.New(nil)
	l.Post(func() {
		armed = l.AfterFunc(time.Hour, func() {})
		l.AfterFunc(0, func() { time.Sleep(time.Millisecond); l.Stop() })
		due = l.AfterFunc(0, func() { t.Error("a timer fired after Stop of the loop") })
	})
	l.Run(t.Context())
	wantEqual(t, "Stop of an armed timer", armed.Stop(), false)
	wantEqual(t, "Stop of a due timer", due.Stop(), false)
	wantEqual(t, "Reset", armed.Reset(0), false)
	armed.Unref()
	armed.Ref()
	wantEqual(t, "timers", l.Stats().Loop.Timers, 0)
}

func TestATimerMadeAfterTheEndNeverFires(t *testing.T) {
	l := eventloop.New(nil)
	l.Run(t.Context())
	timer := l.AfterFunc(0, func() { t.Error("it fired") })
	interval := l.Every(1, func() { t.Error("it ticked") })
	wantEqual(t, "Stop", timer.Stop(), false)
	wantEqual(t, "Stop", interval.Stop(), false)
	wantEqual(t, "timers", l.Stats().Loop.Timers, 0)
}

func TestTimerResetPostponesAndAdvances(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		postponed := l.AfterFunc(time.Second, note)
		advanced := l.AfterFunc(24*time.Hour, note)
		left := 10
		var again func()
		again = func() {
			wantEqual(t, "Reset of an armed timer", postponed.Reset(time.Second), true)
			if left--; left > 0 {
				l.AfterFunc(900*time.Millisecond, again)
				return
			}
			advanced.Reset(10 * time.Millisecond)
		}
		again()
	})
	wantSlice(t, "times", times, []int{8110, 9100})
}

func TestTimerResetFromAnotherGoroutineWakesTheLoop(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		timer := l.AfterFunc(24*time.Hour, stopwatch(&times))
		go func() {
			time.Sleep(time.Second)
			timer.Reset(time.Second)
		}()
	})
	wantSlice(t, "times", times, []int{2000})
}

func TestAfterFuncFromAnotherGoroutineWakesTheLoop(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		l.AfterFunc(24*time.Hour, note)
		go func() {
			time.Sleep(time.Second)
			l.AfterFunc(time.Second, note)
			time.Sleep(time.Hour)
			l.AfterFunc(-1, note)
		}()
	})
	wantSlice(t, "times", times, []int{2000, 3601000, 86400000})
}

func TestAStoppedTimerWorksAgainAfterReset(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		timer := l.AfterFunc(time.Second, stopwatch(&times))
		timer.Stop()
		l.AfterFunc(5*time.Second, func() { wantEqual(t, "Reset", timer.Reset(time.Second), false) })
	})
	wantSlice(t, "times", times, []int{6000})
}

func TestATimerThatIsDueAndResetFiresAtItsNewTime(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		var due *eventloop.Timer
		l.AfterFunc(time.Second, func() { wantEqual(t, "Reset", due.Reset(time.Second), true) })
		due = l.AfterFunc(time.Second, stopwatch(&times)) // due in the same turn, after the other
	})
	wantSlice(t, "times", times, []int{2000})
}

func TestHugeDelaysDoNotOverflow(t *testing.T) {
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		fail := func() { t.Error("a timer of centuries fired") }
		timers := []*eventloop.Timer{
			l.AfterFunc(math.MaxInt64, fail),
			l.AfterFunc(math.MaxInt64-1, fail),
			l.AfterFunc(1<<62, fail),
			l.Every(math.MaxInt64, fail),
		}
		l.AfterFunc(time.Hour, func() {
			timers[0].Reset(math.MaxInt64)
			timers[3].Reset(math.MaxInt64)
		})
		l.AfterFunc(1000*time.Hour, func() {
			for i, timer := range timers {
				wantEqual(t, fmt.Sprintf("Stop of timer %d", i), timer.Stop(), true)
			}
		})
	})
}

func TestAnIntervalOfCenturiesTicksInOrderAndNeverInABurst(t *testing.T) {
	const century = 100 * 365 * 24 * time.Hour
	ticks := 0
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		l.Every(150*365*24*time.Hour, func() {
			if ticks++; ticks > 1 {
				t.Error("the second tick would overflow")
				l.Stop()
			}
		}).Unref()
		l.AfterFunc(2*century, func() {})
	})
	wantEqual(t, "ticks", ticks, 1)
}

func TestEveryPanicsIfTheIntervalIsNotPositive(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		interval := l.Every(time.Hour, func() {})
		for _, d := range []time.Duration{0, -1, math.MinInt64} {
			if p := panicOf(func() { l.Every(d, func() {}) }); p == nil {
				t.Errorf("Every(%d) did not panic", d)
			}
			if p := panicOf(func() { interval.Reset(d) }); p == nil {
				t.Errorf("Reset(%d) of an interval did not panic", d)
			}
		}
		wantEqual(t, "Stop after the panics", interval.Stop(), true)
	})
}

func TestTimersWithANilFunctionPanicAtOnce(t *testing.T) {
	l := eventloop.New(nil)
	if p := panicOf(func() { l.AfterFunc(0, nil) }); p == nil {
		t.Error("AfterFunc(0, nil) did not panic")
	}
	if p := panicOf(func() { l.Every(1, nil) }); p == nil {
		t.Error("Every(1, nil) did not panic")
	}
}

// panicOf returns the value with which f panics.
func panicOf(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

func TestUnrefLetsTheLoopEndAndRefKeepsItAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, ticks := time.Now(), 0
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			interval := l.Every(time.Second, func() { ticks++ })
			interval.Unref()
			interval.Unref() // a second call has no effect
			timer := l.AfterFunc(5500*time.Millisecond, func() {})
			timer.Unref()
			timer.Ref()
			timer.Ref()
			return nil
		})
		wantEqual(t, "ticks of an unref'd interval while the loop lived", ticks, 5)
		wantEqual(t, "time until Run returned", time.Since(began), 5500*time.Millisecond)
	})
}

func TestATimerKeepsBeingUnrefdWhenItIsReset(t *testing.T) {
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		timer := l.AfterFunc(time.Second, func() { t.Error("it fired") })
		timer.Unref()
		timer.Stop()
		timer.Reset(time.Second)
	})
}

func TestALongCallbackDelaysTimersButLosesNone(t *testing.T) {
	var times []int
	runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
		note := stopwatch(&times)
		for i := range 5 {
			l.AfterFunc(time.Duration(i+1)*10*time.Millisecond, note)
		}
		time.Sleep(25 * time.Millisecond)
	})
	wantSlice(t, "times", times, []int{25, 25, 30, 40, 50})
}

func TestAMillionTimersNeedNoGoroutineAndBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a hundred megabytes")
	}
	const timers = 1_000_000
	err := runLoopFor(t, time.Minute, nil, func(l *eventloop.Loop) {
		goroutines, before := runtime.NumGoroutine(), heapInUse()
		armed := make([]*eventloop.Timer, timers)
		f := func() { t.Error("a timer fired") }
		for i := range armed {
			armed[i] = l.AfterFunc(time.Hour+time.Duration(i*7919%timers), f)
		}
		// There may be fewer: goroutines of earlier tests may end during this one.
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("goroutines = %d, want at most %d", n, goroutines)
		}
		wantEqual(t, "timers", l.Stats().Loop.Timers, timers)
		each := (heapInUse() - before) / timers
		t.Logf("%d bytes a timer", each)
		if each > 160 {
			t.Errorf("a timer takes %d bytes", each)
		}
		for _, timer := range armed {
			timer.Stop()
		}
		clear(armed)
		armed = nil
		if left := heapInUse() - before; left > 4<<20 {
			t.Errorf("%d bytes are still in use after all timers were stopped", left)
		}
	})
	wantEqual(t, "Run", err, nil)
}

func TestTimersThatAreArmedAndStoppedDoNotPileUp(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		before := heapInUse()
		for range 200_000 {
			l.AfterFunc(time.Hour, func() {}).Stop()
		}
		if left := heapInUse() - before; left > 1<<20 {
			t.Errorf("%d bytes are left", left)
		}
	})
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The dispatcher does not reset the runtime timer that wakes it if the first deadline
// has not changed.
func TestTimersAreExactWhateverHappensWhileTheDispatcherSleeps(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name string
		do   func(l *eventloop.Loop, fired func())
		want []int
	}{
		{"the first is stopped, and a later one is left", func(l *eventloop.Loop, fired func()) {
			first := l.AfterFunc(10*ms, func() { panic("stopped") })
			l.AfterFunc(30*ms, fired)
			go func() { time.Sleep(5 * ms); first.Stop() }()
		}, []int{30}},
		{"the only one is stopped, and another one has its deadline", func(l *eventloop.Loop, fired func()) {
			first := l.AfterFunc(10*ms, func() { panic("stopped") })
			release := l.Hold()
			go func() {
				time.Sleep(2 * ms)
				first.Stop()
				time.Sleep(2 * ms)
				l.Post(func() {}) // in between the dispatcher sleeps without a deadline
				time.Sleep(2 * ms)
				l.AfterFunc(4*ms, fired)
				release()
			}()
		}, []int{10}},
		{"the deadline of one that was stopped passes", func(l *eventloop.Loop, fired func()) {
			first := l.AfterFunc(10*ms, func() { panic("stopped") })
			release := l.Hold()
			go func() {
				time.Sleep(5 * ms)
				first.Stop()
				l.Post(func() {})
				time.Sleep(10 * ms)
				l.AfterFunc(0, fired)
				l.AfterFunc(5*ms, fired)
				release()
			}()
		}, []int{15, 20}},
		{"an earlier one is added", func(l *eventloop.Loop, fired func()) {
			l.AfterFunc(30*ms, fired)
			go func() { time.Sleep(10 * ms); l.AfterFunc(10*ms, fired) }()
		}, []int{20, 30}},
		{"an earlier one is added and stopped", func(l *eventloop.Loop, fired func()) {
			l.AfterFunc(30*ms, fired)
			go func() {
				time.Sleep(10 * ms)
				earlier := l.AfterFunc(10*ms, func() { panic("stopped") })
				time.Sleep(5 * ms)
				earlier.Stop()
			}()
		}, []int{30}},
		{"it is reset to and fro", func(l *eventloop.Loop, fired func()) {
			timer := l.AfterFunc(30*ms, fired)
			go func() {
				time.Sleep(5 * ms)
				timer.Reset(5 * ms)
				time.Sleep(2 * ms)
				timer.Reset(23 * ms) // the same deadline
			}()
		}, []int{30}},
		{"posts come meanwhile", func(l *eventloop.Loop, fired func()) {
			l.AfterFunc(10*ms, fired)
			l.AfterFunc(20*ms, fired)
			go func() {
				for range 19 {
					time.Sleep(ms)
					l.Post(func() {})
				}
			}()
		}, []int{10, 20}},
		{"a callback lasts longer than the deadline", func(l *eventloop.Loop, fired func()) {
			l.AfterFunc(10*ms, fired)
			l.AfterFunc(40*ms, fired)
			go func() { time.Sleep(5 * ms); l.Post(func() { time.Sleep(20 * ms) }) }()
		}, []int{25, 40}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []int
			runInBubble(t, func(t *testing.T, l *eventloop.Loop) {
				fired := stopwatch(&got)
				test.do(l, fired)
			})
			wantSlice(t, "times", got, test.want)
		})
	}
}
