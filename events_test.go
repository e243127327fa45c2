package eventloop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

func TestOpErrorMatchesTheSentinelsOfItsCause(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	notFound := &net.DNSError{Err: "no such host", Name: "nowhere.test", IsNotFound: true}
	slow := &net.DNSError{Err: "i/o timeout", Name: "slow.test", IsTimeout: true}
	all := map[string]error{
		"ErrConn": eventloop.ErrConn, "ErrTCP": eventloop.ErrTCP, "ErrTimeout": eventloop.ErrTimeout,
		"ErrRefused": eventloop.ErrRefused, "ErrReset": eventloop.ErrReset, "ErrClosed": net.ErrClosed,
		"ErrDNS": eventloop.ErrDNS, "ErrHTTP": eventloop.ErrHTTP, "EOF": io.EOF,
		"Canceled": context.Canceled, "DeadlineExceeded": context.DeadlineExceeded,
		"os.ErrDeadlineExceeded": os.ErrDeadlineExceeded, "ErrLoopClosed": eventloop.ErrLoopClosed,
		"ErrPending": eventloop.ErrPending, "ErrOnLoop": eventloop.ErrOnLoop,
		"ErrBufferFull": eventloop.ErrBufferFull, "ErrRunning": eventloop.ErrRunning,
		"ErrNotRunning": eventloop.ErrNotRunning,
	}
	tests := []struct {
		err  *eventloop.OpError
		want string // in addition to ErrConn
		info bool
	}{
		{&eventloop.OpError{Op: "dial", Net: "tcp", Err: refused}, "ErrTCP ErrRefused", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp6", Err: syscall.ECONNREFUSED}, "ErrTCP ErrRefused", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp", Err: syscall.Errno(10061)}, "ErrTCP ErrRefused", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp4", Err: syscall.ETIMEDOUT}, "ErrTCP ErrTimeout", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}, "ErrTCP ErrTimeout DeadlineExceeded", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp", Err: context.Canceled}, "ErrTCP Canceled", false},
		{&eventloop.OpError{Op: "dial", Net: "unix", Err: syscall.ENOENT}, "ErrTCP", false},
		{&eventloop.OpError{Op: "dial", Net: "tcp", Err: notFound}, "ErrTCP ErrDNS", false},
		{&eventloop.OpError{Op: "read", Net: "tcp", Err: reset}, "ErrTCP ErrReset", true},
		{&eventloop.OpError{Op: "write", Net: "unix", Err: syscall.EPIPE}, "ErrTCP ErrReset", true},
		{&eventloop.OpError{Op: "accept", Net: "tcp", Err: syscall.ECONNABORTED}, "ErrTCP ErrReset", true},
		{&eventloop.OpError{Op: "read", Net: "tcp", Err: syscall.Errno(10054)}, "ErrTCP ErrReset", true},
		{&eventloop.OpError{Op: "write", Net: "pipe", Err: io.ErrClosedPipe}, "ErrReset", true},
		{&eventloop.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}, "ErrTCP ErrTimeout os.ErrDeadlineExceeded", false},
		{&eventloop.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}, "ErrTCP ErrClosed", false},
		{&eventloop.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}, "ErrTCP", false},
		{&eventloop.OpError{Op: "lookup", Addr: "nowhere.test", Err: notFound}, "ErrDNS", false},
		{&eventloop.OpError{Op: "lookup", Addr: "slow.test", Err: slow}, "ErrDNS ErrTimeout", false},
		{&eventloop.OpError{Op: "lookup", Addr: "x", Err: errors.New("malformed")}, "ErrDNS", false},
		{&eventloop.OpError{Op: "request", Err: context.DeadlineExceeded}, "ErrHTTP ErrTimeout DeadlineExceeded", false},
		{&eventloop.OpError{Op: "request", Err: refused}, "ErrHTTP ErrRefused", false},
	}
	for _, test := range tests {
		want := map[string]bool{"ErrConn": true}
		for name := range strings.FieldsSeq(test.want) {
			want[name] = true
		}
		for _, err := range []error{test.err, fmt.Errorf("wrapped: %w", test.err)} {
			for name, sentinel := range all {
				if got := errors.Is(err, sentinel); got != want[name] {
					t.Errorf("errors.Is(%q, %s) = %v, want %v", err, name, got, want[name])
				}
			}
			if got := eventloop.IsInfo(err); got != test.info {
				t.Errorf("IsInfo(%q) = %v, want %v", err, got, test.info)
			}
			var netErr net.Error
			if !errors.As(err, &netErr) || netErr.Timeout() != want["ErrTimeout"] {
				t.Errorf("%q is not a net.Error, or its Timeout is not %v", err, want["ErrTimeout"])
			}
		}
	}
}

