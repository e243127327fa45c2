package awsloop

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/onloop/eventloop"
)

// Call calls an operation of a service on a goroutine of w, and returns a future of its
// output. op is a method of a client of the SDK; the types are inferred:
//
//	f := awsloop.Call(ctx, w, s3c.ListBuckets, &s3.ListBucketsInput{})
//	f.Then(func(out *s3.ListBucketsOutput, err error) { ... })
//
// op may also be a method of a presigning client, which may have to fetch credentials.
//
// The context of the operation ends with ctx and with the loop. The SDK retries as its
// Retryer allows. The operation occupies a goroutine of w even while it waits between
// attempts. The error is that of the SDK, with service and operation: errors.As finds a
// *smithy.OperationError, a smithy.APIError and the error types of the service. If ctx has
// ended, the error also matches the error of ctx and its cause. If ctx ends before the
// operation begins, the error is the cause, as with [eventloop.WorkOn]. When the loop
// ends by force, the future fails with [eventloop.ErrLoopClosed].
//
// [eventloop.Loop.Handles] shows a pending call with the name of w, not with the operation,
// and its request with the host. Give each service its own Workers, named after it, so that
// the handles say which service keeps the loop alive.
//
// If op is nil, the future fails. The output belongs to the caller. If it has a Body, like
// the output of GetObject, the caller must close the Body and must not read it in a
// callback; package s3loop streams it to the loop.
func Call[In, Out, Opt any](ctx context.Context, w *eventloop.Workers, op func(ctx context.Context, in *In, opts ...func(*Opt)) (*Out, error), in *In, opts ...func(*Opt)) *eventloop.Future[*Out] {
	return eventloop.WorkOn(ctx, w, func(ctx context.Context) (*Out, error) {
		if op == nil {
			return nil, errNilOperation
		}
		out, err := op(ctx, in, opts...)
		return out, withContext(ctx, err)
	})
}

var (
	errNilOperation = errors.New("awsloop: nil operation")
	errNoPages      = errors.New("awsloop: Pages needs a paginator and a function")
)

// withContext makes err, the result of a function with the context ctx, match the error of
// ctx and its cause, if ctx has ended. The error of the SDK does not match the cause, and not
// always the error of ctx.
func withContext(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	for _, end := range []error{ctx.Err(), context.Cause(ctx)} {
		if end != nil && !errors.Is(err, end) {
			err = fmt.Errorf("%w: %w", err, end)
		}
	}
	return err
}

// A Paginator is a paginator of the SDK: *s3.ListObjectsV2Paginator, for example.
type Paginator[Out, Opt any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, opts ...func(*Opt)) (*Out, error)
}

// Pages calls onPage on the loop with each page in turn, while there are more pages and
// onPage returns true. It requests a page when onPage has returned for the previous one. The
// future resolves after the last call. Its errors are like those of [Call].
//
// If p or onPage is nil, the future fails. Other code must not use the paginator in the
// meantime. A panic in onPage is a panic in a callback: it ends the loop. With
// Config.CatchPanics it only ends the sequence of pages, and the future fails with the
// [*eventloop.PanicError].
func Pages[Out, Opt any](ctx context.Context, w *eventloop.Workers, p Paginator[Out, Opt], onPage func(page *Out) bool, opts ...func(*Opt)) *eventloop.Future[struct{}] {
	return eventloop.WorkOn(ctx, w, func(ctx context.Context) (struct{}, error) {
		if p == nil || onPage == nil {
			return struct{}{}, errNoPages
		}
		for p.HasMorePages() {
			page, err := p.NextPage(ctx, opts...)
			if err != nil {
				return struct{}{}, withContext(ctx, err)
			}
			more, err := eventloop.Call(ctx, w.Loop(), func() (bool, error) { return onPage(page), nil })
			if err != nil || !more {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
}

// AllPages returns a sequence of the pages, for a task. The task waits for each page, which
// is requested when the range loop reaches it. An error is the last element: a request error
// like those of [Call], or the end of the task's context.
func AllPages[Out, Opt any](t *eventloop.Task, w *eventloop.Workers, p Paginator[Out, Opt], opts ...func(*Opt)) iter.Seq2[*Out, error] {
	next := func(ctx context.Context, _ *struct{}, opts ...func(*Opt)) (*Out, error) {
		return p.NextPage(ctx, opts...)
	}
	return func(yield func(*Out, error) bool) {
		for p.HasMorePages() {
			page, err := Call(t.Context(), w, next, nil, opts...).Await(t)
			if !yield(page, err) || err != nil {
				return
			}
		}
	}
}
