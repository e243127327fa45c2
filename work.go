package eventloop

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Work runs f, code that blocks, on a goroutine of its own, and returns a future
// of its result. At most Config.MaxWork such functions of a loop run at a time;
// others wait their turn, in order. The work keeps the loop alive.
//
// The context that f gets ends with ctx and with the loop. If ctx ends before f
// has started, f never runs, and the future fails with the cause; once f runs,
// its result counts, whatever it makes of its context. To limit the time of f, call
// [context.WithTimeout] in f and defer cancel; waiting for its turn does not count
// then. A panic in f is the future's error, a [*PanicError], always.
//
// When the loop ends by force, Run waits for functions that run, for at most
// Config.WorkGrace, and returns an error that matches [ErrWorkLeft] and names
// those that did not return. Work may be called while the loop runs; otherwise,
// and if f is nil, the future fails.
func Work[T any](ctx context.Context, l *Loop, f func(ctx context.Context) (T, error)) *Future[T] {
	if f == nil {
		return failedFuture[T](l, errNilFunc)
	}
	checkContext(ctx)
	j := &job{origin: origin{kindWork, funcPC(f), callSite()}}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	result := looseFuture[T](l)
	j.cancelled = func(err error) { result.resolveFrom(j.origin, *new(T), err) }
	j.closed = func() { result.fail(ErrLoopClosed) }
	j.do = func() { do(j, f, result) }
	if err := l.register(&j.handle, j, kindWork, false); err != nil {
		j.cancel(err)
		result.fail(err)
		return result
	}
	l.startWork(j)
	return result
}

// do runs f for Work, unless its context or the loop has ended.
func do[T any](j *job, f func(ctx context.Context) (T, error), result *Future[T]) {
	switch {
	case j.loop.ended.Load():
		result.fail(ErrLoopClosed)
		return
	case j.ctx.Err() != nil:
		j.cancelled(context.Cause(j.ctx))
		return
	case !j.state.CompareAndSwap(jobQueued, jobRunning):
		return // the loop has ended since, and with it the future
	}
	var v T
	err := errGoexit // unless f returns
	defer func() {
		j.state.Store(jobOver)
		if p := recover(); p != nil {
			err = newPanicError(p)
			logLatePanic(result, err)
		}
		result.resolveFrom(j.origin, v, err)
	}()
	v, err = f(j.loop.named(j.ctx, &j.handle))
}

// logLatePanic logs a panic that the future cannot tell any more, because the
// loop has ended.
func logLatePanic[T any](result *Future[T], err error) {
	result.mu.Lock()
	late := result.state != futurePending
	result.mu.Unlock()
	if l := result.loop; late {
		l.log(slog.LevelError, "panic in work after the end of the loop", "err", err)
	}
}

// ErrWorkLeft matches the error of [Loop.Run] when functions of [Work], or methods
// of a net.Conn or net.Listener that is not of package net, did not
// return within Config.WorkGrace of the end of the loop.
var ErrWorkLeft = errors.New("eventloop: work did not return")

// Defaults of Config.
const (
	defaultMaxWork   = 64
	defaultWorkGrace = 5 * time.Second
)

// A job is a function of Work.
type job struct {
	handle
	origin    origin
	state     atomic.Uint32   // jobQueued and so on
	do        func()          // runs the function and resolves the future
	cancelled func(err error) // resolves it without
	closed    func()          // ends it with the loop
	ctx       context.Context
	cancel    context.CancelCauseFunc
	unhook    func() bool   // from ctx; of jobs that have waited
	place     *list.Element // among those that wait, else nil; guarded by workers.mu
}

// States of a job's function.
const (
	jobQueued  uint32 = iota
	jobRunning        // it has been called
	jobOver           // it has returned, or will never be called
)

// workers are the goroutines of Work.
type workers struct {
	mu      sync.Mutex // guards the following
	waiting list.List  // of *job
	running int
}

// startWork runs j now or lets it wait.
func (l *Loop) startWork(j *job) {
	w := &l.work
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running < l.maxWork() {
		w.running++
		go l.worker(j)
		return
	}
	j.place = w.waiting.PushBack(j)
	j.unhook = context.AfterFunc(j.ctx, func() { l.cancelWork(j) })
}

func (l *Loop) maxWork() int {
	if l.cfg.MaxWork > 0 {
		return l.cfg.MaxWork
	}
	return defaultMaxWork
}

// worker runs j, and lets the next one run that waits, also if the function of j
// takes its goroutine away by Goexit.
func (l *Loop) worker(j *job) {
	defer l.nextWork(j)
	l.worksFor(&j.handle)
	j.do()
}

