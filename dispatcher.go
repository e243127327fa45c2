package eventloop

import (
	"runtime"
	"time"

	"github.com/onloop/eventloop/internal/goid"
	"github.com/onloop/eventloop/internal/writers"
)

// A task is a callback that a network goroutine sends to the dispatcher. Tasks are
// pointers to existing structures under another type, so sending one allocates nothing.
type task interface {
	run()

	// source returns the handle of the task, the goroutine of that handle that sends the
	// task, and what the task does. Only a loop whose order a test controls calls it.
	source() (h *handle, goroutine any, what string)
}

// wakeTask ends the sleep of the dispatcher, which then checks its queues.
type wakeTask struct{}

func (wakeTask) run()                           {}
func (wakeTask) source() (*handle, any, string) { return nil, nil, "" }

// Limits of one turn. They prevent a flood of one kind of work from delaying the
// others, above all timers, by more than a few hundred callbacks.
const (
	maxTasksQueued = 1024 // network goroutines wait when the channel holds this many
	maxPerTurn     = 256  // of each kind
)

// wake ends the sleep of the dispatcher. If the channel is full, the dispatcher cannot
// be asleep.
func (l *Loop) wake() {
	select {
	case l.tasks <- wakeTask{}:
	default:
	}
	l.wakeRead()
}

// send sends t to the dispatcher. It waits while the channel is full. After the end of
// the loop, when foreign code returns late, t is dropped.
func (l *Loop) send(t task) {
	defer l.wakeRead()
	select {
	case l.tasks <- t:
		return
	default:
	}
	select {
	case l.tasks <- t:
	case <-l.done:
	}
}

// hand sends t to the dispatcher. It is for writers. A writer may be the dispatcher
// itself, which must not wait for room in its own channel.
func (l *Loop) hand(t task) {
	select {
	case l.tasks <- t:
		l.wakeRead()
		return
	default:
	}
	if l.onLoop() {
		l.Post(t.run) // refused or dropped at the end of the loop, when t is no longer needed
	} else {
		l.send(t)
	}
}

// wakeLocked is wake for callers that hold l.mu.
func (l *Loop) wakeLocked() {
	if l.sleeping {
		l.sleeping = false
		l.wake()
	}
}

// now returns the time since Run began. It is zero before Run, so that timers created
// before Run start with Run. The caller holds l.mu or is on the loop.
func (l *Loop) now() time.Duration {
	if l.state == stateNew {
		return 0
	}
	return time.Since(l.epoch)
}

// turnTime is now for callers for which the time when the current turn began is good
// enough: reading the clock is half of the cost of a new future. Off the loop it reads the
// clock, because the last turn may be long ago while the dispatcher sleeps. The caller
// holds l.mu.
func (l *Loop) turnTime() time.Duration {
	if l.state == stateRunning && l.onLoop() {
		return l.turned
	}
	return l.now()
}

// onLoop reports whether the caller runs on the loop: on the dispatcher, or as a
// task while the dispatcher waits for it.
func (l *Loop) onLoop() bool {
	id := uintptr(goid.Current())
	if id == l.self.Load() {
		return true
	}
	t := l.task.Load()
	return t != nil && id == t.self.Load()
}

// dispatch runs turns until the loop ends.
func (l *Loop) dispatch() {
	if l.ordered != nil {
		l.dispatchOrdered()
		return
	}
	for l.prepare() {
		l.turn()
	}
}

// prepare collects the work of the next turn, and sleeps until there is some. It returns
// false at the end of the loop, and then no work can be added. The decision that nothing
// keeps the loop alive, and the step that makes it final, are in one critical section, so no
// Post can come between them.
func (l *Loop) prepare() bool {
	now := l.now()
	if !l.borrowed.offered {
		l.borrowed.end()
	}
	l.lockSoon()
	defer l.mu.Unlock()
	l.lag.Record(now - l.turned) // events that arrived during the last turn waited up to its length
	for !l.stopping {
		l.turned = now
		l.collectDue(now)
		l.collectPosts()
		posted := l.batch.Len() > 0
		if l.refs == 0 && !posted {
			break // any work that is due belongs to unref'd handles
		}
		if posted || l.first != nil || len(l.due) > 0 || len(l.tasks) > 0 {
			l.turns++
			l.borrowed.postpone()
			return true
		}
		if l.pace.beforeSleep() {
			l.yield() // does not read the clock: timers may be late by the yield, but never early
		} else {
			now = l.sleep(now)
		}
	}
	l.state = stateClosed
	l.ended.Store(true)
	return false
}

