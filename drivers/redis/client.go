package redis

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/onloop/eventloop"
)

// A Client is a client of one server, for one loop. It has one connection that all
// commands share; blocking commands, sessions and subscriptions have connections of
// their own. Nothing is connected before the first command.
//
// The client does not keep the loop alive, but pending commands and open subscriptions
// do. Loop.Shutdown waits for the former and closes the latter.
//
// If the connection is lost, the commands that were sent fail with an error that matches
// [ErrUncertain], and those that were not sent wait for the next connection, within
// their timeouts. The client reconnects when there is a command to send.
//
// All methods may be called from any goroutine and from any callback, and none of them
// blocks. A client belongs to its loop: for a Group make one for each loop.
type Client struct {
	Commands
	l     *eventloop.Loop
	o     *Options
	owner *eventloop.Owner
	pipe  *pipe

	blocking blockingPool // only on the loop

	mu      sync.Mutex // guards the following
	closing error      // of later calls; nil while the client is open
	parts   map[part]struct{}
}

// A part is a session or a subscription of a client.
type part interface{ abort(err error) }

var errClosed = net.ErrClosed

// New returns a client. It may be called before the loop runs. It fails if an option is
// not valid, and with [eventloop.ErrLoopClosed] after the end of the loop.
func New(l *eventloop.Loop, o *Options) (*Client, error) {
	if l == nil {
		return nil, errors.New("redis: nil loop")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{l: l, o: o, parts: make(map[part]struct{})}
	c.pipe = newPipe(l, o, nil) // loopEnded needs it, and may be called as soon as there is an owner
	c.owner, err = eventloop.NewOwner(l, "redis", o.Addr, c.loopEnded)
	if err != nil {
		return nil, err
	}
	c.pipe.owner = c.owner
	c.pipe.events = pipeEvents{state: c.stateChanged, sendFailed: o.OnSendError}
	c.Commands = Commands{p: c.pipe, c: c}
	c.blocking.c = c
	return c, nil
}

// Send sends a command and drops its reply. It is for commands whose outcome does not
// matter; see Options.OnSendError for failures. It allocates nothing. Like a future, a
// command that was sent keeps the loop alive until its reply has come.
//
// The error says that the command was not taken: an argument cannot be encoded, too many
// commands are pending, or the client is closed. The arguments are those of [Do], and
// blocking commands are refused as well.
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

// stateChanged is called when the shared connection is up or down.
func (c *Client) stateChanged(up bool, err error) {
	if up {
		c.owner.SetName(c.o.Addr)
	} else {
		c.owner.SetName(fmt.Sprintf("%s, not connected: %v", c.o.Addr, err))
	}
	if c.o.OnState != nil {
		c.o.OnState(up, err)
	}
}

// close refuses later calls with err. It reports whether it is the first to do so.
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

// addPart takes a session or a subscription, unless the client is closed.
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

// abortParts ends blocking commands, sessions and subscriptions. On the loop.
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

// Close ends the client when the pending commands have their replies. Later calls fail
// with net.ErrClosed. Blocking commands, sessions and subscriptions are not waited for:
// they end at once. The future succeeds when the connection is closed; of a second call,
// and after Abort, it fails with net.ErrClosed.
func (c *Client) Close() *eventloop.Future[struct{}] {
	if !c.close(net.ErrClosed) {
		return failed[struct{}](c.owner, net.ErrClosed)
	}
	c.pipe.queue.close(net.ErrClosed)
	done := &eventloop.Promise[struct{}]{}
	if done.Init(c.owner) != nil {
		return &done.Future
	}
	done.Ignore()
	c.l.Post(func() {
		c.abortParts(net.ErrClosed)
		c.pipe.drain(func() {
			c.pipe.finish(func() {
				done.Resolve(struct{}{}, nil)
				c.owner.Close()
			})
		})
	})
	return &done.Future
}

// Abort ends the client at once. Pending commands fail with net.ErrClosed; the errors of
// those that were sent match [ErrUncertain], too. It cuts a Close short.
func (c *Client) Abort() {
	c.close(net.ErrClosed)
	c.pipe.queue.close(net.ErrClosed)
	c.l.Post(func() {
		c.abortParts(net.ErrClosed)
		c.pipe.abort(net.ErrClosed)
		c.owner.Close()
	})
}

// loopEnded is called at the end of the loop, when all promises have failed.
func (c *Client) loopEnded(err error) {
	c.close(err)
	c.pipe.queue.close(err)
}