func TestOpErrorNamesOperationAddressAndCauseOnce(t *testing.T) {
	cause := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	tests := []struct {
		err  *eventloop.OpError
		want string
	}{
		{&eventloop.OpError{Op: "dial", Net: "tcp", Addr: "127.0.0.1:9",
			Err: &net.OpError{Op: "dial", Net: "tcp", Err: cause}}, "dial tcp 127.0.0.1:9: " + cause.Error()},
		{&eventloop.OpError{Op: "read", Net: "unix", Err: errors.New("why")}, "read unix: why"},
		{&eventloop.OpError{Op: "lookup", Addr: "name.test", Err: errors.New("why")}, "lookup name.test: why"},
		{&eventloop.OpError{Op: "accept", Err: errors.New("why")}, "accept: why"},
	}
	for _, test := range tests {
		wantEqual(t, "Error()", test.err.Error(), test.want)
		wantEqual(t, "Unwrap()", test.err.Unwrap(), test.err.Err)
	}
}

func TestOpErrorIsTemporaryIfItsCauseIs(t *testing.T) {
	for err, want := range map[error]bool{syscall.EMFILE: true, syscall.ECONNREFUSED: false, io.EOF: false} {
		wantEqual(t, fmt.Sprint("Temporary of ", err), (&eventloop.OpError{Err: err}).Temporary(), want)
	}
}

func TestIsInfoIsTrueOnlyForOrdinaryEnds(t *testing.T) {
	tests := map[string]struct {
		err  error
		want bool
	}{
		"nil":                     {nil, false},
		"EOF":                     {io.EOF, true},
		"an EOF within a value":   {io.ErrUnexpectedEOF, false},
		"a wrapped EOF":           {fmt.Errorf("client 7: %w", io.EOF), true},
		"an EOF wrapped twice":    {fmt.Errorf("%w: %w", errors.New("client 7"), fmt.Errorf("read: %w", io.EOF)), true},
		"an EOF of package net":   {&net.OpError{Op: "read", Net: "tcp", Err: io.EOF}, true},
		"a handshake cut short":   {&eventloop.OpError{Op: "handshake", Net: "tcp", Err: io.EOF}, false},
		"that one wrapped":        {fmt.Errorf("client 7: %w", &eventloop.OpError{Op: "handshake", Net: "tcp", Err: io.EOF}), false},
		"a response cut short":    {&eventloop.OpError{Op: "request", Err: fmt.Errorf("body: %w", io.EOF)}, false},
		"EOF and a failure":       {errors.Join(io.EOF, &eventloop.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), false},
		"a wrapped reset":         {fmt.Errorf("client 7: %w", eventloop.ErrReset), true},
		"a panic that is wrapped": {fmt.Errorf("client 7: %w", &eventloop.PanicError{Value: io.EOF}), false},
		"reset":                   {syscall.ECONNRESET, true},
		"broken pipe":             {syscall.EPIPE, true},
		"refused":                 {syscall.ECONNREFUSED, false},
		"timeout":                 {os.ErrDeadlineExceeded, false},
		"closed":                  {net.ErrClosed, false},
		"canceled":                {context.Canceled, false},
		"a panic with a reset":    {&eventloop.PanicError{Value: syscall.ECONNRESET}, false},
		"a panic with EOF":        {&eventloop.PanicError{Value: io.EOF}, false},
	}
	for name, test := range tests {
		wantEqual(t, "IsInfo of "+name, eventloop.IsInfo(test.err), test.want)
	}
}

