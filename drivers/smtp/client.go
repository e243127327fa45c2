package smtp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/onloop/eventloop"
)

// A Client sends mails to one server, over a pool of sessions. All its methods may be
// called from any goroutine and from any callback; none of them waits, and none runs
// code of the application.
//
// The client connects when there is a mail to send. Pending mails keep the loop alive;
// sessions without a mail do not.
type Client struct {
	l     *eventloop.Loop
	opts  Options
	owner *eventloop.Owner

	mu      sync.Mutex // guards the following, and the fields of a job that name it
	queue   []*job     // mails that wait for a session, in order
	bytes   int        // total size of the []byte bodies in queue
	pending int        // mails without a result
	posted  bool       // pump is posted
	closing *closing   // not nil after Close or Abort

	pool pool // used only on the loop
}

// closing is the state of Close and Abort.
type closing struct {
	abort   bool
	done    *eventloop.Future[struct{}]
	resolve func(struct{}, error)
}

// New returns a client for the server at o.Addr. It dials nothing before the first mail.
// It fails if the options are invalid, and after the end of the loop. It may be called
// before [eventloop.Loop.Run].
//
// [eventloop.Loop.Handles] shows the client with the kind "smtp", its address and the
// number of pending mails. When [eventloop.Loop.Shutdown] begins, idle sessions end with
// QUIT; pending mails are sent.
func New(l *eventloop.Loop, o *Options) (*Client, error) {
	if l == nil {
		return nil, errors.New("smtp: nil Loop")
	}
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{l: l, opts: opts}
	if c.owner, err = eventloop.NewOwner(l, "smtp", opts.Addr, c.ended); err != nil {
		return nil, err
	}
	c.pool.init(c)
	c.owner.OnShutdown(c.pool.shutdown)
	return c, nil
}

// ended runs at the end of the loop. The futures have already failed.
func (c *Client) ended(err error) {
	for _, j := range c.waiting() {
		j.giveUp(err)
	}
}

// A job is a mail to send.
type job struct {
	eventloop.Promise[Receipt]
	c      *Client
	mail   Mail
	body   *body
	unhook func() bool // stops watching the caller's context
	tries  int         // sessions lost in the middle of the mail; used only on the loop

	// Guarded by c.mu.
	until   time.Time // when the wait for a session times out; zero: never
	state   jobState
	session *session // sends the mail; giving up the mail closes its connection
}

// jobState is the progress of a mail.
type jobState uint8

const (
	jobQueued  jobState = iota
	jobSending          // a session has the mail and has not sent its end
	jobSent             // the mail was sent completely; its reply is outstanding
	jobSettled          // the future has a result
)

// Send sends the mail and returns a future of the server's receipt. If the future
// succeeds, the server accepted the mail for at least one recipient;
// [Receipt.Rejected] lists the others.
//
// The client starts mails in the order of the calls, each on the first free session.
// The future fails at once if the mail is invalid, if the queue is full, with an error that
// matches [eventloop.ErrBufferFull], or if the client is closed, with one that matches
// [net.ErrClosed]. Each error is an [*eventloop.OpError] with [OpSend] and the address of the
// server. Other failures are:
//
//   - an [*Error], if the server refused the mail, or all of its recipients;
//   - [ErrUncertain], if the connection was lost, or ctx ended, after the end of the mail
//     was sent and before the reply to it;
//   - an error that matches the error of ctx and its cause, if ctx has ended. The client
//     then gives up the mail and closes the session that was sending it;
//   - the error of the connection. If the connection was lost before the end of the mail
//     was sent, the client first retries once, on another session, provided that it can
//     read the body again; see [Mail.Body];
//   - an error that matches [eventloop.ErrTimeout], if the server did not reply within
//     Options.ReplyTimeout, or the mail got no session within Options.QueueTimeout;
//   - the error of reading the body;
//   - [ErrNoTLS], [ErrAuth], [ErrTooLarge], [ErrMalformed], [ErrReplyTooLarge], or
//     errors.ErrUnsupported.
//
// If the loop ends first, the future fails with [eventloop.ErrLoopClosed], whether or not
// the server accepts the mail.
//
// After a transient failure to connect, such as a refused connection, the client retries
// while the mails wait. After a permanent failure, such as wrong credentials, all waiting
// mails fail with that error if the client has no other session.
func (c *Client) Send(ctx context.Context, m Mail) *eventloop.Future[Receipt] {
	if ctx == nil {
		panic("smtp: nil context")
	}
	j := &job{c: c, mail: m.clone()}
	if j.Init(c.owner) != nil {
		return &j.Future // it has failed
	}
	err := j.mail.check()
	if err == nil {
		err = c.enqueue(ctx, j)
	}
	if err != nil {
		j.Resolve(Receipt{}, c.opError(err))
	}
	return &j.Future
}

// enqueue adds the mail to the queue, or returns an error.
func (c *Client) enqueue(ctx context.Context, j *job) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	size := memory(&j.mail)
	switch {
	case c.closing != nil:
		return errClientClosed
	case len(c.queue) >= c.opts.MaxQueue, size > c.opts.MaxQueueBytes-c.bytes:
		return fmt.Errorf("too many mails wait: %w", eventloop.ErrBufferFull)
	}
	j.setUntil()
	j.body = newBody(c.l, j.mail.Body)
	c.queue = append(c.queue, j)
	c.bytes += size
	c.pending++
	c.wakeLocked()
	if ctx.Done() != nil {
		j.unhook = context.AfterFunc(ctx, func() { j.cancel(contextError(ctx)) })
	}
	return nil
}

