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

// A Future is the result of an operation that may still be in progress. Operations of
// this package return futures; [NewFuture] makes one for the application's own
// operations. All methods may be called from any goroutine.
//
// A pending future keeps the loop alive; if it belongs to a connection, a task or an
// [Owner], that keeps the loop alive instead. If the loop ends by force while the future is
// pending, the future fails with [ErrLoopClosed].
//
// A failure is unhandled if none of Then, Done, Result, Wait, Await, All, Any, Race or
// Ignore is called for the future within a second, or before the loop ends. An
// unhandled failure goes to Config.EventHandler. The error wraps the failure and, for
// tasks, functions of Work and HTTP requests, names the function and the source line
// that started it. Without an EventHandler the failure is logged to Config.Logger,
// unless it is the ordinary end of a connection: information (see [IsInfo]) or
// net.ErrClosed.
type Future[T any] struct {
	loop *Loop
	own  *handle // nil if the future belongs to another handle

	mu        sync.Mutex // guards the following
	state     futureState
	handled   bool
	value     T
	err       error
	then      func(v T, err error) // the first callback; once queued, only its thenCallback uses it
	observers observerList
	more      *futureMore[T] // nil for most futures
}

// A futureMore is the state that few futures need. It is separate to keep Future small,
// because each request allocates one.
type futureMore[T any] struct {
	done      chan struct{}          // made when Done is first called
	thens     []func(v T, err error) // the callbacks after the first, in order
	unhandled *unhandled             // the failure, until it is handled or reported
	owned     *ownedResult[T]        // for a result that must be closed, until a caller takes it
}

type futureState uint8

const (
	futurePending futureState = iota
	futureResolved
	futureClosed // by the end of the loop: Then is not called
)

// unhandledGrace is how long a failure may stay unhandled before it is reported.
const unhandledGrace = time.Second

// NewFuture returns a pending future and the function that resolves it. That function
// may be called from any goroutine; only the first call has an effect. After the end of
// the loop, NewFuture returns a future that has already failed with [ErrLoopClosed].
func NewFuture[T any](l *Loop) (f *Future[T], resolve func(v T, err error)) {
	checkLoop(l)
	f = newFuture[T](l, kindFuture)
	return f, f.resolve
}

// An ownFuture is a future that is a handle of the loop.
type ownFuture[T any] struct {
	Future[T]
	handle handle
}

func newFuture[T any](l *Loop, k kind) *Future[T] {
	f := &ownFuture[T]{}
	f.loop, f.own, f.handle.loop = l, &f.handle, l
	if err := l.register(&f.handle, f, k, true); err != nil {
		f.finish(futureClosed, *new(T), err)
	}
	return &f.Future
}

func (f *ownFuture[T]) terminate() {
	f.finish(futureClosed, *new(T), ErrLoopClosed)
	f.unregister()
}

func (f *ownFuture[T]) describe() string { return "of " + reflect.TypeFor[T]().String() }

// unregisteredFuture returns a future that is not registered as a handle. The handle to which it
// belongs has to resolve it.
func unregisteredFuture[T any](l *Loop) *Future[T] { return &Future[T]{loop: l} }

// unregister removes the future from the handles of the loop.
func (f *Future[T]) unregister() {
	if f.own != nil {
		f.loop.unregister(f.own)
	}
}

// fail ends the future with err. ErrLoopClosed has the same effect as the end of the
// loop.
func (f *Future[T]) fail(err error) {
	if err == ErrLoopClosed {
		f.finish(futureClosed, *new(T), err)
	} else {
		f.resolve(*new(T), err)
	}
}

func (f *Future[T]) isHandled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handled
}

// failedFuture returns the future of an operation that could not begin.
func failedFuture[T any](l *Loop, err error) *Future[T] {
	f := newFuture[T](l, kindFuture)
	f.resolve(*new(T), err)
	return f
}

// resolve sets the result. It posts the callbacks before it unregisters the future, so
// that the loop does not end in between.
func (f *Future[T]) resolve(v T, err error) { f.resolveFrom(origin{}, v, err) }

