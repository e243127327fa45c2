package redis

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A pipe is a queue and the connection that its commands go to. Any goroutine adds
// commands. What one turn of the loop has added leaves in one write.
//
// A pipe connects when there is something to send. If the connection is lost, the
// commands that were written fail, and the others wait for the next connection, unless
// the pipe is for one connection only.
type pipe struct {
	queue
	l       *eventloop.Loop
	events  pipeEvents
	single  bool // for one connection only
	flusher func()

	// Only on the loop.
	link    *link // nil if there is none
	backoff backoff
	retryAt int64 // before it there is no attempt to connect, see queue.clock
	retry   *eventloop.Timer
	timer   *eventloop.Timer // for the oldest request
	armed   int64            // when the timer is due; 0: it is not armed
	waiting bool             // the timer was late and is armed again; see waitsForLoop
	stopped bool             // it is not armed any more
	lost    error            // why there is no connection
}

// pipeEvents are what a pipe tells. Each may be nil.
type pipeEvents struct {
	state      func(up bool, err error)
	sendFailed func(err error)
	gone       func(err error) // a single pipe has lost its connection
}

func newPipe(l *eventloop.Loop, o *Options, owner *eventloop.Owner) *pipe {
	p := &pipe{l: l, backoff: backoff{min: o.MinBackoff, max: o.MaxBackoff}}
	p.queue.init(o, owner)
	p.flusher = p.flush
	return p
}

// send adds a command and has it sent. See queue.add.
func (p *pipe) send(to waiter, cancel *canceling, wait time.Duration, args ...any) error {
	flush, err := p.add(to, cancel, wait, args...)
	if flush {
		p.postFlush()
	}
	return err
}

// sendEncoded is send for commands that are encoded, and have n replies.
func (p *pipe) sendEncoded(to waiter, cancel *canceling, n int, encoded []byte, wait time.Duration) error {
	flush, err := p.addEncoded(to, cancel, n, encoded, wait)
	if flush {
		p.postFlush()
	}
	return err
}

// sendAgain is sendEncoded for another attempt of a command that was taken already: it
// is not refused any more.
func (p *pipe) sendAgain(to waiter, cancel *canceling, encoded []byte) {
	if p.addAgain(to, cancel, encoded) {
		p.postFlush()
	}
}

// postFlush posts a flush. It fails only if the loop has ended; then the promises of the
// owner fail as well.
func (p *pipe) postFlush() { p.l.Post(p.flusher) }

// flush sends what is in the queue, or arranges for that.
func (p *pipe) flush() {
	p.flushing()
	switch {
	case p.link != nil && p.link.up:
		p.write()
	case p.link == nil && !p.isEmpty():
		p.connect()
	}
	p.armTimer()
}

func (p *pipe) write() {
	err := p.writeTo(p.link)
	if errors.Is(err, eventloop.ErrBufferFull) { // the connections of the loop have too much output
		p.retryIn(writeRetry)
	} // any other error is the end of the connection, which linkDown is about to tell
}

const writeRetry = 10 * time.Millisecond

// retryIn flushes after d.
func (p *pipe) retryIn(d time.Duration) {
	if p.retry == nil {
		p.retry = p.l.AfterFunc(d, p.flush)
		p.retry.Unref() // pending commands keep the loop alive
	} else {
		p.retry.Reset(d)
	}
}

func (p *pipe) connect() {
	if left := time.Duration(p.retryAt - p.clock()); left > 0 {
		p.retryIn(left)
		return
	}
	link, err := dialLink(p.l, p.o, p)
	if err != nil { // the address is malformed, or the loop has ended
		p.failAll(err)
		return
	}
	p.link = link
}

func (p *pipe) linkUp() {
	p.setFlowing(true)
	if f := p.events.state; f != nil {
		p.l.Post(func() { f(true, nil) })
	}
	p.flush()
}

func (p *pipe) linkDown(err error) {
	p.link = nil
	p.setFlowing(false)
	p.lost = err
	p.retryAt = p.clock() + int64(p.backoff.delay())
	if f := p.events.state; f != nil && err != eventloop.ErrLoopClosed {
		p.l.Post(func() { f(false, err) })
	}
	switch {
	case p.single:
		p.close(err)
		p.failAll(err)
		if p.events.gone != nil {
			p.events.gone(err)
		}
	case isPermanent(err):
		p.failAll(err)
	default:
		p.flush()
	}
}

func (p *pipe) answered(over tally) {
	p.backoff.reset() // not after a handshake: the server may end all connections after it
	p.done(over)
	if p.expectMore() {
		p.postFlush()
	} else {
		p.armTimer() // the request that is the oldest now may be due earlier
	}
}

func (p *pipe) dropped(over tally) { p.done(over) }
func (p *pipe) brake() bool        { return false }