func TestErrnoIsTheNumberOfTheSystemErrorOrMinusOne(t *testing.T) {
	op := &eventloop.OpError{Op: "dial", Err: &net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
	for _, test := range []struct {
		err  error
		want int
	}{
		{op, int(syscall.ECONNREFUSED)},
		{syscall.EMFILE, int(syscall.EMFILE)},
		{os.ErrDeadlineExceeded, -1},
		{io.EOF, -1},
		{nil, -1},
	} {
		wantEqual(t, fmt.Sprintf("Errno(%v)", test.err), eventloop.Errno(test.err), test.want)
	}
}

// places are the places where a callback may panic. Each arranges for f to be called, and
// for the loop to end after that. Signals and connections have separate tests.
var places = map[string]func(l *eventloop.Loop, f func()){
	"a post":     func(l *eventloop.Loop, f func()) { l.Post(f) },
	"a one-shot": func(l *eventloop.Loop, f func()) { l.AfterFunc(time.Millisecond, f) },
	"an interval": func(l *eventloop.Loop, f func()) {
		var interval *eventloop.Timer
		interval = l.Every(time.Millisecond, func() { interval.Stop(); f() })
	},
	"Then": func(l *eventloop.Loop, f func()) {
		future, resolve := eventloop.NewFuture[int](l)
		future.Then(func(int, error) { f() })
		resolve(1, nil)
	},
	"Then after the result": func(l *eventloop.Loop, f func()) {
		future, resolve := eventloop.NewFuture[int](l)
		resolve(1, nil)
		future.Then(func(int, error) { f() })
	},
}

var errPanic = errors.New("what the callback panics with")

func panics() { panic(errPanic) }

func TestLaw12APanicLeavesRunAndClosesEverything(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			var l *eventloop.Loop
			exits, events := 0, 0
			cfg := &eventloop.Config{EventHandler: func(error) { events++ }}
			panicked, _ := outcome(func() {
				eventloop.Run(context.Background(), cfg, func(running *eventloop.Loop) error {
					l = running
					l.OnExit(func() { exits++ })
					l.Hold()
					eventloop.NewFuture[int](l)
					l.AfterFunc(time.Hour, func() { t.Error("a timer ran after the panic") })
					place(l, panics)
					return nil
				})
			})
			checkPanic(t, panicked)
			wantEqual(t, "exit callbacks", exits, 1)
			wantEqual(t, "events: the panic leaves Run, and is not reported otherwise", events, 0)
			wantEqual(t, "handles left", l.Stats().Loop.Handles, 0)
			<-l.Done()
		})
	}
}

// checkPanic fails the test if got is not the *PanicError of panics.
func checkPanic(t *testing.T, got any) {
	t.Helper()
	pe, ok := got.(*eventloop.PanicError)
	if !ok {
		t.Fatalf("got %T %v, want a *PanicError", got, got)
	}
	if pe.Value != errPanic || !errors.Is(pe, errPanic) {
		t.Errorf("value = %v, want %v", pe.Value, errPanic)
	}
	if !strings.Contains(string(pe.Stack), "eventloop_test.panics") {
		t.Errorf("the stack does not show where the panic was:\n%s", pe.Stack)
	}
	if !strings.Contains(pe.Error(), errPanic.Error()) {
		t.Errorf("the message does not contain the value: %s", pe.Error())
	}
}

func TestLaw12ACaughtPanicGoesToTheEventHandlerOnceAndTheLoopContinues(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			var events []error
			after := 0
			cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
			var l *eventloop.Loop
			mustRun(t, cfg, func(running *eventloop.Loop) {
				l = running
				place(l, panics)
				l.AfterFunc(20*time.Millisecond, func() { after++ })
			})
			if len(events) != 1 {
				t.Fatalf("events = %v, want one", events)
			}
			checkPanic(t, events[0])
			wantEqual(t, "callbacks after the panic", after, 1)
			wantEqual(t, "ErrorsTotal", l.Stats().Loop.ErrorsTotal, 1)
		})
	}
}

