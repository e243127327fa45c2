package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A call is a command whose reply becomes the result of a future. It is the only
// allocation of a command, apart from those of the result.
type call[T any] struct {
	eventloop.Promise[T]
	decode func(v resp.Value) (T, error)
	cancel canceling
}

func (c *call[T]) answer(v resp.Value) {
	c.cancel.end()
	c.Resolve(c.decode(v))
}

func (c *call[T]) fail(err error) {
	c.cancel.end()
	c.Resolve(*new(T), err)
}

// newCall returns a call. If the client is closed, the call has already failed, and ok is
// false.
func newCall[T any](owner *eventloop.Owner, decode func(v resp.Value) (T, error)) (c *call[T], ok bool) {
	c = &call[T]{decode: decode}
	return c, c.Init(owner) == nil
}

// run sends a command.
func run[T any](ctx context.Context, x *Commands, decode func(v resp.Value) (T, error), args ...any) *eventloop.Future[T] {
	return runFor(ctx, x, x.p.owner, decode, 0, args...)
}

// runFor sends a command that waits at the server for up to wait, or for noLimit. Its
// future belongs to owner.
func runFor[T any](ctx context.Context, x *Commands, owner *eventloop.Owner, decode func(v resp.Value) (T, error), wait time.Duration, args ...any) *eventloop.Future[T] {
	checkContext(ctx)
	c, ok := newCall(owner, decode)
	switch {
	case !ok:
	case x.tx != nil:
		x.tx.add(c, args...)
		c.Ignore() // the future of Exec reports failures
	default:
		cancel := c.watch(ctx, &x.p.queue, nil)
		if err := x.p.send(c, cancel, wait, args...); err != nil && err != errCanceled {
			c.fail(err)
		}
	}
	return &c.Future
}

// watch cancels the call when ctx ends, after it has failed others with the same error. It
// returns nil if ctx never ends.
func (c *call[T]) watch(ctx context.Context, q *queue, others []waiter) *canceling {
	if ctx.Done() == nil {
		return nil
	}
	fail := func(err error) {
		for _, w := range others {
			w.fail(err)
		}
		c.Resolve(*new(T), err)
	}
	if ctx.Err() != nil {
		c.cancel.state = canceled
		fail(q.canceledBy(ctx))
		return &c.cancel
	}
	c.cancel.stop = context.AfterFunc(ctx, func() {
		err := q.canceledBy(ctx)
		if q.cancelRequest(&c.cancel) {
			err = uncertain(err)
		}
		fail(err)
	})
	return &c.cancel
}

// canceledBy returns the error of a command that was canceled by the end of ctx.
func (q *queue) canceledBy(ctx context.Context) error {
	return q.o.opError(contextError(ctx))
}

// contextError returns the error of a command that ended because ctx did. It matches the error
// of ctx and its cause.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) || cause == eventloop.ErrLoopClosed {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

func checkContext(ctx context.Context) {
	if ctx == nil {
		panic("redis: nil context")
	}
}
