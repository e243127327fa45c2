//go:build unix

package eventloop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// raise sends sig to this process and returns when the channels of package signal
// have received it: a signal that is still pending would reach the next test.
func raise(t testing.TB, sig syscall.Signal) {
	t.Helper()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, sig)
	kill(t, sig)
	<-ch
	signal.Stop(ch) // waits until the delivery is complete
}

func onSignal(t testing.TB, l *eventloop.Loop, f func(os.Signal), sigs ...os.Signal) *eventloop.SignalHandler {
	t.Helper()
	h, err := l.OnSignal(f, sigs...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestASignalCallsItsHandlerOnTheLoop(t *testing.T) {
	var got []os.Signal
	mustRun(t, nil, func(l *eventloop.Loop) {
		var h *eventloop.SignalHandler
		h = onSignal(t, l, func(sig os.Signal) {
			if got = append(got, sig); len(got) == 2 {
				h.Stop()
				return
			}
			raise(t, syscall.SIGUSR2)
		}, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGUSR1)
		raise(t, syscall.SIGUSR1)
	})
	wantSlice(t, "signals", got, []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2})
}

func TestSeveralHandlersOfOneSignalOnALoopAllRunInOrder(t *testing.T) {
	var got []int
	mustRun(t, nil, func(l *eventloop.Loop) {
		for i := range 5 {
			var h *eventloop.SignalHandler
			h = onSignal(t, l, func(os.Signal) { got = append(got, i); h.Stop() }, syscall.SIGUSR1)
		}
		raise(t, syscall.SIGUSR1)
	})
	wantSlice(t, "handlers", got, []int{0, 1, 2, 3, 4})
}

func TestSignalsThatComeApartAreDeliveredOneByOne(t *testing.T) {
	const raises = 10
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		var h *eventloop.SignalHandler
		h = onSignal(t, l, func(os.Signal) {
			if calls++; calls == raises {
				h.Stop()
				return
			}
			raise(t, syscall.SIGUSR1)
		}, syscall.SIGUSR1)
		raise(t, syscall.SIGUSR1)
	})
	wantEqual(t, "calls", calls, raises)
}

func TestAfterTheLastOfABurstOfSignalsThereIsACall(t *testing.T) {
	const raises = 500
	raised, calls, after := 0, 0, false
	mustRun(t, nil, func(l *eventloop.Loop) {
		var h *eventloop.SignalHandler
		h = onSignal(t, l, func(os.Signal) {
			calls++
			if raised == raises {
				after = true
				h.Stop()
			}
		}, syscall.SIGUSR1)
		for raised < raises {
			raised++
			raise(t, syscall.SIGUSR1)
		}
	})
	wantEqual(t, "a call after the last", after, true)
	if calls < 1 || calls > raises {
		t.Errorf("calls = %d, want 1 to %d", calls, raises)
	}
}

func TestSeveralLoopsWatchOneSignal(t *testing.T) {
	const loops = 4
	var wg sync.WaitGroup
	var ends []func() error
	for range loops {
		l, end := startLoop(t, nil)
		wg.Add(1)
		onSignal(t, l, func(os.Signal) { l.ClearSignals(); wg.Done() }, syscall.SIGUSR1)
		ends = append(ends, end)
	}
	raise(t, syscall.SIGUSR1)
	wg.Wait()
	for _, end := range ends {
		end()
	}
}

func TestLoopsWatchSignalsWhileOthersComeAndGo(t *testing.T) {
	stay, end := startLoop(t, nil)
	got := make(chan struct{}, 1)
	h := onSignal(t, stay, func(os.Signal) {
		select {
		case got <- struct{}{}:
		default:
		}
	}, syscall.SIGUSR1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
					onSignal(t, l, func(os.Signal) {}, syscall.SIGUSR1, syscall.SIGUSR2)
					l.Post(l.ClearSignals)
					return nil
				})
			}
		})
	}
	for range 50 {
		raise(t, syscall.SIGUSR1)
		<-got
	}
	wg.Wait()
	h.Stop()
	end()
}

func TestASignalHandlerKeepsTheLoopAliveUntilItIsStopped(t *testing.T) {
	stopped := false
	mustRun(t, nil, func(l *eventloop.Loop) {
		h := onSignal(t, l, func(os.Signal) { t.Error("a signal came") }, syscall.SIGUSR1)
		l.AfterFunc(20*time.Millisecond, func() {
			stopped = true
			h.Stop()
			h.Stop() // has no effect
		})
	})
	wantEqual(t, "Run waited for Stop", stopped, true)
}

