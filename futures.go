package eventloop

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"time"
)

// A Future is the result of an operation that may still be going on. Operations
// of this package return one; [NewFuture] makes one for a function of the user's
// own. All methods may be called from any goroutine.
//
// A pending future keeps the loop alive, or what it belongs to does: a connection,
// a task. One that is pending when the loop ends by force ends with
// [ErrLoopClosed].
//
// A failure is reported if a second passes, or the loop ends, and the result was
// not asked for by Then, Done, Result, Wait, Await, All, Any, Race or Ignore. The
// report goes to Config.EventHandler, as an error that wraps the failure and, for
// tasks, functions of Work and HTTP requests, names the function and the source line
// that started it. Without an EventHandler it goes to Config.Logger, unless it is the
// ordinary end of a connection: information (see [IsInfo]) or net.ErrClosed.
type Future[T any] struct {
	handle

	mu        sync.Mutex // guards the following
	state     futureState
	asked     bool
	value     T
	err       error
	done      chan struct{}          // made when it is asked for
	then      func(v T, err error)   // the first, which is the only one of most futures
	thens     []func(v T, err error) // the others, in order
	observers observerList
	unasked   *unasked    // waits to be reported
	custody   *custody[T] // of a result that must not get lost, until it is taken
}

type futureState uint8

const (
	futurePending futureState = iota
	futureResolved
	futureClosed // by the end of the loop: Then is not called
)

// unaskedGrace is how long a failed future waits for somebody to ask.
const unaskedGrace = time.Second

// NewFuture returns a pending future and the function that resolves it, which
// may be called from any goroutine; calls after the first do nothing. After the
// end of the loop the future is failed with [ErrLoopClosed] from the start.
func NewFuture[T any](l *Loop) (f *Future[T], resolve func(v T, err error)) {
	f = newFuture[T](l, kindFuture)
	return f, f.resolve
}

func newFuture[T any](l *Loop, k kind) *Future[T] {
	f := &Future[T]{}
	f.loop = l
	if err := l.register(&f.handle, f, k, true); err != nil {
		f.finish(futureClosed, *new(T), err)
	}
	return f
}

// looseFuture returns a future that is no handle of its own: it ends with the
// handle that it belongs to.
func looseFuture[T any](l *Loop) *Future[T] {
	f := &Future[T]{}
	f.loop = l
	return f
}

// fail ends the future with err; with ErrLoopClosed as the end of the loop does.
func (f *Future[T]) fail(err error) {
	if err == ErrLoopClosed {
		f.finish(futureClosed, *new(T), err)
	} else {
		f.resolve(*new(T), err)
	}
}

func (f *Future[T]) isAsked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// failedFuture returns a future of an operation that could not begin.
func failedFuture[T any](l *Loop, err error) *Future[T] {
	f := newFuture[T](l, kindFuture)
	f.resolve(*new(T), err)
	return f
}

func (f *Future[T]) terminate() {
	f.finish(futureClosed, *new(T), ErrLoopClosed)
	f.loop.unregister(&f.handle)
}

func (f *Future[T]) describe() string { return "of " + reflect.TypeFor[T]().String() }

// resolve sets the result. The future is unregistered after its callbacks are
// posted, so that the loop does not end in between.
func (f *Future[T]) resolve(v T, err error) {
	f.finish(futureResolved, v, err)
	f.loop.unregister(&f.handle)
}

func (f *Future[T]) finish(state futureState, v T, err error) {
	f.finishFrom(origin{}, state, v, err)
}

// resolveFrom is resolve for an operation that knows where it comes from.
func (f *Future[T]) resolveFrom(o origin, v T, err error) {
	f.finishFrom(o, futureResolved, v, err)
	f.loop.unregister(&f.handle)
}

func (f *Future[T]) finishFrom(o origin, state futureState, v T, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != futurePending {
		return
	}
	f.state, f.value, f.err = state, v, err
	if f.done != nil {
		close(f.done)
	}
	then, thens := f.then, f.thens
	f.then, f.thens = nil, nil
	if state == futureResolved && then != nil {
		f.post(then)
		for _, then := range thens {
			f.post(then)
		}
	}
	for o := f.observers.pop(); o != nil; o = f.observers.pop() {
		o.notify()
	}
	if err != nil && !f.asked && state == futureResolved {
		f.unasked = f.loop.watchUnasked(o.from(err))
	}
}