func (p *pipe) unasked(v resp.Value) error {
	if v.Kind == resp.Push {
		return nil // news that were not asked for, such as those of CLIENT TRACKING
	}
	return errUnasked
}

func (p *pipe) sendFailed(err error) {
	if f := p.events.sendFailed; f != nil {
		p.l.Post(func() { f(err) })
	}
}

// armTimer arranges for the oldest request to time out.
func (p *pipe) armTimer() {
	if p.stopped || p.waiting {
		return
	}
	due := p.oldestDue()
	if due == 0 || p.armed != 0 && p.armed <= due {
		return
	}
	p.armed = due
	d := time.Duration(due - p.clock())
	if p.timer == nil {
		p.timer = p.l.AfterFunc(d, p.timedOut)
		p.timer.Unref()
	} else {
		p.timer.Reset(d)
	}
}

// oldestDue returns when the oldest request times out, or 0.
func (p *pipe) oldestDue() int64 {
	if p.link != nil && p.link.up {
		if r := p.link.inFlight.front(); r != nil {
			return r.due
		}
	}
	return p.firstDue()
}

// timedOut fails what is overdue. A connection with an overdue reply is given up: no
// later reply can come before it.
func (p *pipe) timedOut() {
	p.armed = 0
	now := p.clock()
	switch due := p.oldestDue(); {
	case due == 0 || due > now:
		p.waiting = false
	case p.waitsForLoop(time.Duration(now - due)):
		return
	default:
		if p.link != nil && p.link.up && p.link.inFlight.len > 0 {
			p.link.endOverdue(errGivenUp, now)
		}
		p.expire(now, p.notSent())
	}
	p.armTimer()
}

// waitsForLoop gives replies that have arrived time to be read, if the timer is late: the
// callback that has held up the loop has held up reading as well. It reports whether the
// timer is armed again.
func (p *pipe) waitsForLoop(late time.Duration) bool {
	if p.waiting = !p.waiting && late > lateTimer; !p.waiting {
		return false
	}
	p.timer.Reset(lateGrace)
	return true
}

const (
	lateTimer = 10 * time.Millisecond // that late the timer is only if a callback is slow
	lateGrace = 50 * time.Millisecond
)

// notSent is the error of commands that time out before they are sent.
func (p *pipe) notSent() error {
	return p.o.opError(&notSentError{p.lost})
}

// A notSentError matches eventloop.ErrTimeout in an OpError, and the reason for which
// there was no connection.
type notSentError struct{ reason error }

func (e *notSentError) Error() string {
	if e.reason == nil {
		return "timeout, not sent: no connection yet"
	}
	return fmt.Sprintf("timeout, not sent: %v", e.reason)
}
func (e *notSentError) Unwrap() error { return e.reason }
func (e *notSentError) Timeout() bool { return true }

// expire fails the requests in the queue that are due by now.
func (p *pipe) expire(now int64, err error) { p.failUntil(now, err) }

// failAll fails all requests in the queue.
func (p *pipe) failAll(err error) { p.failUntil(math.MaxInt64, err) }

func (p *pipe) failUntil(now int64, err error) {
	if p.queue.failUntil(now, err) {
		p.sendFailed(err)
	}
}

// drain calls f on the loop when no command is pending.
func (p *pipe) drain(f func()) {
	done := &eventloop.Promise[struct{}]{}
	if done.Init(p.owner) != nil {
		return
	}
	done.Then(func(struct{}, error) { f() })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropCanceled()
	if p.pending == 0 {
		done.Resolve(struct{}{}, nil)
	} else {
		p.drained = append(p.drained, done)
	}
}

// giveUp fails everything with err. If something was sent, the connection ends, too. That
// is no failure of the server, so the next attempt to connect is not delayed. On the loop.
func (p *pipe) giveUp(err error) {
	p.failAll(err)
	if p.link != nil && p.link.up && p.link.inFlight.len > 0 {
		p.link.end(err)
		p.backoff.reset()
		p.retryAt, p.lost = 0, nil
	}
}

// abort ends the pipe at once: everything pending fails with err. On the loop.
func (p *pipe) abort(err error) {
	p.close(err)
	p.failAll(err)
	if p.link != nil {
		p.link.end(err)
	}
	p.stopTimers()
}

// finish closes the connection of a pipe that is drained, and calls gone when it is
// closed. On the loop.
func (p *pipe) finish(gone func()) {
	p.stopTimers()
	link := p.link
	p.link = nil
	if link == nil {
		gone()
	} else {
		link.leave(gone)
	}
}

func (p *pipe) stopTimers() {
	for _, t := range []*eventloop.Timer{p.timer, p.retry} {
		if t != nil {
			t.Stop()
		}
	}
	p.stopped = true
}