func TestAnUnrefdSignalHandlerDoesNotKeepTheLoopAlive(t *testing.T) {
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		onSignal(t, l, func(os.Signal) { calls++ }, syscall.SIGUSR1).Unref()
		raise(t, syscall.SIGUSR1)
		var wait *eventloop.Timer
		wait = l.Every(time.Millisecond, func() {
			if calls > 0 {
				wait.Stop()
			}
		})
	})
	wantEqual(t, "calls while the loop lived", calls, 1)
}

func TestLaw8AfterStopOfASignalHandlerItsCallbackDoesNotRun(t *testing.T) {
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		var first, second *eventloop.SignalHandler
		stopBoth := func(os.Signal) { calls++; first.Stop(); second.Stop() }
		first = onSignal(t, l, stopBoth, syscall.SIGUSR1)
		second = onSignal(t, l, stopBoth, syscall.SIGUSR1)
		raise(t, syscall.SIGUSR1)
		l.AfterFunc(20*time.Millisecond, func() {})
	})
	wantEqual(t, "calls", calls, 1)
}

func TestClearSignalsStopsTheHandlersOfItsLoopOnly(t *testing.T) {
	other, end := startLoop(t, nil)
	got := make(chan os.Signal, 1)
	h := onSignal(t, other, func(sig os.Signal) { got <- sig }, syscall.SIGUSR1)
	mustRun(t, nil, func(l *eventloop.Loop) {
		fail := func(os.Signal) { t.Error("a cleared handler ran") }
		onSignal(t, l, fail, syscall.SIGUSR1)
		onSignal(t, l, fail, syscall.SIGUSR1, syscall.SIGUSR2)
		wantEqual(t, "handlers", l.Stats().Loop.Signals, 2)
		l.ClearSignals()
		wantEqual(t, "handlers after ClearSignals", l.Stats().Loop.Signals, 0)
		l.ClearSignals()
	})
	raise(t, syscall.SIGUSR1)
	wantEqual(t, "signal on the other loop", <-got, os.Signal(syscall.SIGUSR1))
	h.Stop()
	end()
}

func TestOnSignalReturnsAnErrorForInvalidArguments(t *testing.T) {
	f := func(os.Signal) { t.Error("a refused handler ran") }
	early := eventloop.New(nil)
	if _, err := early.OnSignal(f, syscall.SIGUSR1); err != eventloop.ErrNotRunning {
		t.Errorf("OnSignal before Run returned %v, want ErrNotRunning", err)
	}
	early.Run(t.Context())
	if _, err := early.OnSignal(f, syscall.SIGUSR1); err != eventloop.ErrLoopClosed {
		t.Errorf("OnSignal after the end returned %v, want ErrLoopClosed", err)
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		tests := map[string][]os.Signal{
			"SIGKILL":                        {os.Kill},
			"SIGSTOP":                        {syscall.SIGSTOP},
			"SIGKILL among others":           {syscall.SIGUSR1, syscall.SIGKILL},
			"an empty list":                  {},
			"a nil signal":                   {nil},
			"signal 0":                       {syscall.Signal(0)},
			"a negative signal":              {syscall.Signal(-1)},
			"a signal beyond the last":       {syscall.Signal(1000)},
			"a signal that is not a syscall": {foreignSignal{}},
		}
		for name, sigs := range tests {
			if h, err := l.OnSignal(f, sigs...); err == nil || h != nil {
				t.Errorf("OnSignal of %s returned %v, %v, want an error", name, h, err)
			}
		}
		if _, err := l.OnSignal(f, syscall.SIGKILL); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("OnSignal of SIGKILL returned %v, want EINVAL", err)
		}
		if _, err := l.OnSignal(nil, syscall.SIGUSR1); err == nil {
			t.Error("OnSignal of a nil function returned nil")
		}
		l.Stop()
		if _, err := l.OnSignal(f, syscall.SIGUSR1); err != eventloop.ErrLoopClosed {
			t.Errorf("OnSignal after Stop returned %v, want ErrLoopClosed", err)
		}
	})
}

type foreignSignal struct{}

func (foreignSignal) Signal()        {}
func (foreignSignal) String() string { return "foreign" }

func TestShutdownInASignalCallbackEndsTheLoop(t *testing.T) {
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Every(time.Hour, func() {})
		onSignal(t, l, func(os.Signal) { calls++; l.Shutdown(-1) }, syscall.SIGUSR1)
		raise(t, syscall.SIGUSR1)
	})
	wantEqual(t, "calls", calls, 1)
}