// post arranges for then to be called with the result.
func (f *Future[T]) post(then func(v T, err error)) {
	v, err := f.value, f.err
	if f.custody == nil {
		f.loop.Post(func() { then(v, err) })
		return
	}
	f.loop.Post(func() {
		f.mu.Lock()
		f.take()
		f.mu.Unlock()
		then(v, err)
	})
}

// A custody is a result that has to be closed: a connection. If the loop is
// stopped before anybody has taken it, nobody will, and it is closed then.
type custody[T any] struct {
	handle
	f    *Future[T]
	drop func(v T)
}

// resolveInCustody is resolve for a result that drop closes. It returns false,
// and leaves v alone, if the loop has ended.
func (f *Future[T]) resolveInCustody(v T, drop func(v T)) bool {
	c := &custody[T]{f: f, drop: drop}
	c.unref = true // it is no reason for the loop to go on
	if f.loop.register(&c.handle, c, kindFuture, false) != nil {
		return false
	}
	f.mu.Lock()
	f.custody = c
	f.mu.Unlock()
	f.resolve(v, nil)
	return true
}

// take ends the custody: somebody has the result now. The caller holds f.mu.
func (f *Future[T]) take() {
	if c := f.custody; c != nil {
		f.custody = nil
		f.loop.unregister(&c.handle)
	}
}

// terminate drops the result at an end by force. Else it stays with the future,
// which can be asked after the end of the loop.
func (c *custody[T]) terminate() {
	f := c.f
	f.mu.Lock()
	v, mine := f.value, f.custody == c
	if mine = mine && f.loop.isStopping(); mine {
		f.state, f.value, f.err = futureClosed, *new(T), ErrLoopClosed
	}
	f.custody = nil
	f.mu.Unlock()
	if mine {
		c.drop(v)
	}
	f.loop.unregister(&c.handle)
}

func (c *custody[T]) describe() string { return "" }

// ask notes that somebody wants to know. The caller holds f.mu.
func (f *Future[T]) ask() {
	f.asked = true
	if f.unasked != nil {
		f.loop.forgetUnasked(f.unasked)
		f.unasked = nil
	}
}

// observe has cb called with the result at once when it is there, on whatever
// goroutine that happens, also when the loop ends by force. cb must not block
// and must not run code of the user; f is locked meanwhile. What observe returns
// is for ignore.
func (f *Future[T]) observe(cb func(v T, err error)) *observer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	o := &observer{}
	if f.state != futurePending {
		f.take()
		cb(f.value, f.err)
		return o
	}
	o.notify = func() { f.take(); cb(f.value, f.err) }
	f.observers.add(o)
	return o
}

// ignore undoes observe. It must not be called by an observer.
func (f *Future[T]) ignore(o *observer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observers.remove(o)
}

// An observer is told of a result. It is part of a list, so that whoever does not
// want to know any more leaves nothing behind at a future that stays pending, and
// so that a task, which has one of its own, waits without allocating.
type observer struct {
	next, prev *observer
	listed     bool
	notify     func()
}

// An observerList is a list of observers, in order.
type observerList struct{ first, last *observer }

func (l *observerList) add(o *observer) {
	o.prev, o.next, o.listed = l.last, nil, true
	if l.last == nil {
		l.first = o
	} else {
		l.last.next = o
	}
	l.last = o
}

