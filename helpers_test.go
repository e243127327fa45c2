package eventloop_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"go.uber.org/goleak"
)

// watchdogTime is when a loop that should have ended is taken to hang. It is no
// measure of anything: it only turns a hang into a failure.
const watchdogTime = 30 * time.Second

// runLoop runs a loop on the calling goroutine, as eventloop.Run does, and
// returns its error. The test fails if the loop hangs, and if at the end of the
// test a goroutine or a descriptor is left that was not there before.
//
// It is for real time. In a synctest bubble call eventloop.Run: the bubble finds
// hangs and goroutines itself, and there the watchdog would bark at virtual time.
func runLoop(t testing.TB, cfg *eventloop.Config, start func(l *eventloop.Loop)) error {
	t.Helper()
	return runLoopFor(t, 0, cfg, start)
}

// runLoopFor is runLoop for a loop that has much to do, for so long.
func runLoopFor(t testing.TB, d time.Duration, cfg *eventloop.Config, start func(l *eventloop.Loop)) error {
	t.Helper()
	checkLeaks(t)
	return eventloop.Run(context.Background(), logged(t, cfg), func(l *eventloop.Loop) error {
		watchFor(t, l, d+watchdogTime)
		start(l)
		return nil
	})
}

// logged returns cfg with a Logger, if it has none, whose lines are shown where t
// fails.
func logged(t testing.TB, cfg *eventloop.Config) *eventloop.Config {
	var c eventloop.Config
	if cfg != nil {
		c = *cfg
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return &c
}

// mustRun is runLoop for a loop that is to end with nil.
func mustRun(t testing.TB, cfg *eventloop.Config, start func(l *eventloop.Loop)) {
	t.Helper()
	if err := runLoop(t, cfg, start); err != nil {
		t.Fatalf("Run returned %v, want nil", err)
	}
}

// startLoop runs a loop on a goroutine of its own. When it returns the loop is
// running, and stays alive until end is called, which waits for the loop to end
// and returns what Run did. end is called at the end of the test if not before.
func startLoop(t testing.TB, cfg *eventloop.Config) (l *eventloop.Loop, end func() error) {
	t.Helper()
	checkLeaks(t)
	l = eventloop.New(logged(t, cfg))
	release := l.Hold()
	running, result := make(chan struct{}), make(chan error, 1)
	l.Post(func() { close(running) })
	watch(t, l)
	go func() { result <- l.Run(context.Background()) }()
	<-running
	ended := false
	var err error
	end = func() error {
		if !ended {
			ended = true
			release()
			err = <-result
		}
		return err
	}
	t.Cleanup(func() { end() })
	return l, end
}

// watch fails the test and stops l if l has not ended after watchdogTime. If not
// even that ends it, it panics, which shows where every goroutine is.
func watch(t testing.TB, l *eventloop.Loop) { watchFor(t, l, watchdogTime) }

// watchFor is watch for another time.
func watchFor(t testing.TB, l *eventloop.Loop, d time.Duration) {
	dog := time.AfterFunc(d, func() {
		select {
		case <-l.Done():
			return // a test of many loops may take longer than each of them
		default:
		}
		t.Errorf("the loop still runs after %v; it has open:\n%s", d, handleNames(l))
		l.Stop()
		select {
		case <-l.Done():
		case <-time.After(watchdogTime):
			panic("the loop hangs")
		}
	})
	t.Cleanup(func() { dog.Stop() })
}

// handleNames lists what l has open, a line each.
func handleNames(l *eventloop.Loop) string {
	var b strings.Builder
	for h := range l.Handles() {
		fmt.Fprintln(&b, h)
	}
	return b.String()
}

// checkLeaks compares, at the end of the test, the goroutines and descriptors of
// the process with those that are there now. A test that uses it, or one of the
// helpers above, cannot be parallel.
func checkLeaks(t testing.TB) {
	t.Helper()
	goroutines := goleak.IgnoreCurrent()
	before := openFiles(t)
	t.Cleanup(func() {
		var err error
		eventually(func() bool { err = goleak.Find(goroutines); return err == nil })
		if err != nil {
			t.Errorf("the test leaves goroutines: %v", err)
		}
		var left []string
		eventually(func() bool {
			left = slices.DeleteFunc(openFiles(t), func(f string) bool { return slices.Contains(before, f) })
			return len(left) == 0
		})
		if len(left) > 0 {
			t.Errorf("the test leaves descriptors: %v", left)
		}
	})
}

// openFiles returns the open descriptors of the process, on Linux, except those
// of the runtime itself.
func openFiles(t testing.TB) []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "pipe:") {
			continue // that of ReadDir, the pipes that package net keeps for splice
		}
		files = append(files, e.Name()+" "+target)
	}
	return files
}

// eventually waits until ok returns true, for watchdogTime.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(watchdogTime); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// patiently calls f with a timeout in which a real peer has to do something, until f
// returns nil. A busy machine may delay the peer or the loop, so after an error f is
// called again with a longer timeout. A fault of the library is there with all of them.
func patiently(t testing.TB, timeout time.Duration, f func(timeout time.Duration) error) {
	t.Helper()
	const tries = 4
	for try := 1; ; try++ {
		err := f(timeout)
		if err == nil {
			return
		}
		if try == tries {
			t.Errorf("with a timeout of %v: %v", timeout, err)
			return
		}
		t.Logf("with a timeout of %v: %v; trying a longer one", timeout, err)
		timeout *= 3
	}
}

// afterTurns calls f in the n-th turn of l from now. Everything that was posted before
// has then run, and it may have posted more n-1 times. A timer does not wait for that: on
// a busy machine it may be due before the next turn begins, and timers come first.
func afterTurns(l *eventloop.Loop, n int, f func()) {
	if n > 1 {
		inner := f
		f = func() { afterTurns(l, n-1, inner) }
	}
	l.Post(f)
}

// outcome calls f on a goroutine of its own and returns how it ended: with the
// value of a panic, or by Goexit, or neither.
func outcome(f func()) (panicked any, exited bool) {
	done := make(chan struct{})
	returned := false
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		f()
		returned = true
	}()
	<-done
	return panicked, !returned && panicked == nil
}

// wantEqual fails the test if got is not want.
func wantEqual[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// wantSlice fails the test if got does not hold what want holds, in order.
func wantSlice[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}
