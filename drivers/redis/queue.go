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

// A request is what is known of a command, or of the commands of a transaction, apart
// from their bytes.
type request struct {
	to      waiter     // nil: the replies are dropped
	cancel  *canceling // nil if it cannot be canceled
	due     int64      // when it times out, see queue.clock; 0: never
	size    int        // bytes
	replies int        // that are missing
}

// A queue holds commands that have not been sent, as bytes, and what is known of each.
// Any goroutine adds to it. On the loop, what it holds is written to a connection.
type queue struct {
	o     *Options
	owner *eventloop.Owner
	epoch time.Time

	mu       sync.Mutex // guards the following
	err      error      // of later commands, once the queue is closed
	out      []byte
	requests []request
	canceled int   // of the requests
	posted   bool  // a flush is on its way
	flowing  bool  // the connection is up, so that a flush empties the queue
	now      int64 // the time of the calls; read once for those of one flush
	held     int64 // until then commands that wait at the server may hold up others

	// Of the queue, and of the connection that its commands were written to.
	pending, pendingBytes int
	sends                 int                            // requests without a waiter
	hold                  *eventloop.Promise[struct{}]   // keeps the loop alive for them
	drained               []*eventloop.Promise[struct{}] // resolved when nothing is pending
}

// outKept is the capacity of the buffer that is kept.
const outKept = 256 << 10

func (q *queue) init(o *Options, owner *eventloop.Owner) {
	q.o, q.owner, q.epoch = o, owner, time.Now()
}

// clock returns the time since the queue was made. It is never zero.
func (q *queue) clock() int64 { return int64(time.Since(q.epoch)) + 1 }

var errNoCommand = errors.New("redis: no command")

// add adds a command that waits at the server for up to wait, or for noLimit. It reports
// whether a flush is to be posted. After an error it has added nothing.
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

// addEncoded is add for commands that are encoded, and have n replies.
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

// addAgain adds another attempt of a command that was taken already, even if the queue
// is full or closed since: what waits for pending commands waits for this one, too. It does
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

// errCanceled says that a command was canceled before it was added, and failed already.
var errCanceled = errors.New("redis: canceled")

// errBadArg is the error of argument i, which is a. It lets a stay on the stack, unlike
// a function that gives it to fmt.
func errBadArg(i int, a any) error {
	if list, ok := a.([]any); ok { // one of its elements is to blame
		for _, e := range list {
			if _, _, ok := resp.AppendArg(nil, e); !ok {
				return errBadArg(i, e)
			}
		}
	}
	return fmt.Errorf("redis: argument %d of a command has the type %v, which has no encoding", i, reflect.TypeOf(a))
}

// added takes the request whose bytes were added. The caller holds the lock.
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

// dueAfter returns when a request times out that is added now and waits at the server
// for up to wait, or for noLimit. Those that are added behind it wait for it as well.
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

// done takes requests that are over out of the count of what is pending.
func (q *queue) done(over tally) {
	if over.requests == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.doneLocked(over)
}

// A tally counts requests. Those of a handshake, which have no size, are not counted:
// they were in no queue.
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

// close refuses later commands with err. The first call counts.
func (q *queue) close(err error) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false
	}
	q.err = err
	return true
}

// setFlowing says whether the connection is up.
func (q *queue) setFlowing(flowing bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flowing = flowing
}

// isEmpty reports whether nothing waits to be sent.
func (q *queue) isEmpty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.requests) == q.canceled
}

// firstDue returns when the first request in the queue times out, or 0.
func (q *queue) firstDue() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.requests) == 0 {
		return 0
	}
	return q.requests[0].due
}

// writeTo writes the content of the queue to a link. If the connection does not take it,
// the queue stays as it is.
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

// expectMore reports whether to post a flush although nothing has been added. Callbacks
// that were posted with replies often ask for more. A flush that is posted now runs right
// after them, in their turn. If they had to post it, it would have a turn of its own,
// which with one command at a time costs the dispatcher its direct wait for the reply.
func (q *queue) expectMore() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.posted || q.err != nil {
		return false
	}
	q.posted = true
	return true
}

// flushing says that the flush that was posted runs.
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

// failUntil fails the requests that are due by now, or all if now is the greatest
// number. It reports whether there were some without a waiter.
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
	stop  func() bool // ends the watch of the context; set before the request is added
}

type cancelState uint8

const (
	begun    cancelState = iota // not in the queue yet
	queued                      // can be removed without trace
	inFlight                    // its reply will come
	canceled
)

// end is called when the request is over.
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
		// There may be no connection to write the others to, or nothing but this to wait
		// for.
		if q.canceled > 16 && q.canceled > len(q.requests)/2 || q.err != nil && q.canceled == len(q.requests) {
			q.dropCanceled()
		}
	}
	return before == inFlight
}
