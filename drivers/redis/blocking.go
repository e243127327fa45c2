package redis

import (
	"context"
	"slices"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A blockingPool has the connections of blocking commands. A command has one to itself
// from when it is sent to its reply. All of it is on the loop.
type blockingPool struct {
	c       *Client
	pipes   []*pipe // all
	idle    []*pipe
	waiting ring[*blockingCommand]
	running []*blockingCommand
}

// A blockingCommand is a command that may wait at the server.
type blockingCommand struct {
	pool    *blockingPool
	to      waiter
	encoded []byte
	limit   time.Duration
	pipe    *pipe // while it runs
	over    bool
}

// block sends a command that waits at the server for up to limit, or for noLimit.
func block[T any](ctx context.Context, c *Client, decode func(v resp.Value) (T, error), limit time.Duration, args ...any) *eventloop.Future[T] {
	checkContext(ctx)
	call, ok := newCall(c.owner, decode)
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
	b := &blockingCommand{pool: &c.blocking, to: call, encoded: encoded, limit: limit}
	if ctx.Done() != nil {
		call.cancel.stop = context.AfterFunc(ctx, func() {
			call.Resolve(*new(T), uncertain(c.pipe.canceledBy(ctx)))
			c.l.Post(b.cancel)
		})
	}
	if c.l.Post(b.start) != nil {
		call.fail(eventloop.ErrLoopClosed)
	}
	return &call.Future
}

// start sends the command, or has it wait for a connection.
func (b *blockingCommand) start() {
	p := b.pool
	switch {
	case b.over:
	case p.c.closed():
		b.fail(errClosed)
	case len(p.idle) > 0:
		last := len(p.idle) - 1
		pipe := p.idle[last]
		p.idle = p.idle[:last]
		b.run(pipe)
	case len(p.pipes) < p.c.o.MaxBlocking:
		pipe := newPipe(p.c.l, p.c.o, p.c.owner)
		p.pipes = append(p.pipes, pipe)
		b.run(pipe)
	case p.waiting.len >= p.c.o.MaxPending:
		b.fail(eventloop.ErrBufferFull)
	default:
		p.waiting.push(b)
	}
}

func (b *blockingCommand) run(pipe *pipe) {
	b.pipe = pipe
	b.pool.running = append(b.pool.running, b)
	limit := b.limit
	if limit != noLimit && b.pool.c.o.Timeout > 0 {
		limit += b.pool.c.o.Timeout
	} else {
		limit = noLimit
	}
	if err := pipe.sendEncoded(b, nil, 1, b.encoded, limit); err != nil {
		b.fail(err)
	}
}

func (b *blockingCommand) answer(v resp.Value) {
	b.end()
	b.to.answer(v)
}

// fail is called on the loop only: all that a pipe of the pool does is there.
func (b *blockingCommand) fail(err error) {
	b.end()
	b.to.fail(err)
}

// end gives the connection to the next command. The reply, or the failure, of a command
// is the last thing that a connection does with it.
func (b *blockingCommand) end() {
	b.over = true
	pipe := b.pipe
	if pipe == nil {
		return
	}
	p := b.pool
	b.pipe = nil
	p.running = slices.DeleteFunc(p.running, func(r *blockingCommand) bool { return r == b })
	p.idle = append(p.idle, pipe)
	if p.waiting.len > 0 {
		p.c.l.Post(p.next)
	}
}

// next starts the commands that wait and for which there is a connection.
func (p *blockingPool) next() {
	for p.waiting.len > 0 && len(p.idle) > 0 {
		p.waiting.pop().start()
	}
}

// cancel ends the command, whose future has failed. If it has been sent, the server
// still waits, and might hand over an element that is lost: its connection ends.
func (b *blockingCommand) cancel() {
	if b.over {
		return
	}
	if pipe := b.pipe; pipe != nil {
		pipe.giveUp(context.Canceled)
	}
	b.over = true
}

// abort ends everything.
func (p *blockingPool) abort(err error) {
	for p.waiting.len > 0 {
		p.waiting.pop().fail(err)
	}
	for _, pipe := range p.pipes {
		pipe.abort(err)
	}
	p.pipes, p.idle = nil, nil
}
