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
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
	"pgregory.net/rapid"
)

// newOwner returns an owner without a function for the end of the loop.
func newOwner(t testing.TB, l *eventloop.Loop) *eventloop.Owner {
	t.Helper()
	o, err := eventloop.NewOwner(l, "test", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// promise returns a pending promise.
func promise(o *eventloop.Owner) *eventloop.Promise[int] {
	p := &eventloop.Promise[int]{}
	p.Init(o)
	return p
}

func TestAPromiseKeepsTheLoopAliveUntilItIsResolved(t *testing.T) {
	called := false
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			p := promise(newOwner(t, l))
			p.Then(func(v int, err error) {
				called = true
				wantEqual(t, "value", v, 7)
				wantEqual(t, "error", err, nil)
			})
			time.AfterFunc(time.Minute, func() { p.Resolve(7, nil) }) // not of the loop
			return nil
		})
		wantEqual(t, "Run", err, nil)
		wantEqual(t, "time", time.Since(began), time.Minute)
	})
	wantEqual(t, "Then was called", called, true)
}

func TestAnOwnerWithoutPromisesDoesNotKeepTheLoopAlive(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		promise(o).Resolve(1, nil)
		o.Ref()
	})
}

func TestAnUnrefdOwnerDoesNotKeepTheLoopAliveAndItsPromisesFail(t *testing.T) {
	var p *eventloop.Promise[int]
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		o.Unref()
		p = promise(o)
		p.Then(func(int, error) { t.Error("Then was called") })
		for h := range l.Handles() {
			if h.Kind == "test" {
				wantEqual(t, "Ref", h.Ref, false)
			}
		}
	})
	_, err := p.Result()
	wantEqual(t, "error", err, eventloop.ErrLoopClosed)
}

func TestRefOfAnOwnerWithPromisesKeepsTheLoopAliveAgain(t *testing.T) {
	resolved := false
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		p := promise(o)
		p.Then(func(int, error) { resolved = true })
		o.Unref()
		o.Ref()
		time.AfterFunc(time.Millisecond, func() { p.Resolve(1, nil) })
	})
	wantEqual(t, "resolved", resolved, true)
}

func TestOnlyTheFirstResolveOfAPromiseCounts(t *testing.T) {
	results := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		for range 1000 {
			p := promise(o)
			p.Then(func(v int, err error) {
				results++
				if got, _ := p.Result(); got != v {
					t.Errorf("Then was called with %d, Result returned %d", v, got)
				}
			})
			for i := range 3 {
				go p.Resolve(i, nil)
			}
		}
	})
	wantEqual(t, "results", results, 1000)
}

func TestCallbacksOfPromisesRunInOrderWithPostsOfTheirGoroutine(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprint("elsewhere=", elsewhere), func(t *testing.T) {
			var got []int
			const n = 1000 // more than run in one turn
			mustRun(t, nil, func(l *eventloop.Loop) {
				o := newOwner(t, l)
				note := func(i int) { got = append(got, i) }
				var ps []*eventloop.Promise[int]
				for range n {
					p := promise(o)
					p.Then(func(v int, err error) { note(v) })
					p.Then(func(v int, err error) { note(v + 1) })
					ps = append(ps, p)
				}
				resolve := func() {
					for i, p := range ps {
						p.Resolve(4*i, nil)
						p.Then(func(v int, err error) { note(v + 2) })
						l.Post(func() { note(4*i + 3) })
					}
				}
				if elsewhere {
					release := l.Hold()
					go func() { resolve(); release() }()
				} else {
					resolve()
				}
				wantEqual(t, "callbacks that ran at once", len(got), 0)
			})
			wantEqual(t, "callbacks", len(got), 4*n)
			if !slices.IsSorted(got) {
				t.Error("the callbacks ran in another order")
			}
		})
	}
}

