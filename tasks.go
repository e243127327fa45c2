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

// A Task is straight-line code that runs on the loop. It is a coroutine: between
// two suspensions it runs like a callback, alone and on the dispatcher's turn, so
// it shares the state of the loop's callbacks without locks; while it is
// suspended, by [Future.Await], [Task.Sleep] and the like, the loop goes on.
//
// Its methods, and whatever takes the task as an argument, may only be called by
// the task's own code. Anywhere else, and after the task has ended, they return
// [ErrNotOnTask]. Only Loop, Context, Ref and Unref may be called from anywhere.
// The code of an iterator that the task pulls with [iter.Pull] runs on another
// goroutine, and so is not the task's own; that of one that it ranges over is.
type Task struct {
	handle
	f      func(t *Task) error
	origin origin
	outer  context.Context  // of Go: its end ends the waits of the task
	result Future[struct{}] // a part of the task: starting one allocates little else
	self   atomic.Uintptr   // goid.ID of the coroutine while it runs the task, else 0
	parked atomic.Uint64    // number of the suspension that waits to be woken, or 0
	cause  error            // the result of that suspension; set by the one that set parked to 0

	ctxMu  sync.Mutex // guards the following
	ctx    context.Context
	cancel context.CancelCauseFunc // of ctx
	over   error                   // the cause of the end of ctx, also if there is none yet

	co *coroutine // runs the task; set once, before the task can be woken

	// Only on the loop.
	ran      bool        // the coroutine has left the task
	unhook   func() bool // from outer; nil before the first wait
	seq      uint64      // of suspensions that wait to be woken
	free     int         // operations since the last suspension
	unwound  bool        // the loop has ended: nothing suspends any more
	err      error
	panicked *PanicError
	holds    []releaser // what is to be given back at the end
}

// A releaser is something that a task holds until it ends.
type releaser interface{ release() }

// ErrNotOnTask is returned by what only a task can do when it is not the task's
// own code that asks for it: another goroutine, a callback, another task, or the
// task after it has ended.
var ErrNotOnTask = errors.New("eventloop: not called by the running task")

// maxFree is how many operations a task may do without a suspension, because
// their results were there already or it may not wait any more, before it has to
// let others run.
const maxFree = 64

// Go runs f as a task: it starts in a later turn. The task keeps the loop alive,
// and the future tells how it ended: nobody has to ask for it, but then a failure
// is reported as [Future] says. The end of ctx ends what the task waits for, with
// the cause of ctx, at once and from then on always; the task itself decides
// what to do about it.
//
// A panic in f, or runtime.Goexit, is like one in a callback; with
// Config.CatchPanics the future fails with the [*PanicError], which has the
// task's own stack. When the loop ends by force, a suspended task is unwound: its
// suspension and all later ones return [ErrLoopClosed], and its deferred calls
// run. A task that has not started then never does.
//
// A task has a goroutine of its own, which runs only while the dispatcher waits
// for it. Therefore it must not call runtime.LockOSThread, nor may a callback,
// unless the dispatcher is locked to its thread from before Run to the end.
//
// Go may be called before Run.
func (l *Loop) Go(ctx context.Context, f func(t *Task) error) *Future[struct{}] {
	checkContext(ctx)
	return l.startTask(ctx, f, origin{fn: funcPC(f), at: callSite()})
}

// startTask is Go for a task that comes from o.
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
	l.Post(t.start)
	return &t.result
}

// start gives the task a coroutine and runs it up to its first suspension.
func (t *Task) start() {
	t.co = t.loop.takeCoroutine()
	t.co.task = t
	t.step()
}

// body is what the coroutine does for the task. It reports whether the coroutine
// can run another one. Panics are caught here, because iter.Pull would throw them
// again without the stack; Goexit it passes on, and that ends the loop as from any
// callback.
func (t *Task) body() (returned bool) {
	t.self.Store(uintptr(goid.Current()))
	defer func() {
		if v := recover(); v != nil {
			t.panicked = newPanicError(v)
		}
		t.self.Store(0)
	}()
	pprof.SetGoroutineLabels(t.loop.labels) // the task before may have left others
	t.err = errGoexit                       // unless f returns
	t.err = t.f(t)
	return true
}

var errGoexit = errors.New("eventloop: runtime.Goexit was called")

