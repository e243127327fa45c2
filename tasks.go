package eventloop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/goid"
)

// A Task is straight-line code that runs on the loop. It is a coroutine. Between two
// suspensions it runs like a callback, alone and on the loop, so it shares state with
// the loop's callbacks without locks. While it is suspended, by [Future.Await],
// [Task.Sleep] and similar calls, the loop continues.
//
// Only the task's own code may call its methods, and the functions that take the task as an
// argument. Anywhere else, and after the task has ended, they return [ErrNotOnTask].
// Loop, Context, Ref and Unref are the exceptions: they may be called from anywhere. If
// the task pulls an iterator with [iter.Pull], the iterator runs on another goroutine,
// so its code is not the task's own. If the task ranges over an iterator, the code of
// the iterator is the task's own.
type Task struct {
	handle
	f         func(t *Task) error
	origin    origin
	outer     context.Context  // of Go; its end ends the waits of the task
	result    Future[struct{}] // embedded to save an allocation
	self      atomic.Uintptr   // goid.ID of the coroutine while it runs the task, else 0
	suspended atomic.Uint64    // number of the suspension that waits for wake, or 0
	cause     error            // the result of that suspension; set by the goroutine that set suspended to 0

	ctxMu  sync.Mutex // guards the following
	ctx    context.Context
	cancel context.CancelCauseFunc // of ctx
	over   error                   // the cause of the end of ctx, even if ctx does not exist yet

	co *coroutine // runs the task; set once, before the task can be woken

	// Only on the loop.
	ran      bool        // the coroutine has returned from the task
	unhook   func() bool // unregisters from outer; nil before the first wait
	seq      uint64      // number of the last suspension that waits for wake
	free     int         // operations since the last suspension
	unwound  bool        // the loop has ended, so calls no longer suspend the task
	err      error
	panicked *PanicError
	holds    []releaser // released at the end of the task
}

// A releaser is something that a task holds until it ends.
type releaser interface{ release() }

// ErrNotOnTask is returned by operations that only a task may call, if the caller is
// not the task's own code: it is another goroutine, a callback or another task, or the
// task has ended.
var ErrNotOnTask = errors.New("eventloop: not called by the running task")

// maxFree is the number of operations that a task may perform without a suspension, because
// their results are already available or because the task may no longer wait. After that
// many operations, the task has to let other code run.
const maxFree = 64

// Go runs f as a task. The task starts in a later turn and keeps the loop alive. The
// future reports how the task ended. It may be dropped; then a failure is reported as
// [Future] describes. When ctx ends, the current wait of the task and each later one
// return the cause of ctx at once; the task decides how to react.
//
// A panic in f, or runtime.Goexit, is treated like one in a callback. With
// Config.CatchPanics the future fails with the [*PanicError], which has the stack of
// the task. When the loop ends by force, a suspended task is unwound: its suspension
// and all later ones return [ErrLoopClosed], and its deferred calls run. A task that
// has not started by then never starts.
//
// A task has its own goroutine, which runs only while the dispatcher waits for it.
// Therefore neither a task nor a callback may call runtime.LockOSThread, unless the
// dispatcher is locked to its thread from before Run to the end.
//
// Go may be called before Run. The future fails at once with [ErrLoopClosed] after the
// end of the loop, and with another error if f is nil.
func (l *Loop) Go(ctx context.Context, f func(t *Task) error) *Future[struct{}] {
	checkContext(ctx)
	return l.startTask(ctx, f, origin{fn: funcPC(f), at: callSite()})
}

// startTask is Go for a task with the origin o.
func (l *Loop) startTask(ctx context.Context, f func(t *Task) error, o origin) *Future[struct{}] {
	if f == nil {
		return failedFuture[struct{}](l, errNilFunc)
	}
	o.kind = kindTask
	t := &Task{f: f, origin: o, outer: ctx}
	t.result.loop = l
	if err := l.register(&t.handle, t, kindTask, true); err != nil {
		t.result.fail(err)
		return &t.result
	}
	l.postFor(t.start, t)
	return &t.result
}

// start gives the task a coroutine and runs it up to its first suspension.
func (t *Task) start() {
	t.co = t.loop.takeCoroutine()
	t.co.task = t
	t.step()
}

