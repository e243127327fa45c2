package eventloop

import (
	"iter"
	"sync/atomic"
	"time"
)

// A coroutine is a goroutine that runs tasks, one after the other. It runs only while
// the dispatcher waits for it. The loop keeps idle coroutines for reuse: creating one
// takes 0.5 µs and ten allocations (measured).
//
// A coroutine belongs to its loop, so it never leaves a synctest bubble. It ends when
// its task panics or calls Goexit, and at the latest when the loop ends. A stack that
// has grown stays while the coroutine is in use; each garbage collection halves the
// stacks of which less than a quarter is used.
type coroutine struct {
	task  *Task                   // the task that the coroutine runs; nil between tasks
	next  func() (struct{}, bool) // runs it until the task suspends or ends
	stop  func()                  // ends it; a suspended task is unwound
	yield func(struct{}) bool

	// The beginning of its stack traces, for a slowWatch; nil without one.
	header atomic.Pointer[[]byte]

	// The parts of a suspension, created once per coroutine.
	step  func()   // resumes the task
	await observer // of Await
	timer *Timer   // of Sleep; nil before the first
}

// maxIdleCoroutines limits the idle coroutines of a loop. Each has a stack of at least
// 2 KB.
const maxIdleCoroutines = 128

// takeCoroutine returns a coroutine without a task. It prefers the one used last: its
// memory is in the caches, and the stacks of the others can shrink.
func (l *Loop) takeCoroutine() *coroutine {
	if n := len(l.coroutines); n > 0 {
		c := l.coroutines[n-1]
		l.coroutines[n-1] = nil
		l.coroutines = l.coroutines[:n-1]
		return c
	}
	c := &coroutine{}
	c.step = func() { c.task.step() }
	c.await.notify = func() { c.task.resolved() }
	c.next, c.stop = iter.Pull(c.run)
	return c
}

// keepCoroutine takes back a coroutine whose task has ended.
func (l *Loop) keepCoroutine(c *coroutine) {
	if len(l.coroutines) < maxIdleCoroutines {
		l.coroutines = append(l.coroutines, c)
	} else {
		c.stop()
	}
}

// endCoroutines ends the idle coroutines.
func (l *Loop) endCoroutines() {
	for _, c := range l.coroutines {
		c.stop()
	}
	l.coroutines = nil
}

// run is the body of the goroutine.
func (c *coroutine) run(yield func(struct{}) bool) {
	c.yield = yield
	if c.task.loop.watch != nil {
		header := goroutineHeader()
		c.header.Store(&header)
	}
	for c.task.body() {
		c.task = nil
		if !yield(struct{}{}) {
			return
		}
	}
}

// armTimer arranges for the task to be resumed after d, in the turn of the timer.
func (c *coroutine) armTimer(d time.Duration) *Timer {
	if c.timer == nil {
		c.timer = c.task.loop.AfterFunc(d, func() { c.task.wakeNow(c.task.seq) })
		c.timer.Unref() // the task itself keeps the loop alive
	} else {
		c.timer.Reset(d)
	}
	return c.timer
}