func TestEveryWayToWaitForAPromiseWorks(t *testing.T) {
	broken := errors.New("broken")
	for _, failure := range []error{nil, broken} {
		inTask(t, func(k *eventloop.Task) error {
			l := k.Loop()
			o := newOwner(t, l)
			p := promise(o)
			waited := make(chan error, 1)
			go func() {
				_, err := p.Wait(context.Background())
				waited <- err
			}()
			all := eventloop.All(l, &p.Future)
			l.AfterFunc(time.Second, func() { p.Resolve(3, failure) })
			v, err := p.Await(k)
			wantEqual(t, "value", v, 3)
			wantEqual(t, "error of Await", err, failure)
			_, err = all.Await(k)
			wantEqual(t, "error of All", err, failure)
			wantEqual(t, "error of Wait", <-waited, failure)
			<-p.Done()
			return nil
		})
	}
}

func TestAFailureOfAPromiseThatIsNotHandledIsAnEvent(t *testing.T) {
	broken := errors.New("broken")
	var events []error
	cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		promise(o).Resolve(0, broken)
		ignored := promise(o)
		ignored.Ignore()
		ignored.Resolve(0, errors.New("ignored"))
	})
	wantErrs(t, "events", events, broken)
}

// ends are the ways to end a loop by force, in a callback.
var forcedEnds = map[string]func(l *eventloop.Loop){
	"Stop":     func(l *eventloop.Loop) { l.Stop() },
	"Shutdown": func(l *eventloop.Loop) { l.Shutdown(0) },
	"panic":    func(l *eventloop.Loop) { panic("oh no") },
	"Goexit":   func(l *eventloop.Loop) { runtime.Goexit() },
}

// The driver does nothing about its promises: no way to wait for them may hang.
func TestTheEndByForceEndsPendingPromisesAndThenTellsTheDriver(t *testing.T) {
	for name, end := range forcedEnds {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			other, _ := startLoop(t, nil)
			const n = 10
			var ps []*eventloop.Promise[int]
			var all *eventloop.Future[[]int]
			waited := make(chan error, n)
			var ends []error
			outcome(func() {
				eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
					o, err := eventloop.NewOwner(l, "test", "", func(err error) {
						ends = append(ends, err)
						for _, p := range ps {
							if _, err := p.Result(); err != eventloop.ErrLoopClosed {
								t.Errorf("error in the function that reports the end = %v, want %v", err, eventloop.ErrLoopClosed)
							}
						}
					})
					if err != nil {
						return err
					}
					var fs []*eventloop.Future[int]
					for range n {
						p := promise(o)
						p.Then(func(int, error) { t.Error("Then was called") })
						ps, fs = append(ps, p), append(fs, &p.Future)
						go func() {
							_, err := p.Wait(context.Background())
							waited <- err
						}()
					}
					all = eventloop.All(other, fs...)
					l.AfterFunc(time.Millisecond, func() { end(l) })
					return nil
				})
			})
			for range n {
				wantEqual(t, "error of Wait", <-waited, eventloop.ErrLoopClosed)
			}
			_, err := all.Wait(t.Context())
			wantEqual(t, "error of All of another loop", err, eventloop.ErrLoopClosed)
			wantErrs(t, "reports of the end", ends, eventloop.ErrLoopClosed)
			ps[0].Resolve(1, nil) // too late
			_, err = ps[0].Result()
			wantEqual(t, "error of Result", err, eventloop.ErrLoopClosed)
			ps[0].Then(func(int, error) { t.Error("Then was called after the end") })
		})
	}
}

func TestTheNaturalEndTellsTheDriver(t *testing.T) {
	var ends []error
	mustRun(t, nil, func(l *eventloop.Loop) {
		o, err := eventloop.NewOwner(l, "test", "", func(err error) { ends = append(ends, err) })
		wantEqual(t, "NewOwner", err, nil)
		closed, err := eventloop.NewOwner(l, "test", "", func(error) { t.Error("the end of a closed owner was reported") })
		wantEqual(t, "NewOwner", err, nil)
		closed.Close()
		promise(o).Resolve(1, nil)
	})
	wantErrs(t, "reports of the end", ends, eventloop.ErrLoopClosed)
}

