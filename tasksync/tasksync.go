// Package tasksync has a mutex, a semaphore and a condition variable for the tasks
// of an event loop. They are those of packages sync and golang.org/x/sync/semaphore,
// except that waiting suspends the task and never the loop, that it ends with the
// context of the task, and that those that wait are served in order.
//
// Tasks of one loop seldom need them: between two suspensions a task runs alone. They
// are for what must not be interrupted by other tasks although it is suspended, such
// as an exchange of messages on one connection ([Mutex]), for bounding how many tasks
// do something at a time ([Semaphore]), and for waiting until the state that tasks
// share has changed ([Cond]).
//
// The zero Mutex and Cond are ready for use; none of the types may be copied after
// its first use. All methods may be called by tasks of several loops. Those that take
// a task may only be called by that task's own code, and return
// [eventloop.ErrNotOnTask] otherwise; the others may be called from any goroutine and
// from any callback.
package tasksync

import (
	"container/list"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/onloop/eventloop"
)

// A Mutex lets one task at a time go on.
type Mutex struct{ units }

// Lock locks m. If m is locked, it suspends the task t until m is unlocked and those
// that called Lock before have had it. If the context of t ends first, or the loop,
// Lock returns the cause, and m is not locked by it.
func (m *Mutex) Lock(t *eventloop.Task) error { return m.acquire(t, 1, 1) }

// TryLock locks m if that is possible without waiting, and reports whether it did.
func (m *Mutex) TryLock() bool { return m.tryAcquire(1, 1) }

// Unlock unlocks m. It panics if m is not locked. A locked Mutex belongs to no task:
// one may lock it and another, or a callback, unlock it.
func (m *Mutex) Unlock() {
	if !m.release(1, 1) {
		panic(errors.New("tasksync: unlock of an unlocked Mutex"))
	}
}

// A Semaphore bounds how many tasks do something at a time, or how much of something
// they take together. It is made by [NewSemaphore].
type Semaphore struct {
	units
	size int
}

// NewSemaphore returns a semaphore of n units. It panics if n is negative.
func NewSemaphore(n int) *Semaphore {
	if n < 0 {
		panic(errors.New("tasksync: a semaphore of less than nothing"))
	}
	return &Semaphore{size: n}
}

// Acquire takes n units. If there are not as many, or others wait, it suspends the
// task t until it is its turn. If the context of t ends first, or the loop, Acquire
// returns the cause, and takes nothing. If the semaphore will never have n units, it
// returns an error at once. It panics if n is negative.
func (s *Semaphore) Acquire(t *eventloop.Task, n int) error {
	s.check(n)
	return s.acquire(t, n, s.size)
}

// TryAcquire takes n units if that is possible without waiting, and reports whether
// it did. It panics if n is negative.
func (s *Semaphore) TryAcquire(n int) bool {
	s.check(n)
	return s.tryAcquire(n, s.size)
}

// Release gives n units back. It panics if so many were not taken, or if n is
// negative.
func (s *Semaphore) Release(n int) {
	s.check(n)
	if !s.release(n, s.size) {
		panic(errors.New("tasksync: release of more than was acquired"))
	}
}

func (s *Semaphore) check(n int) {
	if n < 0 {
		panic(errors.New("tasksync: a negative number of units"))
	}
}

var errNever = errors.New("tasksync: more than the semaphore has")

// units are what a Mutex and a Semaphore give to tasks.
type units struct {
	gate

	mu    sync.Mutex // guards the following
	taken int
	queue queue
}

func (u *units) acquire(t *eventloop.Task, n, size int) error {
	if err := u.pass(t); err != nil {
		return err
	}
	u.mu.Lock()
	if n > size {
		u.mu.Unlock()
		return errNever
	}
	if u.take(n, size) {
		u.mu.Unlock()
		return nil
	}
	w := u.queue.add(t, n)
	u.mu.Unlock()
	err := w.wait(t)
	if err == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.queue.drop(w) {
		u.taken -= n // it had its turn in the moment when it gave up
	}
	u.grant(size) // those behind w may need less than w did
	return err
}

func (u *units) tryAcquire(n, size int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.take(n, size)
}