func TestACaughtPanicWithoutAHandlerIsLogged(t *testing.T) {
	for name, value := range map[string]any{
		"any value": "a value",
		// If it counted as a reset by a peer, it would be ignored.
		"an error that is information": syscall.ECONNRESET,
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			cfg := &eventloop.Config{
				Name: "logging", CatchPanics: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			}
			after := 0
			mustRun(t, cfg, func(l *eventloop.Loop) {
				l.Post(func() { panic(value) })
				l.AfterFunc(time.Millisecond, func() { after++ })
			})
			wantEqual(t, "callbacks after the panic", after, 1)
			if got := log.String(); !strings.Contains(got, fmt.Sprint(value)) || !strings.Contains(got, "loop=logging") {
				t.Errorf("the log does not name the panic and the loop: %q", got)
			}
		})
	}
}

func TestAPanicInTheEventHandlerIsNotCaughtAgain(t *testing.T) {
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			events := 0
			cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(error) { events++; panics() }}
			panicked, _ := outcome(func() {
				eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
					l.Hold()
					place(l, func() { panic("the first") })
					return nil
				})
			})
			checkPanic(t, panicked)
			wantEqual(t, "events", events, 1)
		})
	}
}

func TestTheEventHandlerMayStopTheLoop(t *testing.T) {
	var l *eventloop.Loop
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(error) { l.Stop() }}
	mustRun(t, cfg, func(running *eventloop.Loop) {
		l = running
		l.Hold()
		l.Post(panics)
	})
}

func TestTheEventCallbackOfATimerReceivesItsCaughtPanic(t *testing.T) {
	var events []error
	ticks := 0
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { t.Errorf("the handler got %v", err) }}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		take := func(err error) { events = append(events, err) }
		l.AfterFunc(0, panics).OnEvent(take)
		interval := l.Every(time.Millisecond, func() { ticks++; panics() })
		interval.OnEvent(func(err error) {
			if take(err); ticks == 3 {
				interval.Stop()
			}
		})
	})
	wantEqual(t, "ticks: an interval continues after a panic", ticks, 3)
	wantEqual(t, "events", len(events), 4)
	for _, err := range events {
		checkPanic(t, err)
	}
}

func TestOnEventNilReturnsTheEventsOfATimerToTheHandler(t *testing.T) {
	events := 0
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(error) { events++ }}
	mustRun(t, cfg, func(l *eventloop.Loop) {
		timer := l.AfterFunc(0, panics)
		timer.OnEvent(func(error) { t.Error("the old callback ran") })
		timer.OnEvent(nil)
	})
	wantEqual(t, "events", events, 1)
}

func TestAPanicInTheEventCallbackOfATimerIsNotCaughtAgain(t *testing.T) {
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { t.Errorf("the handler got %v", err) }}
	panicked, _ := outcome(func() {
		eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
			l.AfterFunc(0, func() { panic("the first") }).OnEvent(func(error) { panics() })
			l.Hold()
			return nil
		})
	})
	checkPanic(t, panicked)
}

func TestPanicWithNilIsAPanic(t *testing.T) {
	panicked, _ := outcome(func() {
		eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error { panic(nil) })
	})
	if _, ok := panicked.(*eventloop.PanicError); !ok {
		t.Errorf("Run panicked with %v, want a *PanicError", panicked)
	}
}

func TestAPanicOfANestedLoopKeepsItsStack(t *testing.T) {
	panicked, _ := outcome(func() {
		eventloop.Run(context.Background(), nil, func(outer *eventloop.Loop) error {
			return eventloop.Run(context.Background(), nil, func(inner *eventloop.Loop) error {
				inner.Post(panics)
				return nil
			})
		})
	})
	checkPanic(t, panicked)
}

func TestPanicErrorUnwrapsToItsValueIfThatIsAnError(t *testing.T) {
	wantEqual(t, "Unwrap of an error", (&eventloop.PanicError{Value: io.EOF}).Unwrap(), io.EOF)
	wantEqual(t, "Unwrap of something else", (&eventloop.PanicError{Value: 17}).Unwrap(), nil)
}
