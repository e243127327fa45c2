//go:build unix

package eventloop_test

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

// until calls f when ok returns true, which is looked at again and again.
func until(l *eventloop.Loop, ok func() bool, f func()) {
	var look func()
	look = func() {
		if ok() {
			f()
			return
		}
		l.AfterFunc(time.Millisecond, look)
	}
	l.Post(look)
}

func nop() {}

func TestSignalHandlersAreCalledDuringShutdown(t *testing.T) {
	calls := 0
	mustRun(t, nil, func(l *eventloop.Loop) {
		onSignal(t, l, func(os.Signal) { calls++ }, syscall.SIGHUP)
		l.Shutdown(time.Hour)
		l.AfterFunc(0, func() { raise(t, syscall.SIGHUP) })
		until(l, func() bool { return calls == 1 }, nop)
	})
	wantEqual(t, "calls", calls, 1)
}

func TestASignalHandlerDoesNotKeepAShutdownWaiting(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		onSignal(t, l, func(os.Signal) {}, syscall.SIGUSR1)
		l.OnShutdown(func() { onSignal(t, l, func(os.Signal) {}, syscall.SIGUSR2) })
		l.Shutdown(time.Hour)
	})
}

// A signal with a handler does not end the process until Run is about to return,
// whatever the end is.
func TestASignalDuringTheEndOfTheLoopHasNoEffect(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop){
		"Stop":     (*eventloop.Loop).Stop,
		"Shutdown": func(l *eventloop.Loop) { l.Shutdown(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			raised := 0
			mustRun(t, nil, func(l *eventloop.Loop) {
				onSignal(t, l, func(os.Signal) {}, syscall.SIGUSR1)
				l.OnExit(func() { raised++; kill(t, syscall.SIGUSR1) })
				eventloop.Work(t.Context(), l, func(ctx context.Context) (int, error) {
					if name == "Stop" {
						<-ctx.Done()
					}
					raised++
					kill(t, syscall.SIGUSR1)
					return 0, nil
				}).Then(nil)
				l.AfterFunc(time.Millisecond, func() { end(l) })
			})
			wantEqual(t, "signals", raised, 2)
		})
	}
}

func TestASecondShutdownFromASignalHandlerEndsTheLoopByForce(t *testing.T) {
	for name, first := range map[string]func(t *testing.T, l *eventloop.Loop){
		"after one from the handler": func(t *testing.T, l *eventloop.Loop) { raise(t, syscall.SIGUSR1) },
		"after one from elsewhere":   func(t *testing.T, l *eventloop.Loop) { l.Shutdown(time.Hour) },
		"after one from a handler of another signal": func(t *testing.T, l *eventloop.Loop) {
			onSignal(t, l, func(os.Signal) { l.Shutdown(time.Hour) }, syscall.SIGUSR2)
			raise(t, syscall.SIGUSR2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := runLoop(t, nil, func(l *eventloop.Loop) {
				l.Hold()
				onSignal(t, l, func(os.Signal) { l.Shutdown(time.Hour) }, syscall.SIGUSR1)
				begun := false
				l.OnShutdown(func() { begun = true })
				first(t, l)
				until(l, func() bool { return begun }, func() { raise(t, syscall.SIGUSR1) })
			})
			wantErr(t, "Run", err, eventloop.ErrForced)
			if !strings.Contains(err.Error(), "hold") {
				t.Errorf("the error does not name the hold: %v", err)
			}
		})
	}
}

// One signal is one wish, however many handlers it has and however often they ask.
func TestSeveralShutdownsForOneSignalAreNoForce(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		ended := 0
		for range 3 {
			onSignal(t, l, func(os.Signal) {
				l.Shutdown(time.Hour)
				l.Shutdown(time.Hour)
				ended++
			}, syscall.SIGUSR1)
		}
		raise(t, syscall.SIGUSR1)
		until(l, func() bool { return ended == 3 }, nop)
	})
}