func TestAPanicInTheReportOfTheEndIsNotLostAndTheOthersAreCalled(t *testing.T) {
	for name, broken := range map[string]func(){"panic": func() { panic("oh no") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			reports := 0
			v, exited := outcome(func() {
				eventloop.Run(context.Background(), logged(t, nil), func(l *eventloop.Loop) error {
					for range 3 {
						eventloop.NewOwner(l, "test", "", func(error) { reports++; broken() })
					}
					return nil
				})
			})
			wantEqual(t, "reports of the end", reports, 3)
			wantEqual(t, "Goexit", exited, name == "Goexit")
			if pe, ok := v.(*eventloop.PanicError); name == "panic" && (!ok || pe.Value != "oh no") {
				t.Errorf("Run panicked with %v, want the panic", v)
			}
		})
	}
}

func TestCloseOfAnOwnerFailsItsPromisesInOrder(t *testing.T) {
	var got []int
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		for i := range 10 {
			promise(o).Then(func(_ int, err error) {
				got = append(got, i)
				wantEqual(t, "error", err, net.ErrClosed)
			})
		}
		o.Close()
		wantEqual(t, "Pending", o.Pending(), 0)
		wantEqual(t, "Owners", l.Stats().Loop.Owners, 0)
		late := &eventloop.Promise[int]{}
		wantEqual(t, "Init after Close", late.Init(o), net.ErrClosed)
		late.Then(func(_ int, err error) {
			got = append(got, 10)
			wantEqual(t, "error", err, net.ErrClosed)
		})
		late.Resolve(1, nil)
		o.Close()
	})
	wantSlice(t, "callbacks", got, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
}

func TestCloseWithErrorOfAnOwnerFailsItsPromisesWithTheError(t *testing.T) {
	why := errors.New("closed by the test")
	results := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		check := func(_ int, err error) {
			results++
			wantEqual(t, "error", err, why)
		}
		promise(o).Then(check)
		o.CloseWithError(why)
		late := &eventloop.Promise[int]{}
		wantEqual(t, "Init after CloseWithError", late.Init(o), why)
		late.Then(check)
		o.Close() // has no effect
		promise(o).Then(check)
		none := newOwner(t, l)
		none.CloseWithError(nil)
		promise(none).Then(func(_ int, err error) { wantEqual(t, "error", err, net.ErrClosed) })
	})
	wantEqual(t, "results", results, 3)
}

func TestCloseOfAnOwnerOnAnotherGoroutineWhileTheLoopEndsAndPromisesAreResolved(t *testing.T) {
	for range 200 {
		l, end := startLoop(t, nil)
		o := newOwner(t, l)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					p := &eventloop.Promise[int]{}
					if err := p.Init(o); err != nil {
						if err != net.ErrClosed && err != eventloop.ErrLoopClosed {
							t.Errorf("Init returned %v", err)
						}
						return
					}
					all.Go(func() { p.Resolve(1, nil) })
					p.Wait(context.Background())
				}
			})
		}
		all.Go(o.Close)
		all.Go(l.Stop)
		all.Wait()
		wantEqual(t, "Run", end(), nil)
		wantEqual(t, "Pending", o.Pending(), 0)
	}
}

func TestShutdownWaitsForPromises(t *testing.T) {
	called := false
	err := virtually(t, nil, func(l *eventloop.Loop) {
		p := promise(newOwner(t, l))
		p.Then(func(int, error) { called = true })
		l.AfterFunc(10*time.Second, func() { p.Resolve(1, nil) })
		l.Shutdown(time.Minute)
	})
	wantEqual(t, "Run", err, nil)
	wantEqual(t, "Then was called", called, true)
}

