package drakma

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

// onLoop runs f on a loop and fails if the loop does not end.
func onLoop(t *testing.T, f func(ctx context.Context, l *eventloop.Loop)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(ctx, l)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// serve starts a server that ends with the test.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// result runs a loop for one request and returns its result.
func result[T any](t *testing.T, opts Options, f func(ctx context.Context, d *Client) *eventloop.Future[T]) (T, error) {
	t.Helper()
	var v T
	var err error
	n := 0
	onLoop(t, func(ctx context.Context, l *eventloop.Loop) {
		f(ctx, New(l, opts)).Then(func(got T, e error) { v, err = got, e; n++ })
	})
	if n != 1 {
		t.Fatalf("the future had %d results", n)
	}
	return v, err
}

// must is result for a request that succeeds.
func must[T any](t *testing.T, opts Options, f func(ctx context.Context, d *Client) *eventloop.Future[T]) T {
	t.Helper()
	v, err := result(t, opts, f)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