func TestShutdownOnEndsTheLoopGracefullyAndByForceTheSecondTime(t *testing.T) {
	for _, second := range []bool{false, true} {
		err := runLoop(t, nil, func(l *eventloop.Loop) {
			release := l.Hold()
			if err := l.ShutdownOn(time.Hour, syscall.SIGUSR1, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			l.OnShutdown(func() {
				if second {
					raise(t, syscall.SIGUSR2)
				} else {
					release()
				}
			})
			raise(t, syscall.SIGUSR1)
		})
		if second {
			wantErr(t, "Run", err, eventloop.ErrForced)
		} else {
			wantEqual(t, "error of Run", err, nil)
		}
	}
}

func TestShutdownOnTwiceAddsUp(t *testing.T) {
	for name, grace := range map[string][2]time.Duration{
		"the shorter grace first":  {20 * time.Millisecond, time.Hour},
		"the shorter grace second": {time.Hour, 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			err := runLoop(t, nil, func(l *eventloop.Loop) {
				l.Hold()
				l.ShutdownOn(grace[0], syscall.SIGUSR1)
				l.ShutdownOn(grace[1], syscall.SIGUSR1, syscall.SIGUSR2)
				raise(t, syscall.SIGUSR1)
			})
			wantErr(t, "Run", err, eventloop.ErrForced)
			if d := time.Since(began); d < 20*time.Millisecond {
				t.Errorf("the loop ended after %v: one signal was taken for two", d)
			}
		})
	}
}

func TestShutdownOnDoesNotKeepTheLoopAliveAndRefusesWhatOnSignalDoes(t *testing.T) {
	mustRun(t, nil, func(l *eventloop.Loop) {
		if err := l.ShutdownOn(time.Second, os.Interrupt); err != nil {
			t.Error(err)
		}
		for _, sigs := range [][]os.Signal{nil, {syscall.SIGKILL}, {nil}} {
			if err := l.ShutdownOn(time.Second, sigs...); err == nil {
				t.Errorf("ShutdownOn(%v) succeeded", sigs)
			}
		}
	})
	if err := eventloop.New(nil).ShutdownOn(time.Second, os.Interrupt); err != eventloop.ErrNotRunning {
		t.Errorf("before Run: %v", err)
	}
}

func TestGroupShutdownOnEndsAllLoopsAndByForceTheSecondTime(t *testing.T) {
	checkLeaks(t)
	for _, early := range []bool{false, true} {
		for _, second := range []bool{false, true} {
			g := eventloop.NewGroup(3, logged(t, nil))
			on := func() {
				if err := g.ShutdownOn(time.Hour, syscall.SIGUSR1); err != nil {
					t.Error(err)
				}
			}
			if early {
				on()
			}
			up := make(chan func(), 3)
			down := make(chan struct{}, 3)
			go func() {
				releases := []func(){<-up, <-up, <-up}
				raise(t, syscall.SIGUSR1)
				for range 3 {
					<-down
				}
				if second {
					raise(t, syscall.SIGUSR1)
					return
				}
				for _, release := range releases {
					release()
				}
			}()
			err := g.Run(t.Context(), func(l *eventloop.Loop) error {
				if !early {
					on()
				}
				l.OnShutdown(func() { down <- struct{}{} })
				up <- l.Hold()
				return nil
			})
			if second {
				wantErr(t, "Run", err, eventloop.ErrForced)
				wantEqual(t, "holds that are named", strings.Count(err.Error(), "hold"), 3)
			} else {
				wantEqual(t, "error of Run", err, nil)
			}
		}
	}
	g := eventloop.NewGroup(1, nil)
	if err := g.ShutdownOn(time.Second); err == nil {
		t.Error("ShutdownOn without a signal succeeded")
	}
	g.Run(t.Context(), func(*eventloop.Loop) error { return nil })
	if err := g.ShutdownOn(time.Second, os.Interrupt); err != eventloop.ErrLoopClosed {
		t.Errorf("after the end: %v", err)
	}
}