func TestAShutdownThatCutsPromisesOffNamesTheirOwner(t *testing.T) {
	err := virtually(t, nil, func(l *eventloop.Loop) {
		o, err := eventloop.NewOwner(l, "redis", "10.0.0.7:6379", nil)
		wantEqual(t, "NewOwner", err, nil)
		promise(o).Ignore()
		eventloop.NewOwner(l, "idle", "", nil)
		l.Shutdown(time.Minute)
	})
	wantErr(t, "Run", err, eventloop.ErrForced)
	if err == nil || !strings.Contains(err.Error(), "redis 10.0.0.7:6379, 1 pending") || strings.Contains(err.Error(), "idle") {
		t.Errorf("Run returned %v, want the name of the owner with a promise", err)
	}
}

func TestOnShutdownOfAnOwnerIsCalledOnceWhenShutdownBegins(t *testing.T) {
	var called []string
	err := virtually(t, nil, func(l *eventloop.Loop) {
		note := func(s string) func() { return func() { called = append(called, s) } }
		o, replaced, closed, without := newOwner(t, l), newOwner(t, l), newOwner(t, l), newOwner(t, l)
		o.OnShutdown(note("first"))
		replaced.OnShutdown(note("replaced"))
		replaced.OnShutdown(note("second"))
		closed.OnShutdown(note("closed"))
		without.OnShutdown(nil)
		l.AfterFunc(time.Second, func() {
			closed.Close()
			l.Shutdown(time.Minute)
			wantEqual(t, "calls at once", len(called), 0)
			late := newOwner(t, l)
			late.OnShutdown(note("late"))
			wantEqual(t, "calls at once", len(called), 0)
			l.AfterFunc(time.Second, func() { l.Shutdown(time.Minute) })
		})
	})
	wantEqual(t, "Run", err, nil)
	slices.Sort(called)
	wantSlice(t, "calls", called, []string{"first", "late", "second"})
}

func TestASecondOnShutdownOfAnOwnerReplacesAFunctionThatIsAboutToBeCalled(t *testing.T) {
	var called []string
	err := virtually(t, nil, func(l *eventloop.Loop) {
		note := func(s string) func() { return func() { called = append(called, s) } }
		replaced, removed := newOwner(t, l), newOwner(t, l)
		replaced.OnShutdown(note("first"))
		removed.OnShutdown(note("removed"))
		l.OnShutdown(func() { // the functions of owners come in a later turn
			replaced.OnShutdown(note("second"))
			removed.OnShutdown(nil)
		})
		l.Shutdown(time.Minute)
	})
	wantEqual(t, "Run", err, nil)
	wantSlice(t, "calls", called, []string{"second"})
}

func TestHandlesAndStatsShowAnOwner(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		o, err := eventloop.NewOwner(l, "redis", "a", nil)
		wantEqual(t, "NewOwner", err, nil)
		shown := func() eventloop.Handle {
			t.Helper()
			all := slices.Collect(l.Handles())
			wantEqual(t, "handles", len(all), 1)
			wantEqual(t, "Stats().Loop.Owners", l.Stats().Loop.Owners, 1)
			wantEqual(t, "Kind", all[0].Kind, "redis")
			return all[0]
		}
		wantEqual(t, "Name", shown().Name, "a")
		wantEqual(t, "Ref", shown().Ref, false)
		p, q := promise(o), promise(o)
		wantEqual(t, "Name", shown().Name, "a, 2 pending")
		wantEqual(t, "Ref", shown().Ref, true)
		o.SetName("")
		wantEqual(t, "Name", shown().Name, "2 pending")
		p.Resolve(1, nil)
		q.Resolve(1, nil)
		o.SetName("b")
		wantEqual(t, "Name", shown().Name, "b")
	})
}