// resolveFrom is resolve for an operation with a known origin.
func (f *Future[T]) resolveFrom(o origin, v T, err error) {
	f.finishFrom(o, futureResolved, v, err)
	f.unregister()
}

func (f *Future[T]) finish(state futureState, v T, err error) (first bool) {
	return f.finishFrom(origin{}, state, v, err)
}

// finishFrom ends the future and reports whether it was pending.
func (f *Future[T]) finishFrom(o origin, state futureState, v T, err error) (first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != futurePending {
		return false
	}
	f.state, f.value, f.err = state, v, err
	f.postThens()
	if f.more != nil && f.more.done != nil {
		close(f.more.done)
	}
	for o := f.observers.pop(); o != nil; o = f.observers.pop() {
		o.notify()
	}
	if err != nil && !f.handled && state == futureResolved {
		f.extra().unhandled = f.loop.watchUnhandled(o.from(err))
	}
	return true
}

// extra returns f.more, and allocates it if necessary. The caller holds f.mu.
func (f *Future[T]) extra() *futureMore[T] {
	if f.more == nil {
		f.more = &futureMore[T]{}
	}
	return f.more
}

// postThens posts the callbacks, or drops them if the loop has ended. The caller holds
// f.mu.
func (f *Future[T]) postThens() {
	if f.then == nil {
		return
	}
	var thens []func(v T, err error)
	if f.more != nil {
		thens, f.more.thens = f.more.thens, nil
	}
	if f.state != futureResolved {
		f.then = nil
		return
	}
	if f.more == nil || f.more.owned == nil {
		f.loop.postCallback((*thenCallback[T])(f), f.then)
	} else {
		f.post(f.then)
		f.then = nil
	}
	for _, then := range thens {
		f.post(then)
	}
}

// A thenCallback is a future that is queued to call its first callback. This needs no
// closure. No other code uses f.then any more, and the result does not change, so Call needs
// no lock.
type thenCallback[T any] Future[T]

// Call implements funcqueue.Callback.
func (c *thenCallback[T]) Call() {
	then := c.then
	c.then = nil
	then(c.value, c.err)
}

// post arranges for then to be called with the result. The caller holds f.mu.
func (f *Future[T]) post(then func(v T, err error)) {
	v, err := f.value, f.err
	if f.more == nil || f.more.owned == nil {
		f.loop.postFor(func() { then(v, err) }, then)
		return
	}
	f.loop.postFor(func() {
		f.mu.Lock()
		f.take()
		f.mu.Unlock()
		then(v, err)
	}, then)
}

// An ownedResult is a result that has to be closed, such as a connection. If the loop
// is stopped before a caller has taken the result, terminate closes it.
type ownedResult[T any] struct {
	handle
	f    *Future[T]
	drop func(v T)
}

// resolveOwned is resolve for a result that drop closes. If the loop has ended, it
// returns false and does not use v.
func (f *Future[T]) resolveOwned(v T, drop func(v T)) bool {
	c := &ownedResult[T]{f: f, drop: drop}
	c.unref = true // it does not keep the loop alive
	if f.loop.register(&c.handle, c, kindFuture, false) != nil {
		return false
	}
	f.mu.Lock()
	f.extra().owned = c
	f.mu.Unlock()
	f.resolve(v, nil)
	return true
}

// take passes the ownership of the result to the caller. The caller holds f.mu.
func (f *Future[T]) take() {
	if f.more == nil || f.more.owned == nil {
		return
	}
	c := f.more.owned
	f.more.owned = nil
	f.loop.unregister(&c.handle)
}

// terminate drops the result if the loop ends by force. Otherwise the future keeps the
// result, and its methods still return it after the end of the loop.
func (c *ownedResult[T]) terminate() {
	f := c.f
	f.mu.Lock()
	v, mine := f.value, f.more.owned == c
	if mine = mine && f.loop.isStopping(); mine {
		f.state, f.value, f.err = futureClosed, *new(T), ErrLoopClosed
	}
	f.more.owned = nil
	f.mu.Unlock()
	if mine {
		c.drop(v)
	}
	f.loop.unregister(&c.handle)
}

