// Package tasksync has a mutex, a semaphore and a condition variable for the tasks of
// an event loop. They work like those of packages sync and golang.org/x/sync/semaphore,
// with three differences: waiting suspends the task and never the loop, waiting ends
// when the context of the task ends, and waiting tasks are served in order.
//
// Tasks of one loop seldom need these types, because between two suspensions a task
// runs alone. Use a [Mutex] for an operation during which the task suspends but other
// tasks must not interfere, such as an exchange of messages on one connection. Use a
// [Semaphore] to limit how many tasks do something at the same time, and a [Cond] to
// wait for a change of the state that tasks share.
//
// The zero Mutex and Cond are ready for use. None of the types may be copied after
// first use. All methods may be called by tasks of several loops. A method with a task
// as its argument may only be called by that task's own code, and otherwise returns
// [eventloop.ErrNotOnTask]. The other methods may be called from any goroutine and from
// any callback.
package tasksync

import (
	"container/list"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/onloop/eventloop"
)

// A Mutex is a mutual exclusion lock for tasks.
type Mutex struct{ units }

// Lock locks m. If m is locked, it suspends the task t until m is unlocked and all
// earlier callers of Lock have had their turn. If the context of t or the loop ends
// first, Lock returns the cause and does not lock m.
func (m *Mutex) Lock(t *eventloop.Task) error { return m.acquire(t, 1, 1) }

// TryLock locks m if that is possible without waiting, and reports whether it did.
func (m *Mutex) TryLock() bool { return m.tryAcquire(1, 1) }

// Unlock unlocks m. It panics if m is not locked. A locked Mutex does not belong to a
// particular task: one task may lock it, and another task or a callback may unlock it.
func (m *Mutex) Unlock() {
	if !m.release(1, 1) {
		panic(errors.New("tasksync: unlock of an unlocked Mutex"))
	}
}

// A Semaphore limits how many tasks do something at the same time, or how much of a
// resource they use together. [NewSemaphore] creates one.
type Semaphore struct {
	units
	size int
}

// NewSemaphore returns a semaphore of n units. It panics if n is negative.
func NewSemaphore(n int) *Semaphore {
	if n < 0 {
		panic(errors.New("tasksync: negative number of units"))
	}
	return &Semaphore{size: n}
}

// Acquire takes n units. If fewer than n units are available, or other tasks wait, it
// suspends the task t until its turn. If the context of t or the loop ends first,
// Acquire returns the cause and takes nothing. If the semaphore never has n units, it
// returns an error at once. It panics if n is negative.
func (s *Semaphore) Acquire(t *eventloop.Task, n int) error {
	s.check(n)
	return s.acquire(t, n, s.size)
}

// TryAcquire takes n units if that is possible without waiting, and reports whether it
// did. It panics if n is negative.
func (s *Semaphore) TryAcquire(n int) bool {
	s.check(n)
	return s.tryAcquire(n, s.size)
}

// Release returns n units. It panics if fewer than n units are taken, or if n is
// negative.
func (s *Semaphore) Release(n int) {
	s.check(n)
	if !s.release(n, s.size) {
		panic(errors.New("tasksync: release of more than was acquired"))
	}
}

func (s *Semaphore) check(n int) {
	if n < 0 {
		panic(errors.New("tasksync: negative number of units"))
	}
}

var errNever = errors.New("tasksync: more units than the semaphore has")

// units is the common part of Mutex and Semaphore: a number of units for tasks.
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
		u.taken -= n // it got the units at the same time as it stopped waiting
	}
	u.grant(size) // the waiters behind w may need fewer units than w
	return err
}

func (u *units) tryAcquire(n, size int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.take(n, size)
}

// take takes n units if it need not wait. The caller holds u.mu.
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

// grant serves the waiting tasks, in order, while there are enough units. The caller
// holds u.mu.
func (u *units) grant(size int) {
	for w := u.queue.first(); w != nil && w.n <= size-u.taken; w = u.queue.first() {
		u.taken += w.n
		u.queue.wake(w)
	}
}

// A Cond lets tasks wait for a change of the state that they share. In contrast to
// sync.Cond, Wait releases no lock, because a task of the loop that owns the state
// needs none: between checking the state and waiting, nothing else runs on the loop.
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

// Wait suspends the task t until Signal or Broadcast wakes it. If the context of t or
// the loop ends first, Wait returns the cause. When Wait returns nil, the condition
// need not be true, because other code may run first: check it again.
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
			c.signal() // it was woken at the same time as it stopped waiting: wake another task instead
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

// Broadcast wakes all waiting tasks.
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

// pass returns an error unless the caller is the running task t. From time to time it
// lets the loop run, so that a task that never has to wait does not keep the loop busy.
// Await of a resolved future does both.
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
	place   *list.Element // nil when it is no longer in the queue
}

func (w *waiter) wait(t *eventloop.Task) error {
	_, err := w.turn.Await(t)
	return err
}

// A queue holds the waiting tasks, in order.
type queue struct{ waiters list.List }

func (q *queue) add(t *eventloop.Task, n int) *waiter {
	w := &waiter{n: n}
	w.turn, w.resolve = eventloop.NewFuture[struct{}](t.Loop())
	w.place = q.waiters.PushBack(w)
	return w
}

// first returns the task that has waited longest, or nil.
func (q *queue) first() *waiter {
	if e := q.waiters.Front(); e != nil {
		return e.Value.(*waiter)
	}
	return nil
}

// wake lets w continue, which is in the queue.
func (q *queue) wake(w *waiter) { q.take(w, nil) }

// drop removes w from the queue, and reports whether it was there.
func (q *queue) drop(w *waiter) bool {
	if w.place == nil {
		return false
	}
	q.take(w, errLeft)
	return true
}

// take removes w from the queue and resolves its future, which would otherwise keep the
// loop alive.
func (q *queue) take(w *waiter, err error) {
	q.waiters.Remove(w.place)
	w.place = nil
	w.resolve(struct{}{}, err)
}

var errLeft = errors.New("tasksync: the task no longer waits")