func TestAnOwnerBeforeRunAndAfterTheEnd(t *testing.T) {
	checkLeaks(t)
	l := eventloop.New(nil)
	o := newOwner(t, l)
	p := promise(o)
	called := false
	p.Then(func(int, error) { called = true })
	p.Resolve(1, nil)
	wantEqual(t, "Run", l.Run(t.Context()), nil)
	wantEqual(t, "Then was called", called, true)
	late := &eventloop.Promise[int]{}
	wantEqual(t, "Init after the end", late.Init(o), eventloop.ErrLoopClosed)
	_, err := late.Wait(t.Context())
	wantEqual(t, "error", err, eventloop.ErrLoopClosed)
	_, err = eventloop.NewOwner(l, "test", "", nil)
	wantEqual(t, "NewOwner after the end", err, eventloop.ErrLoopClosed)
	o.OnShutdown(func() { t.Error("OnShutdown was called") })
	o.Ref()
	o.Unref()
	o.Close()
}

func TestMistakesOfADriverAreReportedAtOnce(t *testing.T) {
	l := eventloop.New(nil)
	if _, err := eventloop.NewOwner(l, "", "", nil); err == nil {
		t.Error("an owner without a kind was accepted")
	}
	if v, _ := outcome(func() { new(eventloop.Promise[int]).Resolve(1, nil) }); v == nil {
		t.Error("Resolve without Init did not panic")
	}
	p := promise(newOwner(t, l))
	if v, _ := outcome(func() { p.Init(newOwner(t, l)) }); v == nil {
		t.Error("a second Init did not panic")
	}
	l.Stop()
	l.Run(t.Context())
}

func TestARequestOfADriverIsOneAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	type record struct {
		eventloop.Promise[string]
		_ [3]string
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		o := newOwner(t, l)
		then := func(string, error) {}
		var last *record
		got := testing.AllocsPerRun(1000, func() {
			last = &record{}
			last.Init(o)
			last.Then(then)
			last.Resolve("value", nil)
		})
		if got > 1.1 { // the queue of posts grows by chunks
			t.Errorf("allocations = %v, want 1", got)
		}
	})
}

// A seed decides the order of what several goroutines do with promises. Each order keeps
// the order of one goroutine.
func TestPromisesInAnyOrder(t *testing.T) {
	orders := make(map[string]bool)
	looptest.Seeds(t, 50, func(t *testing.T, l *eventloop.Loop) error {
		o, err := eventloop.NewOwner(l, "test", "", nil)
		if err != nil {
			return err
		}
		var order strings.Builder
		for g := range 2 {
			var ps []*eventloop.Promise[int]
			for i := range 3 {
				p := promise(o)
				p.Then(func(v int, err error) { fmt.Fprintf(&order, "%d%d ", g, i) })
				ps = append(ps, p)
			}
			go func() {
				for _, p := range ps {
					p.Resolve(1, nil)
				}
			}()
		}
		l.OnExit(func() {
			for g := range 2 {
				last := -1
				for i := range 3 {
					at := strings.Index(order.String(), fmt.Sprintf("%d%d", g, i))
					if at <= last {
						t.Errorf("the callbacks ran in the order %s", &order)
					}
					last = at
				}
			}
			orders[order.String()] = true
		})
		return nil
	})
	if len(orders) < 5 {
		t.Errorf("50 seeds gave %d orders, want several", len(orders))
	}
}

