package eventloop

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"runtime"
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
// [ErrNotOnTask].
type Task struct {
	handle
	f       func(t *Task) error
	ctx     context.Context
	cancel  context.CancelCauseFunc
	result  *Future[struct{}]
	next    func() (struct{}, bool) // runs the coroutine up to its next suspension
	stop    func()                  // unwinds it
	stepper func()                  // t.step, made once: wake-ups allocate nothing
	timer   *Timer                  // of Sleep
	self    atomic.Uintptr          // goid.ID of the coroutine, 0 when there is none

	// Only on the loop.
	yield    func(struct{}) bool
	unwound  bool // the loop has ended: nothing suspends any more
	free     int  // operations since the last suspension that needed none
	err      error
	panicked *PanicError
	releases []func() // what gives back what the task holds

	mu     sync.Mutex // guards the following
	seq    uint64     // of the suspensions
	parked bool       // suspended, or about to be, and not woken
	cause  error      // for what the suspension returns
}

// ErrNotOnTask is returned by what only a task can do when it is not the task's
// own code that asks for it: another goroutine, a callback, another task, or the
// task after it has ended.
var ErrNotOnTask = errors.New("eventloop: not called by the running task")

// maxFree is how many operations a task may do without a suspension, because
// their results were there already, before it has to let others run.
const maxFree = 64

