package eventloop

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Work runs f, which may block, on a worker goroutine, and returns a future of its result.
// At most Config.MaxWork functions of Work run at the same time per loop; the others wait,
// and start in the order of the calls. [WorkOn] has a separate limit. The function keeps the
// loop alive.
//
// The context passed to f ends with ctx and with the loop. If ctx ends before f has
// started, f never runs, and the future fails with the cause. Once f runs, its result
// counts, even if its context ends. To limit the running time of f, call
// [context.WithTimeout] in f and defer cancel, so that the time in the queue does not
// count. If f panics, the future always fails with a [*PanicError].
//
// When the loop ends by force, Run waits at most Config.WorkGrace for the functions
// that are running. It then returns an error that matches [ErrWorkLeft] and names those
// that did not return. Work may be called only while the loop is running: the future
// fails with [ErrNotRunning] before Run, and with [ErrLoopClosed] after the end. It
// also fails if f is nil.
//
// The worker goroutine has the pprof labels of [Loop.Run] and later runs other functions. If
// f locks it to its thread, f must unlock it.
func Work[T any](ctx context.Context, l *Loop, f func(ctx context.Context) (T, error)) *Future[T] {
	checkLoop(l)
	return work(ctx, &l.work, f, origin{kindWork, 0, callSite()})
}

// WorkOn is [Work] on the goroutines of w.
func WorkOn[T any](ctx context.Context, w *Workers, f func(ctx context.Context) (T, error)) *Future[T] {
	if w == nil {
		panic("eventloop: nil Workers")
	}
	return work(ctx, w, f, origin{kindWork, 0, callSite()})
}

func work[T any](ctx context.Context, w *Workers, f func(ctx context.Context) (T, error), o origin) *Future[T] {
	l := w.loop
	if f == nil {
		return failedFuture[T](l, errNilFunc)
	}
	checkContext(ctx)
	o.fn = funcPC(f)
	j := &jobOf[T]{job: job{workers: w, origin: o}, f: f, result: unregisteredFuture[T](l)}
	j.function = j
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	if err := l.register(&j.handle, &j.job, kindWork, false); err != nil {
		j.cancel(err)
		j.result.fail(err)
		return j.result
	}
	w.start(&j.job)
	return j.result
}

// A jobOf is a job with a result of type T.
type jobOf[T any] struct {
	job
	f      func(ctx context.Context) (T, error)
	result *Future[T]

	value T // the result of f, for report
	err   error
}

// run runs the function, unless its context or the loop has ended: then it resolves the
// future and returns false.
func (j *jobOf[T]) run() (ran bool) {
	switch {
	case j.loop.ended.Load():
		j.closed()
		return false
	case j.ctx.Err() != nil:
		j.canceled(context.Cause(j.ctx))
		return false
	case !j.state.CompareAndSwap(jobQueued, jobRunning):
		return false // the loop has just ended, and with it the future
	}
	j.err = errGoexit // unless f returns
	defer func() {
		j.state.Store(jobOver)
		if p := recover(); p != nil {
			j.err = newPanicError(p)
			logLatePanic(j.result, j.err)
		}
	}()
	ran = true // also if f panics
	j.value, j.err = j.f(j.loop.named(j.ctx, &j.handle))
	return ran
}

// report resolves the future with the result of the function.
func (j *jobOf[T]) report() { j.result.resolveFrom(j.origin, j.value, j.err) }

func (j *jobOf[T]) canceled(err error) { j.result.resolveFrom(j.origin, *new(T), err) }
func (j *jobOf[T]) closed()            { j.result.fail(ErrLoopClosed) }

// logLatePanic logs a panic that the future can no longer report, because the loop has
// ended.
func logLatePanic[T any](result *Future[T], err error) {
	result.mu.Lock()
	late := result.state != futurePending
	result.mu.Unlock()
	if l := result.loop; late {
		l.log(slog.LevelError, "panic in work after the end of the loop", "err", err)
	}
}

// ErrWorkLeft matches the error of [Loop.Run] when functions of [Work], or other code of
// the application that runs beside the loop, did not return within Config.WorkGrace of
// the end of the loop. The error names the code: Dial functions, TLS callbacks, methods of
// request bodies, cookie jars and readers, and those of a net.Conn or net.Listener that is
// not of package net.
var ErrWorkLeft = errors.New("eventloop: work did not return")

// Defaults of Config.
const (
	defaultMaxWork   = 64
	defaultWorkGrace = 5 * time.Second
)

// A job is a function of Work or WorkOn.
type job struct {
	handle
	workers  *Workers
	origin   origin
	function jobFunction
	state    atomic.Uint32 // jobQueued and so on
	ctx      context.Context
	cancel   context.CancelCauseFunc
	unhook   func() bool   // unregisters from ctx; nil if the job never waited
	place    *list.Element // in workers.waiting, else nil; guarded by workers.mu
}

