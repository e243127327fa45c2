package redis

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A pipe is a queue of commands with the connection that carries them. Any goroutine can
// add commands. The commands added in one turn of the loop are sent in one write.
//
// A pipe connects when there is a command to send. If the connection is lost, the commands
// that were written fail. The others wait for the next connection, unless the pipe is
// limited to one connection and that connection was up.
type pipe struct {
	queue
	l       *eventloop.Loop
	events  pipeEvents
	single  bool // it ends with its first connection that was up
	flusher func()

	// Only on the loop.
	link    *link // nil if there is none
	backoff backoff
	retryAt int64 // the earliest time of the next attempt to connect, see queue.clock
	retry   *eventloop.Timer
	timer   *eventloop.Timer // for the oldest request
	armed   int64            // when the timer is due; 0: it is not armed
	waiting bool             // the timer was late and is armed again; see waitsForLoop
	stopped bool             // the timer is no longer armed
	lost    error            // why there is no connection
}

// pipeEvents are the callbacks of a pipe. Each may be nil.
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

// send adds a command and schedules a flush. See queue.add.
func (p *pipe) send(to waiter, cancel *canceling, wait time.Duration, args ...any) error {
	flush, err := p.add(to, cancel, wait, args...)
	if flush {
		p.postFlush()
	}
	return err
}

// sendEncoded is like send, for encoded commands with n replies.
func (p *pipe) sendEncoded(to waiter, cancel *canceling, n int, encoded []byte, wait time.Duration) error {
	flush, err := p.addEncoded(to, cancel, n, encoded, wait)
	if flush {
		p.postFlush()
	}
	return err
}

// sendAgain is like sendEncoded, for a retry of a command that was already accepted. It
// does not refuse the command.
func (p *pipe) sendAgain(to waiter, cancel *canceling, encoded []byte) {
	if p.addAgain(to, cancel, encoded) {
		p.postFlush()
	}
}

// postFlush posts a flush. It fails only if the loop has ended; then the promises of the
// owner fail as well.
func (p *pipe) postFlush() { p.l.Post(p.flusher) }

// flush sends the queued commands, or connects first.
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
	} // any other error ends the connection, and linkDown will report it
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
	wasUp := p.link != nil && p.link.up
	p.link = nil
	p.setFlowing(false)
	p.lost = err
	p.retryAt = p.clock() + int64(p.backoff.delay())
	if f := p.events.state; f != nil && err != eventloop.ErrLoopClosed {
		p.l.Post(func() { f(false, err) })
	}
	switch {
	case p.single && (wasUp || err == eventloop.ErrLoopClosed):
		// Before the handshake was complete, nothing was sent, and the connection had no
		// state to lose.
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
	p.backoff.reset() // not after the handshake: the server may close every connection after it
	p.done(over)
	if p.expectMore() {
		p.postFlush()
	} else {
		p.armTimer() // the new oldest request may be due earlier
	}
}

func (p *pipe) dropped(over tally) { p.done(over) }
func (p *pipe) mustPause() bool    { return false }

func (p *pipe) unsolicited(v resp.Value) error {
	if v.Kind == resp.Push {
		return nil // an unsolicited push, such as those of CLIENT TRACKING
	}
	return errUnsolicited
}

func (p *pipe) sendFailed(err error) {
	if f := p.events.sendFailed; f != nil {
		p.l.Post(func() { f(err) })
	}
}

// armTimer sets the timer to the timeout of the oldest request.
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

// timedOut fails overdue requests. It closes a connection with an overdue reply, because
// no later reply can arrive before it.
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

// waitsForLoop arms the timer again if it was late, see lateTimer. It reports whether the
// timer is armed again.
func (p *pipe) waitsForLoop(late time.Duration) bool {
	if p.waiting = !p.waiting && late > lateTimer; !p.waiting {
		return false
	}
	p.timer.Reset(lateGrace)
	return true
}

// notSent returns the error of commands that time out before they are sent.
func (p *pipe) notSent() error {
	return p.o.opError(&notSentError{p.lost})
}

// A notSentError matches eventloop.ErrTimeout in an OpError, and the reason why there was
// no connection.
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

// giveUp fails all pending commands with err. If any were sent, it also closes the
// connection. The server has not failed, so the next attempt to connect is not delayed.
// giveUp runs on the loop.
func (p *pipe) giveUp(err error) {
	p.failAll(err)
	if p.link != nil && p.link.up && p.link.inFlight.len > 0 {
		p.link.end(err)
		p.backoff.reset()
		p.retryAt, p.lost = 0, nil
	}
}

// abort ends the pipe at once: all pending commands fail with err. It runs on the loop.
func (p *pipe) abort(err error) {
	p.close(err)
	p.failAll(err)
	if p.link != nil {
		p.link.end(err)
	}
	p.stopTimers()
}

// finish closes the connection of a drained pipe, and calls gone when it is closed. It
// runs on the loop.
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
