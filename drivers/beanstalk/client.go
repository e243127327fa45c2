package beanstalk

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop"
)

// A Client is a client of one server, for one loop. All commands share one connection,
// which the client opens for the first command. Each consumer has its own connections, see
// [Client.Consume].
//
// An idle client does not keep the loop alive. A pending command, a consumer and an
// unsettled job do.
//
// If the connection is lost, commands that were sent fail with an error that matches
// [ErrUncertain], and those that were not sent wait for the next connection, within
// their timeouts. The client reconnects when there is a command to send.
//
// All methods may be called from any goroutine and from any callback, and none of them
// blocks. The client sends the commands of one goroutine in order.
type Client struct {
	l     *eventloop.Loop
	o     *Options
	owner *eventloop.Owner

	closedErr error // the error of calls after Close or Abort

	mu        sync.Mutex                   // guards the following
	closing   error                        // the error of later commands; nil while the client is open
	added     []*request                   // new requests, for the next flush
	posted    bool                         // flush is posted
	pending   int                          // the number of unfinished requests
	bytes     int                          // the total size of the pending requests
	consumers map[*Consumer]struct{}       // the consumers that have not ended
	closed    *eventloop.Promise[struct{}] // the promise of Close; nil before Close

	// Used only on the loop.
	waiting []*request // these wait for a connection
	link    *link      // nil if there is none
	lost    error      // why there is no link
	backoff backoff
	retryAt time.Time        // the earliest time of the next attempt to connect
	retry   *eventloop.Timer // calls flush at retryAt; nil if not armed
	timeout timeout          // for waiting
	drained *eventloop.Promise[struct{}]
	over    bool

	aborted atomic.Bool // OnState is no longer called; set at once, on the caller's goroutine
}

// New returns a client. It may be called before the loop runs. It fails if an option is
// invalid, and with [eventloop.ErrLoopClosed] after the end of the loop.
func New(l *eventloop.Loop, o *Options) (*Client, error) {
	if l == nil {
		return nil, errors.New("beanstalk: nil Loop")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{l: l, o: o, consumers: make(map[*Consumer]struct{})}
	c.closedErr = o.opError(errClientClosed)
	c.backoff = backoff{min: o.MinBackoff, max: o.MaxBackoff}
	c.timeout = timeout{l: l, due: c.firstDue, overdue: c.failOverdue}
	c.owner, err = eventloop.NewOwner(l, "beanstalk", o.Addr, func(err error) { c.refuse(err) })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Loop returns the loop of the client.
func (c *Client) Loop() *eventloop.Loop { return c.l }

// Addr returns the address of the server.
func (c *Client) Addr() string { return c.o.Addr }

// refuse makes later commands fail with err. Only the first call has an effect.
func (c *Client) refuse(err error) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return false
	}
	c.closing = err
	return true
}

// count adds r to the pending requests, if the limits permit it. The caller holds c.mu.
func (c *Client) count(r *request) error {
	if c.pending >= c.o.MaxPending || r.size > c.o.MaxPendingBytes-c.bytes {
		return eventloop.ErrBufferFull
	}
	c.pending++
	c.bytes += r.size
	if r.timeout > 0 {
		r.due = time.Now().Add(r.timeout)
	}
	return nil
}

// add queues a request. If add returns an error, the waiter is not called.
func (c *Client) add(r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing != nil {
		return c.closing
	}
	if r.state == canceled {
		return nil
	}
	if err := c.count(r); err != nil {
		return err
	}
	c.added = append(c.added, r)
	c.postFlush()
	return nil
}

// postFlush posts flush, once for all requests that this turn adds. The caller holds c.mu.
// If the loop has ended, the promises of the owner fail.
func (c *Client) postFlush() {
	if !c.posted {
		c.posted = true
		c.l.Post(c.flush)
	}
}

// cancel calls fail for a request that err, the end of its context, has ended. If the
// request was sent, the client drops its reply on arrival; the later replies still match
// their requests.
func (c *Client) cancel(r *request, err error, fail func(err error)) {
	err = c.o.opError(err)
	c.mu.Lock()
	if r.state == sent {
		err = uncertain(err)
	} else {
		c.postFlush() // drops the request
	}
	r.state = canceled
	c.mu.Unlock()
	fail(err)
}