func TestOnSignalOnAnotherGoroutineMayRaceWithStopAndClearSignals(t *testing.T) {
	for range 100 {
		l, end := startLoop(t, nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if h, err := l.OnSignal(func(os.Signal) {}, syscall.SIGUSR1); err == nil {
					h.Stop()
				}
			})
			wg.Go(func() { l.OnSignal(func(os.Signal) {}, syscall.SIGUSR1) })
		}
		wg.Go(l.ClearSignals)
		wg.Go(l.Stop)
		wg.Wait()
		end()
		wantEqual(t, "handlers left", l.Stats().Loop.Signals, 0)
	}
}

func TestLaw8AfterStopOfASignalHandlerItsOnEventDoesNotRun(t *testing.T) {
	for name, stop := range map[string]func(l *eventloop.Loop, h *eventloop.SignalHandler){
		"Stop":         func(_ *eventloop.Loop, h *eventloop.SignalHandler) { h.Stop() },
		"ClearSignals": func(l *eventloop.Loop, _ *eventloop.SignalHandler) { l.ClearSignals() },
		"Stop and OnEvent": func(_ *eventloop.Loop, h *eventloop.SignalHandler) {
			h.Stop()
			h.OnEvent(func(error) { t.Error("called") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			var others []error
			cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { others = append(others, err) }}
			mustRun(t, cfg, func(l *eventloop.Loop) {
				var h *eventloop.SignalHandler
				h = onSignal(t, l, func(os.Signal) { stop(l, h); panics() }, syscall.SIGUSR1)
				h.OnEvent(func(err error) { t.Errorf("OnEvent got %v after the end of the handler", err) })
				raise(t, syscall.SIGUSR1)
			})
			if len(others) != 1 {
				t.Fatalf("events = %v, want one", others)
			}
			checkPanic(t, others[0])
		})
	}
}

func TestAPanicInASignalCallback(t *testing.T) {
	t.Run("leaves Run", func(t *testing.T) {
		checkLeaks(t)
		panicked, _ := outcome(func() {
			eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				onSignal(t, l, func(os.Signal) { panics() }, syscall.SIGUSR1)
				raise(t, syscall.SIGUSR1)
				return nil
			})
		})
		checkPanic(t, panicked)
	})
	t.Run("caught, goes to the handler's OnEvent", func(t *testing.T) {
		var events []error
		cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { t.Errorf("the handler got %v", err) }}
		mustRun(t, cfg, func(l *eventloop.Loop) {
			h := onSignal(t, l, func(os.Signal) { panics() }, syscall.SIGUSR1)
			h.OnEvent(func(err error) { events = append(events, err); h.Stop() })
			raise(t, syscall.SIGUSR1)
		})
		if len(events) != 1 {
			t.Fatalf("events = %v, want one", events)
		}
		checkPanic(t, events[0])
	})
	t.Run("caught, without OnEvent goes to the loop's handler", func(t *testing.T) {
		events := 0
		var l *eventloop.Loop
		cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events++; l.Stop() }}
		mustRun(t, cfg, func(running *eventloop.Loop) {
			l = running
			h := onSignal(t, l, func(os.Signal) { panics() }, syscall.SIGUSR1)
			h.OnEvent(func(error) {})
			h.OnEvent(nil)
			raise(t, syscall.SIGUSR1)
		})
		wantEqual(t, "events", events, 1)
	})
	t.Run("in OnEvent is not caught again", func(t *testing.T) {
		cfg := &eventloop.Config{CatchPanics: true}
		panicked, _ := outcome(func() {
			eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
				onSignal(t, l, func(os.Signal) { panic("the first") }, syscall.SIGUSR1).OnEvent(func(error) { panics() })
				raise(t, syscall.SIGUSR1)
				return nil
			})
		})
		checkPanic(t, panicked)
	})
}

func TestOtherPackagesKeepTheirSignalChannels(t *testing.T) {
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	mustRun(t, nil, func(l *eventloop.Loop) {
		var h *eventloop.SignalHandler
		h = onSignal(t, l, func(os.Signal) { h.Stop() }, syscall.SIGUSR1)
		raise(t, syscall.SIGUSR1)
	})
	<-ch
	kill(t, syscall.SIGUSR1) // would kill the process if the default action were restored
	<-ch
}

// The default action of a signal can only be observed in a process that it may kill.
// The tests below run this test binary again, with the name of a child.

