package redis

import (
	"container/list"
	"context"
	"errors"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A blockingPool holds the connections of blocking commands. A command has a connection to
// itself until its reply arrives. The pool is used only on the loop.
type blockingPool struct {
	c       *Client
	pipes   []*pipe // all
	idle    []*pipe
	waiting list.List // the *blockingCommand values that wait for a connection
}

// A blockingCommand is a command that may wait at the server.
type blockingCommand struct {
	pool    *blockingPool
	ctx     context.Context
	to      waiter
	encoded []byte
	limit   time.Duration

	// Only on the loop. At most one of pipe and place is not nil.
	pipe  *pipe            // while it runs
	place *list.Element    // while it waits for a connection
	timer *eventloop.Timer // limits the wait for a connection
	stop  func() bool      // stops watching ctx
	over  bool
}

// block sends a command that waits at the server for up to limit, or for noLimit. Its
// future belongs to owner.
func block[T any](ctx context.Context, c *Client, owner *eventloop.Owner, decode func(v resp.Value) (T, error), limit time.Duration, args ...any) *eventloop.Future[T] {
	checkContext(ctx)
	call, ok := newCall(owner, decode)
	if !ok {
		return &call.Future
	}
	encoded, bad := resp.AppendCommand(nil, args...)
	switch {
	case bad >= 0:
		call.fail(errBadArg(bad, args[bad]))
		return &call.Future
	case ctx.Err() != nil:
		call.fail(c.pipe.canceledBy(ctx))
		return &call.Future
	}
	b := &blockingCommand{pool: &c.blocking, ctx: ctx, to: call, encoded: encoded, limit: limit}
	if c.l.Post(b.start) != nil {
		call.fail(eventloop.ErrLoopClosed)
	}
	return &call.Future
}

// start sends the command, or queues it until a connection is free.
func (b *blockingCommand) start() {
	p := b.pool
	if p.c.closed() {
		b.fail(p.c.closedErr)
		return
	}
	if b.ctx.Done() != nil {
		b.stop = context.AfterFunc(b.ctx, func() { p.c.l.Post(b.cancel) })
	}
	switch {
	case p.free():
		b.run()
	case p.waiting.Len() >= p.c.o.MaxPending:
		b.fail(eventloop.ErrBufferFull)
	default:
		b.place = p.waiting.PushBack(b)
		if d, ok := b.timeout(); ok {
			b.timer = afterTimeout(p.c.l, d, b.overdue)
		}
	}
}

// timeout returns the timeout of the command, if it has one: the time that the command may
// wait at the server plus Options.Timeout.
func (b *blockingCommand) timeout() (d time.Duration, ok bool) {
	t := b.pool.c.o.Timeout
	return b.limit + t, b.limit != noLimit && t > 0
}

// free reports whether a connection is idle, or another one may be opened.
func (p *blockingPool) free() bool { return len(p.idle) > 0 || len(p.pipes) < p.c.o.MaxBlocking }

// run sends the command over an idle connection, or over a new one.
func (b *blockingCommand) run() {
	p := b.pool
	if len(p.idle) == 0 {
		pipe := newPipe(p.c.l, p.c.o, p.c.owner)
		p.pipes = append(p.pipes, pipe)
		p.idle = append(p.idle, pipe)
	}
	last := len(p.idle) - 1
	b.pipe = p.idle[last]
	p.idle = p.idle[:last]
	if err := b.pipe.sendEncoded(b, nil, 1, b.encoded, b.limit); err != nil {
		b.fail(err)
	}
}

func (b *blockingCommand) answer(v resp.Value) {
	b.end()
	b.to.answer(v)
}

// fail implements waiter. It runs only on the loop, like every call of a pipe of the pool.
func (b *blockingCommand) fail(err error) {
	b.end()
	b.to.fail(err)
}

var errNoConnection = errors.New("all connections of blocking commands are in use")

// overdue fails a command whose wait for a connection has timed out.
func (b *blockingCommand) overdue() {
	b.fail(b.pool.c.o.opError(&notSentError{errNoConnection}))
}

// end passes the connection on to the next command. After the reply to a command or its
// failure, the connection no longer uses the command.
func (b *blockingCommand) end() {
	p := b.pool
	b.over = true
	if b.stop != nil {
		b.stop()
	}
	b.waitNoMore()
	if b.pipe == nil {
		return
	}
	p.idle = append(p.idle, b.pipe)
	b.pipe = nil
	if p.waiting.Len() > 0 {
		p.c.l.Post(p.next)
	}
}

// waitNoMore removes the command from the waiting list.
func (b *blockingCommand) waitNoMore() {
	if b.place == nil {
		return
	}
	b.pool.waiting.Remove(b.place)
	b.place = nil
	if b.timer != nil {
		b.timer.Stop()
	}
}

// next starts waiting commands while connections are free.
func (p *blockingPool) next() {
	for p.waiting.Len() > 0 && p.free() {
		b := p.waiting.Front().Value.(*blockingCommand)
		b.waitNoMore()
		b.run()
	}
}

// cancel ends the command because its context has ended. If the command was sent, the
// server is still waiting and might send an element that would be lost, so cancel closes
// the connection.
func (b *blockingCommand) cancel() {
	err := b.pool.c.pipe.canceledBy(b.ctx)
	switch {
	case b.over:
	case b.pipe != nil:
		b.pipe.giveUp(err) // fails it
	default:
		b.fail(err)
	}
}

// abort ends all commands and connections.
func (p *blockingPool) abort(err error) {
	for p.waiting.Len() > 0 {
		p.waiting.Front().Value.(*blockingCommand).fail(err)
	}
	for _, pipe := range p.pipes {
		pipe.abort(err)
	}
	p.pipes, p.idle = nil, nil
}