// Go runs f as a task: it starts in a later turn. The task keeps the loop alive,
// and the future tells how it ended: nobody has to ask for it, but then a failure
// is reported as [Future] says. The end of ctx ends what the task waits for, with
// the cause of ctx, at once and from then on always; the task itself decides
// what to do about it. A nil ctx means context.Background.
//
// A panic in f, or runtime.Goexit, is like one in a callback; with
// Config.CatchPanics the future fails with the [*PanicError], which has the
// task's own stack. When the loop ends by force, a suspended task is unwound: its
// suspension and all later ones return [ErrLoopClosed], and its deferred calls
// run. A task that has not started then never does.
//
// Go may be called before Run.
func (l *Loop) Go(ctx context.Context, f func(t *Task) error) *Future[struct{}] {
	if f == nil {
		return failedFuture[struct{}](l, errNilFunc)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	t := &Task{f: f, result: looseFuture[struct{}](l)}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	t.stepper = t.step
	if err := l.register(&t.handle, t, kindTask, true); err != nil {
		t.cancel(err)
		t.result.fail(err)
		return t.result
	}
	l.Post(t.start)
	return t.result
}

// start makes the coroutine and runs it up to its first suspension.
func (t *Task) start() {
	if t.unwound {
		return
	}
	release := context.AfterFunc(t.ctx, t.canceled)
	t.releases = append(t.releases, func() { release() })
	t.next, t.stop = iter.Pull(t.body)
	t.step()
}

// body is the coroutine. Panics are caught in it, because iter.Pull would throw
// them again without the stack; Goexit it passes on, and that ends the loop as
// from any callback.
func (t *Task) body(yield func(struct{}) bool) {
	t.yield = yield
	t.self.Store(uintptr(goid.Current()))
	defer func() {
		if v := recover(); v != nil {
			t.panicked = newPanicError(v)
		}
		t.self.Store(0)
	}()
	t.err = errGoexit // unless f returns
	t.err = t.f(t)
}

var errGoexit = errors.New("eventloop: the task called runtime.Goexit")

// step runs the task until it is suspended or ends. On the loop.
func (t *Task) step() {
	if t.next == nil || t.unwound {
		return
	}
	l := t.loop
	ended := true // a Goexit in the task goes through here
	outer := l.task.Swap(t)
	defer func() {
		l.task.Store(outer)
		if ended {
			t.end()
		}
	}()
	_, more := t.next()
	ended = !more
}

// end settles what there is to settle once the coroutine has returned.
func (t *Task) end() {
	t.next = nil
	for i := len(t.releases) - 1; i >= 0; i-- {
		t.releases[i]()
	}
	t.releases = nil
	if t.timer != nil {
		t.timer.Stop()
	}
	t.cancel(context.Canceled)
	t.settle()
	t.loop.unregister(&t.handle)
}

// settle resolves the future.
func (t *Task) settle() {
	l := t.loop
	switch {
	case t.panicked != nil && !l.cfg.CatchPanics:
		l.stopPanic(t.panicked)
		t.result.finish(futureClosed, struct{}{}, t.panicked) // reported by Run
	case t.panicked != nil:
		t.result.fail(t.panicked)
	case t.unwound && t.err != nil:
		t.result.fail(ErrLoopClosed)
	default:
		t.result.resolve(struct{}{}, t.err)
	}
}

// terminate unwinds the task at the end of the loop.
func (t *Task) terminate() {
	t.unwound = true
	t.cancel(ErrLoopClosed)
	if t.next == nil {
		t.result.fail(ErrLoopClosed)
		t.loop.unregister(&t.handle)
		return
	}
	outer := t.loop.task.Swap(t)
	defer func() {
		t.loop.task.Store(outer)
		t.end()
	}()
	t.stop() // the suspension returns, and the task runs to its end
}

func (t *Task) describe() string {
	return funcName(t.f)
}

// funcName returns the name of the function f, as stack traces have it.
func funcName(f any) string {
	if fn := runtime.FuncForPC(reflect.ValueOf(f).Pointer()); fn != nil {
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
func (t *Task) Context() context.Context { return t.ctx }

// Sleep suspends the task for d, or until its context ends; the cause of that is
// returned. For d <= 0 it is Yield.
func (t *Task) Sleep(d time.Duration) error {
	if d <= 0 {
		return t.Yield()
	}
	if err := t.check(); err != nil {
		return err
	}
	if _, err := t.park(); err != nil {
		return err
	}
	if t.timer == nil {
		t.timer = t.loop.AfterFunc(d, t.awake)
		t.timer.Unref() // the task itself keeps the loop alive
	} else {
		t.timer.Reset(d)
	}
	err := t.suspend()
	t.timer.Stop()
	return err
}

// awake is the callback of the timer: it goes on with the task in this turn.
func (t *Task) awake() { t.wakeNow(t.current()) }

func (t *Task) current() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seq
}

// Yield lets the loop run what is due, and goes on in a later turn. It returns
// the cause if the task's context has ended.
func (t *Task) Yield() error {
	if err := t.check(); err != nil {
		return err
	}
	seq, err := t.park()
	if err != nil {
		return err
	}
	t.wake(seq, nil)
	return t.suspend()
}

// Await suspends the task t until there is a result, and returns it, or until the
// task's context ends, and returns the cause of that. If the result is there
// already the task goes on without a suspension, though not for ever: every so
// often it has to let the loop run. A nil future fails at once.
func (f *Future[T]) Await(t *Task) (T, error) {
	var zero T
	if f == nil {
		return zero, errNilFuture
	}
	if t == nil {
		return zero, ErrNotOnTask
	}
	if err := t.check(); err != nil {
		return zero, err
	}
	if v, err := f.Result(); err != ErrPending {
		t.spend()
		return v, err
	}
	seq, err := t.park()
	if err != nil {
		return zero, err
	}
	f.observe(func(T, error) { t.wake(seq, nil) })
	if err := t.suspend(); err != nil {
		return zero, err
	}
	return f.Result()
}

var errNilFuture = errors.New("eventloop: Await of a nil future")

// check returns ErrNotOnTask unless the caller is the running task.
func (t *Task) check() error {
	if t.self.Load() != uintptr(goid.Current()) {
		return ErrNotOnTask
	}
	return nil
}

// spend counts an operation that needed no suspension, and yields if there have
// been many. What ends the task's wait is left to operations that do wait.
func (t *Task) spend() {
	if t.free++; t.free >= maxFree {
		t.Yield()
	}
}

// park begins a suspension: from now on wake with seq ends it. If the task may
// not be suspended any more, because the loop or its context has ended, park
// returns the error.
func (t *Task) park() (seq uint64, err error) {
	if t.unwound {
		return 0, ErrLoopClosed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	t.seq++
	t.parked, t.cause = true, nil
	return t.seq, nil
}

// suspend waits for wake, and returns the error that it was given.
func (t *Task) suspend() error {
	t.free = 0
	if !t.yield(struct{}{}) {
		t.unwound = true
		return ErrLoopClosed
	}
	return t.cause // written under mu before the step that woke us was posted
}

// wake ends the suspension seq, unless it is over, in a later turn. It may be
// called from any goroutine, and never runs code of the task by itself.
func (t *Task) wake(seq uint64, cause error) {
	if t.claim(seq, cause) {
		t.loop.Post(t.stepper)
	}
}

// wakeNow is wake for tasks of the loop, which are turns of their own: the task
// goes on at once.
func (t *Task) wakeNow(seq uint64) {
	if t.claim(seq, nil) {
		t.step()
	}
}

// claim reports whether the caller is the one to wake the task.
func (t *Task) claim(seq uint64, cause error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.parked || t.seq != seq {
		return false
	}
	t.parked, t.cause = false, cause
	return true
}

// canceled is called when the task's context ends.
func (t *Task) canceled() {
	t.mu.Lock()
	seq := t.seq
	t.mu.Unlock()
	t.wake(seq, context.Cause(t.ctx))
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
	err     error
	waiting uint64 // the parent's suspension in Wait, or 0
}

// Group returns a new group of tasks whose contexts end with that of t.
func (t *Task) Group() *TaskGroup {
	ctx, cancel := context.WithCancelCause(t.ctx)
	return &TaskGroup{parent: t, ctx: ctx, cancel: cancel}
}

// Go runs f as a task of the group, from a later turn on. It may be called on the
// loop only: by the parent, by tasks of the group, or by callbacks.
func (g *TaskGroup) Go(f func(t *Task) error) {
	if !g.parent.loop.onLoop() {
		panic(ErrNotOnTask)
	}
	g.running++
	g.parent.loop.Go(g.ctx, f).observe(func(_ struct{}, err error) {
		// Called when the task ends, which is on the loop.
		g.running--
		if err != nil && g.err == nil {
			g.err = err
			g.cancel(err)
		}
		if g.running == 0 && g.waiting != 0 {
			g.parent.wake(g.waiting, nil)
		}
	})
}

// Wait suspends the parent until all tasks of the group have ended, and returns
// the first error. The end of the parent's context does not cut it short, because
// it ends the tasks of the group as well; only the end of the loop does.
func (g *TaskGroup) Wait() error {
	t := g.parent
	if err := t.check(); err != nil {
		return err
	}
	defer g.cancel(context.Canceled)
	for g.running > 0 {
		seq, err := t.parkAnyway()
		if err != nil {
			return err
		}
		g.waiting = seq
		if err := t.suspend(); err == ErrLoopClosed {
			return err
		}
	}
	return g.err
}

// parkAnyway is park that an ended context does not hinder.
func (t *Task) parkAnyway() (seq uint64, err error) {
	if t.unwound {
		return 0, ErrLoopClosed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	t.parked, t.cause = true, nil
	return t.seq, nil
}