const childVariable = "EVENTLOOP_TEST_CHILD"

var children = map[string]func(t *testing.T){}

func TestChild(t *testing.T) {
	name := os.Getenv(childVariable)
	if name == "" {
		t.Skip("is run by other tests")
	}
	children[name](t)
}

// runChild runs a child and returns its status and its output.
func runChild(t *testing.T, name string) (syscall.WaitStatus, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watchdogTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childVariable+"="+name, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus), string(out)
}

func init() {
	for name, exit := range exits {
		children["default "+name] = func(t *testing.T) {
			outcome(func() { runWithSignal(t, &exit.cfg, exit.end) })
			raiseAndWait(t)
		}
		children["ignored "+name] = func(t *testing.T) {
			signal.Ignore(syscall.SIGTERM)
			outcome(func() { runWithSignal(t, &exit.cfg, exit.end) })
			kill(t, syscall.SIGTERM)
			fmt.Println("survived")
		}
	}
	children["stopped"] = func(t *testing.T) {
		eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			first := onSignal(t, l, func(os.Signal) {}, syscall.SIGTERM)
			var second *eventloop.SignalHandler
			second = onSignal(t, l, func(os.Signal) {
				fmt.Println("handled")
				l.Post(func() {
					second.Stop()
					raiseAndWait(t)
				})
			}, syscall.SIGTERM)
			first.Stop()
			kill(t, syscall.SIGTERM) // the second handler is still installed
			return nil
		})
	}
	children["never default"] = neverDefault
}

// runWithSignal runs a loop to the given end with a handler of SIGTERM in place.
func runWithSignal(t *testing.T, cfg *eventloop.Config, end func(*eventloop.Loop, context.CancelFunc) error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	eventloop.Run(ctx, cfg, func(l *eventloop.Loop) error {
		h := onSignal(t, l, func(os.Signal) {}, syscall.SIGTERM)
		h.Unref()
		return end(l, cancel)
	})
}

// raiseAndWait raises SIGTERM and waits for it to end the process.
func raiseAndWait(t *testing.T) {
	fmt.Println("raising")
	kill(t, syscall.SIGTERM)
	time.Sleep(watchdogTime)
	fmt.Println("survived")
}

// neverDefault creates and stops handlers of an ignored signal, while the signal
// arrives continuously.
func neverDefault(t *testing.T) {
	signal.Ignore(syscall.SIGTERM)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				kill(t, syscall.SIGTERM)
			}
		}
	})
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for range 2000 {
			onSignal(t, l, func(os.Signal) {}, syscall.SIGTERM).Stop()
		}
		return nil
	})
	close(stop)
	wg.Wait()
	fmt.Println("survived")
}

func TestTheDefaultActionIsInForceAgainAfterEveryKindOfExit(t *testing.T) {
	for name := range exits {
		t.Run(name, func(t *testing.T) {
			status, out := runChild(t, "default "+name)
			if !status.Signaled() || status.Signal() != syscall.SIGTERM || strings.Contains(out, "survived") {
				t.Errorf("the signal did not kill the process: %v\n%s", status, out)
			}
		})
	}
}

func TestASignalThatWasIgnoredIsIgnoredAgainAfterEveryKindOfExit(t *testing.T) {
	for name := range exits {
		t.Run(name, func(t *testing.T) {
			status, out := runChild(t, "ignored "+name)
			if status.ExitStatus() != 0 || !strings.Contains(out, "survived") {
				t.Errorf("the process did not survive the signal: %v\n%s", status, out)
			}
		})
	}
}

func TestTheDefaultActionIsInForceAgainWhenTheLastHandlerIsStopped(t *testing.T) {
	status, out := runChild(t, "stopped")
	if !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("the signal did not kill the process: %v\n%s", status, out)
	}
	var lines []string
	for sc := bufio.NewScanner(strings.NewReader(out)); sc.Scan(); {
		if sc.Text() == "handled" || sc.Text() == "raising" || sc.Text() == "survived" {
			lines = append(lines, sc.Text())
		}
	}
	wantSlice(t, "what the process did", lines, []string{"handled", "raising"})
}

func TestASignalThatIsIgnoredNeverFallsBackToItsDefaultInBetween(t *testing.T) {
	status, out := runChild(t, "never default")
	if status.ExitStatus() != 0 || !strings.Contains(out, "survived") {
		t.Errorf("the process did not survive: %v\n%s", status, out)
	}
}