// The model has owners, and promises that goroutines make and resolve one step after the
// other; then the loop ends in one of several ways.
func TestOwnersAndPromisesDoWhatTheirModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type step struct {
			what        string
			owner, with int
			elsewhere   bool
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				rapid.SampledFrom([]string{"init", "init", "init", "resolve", "resolve", "then", "ref", "unref", "close"}).Draw(t, "what"),
				rapid.IntRange(0, 2).Draw(t, "owner"), rapid.IntRange(0, 1<<20).Draw(t, "with"),
				rapid.Bool().Draw(t, "elsewhere"),
			}
		}), 0, 60).Draw(t, "steps")
		end := rapid.SampledFrom([]string{"natural", "Stop", "Shutdown"}).Draw(t, "end")

		type state struct {
			owner    int
			result   string // as in "7 <nil>"; "" while pending
			expected int    // callbacks that must run
			called   int
			p        *eventloop.Promise[int]
		}
		var all []*state
		var owners [3]*eventloop.Owner
		var ended, closed, quiet [3]bool // ended: the end of the loop was reported
		l := eventloop.New(&eventloop.Config{Logger: slog.New(slog.DiscardHandler)})
		for i := range owners {
			owners[i], _ = eventloop.NewOwner(l, "test", "", func(error) { ended[i] = true })
		}
		elsewhere := func(yes bool, f func()) {
			if !yes {
				f()
				return
			}
			done := make(chan struct{})
			go func() { defer close(done); f() }()
			<-done
		}
		pending := func(i int) (n int) {
			for _, s := range all {
				if s.owner == i && s.result == "" {
					n++
				}
			}
			return n
		}
		settle := func(s *state, result string) {
			if s.result == "" {
				s.result = result
			}
		}
		do := func(st step) {
			i := st.owner
			o := owners[i]
			var s *state
			if len(all) > 0 {
				s = all[st.with%len(all)]
			}
			switch {
			case st.what == "init":
				s = &state{owner: i, p: &eventloop.Promise[int]{}}
				all = append(all, s)
				elsewhere(st.elsewhere, func() { s.p.Init(o) })
				s.p.Ignore()
				if closed[i] {
					settle(s, fmt.Sprint(0, net.ErrClosed))
				}
			case st.what == "ref", st.what == "unref":
				quiet[i] = st.what == "unref"
				elsewhere(st.elsewhere, map[bool]func(){false: o.Ref, true: o.Unref}[quiet[i]])
			case st.what == "close":
				elsewhere(st.elsewhere, o.Close)
				closed[i] = true
				for _, s := range all {
					if s.owner == i {
						settle(s, fmt.Sprint(0, net.ErrClosed))
					}
				}
			case s == nil:
			case st.what == "resolve":
				elsewhere(st.elsewhere, func() { s.p.Resolve(st.with, nil) })
				settle(s, fmt.Sprint(st.with, nil))
			case st.what == "then":
				s.expected++
				elsewhere(st.elsewhere, func() {
					s.p.Then(func(v int, err error) {
						s.called++
						if got := fmt.Sprint(v, err); got != s.result {
							t.Errorf("Then was called with %s, want %s", got, s.result)
						}
					})
				})
			}
			for i, o := range owners {
				if got, want := o.Pending(), pending(i); got != want {
					t.Fatalf("pending of owner %d = %d, want %d", i, got, want)
				}
			}
		}
		alive := func() bool {
			for i := range owners {
				if pending(i) > 0 && !quiet[i] {
					return true
				}
			}
			return false
		}
		early := 0
		if len(steps) > 0 {
			early = steps[0].with % len(steps)
		}
		for _, st := range steps[:early] {
			do(st) // before Run
		}
		l.Post(func() {
			for _, st := range steps[early:] {
				do(st)
			}
			afterTurns(l, 2, func() { // the callbacks that are due have run
				switch {
				case end == "Stop", end == "natural" && alive():
					l.Stop()
				case end == "Shutdown":
					l.Shutdown(time.Millisecond)
				}
			})
		})
		err := l.Run(context.Background())
		if wanted := end == "Shutdown" && alive(); errors.Is(err, eventloop.ErrForced) != wanted {
			t.Errorf("Run returned %v, want ErrForced: %v", err, wanted)
		}
		for i := range owners {
			if ended[i] == closed[i] {
				t.Errorf("owner %d, closed: %v: the end was reported: %v", i, closed[i], ended[i])
			}
		}
		for i, s := range all {
			want := s.expected
			if s.result == "" {
				s.result, want = fmt.Sprint(0, eventloop.ErrLoopClosed), 0
			}
			v, err := s.p.Result()
			if got := fmt.Sprint(v, err); got != s.result {
				t.Errorf("the result of promise %d = %s, want %s", i, got, s.result)
			}
			if s.called != want {
				t.Errorf("callbacks of promise %d = %d, want %d", i, s.called, want)
			}
		}
	})
}