// remove takes o from the list, if it is still there.
func (l *observerList) remove(o *observer) {
	if !o.listed {
		return
	}
	if o.prev == nil {
		l.first = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		l.last = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.next, o.prev, o.listed = nil, nil, false
}

// pop returns the first observer, which it takes from the list, or nil.
func (l *observerList) pop() *observer {
	o := l.first
	if o != nil {
		l.remove(o)
	}
	return o
}

// An unasked is a failure that nobody has asked about yet.
type unasked struct {
	err   error
	timer *Timer
}

// watchUnasked reports err in a while. The timer does not keep the loop alive:
// if the loop ends earlier, teardown reports. At the end of the loop it is too
// late for both, and err is only logged, unless it is the end itself.
func (l *Loop) watchUnasked(err error) *unasked {
	u := &unasked{err: err}
	u.timer = &Timer{loop: l, unref: true, f: func() {
		if l.forgetUnasked(u) {
			l.reportUnasked(err)
		}
	}}
	l.mu.Lock()
	usable := l.usable(true) == nil
	if usable {
		u.timer.arm(unaskedGrace)
		if l.unasked == nil {
			l.unasked = make(map[*unasked]struct{})
		}
		l.unasked[u] = struct{}{}
	}
	l.mu.Unlock()
	if usable {
		return u
	}
	if !errors.Is(err, ErrLoopClosed) {
		l.logUnasked(err)
	}
	return nil
}

// forgetUnasked reports whether u was still to be reported.
func (l *Loop) forgetUnasked(u *unasked) bool {
	l.mu.Lock()
	_, ok := l.unasked[u]
	delete(l.unasked, u)
	l.mu.Unlock()
	if ok {
		u.timer.Stop()
	}
	return ok
}

// reportUnasked reports the failure of a future. Unlike other events it never
// ends the loop by default. On the loop.
func (l *Loop) reportUnasked(err error) {
	if !isEnd(err) {
		l.count.errors.Add(1)
	}
	if h := l.cfg.EventHandler; h != nil {
		l.callEvent(func() { h(err) })
		return
	}
	l.logUnasked(err)
}

// logUnasked logs the failure of a future, unless it only says that a connection
// has ended: a task per client that reads until io.EOF and returns it has not
// failed.
func (l *Loop) logUnasked(err error) {
	if !isEnd(err) {
		attrs := []any{"err", err}
		if f, ok := err.(*failure); ok {
			attrs = append([]any{"err", f.err}, f.attrs()...)
		}
		l.log(slog.LevelWarn, "a future failed and its result was not asked for", attrs...)
	}
}

// isEnd reports whether err is the ordinary end of a connection, brought about by
// either side.
func isEnd(err error) bool {
	return IsInfo(err) || errors.Is(err, net.ErrClosed) && !isPanic(err)
}

// flushUnasked reports at the end of the loop what is still to be reported. At
// an end by force, when no event callback runs any more, it is only logged.
func (l *Loop) flushUnasked() {
	l.mu.Lock()
	rest, forced := l.unasked, l.stopping
	l.unasked = nil
	l.mu.Unlock()
	for u := range rest {
		if forced {
			l.logUnasked(u.err)
		} else {
			l.reportUnasked(u.err)
		}
	}
}

// Then arranges for cb to be called on the loop with the result: exactly once,
// in a later turn, after callbacks that were registered earlier. If the loop
// ends by force first, cb is not called. With a nil cb it is [Future.Ignore].
//
// Then does not chain: it returns nothing, and what cb does has no future. To do one
// thing after the other, call the next in cb, or use a task and [Future.Await]; for
// a future of the whole, resolve one of [NewFuture] in the last cb.
func (f *Future[T]) Then(cb func(v T, err error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	switch {
	case cb == nil:
	case f.state == futurePending && f.then == nil:
		f.then = cb
	case f.state == futurePending:
		f.thens = append(f.thens, cb)
	case f.state == futureResolved:
		f.post(cb)
	}
}

// Ignore says that the result does not matter: a failure is not reported.
func (f *Future[T]) Ignore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
}

// Done returns a channel that is closed when there is a result.
func (f *Future[T]) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.state != futurePending {
			close(f.done)
		}
	}
	return f.done
}

