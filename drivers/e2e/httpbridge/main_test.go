// Package httpbridge has client libraries that know nothing of the loop use it: over
// HTTPClient.RoundTripper, and over Loop.DialContext.
package httpbridge

import (
	"context"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

var bg = context.Background()

// onLoop runs f in two places: on a goroutine of Work and in a task. Nothing of the
// library is closed at the end.
func onLoop(t *testing.T, cfg *eventloop.Config, f func(t *testing.T, l *eventloop.Loop)) {
	t.Helper()
	t.Run("Work", func(t *testing.T) {
		run(t, cfg, func(l *eventloop.Loop) *eventloop.Future[struct{}] {
			return eventloop.Work(bg, l, func(context.Context) (struct{}, error) {
				f(t, l)
				return struct{}{}, nil
			})
		})
	})
	t.Run("task", func(t *testing.T) {
		run(t, cfg, func(l *eventloop.Loop) *eventloop.Future[struct{}] {
			return l.Go(bg, func(*eventloop.Task) error {
				f(t, l)
				return nil
			})
		})
	})
}

func run(t *testing.T, cfg *eventloop.Config, start func(l *eventloop.Loop) *eventloop.Future[struct{}]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(bg, 2*time.Minute)
	defer cancel()
	err := eventloop.Run(ctx, cfg, func(l *eventloop.Loop) error {
		start(l).Then(func(_ struct{}, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}