// done implements linkHost.
func (c *Client) done(r *request) {
	if r.size == 0 {
		return // a command of the driver itself
	}
	c.mu.Lock()
	c.pending--
	c.bytes -= r.size
	empty := c.pending == 0
	c.mu.Unlock()
	if empty && c.drained != nil {
		c.drained.Resolve(struct{}{}, nil)
	}
}

// flush sends the added requests, or connects first.
func (c *Client) flush() {
	c.mu.Lock()
	c.posted = false
	c.waiting = append(c.waiting, c.added...)
	clear(c.added)
	c.added = c.added[:0]
	c.mu.Unlock()
	c.dropCanceled()
	switch {
	case len(c.waiting) == 0:
	case c.link == nil:
		c.connect()
	case c.link.up:
		c.send()
	}
	c.timeout.arm()
}

// remove removes the waiting requests that match. match is called with c.mu held.
func (c *Client) remove(match func(r *request) bool) (removed []*request) {
	c.mu.Lock()
	c.waiting = slices.DeleteFunc(c.waiting, func(r *request) bool {
		if !match(r) {
			return false
		}
		removed = append(removed, r)
		return true
	})
	c.mu.Unlock()
	for _, r := range removed {
		c.done(r)
	}
	return removed
}

func (c *Client) dropCanceled() {
	c.remove(func(r *request) bool { return r.state == canceled })
}

// failWaiting fails the waiting requests that match.
func (c *Client) failWaiting(err error, match func(r *request) bool) {
	for _, r := range c.remove(match) {
		r.waiter.fail(err)
	}
}

func all(*request) bool { return true }

// send sends the waiting requests.
func (c *Client) send() {
	// One critical section decides for each request whether it is canceled or sent.
	c.remove(func(r *request) bool {
		if r.state == canceled {
			return true
		}
		r.state = sent
		return false
	})
	if len(c.waiting) == 0 {
		return
	}
	err := c.link.send(c.waiting...)
	if err == nil {
		c.waiting = nil
		return
	}
	c.unmark()
	if errors.Is(err, eventloop.ErrBufferFull) { // the limit for all connections of the loop
		c.retryIn(10 * time.Millisecond)
	} // any other error ends the connection, and linkDown reports it
}

// unmark clears the marks that send has set.
func (c *Client) unmark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.waiting {
		if r.state == sent {
			r.state = waiting
		}
	}
}

// retryIn calls flush after d.
func (c *Client) retryIn(d time.Duration) {
	if c.retry != nil {
		return
	}
	c.retry = c.l.AfterFunc(d, func() { c.retry = nil; c.flush() })
	c.retry.Unref()
}

func (c *Client) connect() {
	if left := time.Until(c.retryAt); left > 0 {
		c.retryIn(left)
		return
	}
	link, err := dialLink(c.l, c.o, c)
	if err != nil { // the address is malformed, or the loop has ended
		c.failWaiting(err, all)
		return
	}
	c.link = link
}

// linkUp implements linkHost.
func (c *Client) linkUp() {
	c.owner.SetName(c.o.Addr)
	c.report(true, nil)
	c.flush()
}

// linkDown implements linkHost.
func (c *Client) linkDown(err error) {
	if err == c.closedErr {
		return // Abort
	}
	if c.link != nil && c.link.answered { // a connection without a reply does not prove a working server
		c.backoff.reset()
	}
	c.link, c.lost = nil, err
	if c.over || err == eventloop.ErrLoopClosed {
		return
	}
	c.owner.SetName(fmt.Sprintf("%s, not connected: %v", c.o.Addr, err))
	c.retryAt = time.Now().Add(c.backoff.delay())
	c.report(false, err)
	c.flush()
}

// report calls Options.OnState in a later turn, unless the client has ended by then.
func (c *Client) report(up bool, err error) {
	if c.o.OnState == nil {
		return
	}
	c.l.Post(func() {
		if !c.over && !c.aborted.Load() {
			c.o.OnState(up, err)
		}
	})
}