// body runs the task on the coroutine. It reports whether the coroutine can run another
// task. It catches panics, because iter.Pull would repeat them without the stack.
// iter.Pull passes Goexit on, and Goexit ends the loop as from any callback.
func (t *Task) body() (returned bool) {
	t.self.Store(uintptr(goid.Current()))
	defer func() {
		if v := recover(); v != nil {
			t.panicked = newPanicError(v)
		}
		t.self.Store(0)
	}()
	pprof.SetGoroutineLabels(t.loop.labels) // the previous task may have changed them
	t.err = errGoexit                       // unless f returns
	t.err = t.f(t)
	return true
}

var errGoexit = errors.New("eventloop: runtime.Goexit was called")

// step runs the task until it suspends or ends. It runs on the loop, in its own turn.
// Once the loop has ended, only terminate resumes a task.
func (t *Task) step() {
	l, c := t.loop, t.co
	if t.ran || l.ended.Load() {
		return
	}
	suspended := false // stays false if Goexit in the task unwinds this call
	l.task.Store(t)
	defer func() {
		l.task.Store(nil)
		if suspended {
			return
		}
		t.end()
		if c.task == nil {
			l.keepCoroutine(c)
		}
	}()
	_, ok := c.next()
	suspended = ok && c.task != nil
}

// end cleans up after the coroutine has returned from the task.
func (t *Task) end() {
	t.ran = true
	if t.co.timer != nil {
		t.co.timer.Stop()
	}
	if t.unhook != nil {
		t.unhook()
	}
	t.endContext(context.Canceled)
	defer t.loop.unregister(&t.handle)
	defer t.settle()
	holds := t.holds
	t.holds = nil
	for _, h := range slices.Backward(holds) {
		h.release()
	}
}

// settle resolves the future.
func (t *Task) settle() {
	l := t.loop
	switch {
	case t.panicked != nil && l.ended.Load():
		l.panicEvent(t.panicked, nil) // its future no longer reports failures
		t.result.finish(futureClosed, struct{}{}, t.panicked)
	case t.panicked != nil && !l.cfg.CatchPanics:
		l.stopPanic(t.panicked)
		t.result.finish(futureClosed, struct{}{}, t.panicked) // reported by Run
	case t.panicked != nil:
		t.result.resolveFrom(t.origin, struct{}{}, t.panicked)
	case t.unwound && (errors.Is(t.err, ErrLoopClosed) || errors.Is(t.err, context.Canceled)):
		t.result.fail(ErrLoopClosed)
	default:
		t.result.resolveFrom(t.origin, struct{}{}, t.err)
	}
}

// terminate unwinds the task at the end of the loop.
func (t *Task) terminate() {
	t.unwound = true
	t.endContext(ErrLoopClosed)
	if t.co == nil || t.ran { // not started, or already ended
		t.result.fail(ErrLoopClosed)
		t.loop.unregister(&t.handle)
		return
	}
	t.loop.task.Store(t)
	defer func() {
		t.loop.task.Store(nil)
		t.end()
	}()
	t.co.stop() // the suspension returns, and the task runs to its end
}

func (t *Task) describe() string { return funcName(t.origin.fn) }

// funcPC returns the address of the code of the function f.
func funcPC(f any) uintptr { return reflect.ValueOf(f).Pointer() }

// funcName returns the name of the function at pc, as in stack traces.
func funcName(pc uintptr) string {
	if fn := runtime.FuncForPC(pc); fn != nil {
		return fn.Name()
	}
	return ""
}

// Loop returns the loop of the task. Unlike most other methods it may be called from
// anywhere.
func (t *Task) Loop() *Loop { return t.loop }

// Context returns the context of the task, for the operations that the task starts. It
// ends when the context of Go ends, when the task ends, and when the loop ends. Unlike
// most other methods it may be called from anywhere.
func (t *Task) Context() context.Context {
	t.ctxMu.Lock()
	defer t.ctxMu.Unlock()
	if t.ctx == nil {
		t.ctx, t.cancel = context.WithCancelCause(t.outer)
		if t.over != nil {
			t.cancel(t.over)
		}
	}
	return t.ctx
}

