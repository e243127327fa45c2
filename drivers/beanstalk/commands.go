package beanstalk

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk/internal/wire"
)

// PutOptions are the settings of one job. The zero PutOptions are right for most jobs.
type PutOptions struct {
	// Priority orders the jobs of a tube: a job with a smaller number runs first. Jobs
	// below 1024 are counted as urgent.
	Priority uint32

	// Delay is the time before the job is ready. It is rounded up to whole seconds.
	Delay time.Duration

	// TTR is the time to run: a job that is reserved for longer becomes ready for another
	// consumer. A consumer of this package extends it while it has the job. TTR is rounded
	// up to whole seconds. Zero: 60 s.
	TTR time.Duration
}

// Put adds a job to a tube and returns the ID of the job. Put copies the body. If the error
// is [ErrBuried], the job exists as well, and the ID is valid.
func (c *Client) Put(ctx context.Context, tube string, body []byte, o PutOptions) *eventloop.Future[uint64] {
	if o.TTR == 0 {
		o.TTR = time.Minute
	}
	delay, err := seconds("delay", o.Delay)
	if err != nil {
		return failed[uint64](c, err)
	}
	ttr, err := seconds("TTR", o.TTR)
	if err != nil {
		return failed[uint64](c, err)
	}
	if err := checkTube(tube); err != nil {
		return failed[uint64](c, err)
	}
	x := &call[uint64]{decode: func(r wire.Reply) (uint64, error, bool) {
		if r.Kind == wire.Buried {
			return r.ID, ErrBuried, true
		}
		return r.ID, nil, r.Kind == wire.Inserted
	}}
	x.tube, x.hasBody = tube, true
	x.command = wire.AppendPut(make([]byte, 0, len(body)+64), o.Priority, delay, ttr, body)
	return start(ctx, c, x)
}

// A Peeked is a job that was read without being reserved.
type Peeked struct {
	ID   uint64
	Body []byte
}

// Peek returns the job with the given ID, in any state.
func (c *Client) Peek(ctx context.Context, id uint64) *eventloop.Future[Peeked] {
	return c.peek(ctx, wire.Append(nil, "peek", id), "")
}

// PeekReady returns the next ready job of a tube.
func (c *Client) PeekReady(ctx context.Context, tube string) *eventloop.Future[Peeked] {
	return c.peekTube(ctx, "peek-ready", tube)
}

// PeekDelayed returns the delayed job of a tube whose delay ends first.
func (c *Client) PeekDelayed(ctx context.Context, tube string) *eventloop.Future[Peeked] {
	return c.peekTube(ctx, "peek-delayed", tube)
}

// PeekBuried returns the first buried job of a tube.
func (c *Client) PeekBuried(ctx context.Context, tube string) *eventloop.Future[Peeked] {
	return c.peekTube(ctx, "peek-buried", tube)
}

func (c *Client) peekTube(ctx context.Context, command, tube string) *eventloop.Future[Peeked] {
	if err := checkTube(tube); err != nil {
		return failed[Peeked](c, err)
	}
	return c.peek(ctx, wire.Append(nil, command), tube)
}

func (c *Client) peek(ctx context.Context, command []byte, tube string) *eventloop.Future[Peeked] {
	x := &call[Peeked]{decode: func(r wire.Reply) (Peeked, error, bool) {
		return Peeked{r.ID, r.Body}, nil, r.Kind == wire.Found
	}}
	x.command, x.tube = command, tube
	return start(ctx, c, x)
}

// Kick makes up to limit jobs of a tube ready: buried jobs if there are any, else delayed
// jobs. It returns the number of jobs that it made ready. A negative limit is an error.
func (c *Client) Kick(ctx context.Context, tube string, limit int) *eventloop.Future[int] {
	if err := checkTube(tube); err != nil {
		return failed[int](c, err)
	}
	if limit < 0 || int64(limit) > math.MaxUint32 {
		return failed[int](c, fmt.Errorf("beanstalk: Kick of %d jobs", limit))
	}
	x := &call[int]{decode: func(r wire.Reply) (int, error, bool) { return int(r.Count), nil, r.Kind == wire.Kicked }}
	x.command, x.tube = wire.Append(nil, "kick", uint64(limit)), tube
	return start(ctx, c, x)
}

// KickJob makes a buried or delayed job ready.
func (c *Client) KickJob(ctx context.Context, id uint64) *eventloop.Future[struct{}] {
	return c.plain(ctx, wire.Append(nil, "kick-job", id), wire.Kicked)
}

// Delete deletes a ready, delayed or buried job. The consumer of a reserved job deletes it
// with [Job.Delete].
func (c *Client) Delete(ctx context.Context, id uint64) *eventloop.Future[struct{}] {
	return c.plain(ctx, wire.Append(nil, "delete", id), wire.Deleted)
}

// PauseTube stops the server from giving jobs of a tube to consumers for d, rounded up to
// whole seconds. A zero d ends a pause.
func (c *Client) PauseTube(ctx context.Context, tube string, d time.Duration) *eventloop.Future[struct{}] {
	s, err := seconds("pause", d)
	if err == nil {
		err = checkTube(tube)
	}
	if err != nil {
		return failed[struct{}](c, err)
	}
	return c.plain(ctx, wire.AppendTube(nil, "pause-tube", tube, uint64(s)), wire.Paused)
}

// plain sends a command whose reply has no arguments.
func (c *Client) plain(ctx context.Context, command []byte, want wire.Kind) *eventloop.Future[struct{}] {
	x := &call[struct{}]{decode: kind(want)}
	x.command = command
	return start(ctx, c, x)
}

// Stats returns the statistics of the server.
func (c *Client) Stats(ctx context.Context) *eventloop.Future[Stats] {
	return c.stats(ctx, wire.Append(nil, "stats"))
}

// StatsTube returns the statistics of a tube.
func (c *Client) StatsTube(ctx context.Context, tube string) *eventloop.Future[Stats] {
	if err := checkTube(tube); err != nil {
		return failed[Stats](c, err)
	}
	return c.stats(ctx, wire.AppendTube(nil, "stats-tube", tube))
}

// StatsJob returns the statistics of a job.
func (c *Client) StatsJob(ctx context.Context, id uint64) *eventloop.Future[Stats] {
	return c.stats(ctx, wire.Append(nil, "stats-job", id))
}

func (c *Client) stats(ctx context.Context, command []byte) *eventloop.Future[Stats] {
	x := &call[Stats]{decode: func(r wire.Reply) (Stats, error, bool) {
		return parseStats(r.Body), nil, r.Kind == wire.OK
	}}
	x.command = command
	return start(ctx, c, x)
}

// ListTubes returns the names of all tubes.
func (c *Client) ListTubes(ctx context.Context) *eventloop.Future[[]string] {
	x := &call[[]string]{decode: func(r wire.Reply) ([]string, error, bool) {
		return parseList(r.Body), nil, r.Kind == wire.OK
	}}
	x.command = wire.Append(nil, "list-tubes")
	return start(ctx, c, x)
}