// firstDue returns when the first waiting request is due, or zero.
func (c *Client) firstDue() time.Time {
	if len(c.waiting) == 0 || c.over {
		return time.Time{}
	}
	return c.waiting[0].due
}

// failOverdue fails the waiting requests that are due by now.
func (c *Client) failOverdue(now time.Time) {
	c.failWaiting(c.o.opError(&notSentError{c.lost}), func(r *request) bool {
		return !r.due.IsZero() && !now.Before(r.due)
	})
}

// A notSentError is the timeout of a command that was not sent.
type notSentError struct{ lost error }

func (e *notSentError) Error() string {
	if e.lost == nil {
		return "timeout, not sent: no connection yet"
	}
	return fmt.Sprintf("timeout, not sent: %v", e.lost)
}
func (e *notSentError) Timeout() bool   { return true }
func (e *notSentError) Unwrap() []error { return []error{os.ErrDeadlineExceeded, e.lost} }

// Close ends the client when the pending commands have their replies and its consumers are
// closed, see [Consumer.Close]. A job of ReserveJob goes back to the server. Later calls fail
// with an [*eventloop.OpError] that matches net.ErrClosed. The future succeeds when the
// client has ended, even by Abort. The future of a second call fails like other later calls.
func (c *Client) Close() *eventloop.Future[struct{}] {
	if !c.refuse(c.closedErr) {
		return failed[struct{}](c, c.closedErr)
	}
	closed := &eventloop.Promise[struct{}]{}
	if closed.Init(c.owner) != nil {
		return &closed.Future
	}
	closed.Ignore()
	c.mu.Lock()
	c.closed = closed
	consumers := c.openConsumers()
	c.mu.Unlock()
	left := 1 + len(consumers)
	part := func(struct{}, error) {
		if left--; left == 0 {
			c.finish()
		}
	}
	for _, k := range consumers {
		k.Close().Then(part)
	}
	c.l.Post(func() { c.drain(part) })
	return &closed.Future
}

// drain calls f when no command is pending.
func (c *Client) drain(f func(struct{}, error)) {
	c.drained = &eventloop.Promise[struct{}]{}
	if c.drained.Init(c.owner) != nil {
		return
	}
	c.drained.Then(f)
	c.mu.Lock()
	empty := c.pending == 0
	c.mu.Unlock()
	if empty {
		c.drained.Resolve(struct{}{}, nil)
	}
}

// openConsumers returns the consumers that have not ended. The caller holds c.mu.
func (c *Client) openConsumers() []*Consumer { return slices.Collect(maps.Keys(c.consumers)) }

// finish ends the client when nothing is pending.
func (c *Client) finish() {
	if c.over {
		return
	}
	c.over = true
	c.timeout.stop()
	if c.retry != nil {
		c.retry.Stop()
	}
	if c.link != nil {
		c.link.close(c.closedErr)
		c.link = nil
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed != nil {
		closed.Resolve(struct{}{}, nil)
	}
	c.owner.CloseWithError(c.closedErr)
}

// Abort ends the client at once. Pending commands and later calls fail with an
// [*eventloop.OpError] that matches net.ErrClosed. The error of a command that was sent also
// matches [ErrUncertain]. Consumers end as after [Consumer.Abort]. Abort also ends a Close in progress. If Abort is called on the loop, no
// callback of the client and its consumers is called after it.
func (c *Client) Abort() {
	c.aborted.Store(true)
	c.refuse(c.closedErr)
	c.mu.Lock()
	consumers := c.openConsumers()
	c.mu.Unlock()
	for _, k := range consumers {
		k.Abort()
	}
	c.l.Post(func() {
		if c.over {
			return
		}
		c.mu.Lock()
		c.waiting = append(c.waiting, c.added...)
		c.added = nil
		c.mu.Unlock()
		c.failWaiting(c.closedErr, all)
		if link := c.link; link != nil {
			c.link = nil
			link.end(c.closedErr)
		}
		c.finish()
	})
}