// A jobFunction is a jobOf of any type.
type jobFunction interface {
	run() (ran bool)    // runs the function; if it returns false, the future has been resolved
	report()            // resolves the future with the result of the function
	canceled(err error) // resolves the future with err; the function does not run
	closed()            // fails the future with ErrLoopClosed
}

// States of a job's function.
const (
	jobQueued  uint32 = iota
	jobRunning        // has been called
	jobOver           // has returned, or will never be called
)

// Workers run functions that may block, a limited number at the same time. The limit is
// independent of that of [Work] and of other Workers. A service that uses several clients
// can give each client its own Workers, so that a slow one does not hold up the others.
// Workers need not be closed.
//
// [Loop.Handles] shows the functions, and Stats.Loop counts them in Work. All methods may
// be called from any goroutine.
type Workers struct {
	loop  *Loop
	name  string
	limit int

	mu           sync.Mutex // guards the following
	waiting      list.List  // of *job
	running      int        // number of jobs
	idle         []*worker  // the most recent is at the end
	watchingIdle bool       // the goroutine watchIdle runs
}

// NewWorkers returns Workers that run at most n functions at the same time. If n is zero or
// negative, the limit is 64. In [Loop.Handles] and in errors that match [ErrWorkLeft], name
// precedes the name of each function. NewWorkers may be called before Run.
func NewWorkers(l *Loop, n int, name string) *Workers {
	checkLoop(l)
	w := &Workers{}
	w.init(l, n, name)
	return w
}

func (w *Workers) init(l *Loop, n int, name string) {
	if n <= 0 {
		n = defaultMaxWork
	}
	w.loop, w.limit, w.name = l, n, name
}

// Loop returns the loop of the workers.
func (w *Workers) Loop() *Loop { return w.loop }

// Running returns the number of functions that are running.
func (w *Workers) Running() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running
}

// Waiting returns the number of functions that wait for a free worker.
func (w *Workers) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting.Len()
}

// A worker is a goroutine that runs jobs. When no job waits, the worker stays idle for
// idleTime, because a new goroutine would be more expensive: its stack grows step by step,
// which costs a deep function, such as a call of a database client, more than everything
// else that Work does (measured). One goroutine, watchIdle, watches the time for all idle
// workers of a Workers: that costs a job less than a timer and a select of its worker.
type worker struct {
	workers *Workers
	jobs    chan *job     // one slot, for the job that ends the idle time; nil ends the worker
	since   time.Duration // when the worker became idle; guarded by workers.mu
}

// idleTime is how long a worker stays idle. It is long enough that functions with irregular
// starts, such as one per request of a server, find idle workers, and short enough that the
// stacks of a burst do not stay in memory.
const idleTime = 100 * time.Millisecond

// start runs j now or adds it to the waiting jobs.
func (w *Workers) start(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == w.limit {
		j.place = w.waiting.PushBack(j)
		w.loop.count.workWaiting.Add(1)
		j.unhook = context.AfterFunc(j.ctx, func() { w.cancel(j) })
		return
	}
	w.running++
	if n := len(w.idle); n > 0 {
		k := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		k.jobs <- j
		return
	}
	go newWorker(w).run(j)
}

func newWorker(w *Workers) *worker { return &worker{workers: w, jobs: make(chan *job, 1)} }

// run is the body of the goroutine. A function may end the goroutine by Goexit.
func (k *worker) run(j *job) {
	w := k.workers
	defer func() {
		if j == nil {
			return
		}
		if next, _ := w.next(j, nil); next != nil {
			go newWorker(w).run(next)
		}
		j.function.report()
		j.gone()
	}()
	for j != nil {
		pprof.SetGoroutineLabels(w.loop.labels) // the last function may have changed them
		done := w.loop.worksFor(&j.handle)
		ran := j.function.run()
		next, idle := w.next(j, k) // before report, so that k is free for what a callback starts
		if ran {
			j.function.report()
		}
		done()
		j.gone()
		if idle {
			next = k.beIdle()
		}
		j = next
	}
}

// beIdle waits for a job. It returns nil when the worker is no longer needed.
func (k *worker) beIdle() *job {
	defer k.workers.loop.wg.Done()
	return <-k.jobs
}

// next ends j and returns the waiting job that runs next. If none waits and the loop has not
// ended, k becomes idle, unless it is nil.
func (w *Workers) next(j *job, k *worker) (next *job, idle bool) {
	j.cancel(context.Canceled)
	w.mu.Lock()
	defer w.mu.Unlock()
	if first := w.waiting.Front(); first != nil {
		next = first.Value.(*job)
		w.drop(next)
		return next, false
	}
	w.running--
	// Until j.gone, Run does not wait for l.wg, so Add is safe. If the loop has given up on
	// j, the context of the loop has ended.
	l := w.loop
	if k == nil || l.ctx.Err() != nil {
		return nil, false
	}
	l.wg.Add(1)
	k.since = time.Since(l.epoch)
	w.idle = append(w.idle, k)
	if !w.watchingIdle {
		w.watchingIdle = true
		l.wg.Go(w.watchIdle)
	}
	return nil, true
}

