package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// Commands has the commands of Redis as methods. A [Client], a [Session] and a [Tx] embed
// it. The methods return at once. A future has its result when the reply arrives, and keeps
// the loop alive until then. Methods may be called from any goroutine, and the commands of
// one goroutine are sent in the order of the calls. The commands of one turn of the loop
// are sent in one write.
//
// When the context of a command ends, its future fails at once with an error that matches
// the error of the context and its cause. If the command was sent, the error also matches
// [ErrUncertain]. The context of a task ends with the task, and cancels the commands that
// the task did not wait for. Commands of a [Tx] do not use their contexts.
type Commands struct {
	p  *pipe
	c  *Client // of a Client, else nil
	tx *Tx     // collects the commands; nil: they are sent
}

// A Runner runs commands: a [Client], a [Session] or a [Tx].
type Runner interface{ commands() *Commands }

func (x *Commands) commands() *Commands { return x }

// Do sends any command: its name and its arguments. See [Do] for the types of
// arguments, and for the commands that Do refuses.
func (x *Commands) Do(ctx context.Context, args ...any) *eventloop.Future[Reply] {
	return do(ctx, x, toReply, args...)
}

// Do sends any command and converts its reply to a T, as [As] does.
//
// Arguments are strings, byte slices, integers, floats, bools (sent as 1 and 0), and slices
// of strings, of byte slices and of such arguments. A slice is expanded to one argument per
// element. An argument of another type is an error.
//
// On a Client, a blocking command such as BLPOP has its own connection while it waits. Do
// refuses commands that would change the state of a shared connection; the error names the
// method or type to use instead. Two-word names are two arguments: "CONFIG", "GET".
func Do[T any](ctx context.Context, x Runner, args ...any) *eventloop.Future[T] {
	return do(ctx, x.commands(), decoder[T](), args...)
}

func do[T any](ctx context.Context, x *Commands, decode func(v resp.Value) (T, error), args ...any) *eventloop.Future[T] {
	s, args := specialOf(args)
	if s.kind == 0 {
		return run(ctx, x, decode, args...)
	}
	if s.refused(x, args) {
		return invalid[T](x, s.refusal(args))
	}
	limit, waits := s.blockTime(args)
	switch {
	case !waits || x.tx != nil: // commands in a transaction do not block
		return run(ctx, x, decode, args...)
	case x.c != nil:
		return block(ctx, x.c, x.p.owner, decode, limit, args...)
	default:
		return runFor(ctx, x, x.p.owner, decode, limit, args...)
	}
}

// invalid returns the future of an invalid command, which the application could have
// avoided. If it belongs to a transaction, the whole transaction fails.
func invalid[T any](x *Commands, err error) *eventloop.Future[T] {
	f := failed[T](x.p.owner, err)
	if x.tx != nil {
		x.tx.invalidate(err)
		f.Ignore() // the future of Exec reports it
	}
	return f
}

func errNegative(method string, n int) error {
	return fmt.Errorf("redis: %s of %d elements", method, n)
}

// failed returns the future of a command that was not sent.
func failed[T any](owner *eventloop.Owner, err error) *eventloop.Future[T] {
	c, ok := newCall[T](owner, nil)
	if ok {
		c.Resolve(*new(T), err)
	}
	return &c.Future
}

// noLimit is the time of a blocking command that waits without end.
const noLimit time.Duration = -1