func (c *ownedResult[T]) describe() string { return "" }

// markHandled marks the result as handled. The caller holds f.mu.
func (f *Future[T]) markHandled() {
	f.handled = true
	if f.more != nil && f.more.unhandled != nil {
		f.loop.forgetUnhandled(f.more.unhandled)
		f.more.unhandled = nil
	}
}

// observe calls cb with the result: at once if it is available, or else on the goroutine
// that sets it. cb is called even if the loop ends by force. It runs with f.mu held, so it
// must not block and must not run user code. The observer that observe returns can be
// passed to ignore.
func (f *Future[T]) observe(cb func(v T, err error)) *observer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
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

// An observer is notified of a result. It is an element of an intrusive list for two
// reasons: a removed observer uses no memory of a future that stays pending, and a task
// waits without allocating, because its coroutine contains an observer.
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

// remove takes o from the list if it is in the list.
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

// pop removes the first observer from the list and returns it, or nil.
func (l *observerList) pop() *observer {
	o := l.first
	if o != nil {
		l.remove(o)
	}
	return o
}

// An unhandled is a failure that is not handled yet.
type unhandled struct {
	err   error
	timer *Timer
}

// watchUnhandled reports err after unhandledGrace. The timer does not keep the loop alive:
// if the loop ends earlier, teardown reports err. If the loop has already ended, err is
// only logged, unless it is ErrLoopClosed.
func (l *Loop) watchUnhandled(err error) *unhandled {
	u := &unhandled{err: err}
	u.timer = &Timer{loop: l, unref: true, f: func() {
		if l.forgetUnhandled(u) {
			l.reportUnhandled(err)
		}
	}}
	l.mu.Lock()
	usable := l.usable(true) == nil
	if usable {
		u.timer.arm(unhandledGrace)
		if l.failures == nil {
			l.failures = make(map[*unhandled]struct{})
		}
		l.failures[u] = struct{}{}
	}
	l.mu.Unlock()
	if usable {
		return u
	}
	if !errors.Is(err, ErrLoopClosed) {
		l.logUnhandled(err)
	}
	return nil
}

// forgetUnhandled removes u and reports whether u was still waiting to be reported.
func (l *Loop) forgetUnhandled(u *unhandled) bool {
	l.mu.Lock()
	_, ok := l.failures[u]
	delete(l.failures, u)
	l.mu.Unlock()
	if ok {
		u.timer.Stop()
	}
	return ok
}

// reportUnhandled reports an unhandled failure. Unlike other events it never ends the
// loop by default. It runs on the loop.
func (l *Loop) reportUnhandled(err error) {
	if !isEnd(err) {
		l.count.errors.Add(1)
	}
	if h := l.cfg.EventHandler; h != nil {
		l.callEvent(func() { h(err) })
		return
	}
	l.logUnhandled(err)
}

// logUnhandled logs an unhandled failure, unless it is the ordinary end of a connection:
// a task per client that reads until io.EOF and returns io.EOF has not failed.
func (l *Loop) logUnhandled(err error) {
	if !isEnd(err) {
		attrs := []any{"err", err}
		if f, ok := err.(*failure); ok {
			attrs = append([]any{"err", f.err}, f.attrs()...)
		}
		l.log(slog.LevelWarn, "unhandled failure of a future", attrs...)
	}
}

// isEnd reports whether err is the ordinary end of a connection, caused by either side.
func isEnd(err error) bool {
	return IsInfo(err) || errors.Is(err, net.ErrClosed) && !isPanic(err)
}

// flushUnhandled reports the failures that are still unhandled at the end of the loop.
// After an end by force, event callbacks no longer run, so the failures are only logged.
func (l *Loop) flushUnhandled() {
	l.mu.Lock()
	rest, forced := l.failures, l.stopping
	l.failures = nil
	l.mu.Unlock()
	for u := range rest {
		if forced {
			l.logUnhandled(u.err)
		} else {
			l.reportUnhandled(u.err)
		}
	}
}

