package redis

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A waiter gets the replies to a request.
type waiter interface {
	// answer is called on the loop with a reply.
	answer(v resp.Value)

	// fail is called instead of the replies that are missing. It is called on any
	// goroutine.
	fail(err error)
}

// A request describes a command, or the commands of a transaction, without their bytes.
type request struct {
	to      waiter     // nil: the replies are dropped
	cancel  *canceling // nil if it cannot be canceled
	due     int64      // when it times out, see queue.clock; 0: never
	size    int        // bytes
	replies int        // the number of missing replies
}

// A queue holds unsent commands, as bytes, with a request for each. Any goroutine can add
// commands. The loop writes them to a connection.
type queue struct {
	o     *Options
	owner *eventloop.Owner
	epoch time.Time

	mu       sync.Mutex // guards the following
	err      error      // the error of later commands, once the queue is closed
	out      []byte
	requests []request
	canceled int   // the number of canceled requests
	posted   bool  // a flush is posted
	flowing  bool  // the connection is up, so that a flush empties the queue
	now      int64 // the time of the calls; read once per flush
	held     int64 // until this time, blocking commands may delay the commands behind them

	// For the commands in the queue and for those written to its connection.
	pending, pendingBytes int
	sends                 int                            // requests without a waiter
	hold                  *eventloop.Promise[struct{}]   // keeps the loop alive for them
	drained               []*eventloop.Promise[struct{}] // resolved when nothing is pending
}

// outKept is the largest capacity of an output buffer that the queue keeps for reuse.
const outKept = 256 << 10

func (q *queue) init(o *Options, owner *eventloop.Owner) {
	q.o, q.owner, q.epoch = o, owner, time.Now()
}

// clock returns the time since the queue was made. It is never zero.
func (q *queue) clock() int64 { return int64(time.Since(q.epoch)) + 1 }

var errNoCommand = errors.New("redis: no command")

// add adds a command that waits at the server for up to wait, or for noLimit. It reports
// whether the caller must post a flush. If it returns an error, it has added nothing.
func (q *queue) add(to waiter, cancel *canceling, wait time.Duration, args ...any) (flush bool, err error) {
	if len(args) == 0 {
		return false, errNoCommand
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mayAdd(cancel); err != nil {
		return false, err
	}
	begin := len(q.out)
	out, bad := resp.AppendCommand(q.out, args...)
	if bad >= 0 {
		return false, errBadArg(bad, args[bad])
	}
	q.out = out
	size := len(q.out) - begin
	if size > q.o.MaxPendingBytes-q.pendingBytes {
		q.out = q.out[:begin]
		return false, eventloop.ErrBufferFull
	}
	return q.added(request{to: to, cancel: cancel, size: size, replies: 1}, wait), nil
}

// addEncoded is like add, for encoded commands with n replies.
func (q *queue) addEncoded(to waiter, cancel *canceling, n int, encoded []byte, wait time.Duration) (flush bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.mayAdd(cancel); err != nil {
		return false, err
	}
	if len(encoded) > q.o.MaxPendingBytes-q.pendingBytes {
		return false, eventloop.ErrBufferFull
	}
	q.out = append(q.out, encoded...)
	return q.added(request{to: to, cancel: cancel, size: len(encoded), replies: n}, wait), nil
}

// addAgain adds a retry of a command that was already accepted, even if the queue is now
// full or closed: code that waits for pending commands also waits for this one. It does
// nothing if the command was canceled.
func (q *queue) addAgain(to waiter, cancel *canceling, encoded []byte) (flush bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cancel != nil && cancel.state == canceled {
		return false
	}
	q.out = append(q.out, encoded...)
	return q.added(request{to: to, cancel: cancel, size: len(encoded), replies: 1}, 0)
}

func (q *queue) mayAdd(cancel *canceling) error {
	switch {
	case q.err != nil:
		return q.err
	case q.pending >= q.o.MaxPending:
		return eventloop.ErrBufferFull
	case cancel != nil && cancel.state == canceled:
		return errCanceled
	}
	return nil
}

// errCanceled says that a command was canceled before it was added, and has already failed.
var errCanceled = errors.New("redis: canceled")

// errBadArg is the error of argument i, which is a. It lets a stay on the stack, unlike
// a function that passes it to fmt.
func errBadArg(i int, a any) error {
	if list, ok := a.([]any); ok { // one of its elements is invalid
		for _, e := range list {
			if _, _, ok := resp.AppendArg(nil, e); !ok {
				return errBadArg(i, e)
			}
		}
	}
	return fmt.Errorf("redis: argument %d of a command has the type %v, which has no encoding", i, reflect.TypeOf(a))
}

// added adds the request for bytes that were added. The caller holds the lock.
func (q *queue) added(r request, wait time.Duration) (flush bool) {
	if q.o.Timeout > 0 {
		r.due = q.dueAfter(wait)
	}
	if r.cancel != nil {
		r.cancel.state = queued
	}
	if r.to == nil {
		q.addSend()
	}
	q.requests = append(q.requests, r)
	q.pending++
	q.pendingBytes += r.size
	flush = !q.posted
	q.posted = true
	return flush
}

// dueAfter returns the due time of a request that is added now and waits at the server for
// up to wait, or for noLimit. The due times of later requests include this wait.
func (q *queue) dueAfter(wait time.Duration) (due int64) {
	if len(q.requests) == 0 || !q.flowing {
		q.now = q.clock()
	}
	begin := max(q.now, q.held)
	switch {
	case wait == noLimit || begin > math.MaxInt64/2:
		q.held = math.MaxInt64
		return 0
	case wait > 0:
		begin += int64(wait)
		q.held = begin
	}
	return begin + int64(q.o.Timeout)
}

// addSend counts a request without a waiter. While there are any, a promise keeps the
// loop alive.
func (q *queue) addSend() {
	if q.sends++; q.sends == 1 {
		q.hold = &eventloop.Promise[struct{}]{}
		q.hold.Init(q.owner)
		q.hold.Ignore()
	}
}

// done subtracts finished requests from the pending counts.
func (q *queue) done(over tally) {
	if over.requests == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.doneLocked(over)
}

// A tally counts requests. It does not count those of a handshake, which have no size,
// because they were not queued.
type tally struct{ requests, bytes, sends int }

func (t *tally) add(r *request) {
	if r.size == 0 {
		return
	}
	t.requests++
	t.bytes += r.size
	if r.to == nil {
		t.sends++
	}
}

func (q *queue) doneLocked(over tally) {
	q.pending -= over.requests
	q.pendingBytes -= over.bytes
	if over.sends > 0 {
		if q.sends -= over.sends; q.sends == 0 {
			q.hold.Resolve(struct{}{}, nil)
			q.hold = nil
		}
	}
	if q.pending == 0 {
		q.held = 0
		for _, p := range q.drained {
			p.Resolve(struct{}{}, nil)
		}
		q.drained = nil
	}
}

// close makes later commands fail with err. Only the first call has an effect.
func (q *queue) close(err error) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false
	}
	q.err = err
	return true
}