// take takes n units if nothing has to be waited for. The caller holds u.mu.
func (u *units) take(n, size int) bool {
	if u.queue.first() != nil || n > size-u.taken {
		return false
	}
	u.taken += n
	return true
}

func (u *units) release(n, size int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n > u.taken {
		return false
	}
	u.taken -= n
	u.grant(size)
	return true
}

// grant serves those that wait, in order, as far as there is enough. The caller
// holds u.mu.
func (u *units) grant(size int) {
	for w := u.queue.first(); w != nil && w.n <= size-u.taken; w = u.queue.first() {
		u.taken += w.n
		u.queue.wake(w)
	}
}

// A Cond is where tasks wait for a change of the state that they share. There is no
// lock that Wait gives back, because a task of the loop that owns the state needs
// none: between looking at the state and waiting, nothing else runs on the loop.
//
//	for len(queue) == 0 {
//		if err := changed.Wait(t); err != nil {
//			return err
//		}
//	}
type Cond struct {
	gate

	mu    sync.Mutex // guards the following
	queue queue
}

// Wait suspends the task t until Signal or Broadcast wakes it. If the context of t
// ends first, or the loop, Wait returns the cause. As others may run first, what t
// waits for need not be true when Wait has returned nil: look again.
func (c *Cond) Wait(t *eventloop.Task) error {
	if err := c.pass(t); err != nil {
		return err
	}
	c.mu.Lock()
	w := c.queue.add(t, 0)
	c.mu.Unlock()
	err := w.wait(t)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.queue.drop(w) {
			c.signal() // it was woken in the moment when it gave up: another takes its place
		}
	}
	return err
}

// Signal wakes the task that has waited longest, if there is one.
func (c *Cond) Signal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signal()
}

func (c *Cond) signal() {
	if w := c.queue.first(); w != nil {
		c.queue.wake(w)
	}
}

// Broadcast wakes all tasks that wait.
func (c *Cond) Broadcast() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := c.queue.first(); w != nil; w = c.queue.first() {
		c.queue.wake(w)
	}
}

// A gate checks callers.
type gate struct {
	open atomic.Pointer[eventloop.Future[struct{}]] // has a result
}

// pass returns an error unless the caller is the running task t. Every so often it
// lets the loop run, so that a task that never has to wait does not keep it. Await
// of a future that has its result does both.
func (g *gate) pass(t *eventloop.Task) error {
	if t == nil {
		return eventloop.ErrNotOnTask
	}
	f := g.open.Load()
	if f == nil {
		var resolve func(struct{}, error)
		f, resolve = eventloop.NewFuture[struct{}](t.Loop())
		resolve(struct{}{}, nil)
		if _, err := f.Result(); err == nil { // the loop has not ended
			g.open.Store(f)
		}
	}
	_, err := f.Await(t)
	return err
}

// A waiter is a task in a queue.
type waiter struct {
	n       int // units that it waits for
	turn    *eventloop.Future[struct{}]
	resolve func(struct{}, error)
	place   *list.Element // nil when it is not in the queue any more
}

func (w *waiter) wait(t *eventloop.Task) error {
	_, err := w.turn.Await(t)
	return err
}

// A queue is the tasks that wait, in order.
type queue struct{ waiters list.List }

func (q *queue) add(t *eventloop.Task, n int) *waiter {
	w := &waiter{n: n}
	w.turn, w.resolve = eventloop.NewFuture[struct{}](t.Loop())
	w.place = q.waiters.PushBack(w)
	return w
}

// first returns the one that has waited longest, or nil.
func (q *queue) first() *waiter {
	if e := q.waiters.Front(); e != nil {
		return e.Value.(*waiter)
	}
	return nil
}

// wake lets w go on, which is in the queue.
func (q *queue) wake(w *waiter) { q.take(w, nil) }

// drop takes w from the queue, and reports whether it was there.
func (q *queue) drop(w *waiter) bool {
	if w.place == nil {
		return false
	}
	q.take(w, errLeft)
	return true
}

// take takes w from the queue and resolves its future, which would else keep the loop
// alive.
func (q *queue) take(w *waiter, err error) {
	q.waiters.Remove(w.place)
	w.place = nil
	w.resolve(struct{}{}, err)
}

var errLeft = errors.New("tasksync: the task waits no more")