// contextError returns the error of a mail that ended because ctx did. It matches the error
// of ctx and its cause.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) || cause == eventloop.ErrLoopClosed {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// setUntil sets the deadline of a wait for a session that begins now.
func (j *job) setUntil() {
	if d := j.c.opts.QueueTimeout; d > 0 {
		j.until = time.Now().Add(d)
	}
}

// memory returns the number of bytes that a waiting mail occupies in the client.
func memory(m *Mail) int {
	p, _ := m.Body.([]byte)
	return len(p)
}

// wakeLocked posts pump, which looks at the queue. The caller holds the lock.
func (c *Client) wakeLocked() {
	if !c.posted {
		c.posted = c.l.Post(c.pool.pump) == nil
	}
}

// take removes the first mail from the queue and returns it, if ok permits that mail.
// Otherwise it returns nil.
func (c *Client) take(ok func(j *job) bool) *job {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || !ok(c.queue[0]) {
		return nil
	}
	j := c.queue[0]
	c.removeLocked(j)
	j.state = jobSending
	return j
}

// attach records that s sends the mail. It returns false if the mail is settled.
func (j *job) attach(s *session) bool {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.state == jobSettled {
		return false
	}
	j.session = s
	return true
}

// removeLocked removes j from the queue. The caller holds the lock.
func (c *Client) removeLocked(j *job) {
	if i := slices.Index(c.queue, j); i >= 0 {
		c.queue = slices.Delete(c.queue, i, i+1)
		c.bytes -= memory(&j.mail)
	}
}

// waiting returns the mails that wait for a session.
func (c *Client) waiting() []*job {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.queue)
}

// queued returns the number of mails that wait for a session.
func (c *Client) queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// overdue returns the queued mails whose wait has timed out, and the time of the next such
// timeout.
func (c *Client) overdue(now time.Time) (list []*job, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.queue {
		switch {
		case j.until.IsZero():
		case !now.Before(j.until):
			list = append(list, j)
		case next.IsZero() || j.until.Before(next):
			next = j.until
		}
	}
	return list, next
}

// requeue puts a mail back at the front of the queue for a retry. It does nothing after
// Abort, or if the mail is settled.
func (c *Client) requeue(j *job) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.state == jobSettled || c.closing != nil && c.closing.abort {
		return false
	}
	j.state, j.session = jobQueued, nil
	j.setUntil()
	c.queue = slices.Insert(c.queue, 0, j)
	c.bytes += memory(&j.mail)
	c.wakeLocked()
	return true
}

// settled reports whether the mail has its result.
func (j *job) settled() bool {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.state == jobSettled
}

// sending(true) records that the end of the mail is about to be sent; sending(false), that
// it was not sent after all.
func (j *job) sending(sent bool) {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	switch {
	case j.state == jobSettled:
	case sent:
		j.state = jobSent
	default:
		j.state = jobSending
	}
}

// settle gives the mail its result, if it has none. It runs on the loop.
func (j *job) settle(r Receipt, err error) {
	if err != nil {
		err = j.c.opError(err)
	}
	if _, _, ok := j.finish(false); ok {
		j.body.end()
		j.Resolve(r, err)
	}
}

// cancel gives up the mail because its context has ended with err. A queued mail fails at
// once. A mail that a session has fails on the loop, so that the session's task cannot
// read the body at the same time: once the mail has its result, the application owns the
// body. cancel may be called from any goroutine.
func (j *job) cancel(err error) {
	if _, _, ok := j.finish(true); !ok {
		j.c.l.Post(func() { j.giveUp(err) })
		return
	}
	j.body.end()
	j.Resolve(Receipt{}, j.c.opError(err))
}

// giveUp makes err the result of the mail, if it has none, and closes the connection of
// the session that is sending it: SMTP has no other way to withdraw a mail. giveUp runs
// on the loop.
func (j *job) giveUp(err error) {
	state, s, ok := j.finish(false)
	if !ok {
		return
	}
	if state == jobSent {
		err = uncertain(err)
	}
	if s != nil {
		s.conn.Abort()
	}
	j.body.end()
	j.Resolve(Receipt{}, j.c.opError(err))
}

// finish marks j as settled. It does nothing if j is already settled, or if mustWait is
// set and j is not in the queue. It returns the previous state and session of j, and
// whether it has settled j.
func (j *job) finish(mustWait bool) (state jobState, s *session, ok bool) {
	c := j.c
	c.mu.Lock()
	state, s = j.state, j.session
	if state == jobSettled || mustWait && state != jobQueued {
		c.mu.Unlock()
		return state, nil, false
	}
	if state == jobQueued {
		c.removeLocked(j)
	}
	j.state, j.session = jobSettled, nil
	if c.pending--; c.pending == 0 && c.closing != nil {
		c.wakeLocked()
	}
	c.mu.Unlock()
	if j.unhook != nil {
		j.unhook()
	}
	return state, s, true
}

// Close ends the client gracefully: it accepts no new mails, sends the pending ones, and
// ends the sessions with QUIT. The future succeeds when the last session is closed. A
// second call, or a call after Abort, fails with an error that matches [net.ErrClosed].
func (c *Client) Close() *eventloop.Future[struct{}] { return c.close(false) }

// Abort ends the client at once and closes its connections. Pending mails fail
// with an error that matches [net.ErrClosed]; the error of a mail that was sent completely
// also matches [ErrUncertain].
func (c *Client) Abort() { c.close(true).Ignore() }

func (c *Client) close(abort bool) *eventloop.Future[struct{}] {
	done, resolve := eventloop.NewFuture[struct{}](c.l)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing == nil:
		c.closing = &closing{done: done, resolve: resolve}
	default:
		resolve(struct{}{}, c.opError(errClientClosed))
	}
	c.closing.abort = c.closing.abort || abort
	c.wakeLocked()
	return done
}

// Pending returns the number of mails that have no result yet.
func (c *Client) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending
}