// collectDue moves the due timers to l.due. Timers that are armed later in this turn
// wait for the next turn, even with a zero duration.
func (l *Loop) collectDue(now time.Duration) {
	when, ok := l.timers.Min()
	for ok && when <= int64(now) && len(l.due) < maxPerTurn {
		item, _ := l.timers.Pop()
		t := (*Timer)(item)
		t.state = timerDue
		l.due = append(l.due, t)
		l.lag.Record(now - time.Duration(when))
		when, ok = l.timers.Min()
	}
}

// collectPosts takes the queued posts after those taken before have run. So a function
// that a post posts runs in a later turn.
func (l *Loop) collectPosts() {
	if l.batch.Len() == 0 {
		l.batch.Take(&l.posts)
		l.queuePeak = max(l.queuePeak, l.batch.Len())
	}
	l.taken = l.batch.Len()
}

// yield lets other goroutines run. The caller holds l.mu, which is released during the
// yield.
func (l *Loop) yield() {
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
}

// sleep waits for a task, a wake-up or the first deadline, and returns the time at
// which it woke. The caller holds l.mu, which is released during the sleep.
func (l *Loop) sleep(now time.Duration) time.Duration {
	l.sleeping = true
	l.busy += now - l.woke
	when, timed := l.timers.Min()
	l.mu.Unlock()
	inRead := l.borrowed.offered
	switch {
	case inRead:
		l.readBorrowed(when)
	case !timed:
		l.first = <-l.tasks
	default:
		if when != l.alarm { // the timer keeps running while the dispatcher is awake
			l.alarm = when
			l.timer.Reset(time.Duration(when) - now)
		}
		select {
		case l.first = <-l.tasks:
		case <-l.timer.C:
			l.alarm = -1
		}
	}
	yielded := l.pace.afterWake(l.first != nil && !inRead)
	if yielded {
		runtime.Gosched()
	}
	l.mu.Lock()
	l.sleeping = false
	l.woke = l.now()
	l.idle += l.woke - now
	l.pace.endSleep(l.woke-now, yielded, len(l.tasks) > 0)
	return l.woke
}

// turn runs the work that prepare collected: timers, then posts, then tasks, a bounded
// number of each.
func (l *Loop) turn() {
	if l.pace.beginTurn(l.batch.Len() > 0) {
		l.passer.Pass()
	}
	l.writers.BeginTurn()
	defer func() { l.writers.EndTurn(len(l.tasks) == 0 && l.pace.mayWrite()) }()
	l.runDue()
	l.runPosts()
	l.runTasks()
}

func (l *Loop) runDue() {
	for i, t := range l.due {
		l.due[i] = nil
		if l.ended.Load() {
			continue
		}
		l.fire(t)
		l.ran(false)
	}
	if l.due = l.due[:0]; cap(l.due) > maxPerTurn {
		l.due = nil
	}
}

func (l *Loop) runPosts() {
	for n := 0; l.batch.Len() > 0 && n < maxPerTurn && !l.ended.Load(); n++ {
		l.callPost()
		l.ran(false)
	}
}

func (l *Loop) runTasks() {
	n := min(len(l.tasks), maxPerTurn)
	if t := l.first; t != nil {
		l.first = nil
		t.run()
		l.ran(true)
	}
	for ; n > 0 && !l.ended.Load(); n-- {
		(<-l.tasks).run()
		l.ran(true)
	}
}

// ran counts a callback, which may be a task. Every few callbacks it passes the written
// output to the writers.
func (l *Loop) ran(task bool) {
	if l.watch != nil {
		l.watch.progress.Add(1)
	}
	if l.pace.called(task) {
		l.writers.Release()
	}
}

// manyJobs is the number of connections to which a callback may write before the writers
// receive the output. Below that it is better to let the callback finish, because then
// all its output for one connection leaves together.
const manyJobs = 64

// enqueue adds a job for the writers. After many jobs of one turn it releases them early,
// except the job of the connection whose data the callback received: the callback may
// write to that connection again, so its job always waits. (Broadcast to 1,000
// connections: see bench.)
func (l *Loop) enqueue(job writers.Job) {
	if n := l.writers.Add(job); n >= manyJobs && n%manyJobs == 0 && l.ordered == nil && l.onLoop() {
		l.writers.ReleaseBut(l.reading)
	}
}
