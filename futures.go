package eventloop

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Future is the result of an operation that may still be going on. Operations
// of this package return one; [NewFuture] makes one for a function of the user's
// own. All methods may be called from any goroutine.
//
// A pending future keeps the loop alive, or what it belongs to does: a connection,
// a task. One that is pending when the loop ends by force ends with
// [ErrLoopClosed]. One that fails and that nobody asks about for a second — by
// Then, Done, Result, Wait, Await, All, Any or Race — is reported to
// Config.EventHandler, or logged if there is none.
type Future[T any] struct {
	handle

	mu        sync.Mutex // guards the following
	state     futureState
	asked     bool
	value     T
	err       error
	done      chan struct{}          // made when it is asked for
	thens     []func(v T, err error) // in order
	observers []func(v T, err error)
	unasked   *unasked // waits to be reported
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

func (f *Future[T]) describe() string { return "" }

// resolve sets the result. The future is unregistered after its callbacks are
// posted, so that the loop does not end in between.
func (f *Future[T]) resolve(v T, err error) {
	f.finish(futureResolved, v, err)
	f.loop.unregister(&f.handle)
}

func (f *Future[T]) finish(state futureState, v T, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != futurePending {
		return
	}
	f.state, f.value, f.err = state, v, err
	if f.done != nil {
		close(f.done)
	}
	thens, observers := f.thens, f.observers
	f.thens, f.observers = nil, nil
	if state == futureResolved {
		for _, then := range thens {
			f.post(then)
		}
	}
	for _, observer := range observers {
		observer(v, err)
	}
	if err != nil && !f.asked && state == futureResolved {
		f.unasked = f.loop.watchUnasked(err)
	}
}

// post arranges for then to be called with the result.
func (f *Future[T]) post(then func(v T, err error)) {
	v, err := f.value, f.err
	f.loop.Post(func() { then(v, err) })
}

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
// and must not run code of the user.
func (f *Future[T]) observe(cb func(v T, err error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	if f.state != futurePending {
		cb(f.value, f.err)
		return
	}
	f.observers = append(f.observers, cb)
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
	l.count.errors.Add(1)
	if h := l.cfg.EventHandler; h != nil {
		l.callEvent(func() { h(err) })
		return
	}
	l.logUnasked(err)
}

func (l *Loop) logUnasked(err error) {
	l.log.Warn("a future failed and nobody asked about it", "loop", l.cfg.Name, "err", err)
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
// ends by force first, cb is not called. A nil cb only says that somebody asked.
func (f *Future[T]) Then(cb func(v T, err error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	switch {
	case cb == nil:
	case f.state == futurePending:
		f.thens = append(f.thens, cb)
	case f.state == futureResolved:
		f.post(cb)
	}
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

// Result returns the result, or [ErrPending] if there is none yet.
func (f *Future[T]) Result() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	if f.state == futurePending {
		return f.value, ErrPending
	}
	return f.value, f.err
}

// Wait waits for the result or the end of ctx, whose cause it returns then. It
// is for goroutines other than the loop's: on the loop, in a callback or a task,
// it returns [ErrOnLoop] unless the result is there already.
func (f *Future[T]) Wait(ctx context.Context) (T, error) {
	done := f.Done()
	select {
	case <-done:
		return f.Result()
	default:
	}
	if f.loop.onLoop() {
		return *new(T), ErrOnLoop
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
	all := newFuture[[]T](l, kindFuture)
	values, left := make([]T, len(fs)), len(fs)
	if left == 0 {
		all.resolve(values, nil)
	}
	var mu sync.Mutex // the futures may belong to several loops
	for i, f := range fs {
		f.observe(func(v T, err error) {
			mu.Lock()
			defer mu.Unlock()
			values[i] = v
			if left--; err != nil {
				all.resolve(nil, err)
			} else if left == 0 {
				all.resolve(values, nil)
			}
		})
	}
	return all
}

// Any returns a future of the first success among fs. If all fail it fails with
// their errors joined, in order; with no fs it fails at once.
func Any[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	first := newFuture[T](l, kindFuture)
	errs, left := make([]error, len(fs)), len(fs)
	if left == 0 {
		first.resolve(*new(T), errNoFutures)
	}
	var mu sync.Mutex
	for i, f := range fs {
		f.observe(func(v T, err error) {
			mu.Lock()
			defer mu.Unlock()
			errs[i] = err
			if left--; err == nil {
				first.resolve(v, nil)
			} else if left == 0 {
				first.resolve(v, errors.Join(errs...))
			}
		})
	}
	return first
}

// Race returns a future of the first result among fs, be it a success or a
// failure. With no fs it fails at once.
func Race[T any](l *Loop, fs ...*Future[T]) *Future[T] {
	first := newFuture[T](l, kindFuture)
	if len(fs) == 0 {
		first.resolve(*new(T), errNoFutures)
	}
	for _, f := range fs {
		f.observe(first.resolve)
	}
	return first
}

var errNoFutures = errors.New("eventloop: no futures to choose from")