// nextWork ends j and runs another in its place, if one waits.
func (l *Loop) nextWork(j *job) {
	j.cancel(context.Canceled)
	w := &l.work
	w.mu.Lock()
	if first := w.waiting.Front(); first != nil {
		next := first.Value.(*job)
		w.drop(next)
		go l.worker(next)
	} else {
		w.running--
	}
	w.mu.Unlock()
	j.gone()
}

// drop takes j from those that wait, and reports whether it was there. The caller
// holds w.mu.
func (w *workers) drop(j *job) bool {
	if j.place == nil {
		return false
	}
	w.waiting.Remove(j.place)
	j.place = nil
	j.unhook()
	return true
}

// gone tells the loop that j has ended. The dispatcher may have given up on it,
// and nothing receives from the channel then.
func (j *job) gone() {
	select {
	case j.loop.tasks <- (*workGoneTask)(j):
		j.loop.unpark()
	case <-j.loop.done:
	}
}

type workGoneTask job

func (t *workGoneTask) run() {
	j := (*job)(t)
	j.loop.unregister(&j.handle)
}

// cancelWork drops j if it has not started.
func (l *Loop) cancelWork(j *job) {
	w := &l.work
	w.mu.Lock()
	dropped := w.drop(j)
	w.mu.Unlock()
	if dropped {
		j.cancelled(context.Cause(j.ctx))
		j.gone()
	}
}

// terminate ends j's context, and j itself if it has not started.
func (j *job) terminate() {
	j.closed()
	w := &j.loop.work
	w.mu.Lock()
	dropped := w.drop(j)
	w.mu.Unlock()
	j.cancel(ErrLoopClosed)
	if dropped {
		j.loop.unregister(&j.handle)
	}
}

func (j *job) describe() string { return funcName(j.origin.fn) }

// abandonWork gives up on the functions that are running when everything else is
// closed, and makes Run say so. A function that is over is not one of them: its
// goroutine is about to report its end, and Run waits for that.
func (l *Loop) abandonWork() {
	l.mu.Lock()
	var left []*job
	for h := range l.handles.all {
		if j, ok := h.owner.(*job); ok && j.left() {
			left = append(left, j)
		}
	}
	l.mu.Unlock()
	for _, j := range left {
		l.log(slog.LevelError, "work did not return", "func", j.describe())
		err := fmt.Errorf("%w: %s", ErrWorkLeft, j.describe())
		l.mu.Lock()
		l.stopErr = errors.Join(l.stopErr, err)
		l.mu.Unlock()
		l.unregister(&j.handle)
	}
}

// left reports whether the function of j is running. If it was not called yet, it
// never will be.
func (j *job) left() bool {
	return !j.state.CompareAndSwap(jobQueued, jobOver) && j.state.Load() == jobRunning
}

// Call runs f on the loop and waits for its result: the way for another goroutine
// to ask something of the loop's state. If ctx ends before f has started, f does
// not run and Call returns the cause; once f runs, its result counts. When the
// loop ends by force before f has started, Call returns [ErrLoopClosed]. On the
// loop itself it returns [ErrOnLoop], for it would wait for its own caller; as with
// [Future.Wait], it cannot tell that of an iterator that the loop pulls. Before Run,
// it waits for Run.
//
// A panic in f is one in a callback; Call then returns [ErrLoopClosed], or with
// Config.CatchPanics the [*PanicError].
func Call[T any](ctx context.Context, l *Loop, f func() (T, error)) (T, error) {
	var zero T
	if f == nil {
		return zero, errNilFunc
	}
	if l.onLoop() {
		return zero, ErrOnLoop
	}
	checkContext(ctx)
	result := looseFuture[T](l)
	var once sync.Once // either f runs or the caller has left
	err := l.Post(func() {
		once.Do(func() { callInto(l, f, result) })
	})
	if err != nil {
		return zero, err
	}
	select {
	case <-result.Done():
		return result.Result()
	case <-l.ctx.Done(): // before the loop waits for what may be our caller
	case <-ctx.Done():
	}
	left := false
	once.Do(func() { left = true }) // waits for f if it runs
	switch {
	case !left:
		return result.Result()
	case l.ctx.Err() != nil:
		return zero, ErrLoopClosed
	}
	return zero, context.Cause(ctx)
}

func callInto[T any](l *Loop, f func() (T, error), result *Future[T]) {
	defer func() {
		v := recover()
		if v == nil {
			result.fail(ErrLoopClosed) // unless f returned: by Goexit
			return
		}
		pe := newPanicError(v)
		if l.cfg.CatchPanics {
			result.fail(pe)
			return
		}
		result.fail(ErrLoopClosed)
		l.stopPanic(pe)
	}()
	result.resolve(f())
}
