package eventloop_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// slowLog runs start on a loop that reports callbacks over 100 ms, and returns its log and
// the number of slow callbacks.
func slowLog(t *testing.T, start func(l *eventloop.Loop)) (log string, slow uint64) {
	t.Helper()
	var buf bytes.Buffer
	cfg := &eventloop.Config{
		Name:         "test",
		SlowCallback: 100 * time.Millisecond,
		Logger:       slog.New(slog.NewTextHandler(&buf, nil)),
	}
	l := eventloop.New(cfg)
	l.Post(func() { start(l) })
	if err := l.Run(context.Background()); err != nil {
		t.Errorf("Run returned %v", err)
	}
	return buf.String(), l.Stats().Loop.SlowTotal
}

func TestASlowCallbackIsReportedOnceWithItsStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, slow := slowLog(t, func(l *eventloop.Loop) {
			l.AfterFunc(time.Second, func() { holdUp(time.Second) })
		})
		if slow != 1 || strings.Count(log, "holds up the loop") != 1 {
			t.Errorf("reported %d slow callbacks, want 1:\n%s", slow, log)
		}
		if !strings.Contains(log, "holdUp") || !strings.Contains(log, "loop=test") {
			t.Errorf("the report does not name the function or the loop:\n%s", log)
		}
	})
}

func holdUp(d time.Duration) { time.Sleep(d) }

func TestASlowTaskIsReportedWithItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, slow := slowLog(t, func(l *eventloop.Loop) { l.Go(t.Context(), slowTask) })
		if slow != 1 || !strings.Contains(log, "task=github.com/onloop/eventloop_test.slowTask") {
			t.Errorf("reported %d slow callbacks, want 1 that names the task:\n%s", slow, log)
		}
		_, stack, _ := strings.Cut(log, "stack=")
		if !strings.Contains(stack, "holdUp") || !strings.Contains(stack, "slow_test.go") {
			t.Errorf("the stack is not that of the task:\n%s", log)
		}
	})
}

func slowTask(t *eventloop.Task) error {
	holdUp(time.Second)
	return t.Sleep(time.Second)
}

func TestAnIdleLoopAndShortCallbacksAreNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, slow := slowLog(t, func(l *eventloop.Loop) {
			n := 0
			var every *eventloop.Timer
			every = l.Every(time.Second, func() {
				time.Sleep(50 * time.Millisecond)
				if n++; n == 5 {
					every.Stop()
				}
			})
		})
		if slow != 0 || log != "" {
			t.Errorf("reported %d slow callbacks, want none:\n%s", slow, log)
		}
	})
}