// endContext ends the context of the task, whether it already exists or is created later.
// The first cause counts.
func (t *Task) endContext(cause error) {
	t.ctxMu.Lock()
	if t.over == nil {
		t.over = cause
	}
	cancel := t.cancel
	t.ctxMu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// Sleep suspends the task for d. If the task's context ends earlier, Sleep returns its
// cause. For d <= 0 it is Yield.
func (t *Task) Sleep(d time.Duration) error {
	if d <= 0 {
		return t.Yield()
	}
	if err := t.enter(); err != nil {
		return err
	}
	if _, err := t.beginSuspend(); err != nil {
		return err
	}
	timer := t.co.armTimer(d)
	err := t.suspend()
	if err != nil {
		timer.Stop()
	}
	return err
}

// Yield suspends the task until a later turn, so that the loop can run other work. It
// returns the cause of the task's context if that has ended.
func (t *Task) Yield() error {
	if err := t.enter(); err != nil {
		return err
	}
	if err := t.ended(); err != nil {
		return err
	}
	if err := t.pass(); err != nil {
		return err
	}
	return t.ended()
}

// Await suspends the task t until the future has a result, and returns the result. If
// the task's context ends first, Await returns its cause. If the result is already
// available, Await usually returns without a suspension; from time to time it suspends t
// for a turn, so that the loop can run other work. For a nil future it returns an error at
// once.
func (f *Future[T]) Await(t *Task) (T, error) { return f.await(t, forever) }

// AwaitTimeout is Await for at most d. After d it returns an error that matches
// [ErrTimeout]; the operation continues, and its future can be awaited again. With d <=
// 0 it returns at once, with the result if there is one.
func (f *Future[T]) AwaitTimeout(t *Task, d time.Duration) (T, error) {
	return f.await(t, max(d, 0))
}

// forever is the duration of a wait without a limit.
const forever time.Duration = -1

func (f *Future[T]) await(t *Task, d time.Duration) (T, error) {
	var zero T
	if f == nil {
		return zero, errNilFuture
	}
	if t == nil {
		return zero, ErrNotOnTask
	}
	if err := t.enter(); err != nil {
		return zero, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
	if f.state == futurePending {
		if err := f.suspend(t, d); err != nil {
			return zero, err
		}
	}
	f.take()
	return f.value, f.err
}

// suspend suspends t until the future has a result, until d has passed, or until the
// context of t ends. The caller holds f.mu, which is released during the suspension.
func (f *Future[T]) suspend(t *Task, d time.Duration) error {
	if d == 0 {
		return cmp.Or(t.ended(), awaitTimeout())
	}
	if _, err := t.beginSuspend(); err != nil {
		return err
	}
	f.observers.add(&t.co.await)
	f.mu.Unlock()
	if d != forever {
		defer t.co.armTimer(d).Stop()
	}
	err := t.suspend()
	f.mu.Lock()
	f.observers.remove(&t.co.await)
	if err == nil && f.state == futurePending {
		return awaitTimeout()
	}
	return err
}

// awaitAnyway is Await, except that only the end of the loop interrupts it, not the end
// of the task's context. The caller is the task.
func (f *Future[T]) awaitAnyway(t *Task) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.markHandled()
	for f.state == futurePending {
		if _, err := t.beginSuspendAnyway(); err != nil {
			return *new(T), err
		}
		f.observers.add(&t.co.await)
		f.mu.Unlock()
		t.suspend() // its error would be that of the context, or the loop has ended
		f.mu.Lock()
		f.observers.remove(&t.co.await)
	}
	f.take()
	return f.value, f.err
}

// Block runs the blocking function f as [Work] does, and suspends the task t until f
// has returned. The context passed to f ends with the context of the task. Because
// Block waits for f, f may use the variables of the task, and f has to respect its
// context. There are two exceptions. If the context ends before f has started, f never
// runs, and Block returns the cause. If the loop ends by force, Block returns
// [ErrLoopClosed] at once, and Run waits for f.
//
// A panic in f is returned as a [*PanicError]. If the caller is not the running task, f
// does not run, and Block returns [ErrNotOnTask]. If f is nil, Block returns an error.
func Block[T any](t *Task, f func(ctx context.Context) (T, error)) (T, error) {
	if t == nil {
		return *new(T), ErrNotOnTask
	}
	if err := t.enter(); err != nil {
		return *new(T), err
	}
	return Work(t.Context(), t.loop, f).awaitAnyway(t)
}

func awaitTimeout() error { return &OpError{Op: OpAwait, Err: os.ErrDeadlineExceeded} }

var errNilFuture = errors.New("eventloop: nil future")

// resolved is called, on any goroutine, when the result that the task awaits is available.
// The future is locked, so the task is still in that Await.
func (t *Task) resolved() { t.wake(t.seq, nil) }

// check returns ErrNotOnTask unless the caller is the running task.
func (t *Task) check() error {
	if t.self.Load() != uintptr(goid.Current()) {
		return ErrNotOnTask
	}
	return nil
}

// enter begins an operation of the task. It checks the caller like check. If the task
// has done many operations since the last suspension, enter lets other code run.
func (t *Task) enter() error {
	if t.self.Load() != uintptr(goid.Current()) {
		return ErrNotOnTask
	}
	if t.free++; t.free > maxFree {
		t.pass()
	}
	return nil
}

// ended returns an error if the task may no longer wait, because the loop or the context of
// the task has ended.
func (t *Task) ended() error {
	if t.unwound {
		return ErrLoopClosed
	}
	if t.outer.Err() != nil {
		return t.canceledBy()
	}
	return nil
}

// canceledBy returns the cause of the end of outer. It also ends ctx, to which the end
// of outer may not have propagated yet.
func (t *Task) canceledBy() error {
	cause := context.Cause(t.outer)
	t.endContext(cause)
	return cause
}

// pass suspends the task until a later turn. It fails only at the end of the loop.
func (t *Task) pass() error {
	if t.unwound {
		return ErrLoopClosed
	}
	t.cause = nil
	t.loop.postFor(t.co.step, t) // Post fails only if the loop is about to unwind the task
	return t.suspend()
}

// beginSuspend begins a suspension: from now on, wake with seq ends it. If the task may no
// longer wait, beginSuspend returns the reason.
func (t *Task) beginSuspend() (seq uint64, err error) {
	if err := t.ended(); err != nil {
		return 0, err
	}
	if t.unhook == nil && t.outer.Done() != nil {
		t.unhook = context.AfterFunc(t.outer, t.canceled)
	}
	seq, _ = t.beginSuspendAnyway()
	if t.outer.Err() != nil && t.claim(seq) {
		return 0, t.canceledBy()
	}
	return seq, nil // if canceled was faster, the suspension ends at once, with the cause
}

// beginSuspendAnyway is beginSuspend for a suspension that an ended context does not
// prevent.
func (t *Task) beginSuspendAnyway() (seq uint64, err error) {
	if t.unwound {
		return 0, ErrLoopClosed
	}
	t.seq++
	t.cause = nil
	t.suspended.Store(t.seq)
	return t.seq, nil
}

// suspend waits for wake, and returns the error passed to wake.
func (t *Task) suspend() error {
	t.free = 0
	if !t.co.yield(struct{}{}) {
		t.unwound = true
		return ErrLoopClosed
	}
	return t.cause // written before the step that resumed the task was posted
}

// wake ends the suspension seq, in a later turn, unless it has already ended. It may be
// called from any goroutine, and never runs code of the task itself.
func (t *Task) wake(seq uint64, cause error) {
	if t.claim(seq) {
		t.cause = cause
		t.loop.postFor(t.co.step, t)
	}
}

// wakeNow is wake for a caller that is the only code in its turn, such as a timer: the
// task continues at once. It runs on the loop.
func (t *Task) wakeNow(seq uint64) {
	if t.claim(seq) {
		t.step()
	}
}

// claim reports whether the caller has to wake the task from the suspension seq. Only one
// caller does.
func (t *Task) claim(seq uint64) bool {
	return seq != 0 && t.suspended.CompareAndSwap(seq, 0)
}

// canceled is called when outer ends.
func (t *Task) canceled() {
	cause := t.canceledBy()
	if seq := t.suspended.Load(); seq != 0 {
		t.wake(seq, cause)
	}
}

// A TaskGroup runs related tasks, as errgroup does for goroutines: the first error ends
// the context of the others, and Wait waits for all. [Task.Group] returns one for use
// by that task.
type TaskGroup struct {
	parent *Task
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Only on the loop.
	running int
	limit   int        // of running; negative: no limit
	queue   []*entrant // tasks that wait in Go, in order
	err     error
	origin  origin // of err
	waiting uint64 // number of the parent's suspension in Wait
	left    bool   // the parent has ended without calling Wait
}

// Group returns a new group of tasks whose contexts end with that of t. If t ends
// without calling Wait, the group ends with t, and its first error is reported like an
// unhandled failure of a [Future]. Group panics if the caller is not the task's own
// code.
func (t *Task) Group() *TaskGroup {
	if t.check() != nil {
		panic(ErrNotOnTask)
	}
	g := &TaskGroup{parent: t, limit: -1}
	g.ctx, g.cancel = context.WithCancelCause(t.Context())
	t.holds = append(t.holds, g)
	return g
}

// Context returns the context of the group's tasks. It ends with the first error, when
// Wait returns, and with the context of the parent.
func (g *TaskGroup) Context() context.Context { return g.ctx }

// SetLimit limits the group to n tasks at a time; at the limit, Go waits. A negative n
// means no limit, which is the default. With n zero, Go starts no task and waits until
// the loop ends. SetLimit panics while tasks of the group run, and if it is not called
// on the loop.
func (g *TaskGroup) SetLimit(n int) {
	if !g.parent.loop.onLoop() {
		panic(ErrNotOnTask)
	}
	if g.running > 0 {
		panic(fmt.Errorf("eventloop: SetLimit while %d tasks of the group are running", g.running))
	}
	g.limit = n
}

// Go runs f as a task of the group, starting in a later turn. It may be called only on
// the loop, by the parent, by tasks of the group or by callbacks; elsewhere it panics.
//
// In a group with a limit ([TaskGroup.SetLimit]), Go suspends the calling task until f
// may start. Waiting tasks continue in the order of their calls. The end of a context
// does not interrupt this wait, because it ends the tasks of the group as well. A
// callback cannot wait: in a callback, Go panics if the limit is reached.
func (g *TaskGroup) Go(f func(t *Task) error) {
	if !g.parent.loop.onLoop() {
		panic(ErrNotOnTask)
	}
	g.enter()
	o := origin{fn: funcPC(f), at: callSite()}
	g.parent.loop.startTask(g.ctx, f, o).observe(func(_ struct{}, err error) {
		// Called when the task ends, which is on the loop.
		g.exit()
		g.failed(o, err)
		if g.running == 0 {
			g.parent.wake(g.waiting, nil)
		}
	})
}

// enter counts a task. If the limit is reached, it waits first.
func (g *TaskGroup) enter() {
	if g.limit < 0 || g.running < g.limit {
		g.running++
		return
	}
	t := g.parent.loop.task.Load()
	if t == nil {
		panic(errors.New("eventloop: TaskGroup.Go in a callback while the group is at its limit"))
	}
	w := &entrant{t: t}
	g.queue = append(g.queue, w)
	for !w.entered {
		var err error
		if w.seq, err = t.beginSuspendAnyway(); err != nil {
			g.running++ // the loop has ended, so f will not run
			return
		}
		t.suspend()
	}
}

// exit undoes enter. If a task waits in enter, that task takes the free place.
func (g *TaskGroup) exit() {
	if len(g.queue) == 0 {
		g.running--
		return
	}
	w := g.queue[0]
	g.queue = g.queue[1:]
	w.entered = true
	w.t.wake(w.seq, nil)
}

// An entrant is a task that waits in Go of a group.
type entrant struct {
	t       *Task
	seq     uint64 // number of the suspension
	entered bool   // f may start
}

// failed records the first error, of the task with the origin o.
func (g *TaskGroup) failed(o origin, err error) {
	if err == nil || g.err != nil {
		return
	}
	g.err, g.origin = err, o
	g.cancel(err)
	if g.left && !errors.Is(err, context.Canceled) { // Canceled is only the consequence of leaving
		g.report()
	}
}

// release is called when the parent has ended without calling Wait.
func (g *TaskGroup) release() {
	g.left = true
	if g.err != nil {
		g.report()
	}
}

// report reports the error of the group like an unhandled failure of a future.
func (g *TaskGroup) report() {
	f := unregisteredFuture[struct{}](g.parent.loop)
	g.origin.kind = kindTask
	f.resolveFrom(g.origin, struct{}{}, g.err)
}

// Wait suspends the parent until all tasks of the group have ended, and returns the
// first error. The end of the parent's context does not interrupt Wait, because it ends
// the tasks of the group as well; only the end of the loop does.
func (g *TaskGroup) Wait() error {
	t := g.parent
	if err := t.enter(); err != nil {
		return err
	}
	for g.running > 0 {
		seq, err := t.beginSuspendAnyway()
		if err != nil {
			return err
		}
		g.waiting = seq
		t.suspend() // its error would be that of the context, or the loop has ended
	}
	g.cancel(context.Canceled)
	if i := slices.Index(t.holds, releaser(g)); i >= 0 {
		t.holds = slices.Delete(t.holds, i, i+1)
	}
	return g.err
}