// Then arranges for cb to be called on the loop with the result: exactly once, in a
// later turn, after callbacks that were registered earlier. If the loop ends by force
// first, cb is not called. With a nil cb, Then is [Future.Ignore].
//
// Then does not chain: it returns nothing. To do one thing after the other, call the
// next operation in cb, or use a task and [Future.Await]. To get a future of the whole
// sequence, call [NewFuture] and resolve it in the last callback.
func (f *Future[T]) Then(cb func(v T, err error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
	switch {
	case cb == nil:
	case f.state == futurePending && f.then == nil:
		f.then = cb
	case f.state == futurePending:
		more := f.extra()
		more.thens = append(more.thens, cb)
	case f.state == futureResolved:
		f.post(cb)
	}
}

// Ignore marks the result as handled: a failure is not reported.
func (f *Future[T]) Ignore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
}

// Done returns a channel that is closed when the result is available.
func (f *Future[T]) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
	more := f.extra()
	if more.done == nil {
		more.done = make(chan struct{})
		if f.state != futurePending {
			close(more.done)
		}
	}
	return more.done
}

// Result returns the result. While the future is pending, it returns [ErrPending] and a
// zero T, which may be a nil pointer: check the error first. For a nil future it
// returns an error.
func (f *Future[T]) Result() (T, error) {
	if f == nil {
		return *new(T), errNilFuture
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
	if f.state == futurePending {
		return f.value, ErrPending
	}
	f.take()
	return f.value, f.err
}

// Wait waits for the result or for the end of ctx. If ctx ends first, Wait returns the
// cause of ctx. If the result is available, Wait returns it even if ctx has ended. For a
// nil future it returns an error at once.
//
// Wait is for goroutines other than those of the loop. In a callback or a task of the loop
// it returns [ErrOnLoop], even if the result is available: use [Future.Then],
// [Future.Await] or [Future.Result] instead. There is one case that Wait cannot detect: a
// callback or task pulls an iterator, and the code of the iterator calls Wait. [iter.Pull]
// runs that code on another goroutine, so Wait waits, and the loop stands still until ctx
// ends.
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

// All returns a future of all results, in the order of fs. It fails with the first
// error. With no fs it succeeds with an empty slice.
func All[T any](l *Loop, fs ...*Future[T]) *Future[[]T] {
	checkLoop(l)
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

// Any returns a future of the first success among fs. If all fail, it fails with their
// errors joined, in order. With no fs it fails at once.
func Any[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	checkLoop(l)
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

// Race returns a future of the first result among fs, whether success or failure. With
// no fs it fails at once.
func Race[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	checkLoop(l)
	if len(fs) == 0 {
		return failedFuture[T](l, errNoFutures)
	}
	return combine(l, fs, *new(T), func(c *combination[T, T], i int, v T, err error) {
		c.settle(v, err)
	})
}

var errNoFutures = errors.New("eventloop: no futures to choose from")

// A combination computes one result from several futures.
type combination[T, R any] struct {
	result  *Future[R]
	parts   []*Future[T]
	watched []*observer

	mu       sync.Mutex // guards the following: the parts may belong to several loops
	left     int        // parts without a result
	complete bool       // all parts are watched
	settled  bool
}

// combine returns a future of the combined result of parts. It calls one with the
// result of each part, one call at a time. If there are no parts, the result is none.
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
		notify := func(v T, err error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.left--
			one(c, i, v, err)
		}
		if f == nil {
			notify(*new(T), errNilFuture)
		} else {
			c.watched[i] = f.observe(notify)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete = true
	c.leaveIfSettled()
	return c.result
}

// settle resolves the combination.
func (c *combination[T, R]) settle(v R, err error) {
	if c.settled {
		return
	}
	c.settled = true
	c.result.resolve(v, err)
	c.leaveIfSettled()
}

// leaveIfSettled stops watching the parts once the combination has its result. Otherwise a
// part that is pending for a long time, such as the end of a service, would collect all
// combinations that ever used it. It posts the work, because the caller may hold the lock
// of one of the parts.
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
