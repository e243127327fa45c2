package eventloop

import (
	"iter"
	"sync/atomic"
	"time"
)

// A coroutine is a goroutine that runs tasks, one after the other, each time only
// while the dispatcher waits for it. The loop keeps some that have ended their
// task: making one takes 0.5 µs and ten allocations (measured).
//
// A coroutine belongs to its loop, so it never leaves a synctest bubble. It ends
// with a panic or a Goexit of its task, and at the end of the loop at the latest.
// A stack that grew stays while the coroutine is in use; each garbage collection
// halves the stacks that are used to less than a quarter.
type coroutine struct {
	task  *Task                   // that it runs, nil between two
	next  func() (struct{}, bool) // runs it up to a suspension or the end of its task
	stop  func()                  // ends it; a suspended task is unwound
	yield func(struct{}) bool

	// How its stack traces begin, for a slowWatch; else nil.
	header atomic.Pointer[[]byte]

	// What a task needs to wait, made once.
	step  func()   // resumes the task
	await observer // of Await
	timer *Timer   // of Sleep; nil before the first
}

// maxIdleCoroutines bounds the coroutines that a loop keeps, 2 KB of stack each at
// least.
const maxIdleCoroutines = 128

// takeCoroutine returns a coroutine that has no task. The one that was used last
// comes first: its memory is in the caches, and the stacks of the others shrink.
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

// endCoroutines ends those that are kept.
func (l *Loop) endCoroutines() {
	for _, c := range l.coroutines {
		c.stop()
	}
	l.coroutines = nil
}

// run is the goroutine.
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

// armTimer has the task resumed in d, in the turn of the timer.
func (c *coroutine) armTimer(d time.Duration) *Timer {
	if c.timer == nil {
		c.timer = c.task.loop.AfterFunc(d, func() { c.task.wakeNow(c.task.seq) })
		c.timer.Unref() // the task itself keeps the loop alive
	} else {
		c.timer.Reset(d)
	}
	return c.timer
}