// setFlowing records whether the connection is up.
func (q *queue) setFlowing(flowing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flowing = flowing
}

// isEmpty reports whether there are no unsent commands.
func (q *queue) isEmpty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.requests) == q.canceled
}

// firstDue returns the due time of the first request in the queue, or 0.
func (q *queue) firstDue() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.requests) == 0 {
		return 0
	}
	return q.requests[0].due
}

// writeTo writes the content of the queue to a link. If the connection does not accept it,
// the queue is unchanged.
func (q *queue) writeTo(lk *link) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropCanceled()
	if len(q.requests) == 0 {
		return nil
	}
	if _, err := lk.conn.Write(q.out); err != nil {
		return err
	}
	for i := range q.requests {
		r := &q.requests[i]
		if r.cancel != nil {
			r.cancel.state = inFlight
		}
		lk.inFlight.push(*r)
	}
	q.reset()
	return nil
}

// expectMore reports whether to post a flush although the queue is empty. Callbacks posted
// with replies often add further commands. A flush that is posted now runs right after
// them, in their turn. If they had to post it, it would need its own turn, which, with one
// command at a time, would cost the dispatcher its direct wait for the reply.
func (q *queue) expectMore() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.posted || q.err != nil {
		return false
	}
	q.posted = true
	return true
}

// flushing records that the posted flush now runs.
func (q *queue) flushing() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.posted = false
}

// reset empties the queue. The caller holds the lock.
func (q *queue) reset() {
	clear(q.requests)
	q.requests = q.requests[:0]
	q.out = q.out[:0]
	if cap(q.out) > outKept {
		q.out = nil
	}
	if cap(q.requests) > ringKept {
		q.requests = nil
	}
}

// dropCanceled removes the requests that were canceled. The caller holds the lock.
func (q *queue) dropCanceled() {
	if q.canceled > 0 {
		q.canceled = 0
		q.remove(func(r *request) bool { return r.cancel != nil && r.cancel.state == canceled })
	}
}

// remove removes the requests that match, with their bytes. The caller holds the lock.
func (q *queue) remove(match func(r *request) bool) {
	var over tally
	kept, out, pos := q.requests[:0], q.out[:0], 0
	for i := range q.requests {
		r := q.requests[i]
		if match(&r) {
			over.add(&r)
		} else {
			kept = append(kept, r)
			out = append(out, q.out[pos:pos+r.size]...)
		}
		pos += r.size
	}
	clear(q.requests[len(kept):])
	q.requests, q.out = kept, out
	q.doneLocked(over)
}

// failUntil fails the requests that are due by now, or all requests if now is
// math.MaxInt64. It reports whether any of them had no waiter.
func (q *queue) failUntil(now int64, err error) (sends bool) {
	var failed []waiter
	q.mu.Lock()
	q.canceled = 0
	q.remove(func(r *request) bool {
		if r.cancel != nil && r.cancel.state == canceled {
			return true
		}
		if now != math.MaxInt64 && (r.due == 0 || r.due > now) {
			return false
		}
		if r.to == nil {
			sends = true
		} else {
			failed = append(failed, r.to)
		}
		return true
	})
	q.mu.Unlock()
	for _, w := range failed {
		w.fail(err)
	}
	return sends
}

// A canceling is the state of a request that its context can cancel.
type canceling struct {
	state cancelState // guarded by the lock of the queue
	stop  func() bool // stops watching the context; set before the request is added
}

type cancelState uint8

const (
	begun    cancelState = iota // not in the queue yet
	queued                      // unsent: can be removed from the queue
	inFlight                    // sent: waiting for the reply
	canceled
)

// end is called when the request is finished.
func (c *canceling) end() {
	if c.stop != nil {
		c.stop()
	}
}

// cancelRequest cancels a request. It reports whether the request had been sent.
func (q *queue) cancelRequest(c *canceling) (sent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := c.state
	c.state = canceled // a script is not sent a second time
	if before == queued {
		q.canceled++
		// There may be no connection to write the others to, or all requests of a closed
		// queue may be canceled.
		if q.canceled > 16 && q.canceled > len(q.requests)/2 || q.err != nil && q.canceled == len(q.requests) {
			q.dropCanceled()
		}
	}
	return before == inFlight
}