// step runs the task until it is suspended or ends. On the loop, in a turn of its
// own. Once the loop has ended only terminate resumes a task.
func (t *Task) step() {
	l, c := t.loop, t.co
	if t.ran || l.ended.Load() {
		return
	}
	suspended := false // a Goexit in the task unwinds this call
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

// end settles what there is to settle once the coroutine has left the task.
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
		l.panicEvent(t.panicked, nil) // its future is not asked any more
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
	if t.co == nil || t.ran { // not started, or ended since
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

// funcPC returns where the code of the function f begins.
func funcPC(f any) uintptr { return reflect.ValueOf(f).Pointer() }

// funcName returns the name of the function at pc, as stack traces have it.
func funcName(pc uintptr) string {
	if fn := runtime.FuncForPC(pc); fn != nil {
		return fn.Name()
	}
	return ""
}

// Loop returns the loop of the task. Unlike the other methods it may be called
// from anywhere.
func (t *Task) Loop() *Loop { return t.loop }

// Context returns the context of the task, to be given to what the task starts.
// It ends with the context of Go, when the task ends, and when the loop ends.
// Unlike the other methods, it may be called from anywhere.
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

// endContext ends the context of the task, be it made already or later. The first
// cause counts.
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

// Sleep suspends the task for d, or until its context ends; the cause of that is
// returned. For d <= 0 it is Yield.
func (t *Task) Sleep(d time.Duration) error {
	if d <= 0 {
		return t.Yield()
	}
	if err := t.enter(); err != nil {
		return err
	}
	if _, err := t.park(); err != nil {
		return err
	}
	timer := t.co.armTimer(d)
	err := t.suspend()
	if err != nil {
		timer.Stop()
	}
	return err
}

// Yield lets the loop run what is due, and goes on in a later turn. It returns
// the cause if the task's context has ended.
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

// Await suspends the task t until there is a result, and returns it, or until the
// task's context ends, and returns the cause of that. If the result is there
// already the task goes on without a suspension, though not for ever: every so
// often it has to let the loop run. A nil future fails at once.
func (f *Future[T]) Await(t *Task) (T, error) { return f.await(t, forever) }

// AwaitTimeout is Await for at most d. Then it returns an error that matches
// [ErrTimeout]; what the future stands for goes on, and can be awaited again. With
// d <= 0 it returns at once, with the result if there is one.
func (f *Future[T]) AwaitTimeout(t *Task, d time.Duration) (T, error) {
	return f.await(t, max(d, 0))
}

// forever is the bound of a wait that has none.
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
	f.ask()
	if f.state == futurePending {
		if err := f.suspend(t, d); err != nil {
			return zero, err
		}
	}
	f.take()
	return f.value, f.err
}

// suspend suspends t until there is a result, or for d, or until its context ends.
// The caller holds f.mu, which is released meanwhile.
func (f *Future[T]) suspend(t *Task, d time.Duration) error {
	if d == 0 {
		return cmp.Or(t.ended(), awaitTimeout())
	}
	if _, err := t.park(); err != nil {
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

// awaitAnyway is Await that the end of the task's context does not cut short; only
// the end of the loop does. The caller is the task.
func (f *Future[T]) awaitAnyway(t *Task) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ask()
	for f.state == futurePending {
		if _, err := t.parkAnyway(); err != nil {
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

// Block runs f, code that blocks, as [Work] does, and suspends the task t until f
// has returned. The context that f gets ends with that of the task. Block returns
// no earlier than f, so that f may use the variables of the task: f has to heed its
// context. There are two exceptions. If the context has ended before f has started,
// f never runs, and Block returns the cause. If the loop ends by force, Block
// returns [ErrLoopClosed] at once, and Run waits for f.
//
// A panic in f is returned as a [*PanicError]. If the caller is not the running
// task, or f is nil, f does not run, and Block returns an error.
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

// resolved is called when the result is there that the task waits for, on any
// goroutine. The future is locked, and so the task is still in that Await.
func (t *Task) resolved() { t.wake(t.seq, nil) }

// check returns ErrNotOnTask unless the caller is the running task.
func (t *Task) check() error {
	if t.self.Load() != uintptr(goid.Current()) {
		return ErrNotOnTask
	}
	return nil
}

// enter begins an operation of the task: it is check, and lets others run if the
// task has done many operations since it did.
func (t *Task) enter() error {
	if t.self.Load() != uintptr(goid.Current()) {
		return ErrNotOnTask
	}
	if t.free++; t.free > maxFree {
		t.pass()
	}
	return nil
}

// ended returns why the task may not wait any more: the loop or its context has
// ended.
func (t *Task) ended() error {
	if t.unwound {
		return ErrLoopClosed
	}
	if t.outer.Err() != nil {
		return t.canceledBy()
	}
	return nil
}

// canceledBy returns the cause of the end of outer, and sees to it that ctx, which
// hears of it a moment later, has ended too.
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
	t.loop.Post(t.co.step) // if it fails the loop is about to unwind the task
	return t.suspend()
}

// park begins a suspension: from now on wake with seq ends it. If the task may
// not wait any more, park returns the reason.
func (t *Task) park() (seq uint64, err error) {
	if err := t.ended(); err != nil {
		return 0, err
	}
	if t.unhook == nil && t.outer.Done() != nil {
		t.unhook = context.AfterFunc(t.outer, t.canceled)
	}
	seq, _ = t.parkAnyway()
	if t.outer.Err() != nil && t.claim(seq) {
		return 0, t.canceledBy()
	}
	return seq, nil // if canceled was faster, the suspension ends at once, with the cause
}

// parkAnyway is park that an ended context does not hinder.
func (t *Task) parkAnyway() (seq uint64, err error) {
	if t.unwound {
		return 0, ErrLoopClosed
	}
	t.seq++
	t.cause = nil
	t.parked.Store(t.seq)
	return t.seq, nil
}

// suspend waits for wake, and returns the error that it was given.
func (t *Task) suspend() error {
	t.free = 0
	if !t.co.yield(struct{}{}) {
		t.unwound = true
		return ErrLoopClosed
	}
	return t.cause // written before the step that woke us was posted
}

// wake ends the suspension seq, unless it is over, in a later turn. It may be
// called from any goroutine, and never runs code of the task by itself.
func (t *Task) wake(seq uint64, cause error) {
	if t.claim(seq) {
		t.cause = cause
		t.loop.Post(t.co.step)
	}
}

// wakeNow is wake for tasks of the loop, which are turns of their own: the task
// goes on at once.
func (t *Task) wakeNow(seq uint64) {
	if t.claim(seq) {
		t.step()
	}
}

// claim reports whether the caller is the one to wake the task.
func (t *Task) claim(seq uint64) bool {
	return seq != 0 && t.parked.CompareAndSwap(seq, 0)
}

// canceled is called when outer ends.
func (t *Task) canceled() {
	cause := t.canceledBy()
	if seq := t.parked.Load(); seq != 0 {
		t.wake(seq, cause)
	}
}

// A TaskGroup runs tasks that belong together, as errgroup does for goroutines:
// the first error ends the context of the others, and Wait waits for all. It is
// made by [Task.Group] and used by that task.
type TaskGroup struct {
	parent *Task
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Only on the loop.
	running int
	limit   int        // of running; negative: none
	queue   []*entrant // tasks that wait in Go, in order
	err     error
	origin  origin // of err
	waiting uint64 // the parent's suspension in Wait
	left    bool   // the parent has ended
}

// Group returns a new group of tasks whose contexts end with that of t. If t ends
// without Wait, the group ends with it, and its first error is reported as that
// of a future that nobody asked about. Group panics if it is not the task's own
// code that calls it.
func (t *Task) Group() *TaskGroup {
	if t.check() != nil {
		panic(ErrNotOnTask)
	}
	g := &TaskGroup{parent: t, limit: -1}
	g.ctx, g.cancel = context.WithCancelCause(t.Context())
	t.holds = append(t.holds, g)
	return g
}

// Context returns the context of the group's tasks. It ends with the first error,
// when Wait returns, and with the context of the parent.
func (g *TaskGroup) Context() context.Context { return g.ctx }

// SetLimit bounds the tasks of the group that run at a time to n; Go waits while
// there are so many. With a negative n, as from the start, there is no bound; with
// zero, Go starts no task, and waits until the loop ends. It panics while tasks of
// the group run, and if it is not called on the loop.
func (g *TaskGroup) SetLimit(n int) {
	if !g.parent.loop.onLoop() {
		panic(ErrNotOnTask)
	}
	if g.running > 0 {
		panic(fmt.Errorf("eventloop: SetLimit while %d tasks of the group run", g.running))
	}
	g.limit = n
}

// Go runs f as a task of the group, from a later turn on. It may be called on the
// loop only, by the parent, by tasks of the group, or by callbacks, and panics
// elsewhere.
//
// In a group with a limit ([TaskGroup.SetLimit]) Go suspends the task that calls it
// until f may start; those that called first go first. The end of a context does not
// cut that short, because it ends the tasks that are waited for as well. A callback
// cannot wait: in one, Go panics if the limit is reached.
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

// enter counts a task, and waits before that while there are too many.
func (g *TaskGroup) enter() {
	if g.limit < 0 || g.running < g.limit {
		g.running++
		return
	}
	t := g.parent.loop.task.Load()
	if t == nil {
		panic(errors.New("eventloop: Go of a group whose limit is reached, in a callback"))
	}
	w := &entrant{t: t}
	g.queue = append(g.queue, w)
	for !w.entered {
		var err error
		if w.seq, err = t.parkAnyway(); err != nil {
			g.running++ // the loop has ended, and with it what f would be run as
			return
		}
		t.suspend()
	}
}

// exit is the opposite of enter. A task that waits takes the place.
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
	seq     uint64 // of the suspension
	entered bool   // there is a place for f
}

// failed notes the first error, of the task from o.
func (g *TaskGroup) failed(o origin, err error) {
	if err == nil || g.err != nil {
		return
	}
	g.err, g.origin = err, o
	g.cancel(err)
	if g.left && !errors.Is(err, context.Canceled) { // which leaving has caused
		g.report()
	}
}

// release is called when the parent has ended without Wait.
func (g *TaskGroup) release() {
	g.left = true
	if g.err != nil {
		g.report()
	}
}

// report has the error treated as that of a future that nobody asks about.
func (g *TaskGroup) report() {
	f := looseFuture[struct{}](g.parent.loop)
	g.origin.kind = kindTask
	f.resolveFrom(g.origin, struct{}{}, g.err)
}

// Wait suspends the parent until all tasks of the group have ended, and returns
// the first error. The end of the parent's context does not cut it short, because
// it ends the tasks of the group as well; only the end of the loop does.
func (g *TaskGroup) Wait() error {
	t := g.parent
	if err := t.enter(); err != nil {
		return err
	}
	for g.running > 0 {
		seq, err := t.parkAnyway()
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
