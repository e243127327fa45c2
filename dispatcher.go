package eventloop

import (
	"runtime"
	"time"

	"github.com/onloop/eventloop/internal/goid"
)

// A task is what a network goroutine hands to the dispatcher. Tasks are pointers
// to existing structures under another type, so sending one allocates nothing.
type task interface{ run() }

// wakeTask ends the sleep of the dispatcher, which then looks at its queues.
type wakeTask struct{}

func (wakeTask) run() {}

// Bounds of one turn. They keep a flood of one kind of work from delaying the
// others, timers above all, for more than some hundred callbacks.
const (
	maxTasksQueued = 1024 // network goroutines wait when so many are ahead
	maxPerTurn     = 256  // of each kind
)

// wake ends the sleep of the dispatcher. If the channel is full the dispatcher cannot
// be asleep.
func (l *Loop) wake() {
	select {
	case l.tasks <- wakeTask{}:
	default:
	}
	l.unpark()
}

// send gives t to the dispatcher. It waits while the channel is full.
// After the end of the loop, when foreign code returns after all, t is dropped.
func (l *Loop) send(t task) {
	defer l.unpark()
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

// hand gives t to the dispatcher. It is for writers, which may be the dispatcher
// itself: that must not wait for room in its own channel.
func (l *Loop) hand(t task) {
	select {
	case l.tasks <- t:
		l.unpark()
		return
	default:
	}
	if l.onLoop() {
		l.Post(t.run) // refused or dropped at the end of the loop: nobody waits for t then
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

// now returns the time since Run began. It is zero before Run, so that timers
// made then start with Run. The caller holds l.mu or is on the loop.
func (l *Loop) now() time.Duration {
	if l.state == stateNew {
		return 0
	}
	return time.Since(l.epoch)
}

// turnTime is now for what needs no more than the time when the present turn
// began: reading the clock is half of what a new future costs. Only callers on the
// loop can do with that; while the dispatcher sleeps the last turn may be long ago.
// The caller holds l.mu.
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

// prepare collects what is to be done in the next turn, and sleeps until there
// is something. It returns false at the end, and then nothing can be added any
// more: whether anything keeps the loop alive, and that nothing does any more,
// is decided under one lock, so no Post falls in between.
func (l *Loop) prepare() bool {
	now := l.now()
	if !l.parking.offered {
		l.parking.end()
	}
	l.lockSoon()
	defer l.mu.Unlock()
	l.lag.Record(now - l.turned) // the last turn: who came in it waited so long
	for !l.stopping {
		l.turned = now
		l.collectDue(now)
		l.collectPosts()
		posted := l.batch.Len() > 0
		if l.refs == 0 && !posted {
			break // what else is due belongs to handles that are unref'd
		}
		if posted || l.first != nil || len(l.due) > 0 || len(l.tasks) > 0 {
			l.turns++
			l.parking.postpone()
			return true
		}
		if l.pace.beforeSleep() {
			l.yield() // the clock is not read again: a timer may be late by it, never early
		} else {
			now = l.sleep(now)
		}
	}
	l.state = stateClosed
	l.ended.Store(true)
	return false
}

// collectDue moves the timers that are due to l.due. Timers that are armed later
// in this turn wait for the next, however short they are.
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

// collectPosts takes the posts once those taken before have run: what a post
// posts runs in a later turn.
func (l *Loop) collectPosts() {
	if l.batch.Len() == 0 {
		l.batch.Take(&l.posts)
		l.queuePeak = max(l.queuePeak, l.batch.Len())
	}
	l.taken = l.batch.Len()
}

// yield lets other goroutines run. The caller holds l.mu, which is released
// meanwhile.
func (l *Loop) yield() {
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
}

// sleep waits from now on for a task, a wake-up or the first deadline, and returns
// the time when it is over. The caller holds l.mu, which is released meanwhile.
func (l *Loop) sleep(now time.Duration) time.Duration {
	l.sleeping = true
	l.busy += now - l.woke
	when, timed := l.timers.Min()
	l.mu.Unlock()
	parked := l.parking.offered
	switch {
	case parked:
		l.park(when)
	case !timed:
		l.first = <-l.tasks
	default:
		if when != l.alarm { // the timer runs on while the dispatcher is awake
			l.alarm = when
			l.timer.Reset(time.Duration(when) - now)
		}
		select {
		case l.first = <-l.tasks:
		case <-l.timer.C:
			l.alarm = -1
		}
	}
	yielded := l.pace.afterWake(l.first != nil && !parked)
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

// turn runs what prepare collected: timers, then posts, then tasks, a bounded
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
		l.call(l.batch.Pop())
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

// ran counts a callback, be it a task or not, and lets the writers have, every few callbacks, what
// was written.
func (l *Loop) ran(task bool) {
	if l.watch != nil {
		l.watch.progress.Add(1)
	}
	if l.pace.called(task) {
		l.writers.Release()
	}
}