// Result returns the result, or [ErrPending] and a zero T, such as a nil pointer, if
// there is none yet: look at the error first. A nil future fails at once.
func (f *Future[T]) Result() (T, error) {
	if f == nil {
		return *new(T), errNilFuture
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	if f.state == futurePending {
		return f.value, ErrPending
	}
	f.take()
	return f.value, f.err
}

// Wait waits for the result, or for the end of ctx, and then returns its cause. A
// result that is there counts more than an ended context. A nil future fails at once.
//
// Wait is for goroutines other than those of the loop. In a callback or a task of
// the loop it returns [ErrOnLoop], also when the result is there: use [Future.Then],
// [Future.Await] or [Future.Result]. It cannot tell when a callback or task pulls an
// iterator whose code calls Wait: [iter.Pull] runs that on another goroutine, so
// Wait waits, and the loop stands still until ctx ends.
func (f *Future[T]) Wait(ctx context.Context) (T, error) {
	if f == nil {
		return *new(T), errNilFuture
	}
	if f.loop.onLoop() {
		return *new(T), ErrOnLoop
	}
	checkContext(ctx)
	done := f.Done()
	select {
	case <-done:
		return f.Result()
	default:
	}
	select {
	case <-done:
		return f.Result()
	case <-ctx.Done():
		return *new(T), contextError(ctx)
	}
}

// All returns a future of all results, in the order of fs. It fails with the
// first error; with no fs it succeeds with an empty slice.
func All[T any](l *Loop, fs ...*Future[T]) *Future[[]T] {
	values := make([]T, len(fs))
	return combine(l, fs, values, func(c *combination[T, []T], i int, v T, err error) {
		values[i] = v
		if err != nil {
			c.settle(nil, err)
		} else if c.left == 0 {
			c.settle(values, nil)
		}
	})
}

// Any returns a future of the first success among fs. If all fail it fails with
// their errors joined, in order; with no fs it fails at once.
func Any[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	if len(fs) == 0 {
		return failedFuture[T](l, errNoFutures)
	}
	errs := make([]error, len(fs))
	return combine(l, fs, *new(T), func(c *combination[T, T], i int, v T, err error) {
		errs[i] = err
		if err == nil {
			c.settle(v, nil)
		} else if c.left == 0 {
			c.settle(v, errors.Join(errs...))
		}
	})
}

// Race returns a future of the first result among fs, be it a success or a
// failure. With no fs it fails at once.
func Race[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	if len(fs) == 0 {
		return failedFuture[T](l, errNoFutures)
	}
	return combine(l, fs, *new(T), func(c *combination[T, T], i int, v T, err error) {
		c.settle(v, err)
	})
}

var errNoFutures = errors.New("eventloop: no futures to choose from")

// A combination of futures has a result of its own.
type combination[T, R any] struct {
	result  *Future[R]
	parts   []*Future[T]
	watched []*observer

	mu       sync.Mutex // guards the following: the parts may belong to several loops
	left     int        // parts without a result
	complete bool       // all parts are watched
	settled  bool
}

// combine returns the result of a combination of parts: that of no parts, or what
// one makes of the results of the parts, one after the other.
func combine[T, R any](l *Loop, parts []*Future[T], none R, one func(c *combination[T, R], i int, v T, err error)) *Future[R] {
	c := &combination[T, R]{
		result: newFuture[R](l, kindFuture),
		parts:  parts, left: len(parts), watched: make([]*observer, len(parts)),
	}
	if len(parts) == 0 {
		c.result.resolve(none, nil)
		return c.result
	}
	for i, f := range parts {
		told := func(v T, err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.left--
			one(c, i, v, err)
		}
		if f == nil {
			told(*new(T), errNilFuture)
		} else {
			c.watched[i] = f.observe(told)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete = true
	c.leaveIfSettled()
	return c.result
}

// settle gives the combination its result.
func (c *combination[T, R]) settle(v R, err error) {
	if c.settled {
		return
	}
	c.settled = true
	c.result.resolve(v, err)
	c.leaveIfSettled()
}

// leaveIfSettled stops watching the parts: one that is pending for long, the end
// of a service say, must not collect all that was ever combined with it. It is
// done later, because one of the parts may be locked now.
func (c *combination[T, R]) leaveIfSettled() {
	if !c.settled || !c.complete || c.left == 0 {
		return
	}
	c.result.loop.Post(func() {
		for i, f := range c.parts {
			if f != nil {
				f.ignore(c.watched[i])
			}
		}
	})
}
