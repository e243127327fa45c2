package redis

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/onloop/eventloop"
)

// A Client is a client of one server, for one loop. All commands share one connection.
// Blocking commands, sessions and subscriptions have their own connections. The client
// connects with the first command.
//
// The client does not keep the loop alive, but pending commands and open subscriptions
// do. Loop.Shutdown waits for pending commands and closes subscriptions.
//
// If the connection is lost, the commands that were sent fail with an error that matches
// [ErrUncertain], and those that were not sent wait for the next connection, within
// their timeouts. The client reconnects when there is a command to send.
//
// All methods may be called from any goroutine and from any callback, and none of them
// blocks. A client belongs to its loop. For a Group, create one client per loop.
type Client struct {
	Commands
	l     *eventloop.Loop
	o     *Options
	owner *eventloop.Owner
	pipe  *pipe

	closedErr error // the error of calls after Close or Abort

	// Only on the loop.
	blocking blockingPool
	over     bool // the client has ended: Options.OnState is no longer called

	aborted atomic.Bool // the callbacks of Options are no longer called; set at once, on the caller's goroutine

	mu      sync.Mutex // guards the following
	closing error      // the error of later calls; nil while the client is open
	parts   map[part]struct{}
}

// A part is a session, a subscription or a consumer of a client.
type part interface {
	// silence ends the callbacks of the part. It is called on any goroutine.
	silence()

	// abort ends the part. It is called on the loop.
	abort(err error)
}

// New returns a client. It may be called before the loop runs. It fails if an option is
// not valid, and with [eventloop.ErrLoopClosed] after the end of the loop.
func New(l *eventloop.Loop, o *Options) (*Client, error) {
	if l == nil {
		return nil, errors.New("redis: nil Loop")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{l: l, o: o, parts: make(map[part]struct{}), closedErr: o.opError(errClientClosed)}
	c.pipe = newPipe(l, o, nil) // loopEnded needs it, and may be called as soon as there is an owner
	c.owner, err = eventloop.NewOwner(l, "redis", o.Addr, c.loopEnded)
	if err != nil {
		return nil, err
	}
	c.pipe.owner = c.owner
	c.pipe.events = pipeEvents{state: c.stateChanged}
	if o.OnSendError != nil {
		c.pipe.events.sendFailed = c.sendFailed
	}
	c.Commands = Commands{p: c.pipe, c: c}
	c.blocking.c = c
	return c, nil
}

// Send sends a command and drops its reply. It is for commands whose outcome does not
// matter; see Options.OnSendError for failures. It allocates nothing. Like a future, the
// command keeps the loop alive until its reply arrives.
//
// An error means that the client did not accept the command: an argument cannot be encoded,
// too many commands are pending, or the client is closed. The arguments are those of [Do],
// but Send also refuses blocking commands.
func (c *Client) Send(args ...any) error {
	s, args := specialOf(args)
	if s.kind == blocks || s.refused(&c.Commands, args) {
		return s.refusal(args)
	}
	return c.pipe.send(nil, nil, 0, args...)
}

// Loop returns the loop of the client.
func (c *Client) Loop() *eventloop.Loop { return c.l }

// Addr returns the address of the server.
func (c *Client) Addr() string { return c.o.Addr }

// stateChanged is called when the shared connection goes up or down.
func (c *Client) stateChanged(up bool, err error) {
	if c.over || c.aborted.Load() {
		return
	}
	if up {
		c.owner.SetName(c.o.Addr)
	} else {
		c.owner.SetName(fmt.Sprintf("%s, not connected: %v", c.o.Addr, err))
	}
	if c.o.OnState != nil {
		c.o.OnState(up, err)
	}
}

// sendFailed is called when commands of Send have failed.
func (c *Client) sendFailed(err error) {
	if !c.aborted.Load() {
		c.o.OnSendError(err)
	}
}

// close makes later calls fail with err. It reports whether this is the first call.
func (c *Client) close(err error) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return false
	}
	c.closing = err
	return true
}

func (c *Client) closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing != nil
}

// addPart registers a session or a subscription, unless the client is closed.
func (c *Client) addPart(p part) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return c.closing
	}
	c.parts[p] = struct{}{}
	return nil
}

func (c *Client) removePart(p part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.parts, p)
}

// silenceParts ends the callbacks of subscriptions and consumers.
func (c *Client) silenceParts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.parts {
		p.silence()
	}
}

// abortParts ends blocking commands, sessions and subscriptions. It runs on the loop.
func (c *Client) abortParts(err error) {
	c.mu.Lock()
	parts := c.parts
	c.parts = nil
	c.mu.Unlock()
	for p := range parts {
		p.abort(err)
	}
	c.blocking.abort(err)
}

// Close ends the client when the pending commands have their replies. Later calls fail with
// an [*eventloop.OpError] that matches net.ErrClosed. Close does not wait for blocking
// commands, sessions, consumers and subscriptions: they end at once, and if Close is called
// on the loop, no callback of theirs is called after it. The future succeeds when the
// connection is closed. The future of a second call, or of a call after Abort, fails like
// other later calls.
func (c *Client) Close() *eventloop.Future[struct{}] {
	if !c.close(c.closedErr) {
		return failed[struct{}](c.owner, c.closedErr)
	}
	c.pipe.queue.close(c.closedErr)
	c.silenceParts()
	done := &eventloop.Promise[struct{}]{}
	if done.Init(c.owner) != nil {
		return &done.Future
	}
	done.Ignore()
	c.l.Post(func() {
		c.abortParts(c.closedErr)
		c.pipe.drain(func() {
			c.over = true
			c.pipe.finish(func() {
				done.Resolve(struct{}{}, nil)
				c.owner.CloseWithError(c.closedErr)
			})
		})
	})
	return &done.Future
}

// Abort ends the client at once. Pending commands and later calls fail with an
// [*eventloop.OpError] that matches net.ErrClosed. The error of a command that was sent also
// matches [ErrUncertain]. Abort also ends a Close in progress. If Abort is called on the
// loop, no callback of the client, its consumers and its subscriptions is called after it.
func (c *Client) Abort() {
	c.aborted.Store(true)
	c.close(c.closedErr)
	c.pipe.queue.close(c.closedErr)
	c.silenceParts()
	c.l.Post(func() {
		c.over = true
		c.abortParts(c.closedErr)
		c.pipe.abort(c.closedErr)
		c.owner.CloseWithError(c.closedErr)
	})
}

// loopEnded is called at the end of the loop, when all promises have failed.
func (c *Client) loopEnded(err error) {
	c.close(err)
	c.pipe.queue.close(err)
}