// watchIdle is the body of a goroutine that ends idle workers after idleTime, and at the
// end of the loop. It returns when no worker is idle.
func (w *Workers) watchIdle() {
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	for {
		all := false
		select {
		case <-timer.C:
		case <-w.loop.ctx.Done():
			all = true
		}
		wait, more := w.endIdle(all)
		if !more {
			return
		}
		timer.Reset(wait)
	}
}

// endIdle ends all idle workers, or those that have been idle for idleTime. It returns how
// long it takes until the next one has been idle for so long, unless none is left.
func (w *Workers) endIdle(all bool) (wait time.Duration, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := time.Since(w.loop.epoch) - idleTime
	n := 0
	for n < len(w.idle) && (all || w.idle[n].since <= old) {
		w.idle[n].jobs <- nil // has room: the worker is idle
		n++
	}
	w.idle = slices.Delete(w.idle, 0, n)
	if len(w.idle) == 0 {
		w.watchingIdle = false
		return 0, false
	}
	return w.idle[0].since - old, true
}

// drop removes j from the waiting jobs, and reports whether it was one of them. The caller
// holds w.mu.
func (w *Workers) drop(j *job) bool {
	if j.place == nil {
		return false
	}
	w.waiting.Remove(j.place)
	j.place = nil
	w.loop.count.workWaiting.Add(-1)
	j.unhook()
	return true
}

// dropLocking is drop for callers that do not hold w.mu.
func (w *Workers) dropLocking(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drop(j)
}

// cancel drops j if it has not started.
func (w *Workers) cancel(j *job) {
	if w.dropLocking(j) {
		j.function.canceled(context.Cause(j.ctx))
		j.gone()
	}
}

// gone unregisters j, which has ended. In a loop whose order a test controls, the loop does
// that, so that the moment does not depend on the scheduler. If the dispatcher has given up
// on j, nothing receives from the task channel any more.
func (j *job) gone() {
	l := j.loop
	if l.ordered == nil {
		l.unregisterAside(&j.handle)
		return
	}
	select {
	case l.tasks <- (*workEndedTask)(j):
		l.wakeRead()
	case <-l.done:
	}
}

type workEndedTask job

func (t *workEndedTask) run() {
	j := (*job)(t)
	j.loop.unregister(&j.handle)
}

// terminate ends the context of j, and unregisters j if it has not started.
func (j *job) terminate() {
	j.function.closed()
	dropped := j.workers.dropLocking(j)
	j.cancel(ErrLoopClosed)
	if dropped {
		j.loop.unregister(&j.handle)
	}
}

func (j *job) describe() string {
	if name := j.workers.name; name != "" {
		return name + ": " + funcName(j.origin.fn)
	}
	return funcName(j.origin.fn)
}

// abandonWork gives up on the functions that are still running when the grace period is
// over, and adds them to the error of Run. It does not give up on a function that has
// returned: its goroutine is about to report that, and Run waits for the report.
func (l *Loop) abandonWork() {
	for _, j := range owners[*job](l) {
		if !j.left() {
			continue
		}
		l.log(slog.LevelError, "work did not return", "func", j.describe())
		err := fmt.Errorf("%w: %s", ErrWorkLeft, j.describe())
		l.mu.Lock()
		l.stopErr = errors.Join(l.stopErr, err)
		l.mu.Unlock()
		l.unregister(&j.handle)
	}
}

// left reports whether the function of j is running. If the function has not been called
// yet, left makes sure that it never will be.
func (j *job) left() bool {
	return !j.state.CompareAndSwap(jobQueued, jobOver) && j.state.Load() == jobRunning
}

// Call runs f on the loop and waits for its result. It lets another goroutine read or change
// the state of the loop. If ctx ends before f has started, f does not run, and Call returns
// the cause. Once f runs, its result counts. If the loop ends by force before f has started,
// Call returns [ErrLoopClosed]. Before Run, Call waits for Run.
//
// On the loop, Call returns [ErrOnLoop], because it would wait for its own caller. Like
// [Future.Wait], it cannot detect a call from an iterator that the loop pulls.
//
// A panic in f is treated like a panic in a callback. Call then returns [ErrLoopClosed]
// or, with Config.CatchPanics, the [*PanicError]. If f is nil, Call returns an error.
func Call[T any](ctx context.Context, l *Loop, f func() (T, error)) (T, error) {
	checkLoop(l)
	var zero T
	if f == nil {
		return zero, errNilFunc
	}
	if l.onLoop() {
		return zero, ErrOnLoop
	}
	checkContext(ctx)
	result := unregisteredFuture[T](l)
	var once sync.Once // either f runs, or the caller stops waiting
	err := l.Post(func() {
		once.Do(func() { callInto(l, f, result) })
	})
	if err != nil {
		return zero, err
	}
	select {
	case <-result.Done():
		return result.Result()
	case <-l.ctx.Done(): // not l.done: the loop may wait for the goroutine of the caller
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
