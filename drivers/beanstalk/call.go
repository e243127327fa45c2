package beanstalk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// A request is a command without its result.
type request struct {
	command []byte // encoded; nil when it is sent
	tube    string // the tube that the connection must use; empty: any
	timeout time.Duration
	due     time.Time // when it times out; zero: never
	size    int       // its share of Options.MaxPendingBytes
	hasBody bool
	waiter  waiter

	// Guarded by client.mu.
	state requestState
}

type requestState uint8

const (
	waiting  requestState = iota // not sent
	sent                         // waiting for the reply or the end of the connection
	canceled                     // the waiter has its error; the reply is dropped
)

// A waiter gets the reply to a request. Its methods are called on the loop.
type waiter interface {
	// answer handles the reply. An error says that the reply does not fit the request: the
	// link calls fail and ends the connection.
	answer(r wire.Reply) error

	// fail reports that the request has no valid reply.
	fail(err error)
}

// A call is a request with its result: one allocation, apart from the encoded command.
type call[T any] struct {
	eventloop.Promise[T]
	request
	decode func(r wire.Reply) (v T, err error, ok bool) // not ok: the reply does not fit
	unhook func() bool                                  // stops watching the context
}

func (c *call[T]) answer(r wire.Reply) error {
	v, err, ok := c.decode(r)
	if !ok {
		// A server that does not know put parses the body as commands.
		if err = refusals[r.Kind]; err == nil || r.Kind == wire.UnknownCommand && c.hasBody {
			return unexpected(r.Kind)
		}
	}
	c.end()
	c.Resolve(v, err)
	return nil
}

func (c *call[T]) fail(err error) {
	c.end()
	c.Resolve(*new(T), err)
}

// end stops watching the context.
func (c *call[T]) end() {
	if c.unhook != nil {
		c.unhook()
	}
}

// kind returns a decoder for replies that have only a kind.
func kind(k wire.Kind) func(r wire.Reply) (struct{}, error, bool) {
	return func(r wire.Reply) (struct{}, error, bool) { return struct{}{}, nil, r.Kind == k }
}

// start sends the command of x, unless ctx has ended or the client does not accept it.
func start[T any](ctx context.Context, c *Client, x *call[T]) *eventloop.Future[T] {
	checkContext(ctx)
	if x.Init(c.owner) != nil {
		return &x.Future
	}
	x.waiter, x.timeout = x, c.o.Timeout
	x.size = len(x.command)
	fail := func(err error) { x.Resolve(*new(T), err) }
	if ctx.Err() != nil {
		fail(c.o.opError(contextError(ctx)))
		return &x.Future
	}
	if ctx.Done() != nil {
		x.unhook = context.AfterFunc(ctx, func() { c.cancel(&x.request, contextError(ctx), fail) })
	}
	if err := c.add(&x.request); err != nil {
		x.fail(err)
	}
	return &x.Future
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
		panic("beanstalk: nil context")
	}
}

// failed returns a future that has failed with err.
func failed[T any](c *Client, err error) *eventloop.Future[T] {
	p := &eventloop.Promise[T]{}
	p.Init(c.owner)
	p.Resolve(*new(T), err)
	return &p.Future
}

// An answerFunc is a waiter for a command that the driver itself sends.
type answerFunc func(r wire.Reply) error

func (f answerFunc) answer(r wire.Reply) error { return f(r) }
func (f answerFunc) fail(error)                {}

// expect is an answerFunc for a command that has one possible reply.
func expect(k wire.Kind) answerFunc {
	return func(r wire.Reply) error {
		if r.Kind != k {
			return unexpected(r.Kind)
		}
		return nil
	}
}
