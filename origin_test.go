package eventloop_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
)

var errOrigin = errors.New("no disk")

func failingTask(*eventloop.Task) error { return errOrigin }

func failingWork(context.Context) (int, error) { return 0, errOrigin }

// nextLine returns the location of the line after its call, as in a report.
func nextLine() string {
	_, file, n, _ := runtime.Caller(1)
	return fmt.Sprintf("%s:%d", file, n+1)
}

// A failure that is not handled names what failed and the source line that started
// it, in the log and to an EventHandler.
func TestAnUnhandledFailureNamesItsFunctionAndTheLineThatStartedIt(t *testing.T) {
	const pkg = "github.com/onloop/eventloop_test."
	var place string
	for name, v := range map[string]struct {
		start  func(l *eventloop.Loop)
		named  string // in the log
		err    error
		panics bool
	}{
		"a task": {func(l *eventloop.Loop) {
			place = nextLine()
			l.Go(context.Background(), failingTask)
		}, "task=" + pkg + "failingTask", errOrigin, false},
		"a task that panics": {func(l *eventloop.Loop) {
			place = nextLine()
			l.Go(context.Background(), func(*eventloop.Task) error { panic("boom") })
		}, "task=" + pkg + "TestAnUnhandledFailure", nil, true},
		"a task of a group that is not waited for": {func(l *eventloop.Loop) {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				place = nextLine()
				k.Group().Go(failingTask)
				return nil
			})
		}, "task=" + pkg + "failingTask", errOrigin, false},
		"a function of Work": {func(l *eventloop.Loop) {
			place = nextLine()
			eventloop.Work(context.Background(), l, failingWork)
		}, "work=" + pkg + "failingWork", errOrigin, false},
		"a function of Work that never ran": {func(l *eventloop.Loop) {
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(errOrigin)
			place = nextLine()
			eventloop.Work(ctx, l, failingWork)
		}, "work=" + pkg + "failingWork", errOrigin, false},
		"a request by Get": {func(l *eventloop.Loop) {
			place = nextLine()
			l.HTTP().Get(context.Background(), "ftp://nowhere/x")
		}, "ftp://nowhere/x", eventloop.ErrHTTP, false},
		"a request by Do": {func(l *eventloop.Loop) {
			place = nextLine()
			l.HTTP().Do(context.Background(), "PUT", "ftp://nowhere/x", nil)
		}, "ftp://nowhere/x", eventloop.ErrHTTP, false},
	} {
		t.Run(name, func(t *testing.T) {
			book := &logBook{}
			mustRun(t, &eventloop.Config{Logger: book.logger(), CatchPanics: true}, v.start)
			if log := book.String(); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, v.named) || !strings.Contains(log, place) {
				t.Errorf("the log lacks %q or %q, or has more than one line:\n%s", v.named, place, log)
			}
			var told []error
			mustRun(t, &eventloop.Config{EventHandler: func(err error) { told = append(told, err) }, CatchPanics: true}, v.start)
			if len(told) != 1 {
				t.Fatalf("reported %v, want one error", told)
			}
			_, fn, _ := strings.Cut(v.named, "=")
			if text := told[0].Error(); !strings.Contains(text, fn) || !strings.Contains(text, place) {
				t.Errorf("the error lacks %q or %q: %s", fn, place, text)
			}
			if pe, ok := errors.AsType[*eventloop.PanicError](told[0]); ok != v.panics || ok && pe.Value != "boom" {
				t.Errorf("reported %v", told[0])
			}
			if v.err != nil {
				wantErr(t, "told", told[0], v.err)
			}
		})
	}
}

func TestTheFailureOfAPlainFutureIsReportedUnchanged(t *testing.T) {
	var told []error
	mustRun(t, &eventloop.Config{EventHandler: func(err error) { told = append(told, err) }}, func(l *eventloop.Loop) {
		_, resolve := eventloop.NewFuture[int](l)
		resolve(0, errOrigin)
	})
	wantSlice(t, "told", told, []error{errOrigin})
}
