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
	releaseEvery   = 8    // callbacks between two hand-overs to the writers
)

// wake ends the sleep of the dispatcher. If the channel is full the dispatcher cannot
// be asleep.
func (l *Loop) wake() {
	select {
	case l.tasks <- wakeTask{}:
	default:
	}
}

// send gives t to the dispatcher. It waits while the channel is full.
// After the end of the loop, when foreign code returns after all, t is dropped.
func (l *Loop) send(t task) {
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
			l.posted = posted
			return true
		}
		if l.posted && l.crowded {
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

// yield lets others run before the dispatcher goes to sleep after a post: who gets
// an answer often posts again, and then needs to wake nobody. That makes a post and
// its answer a third cheaper, and costs nothing that could be measured otherwise.
// The caller holds l.mu, which is released meanwhile.
func (l *Loop) yield() {
	l.posted = false
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
	if !timed {
		l.first = <-l.tasks
	} else {
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
	gathered := l.crowded && l.first != nil
	if gathered {
		runtime.Gosched()
	}
	l.mu.Lock()
	l.sleeping = false
	l.woke = l.now()
	l.idle += l.woke - now
	l.reckon(gathered, l.woke-now)
	return l.woke
}

// reckon decides whether the dispatcher is to let others run after its next sleep,
// before it begins a turn. It learns that from the last one, how long it was or
// what came of it.
//
// A goroutine that is woken runs next on the processor of who woke it, so the
// dispatcher would have a turn for each task, and wake a writer for each answer,
// while goroutines that the poller found ready at the same time still wait. Let
// first, they leave their tasks in the queue. (HTTP with 50 and 500 connections:
// 1.17 and 1.05 times the requests; echo with 500: 0.91 of the CPU time.) Where
// there are none it would only cost time, so the dispatcher does it when sleeps
// are short, and as long as it finds anything; and not where much data comes at a
// time, of which little would be left in the caches by its turn (echo of 32 KB:
// 0.83 of the throughput).
func (l *Loop) reckon(gathered bool, slept time.Duration) {
	switch {
	case l.bulk:
		l.crowded, l.bulk = false, false
	case !gathered:
		l.crowded = slept < shortSleep
	case len(l.tasks) > 0:
		l.alone = 0
	default:
		if l.alone++; l.alone == 32 {
			l.crowded, l.alone = false, 0
		}
	}
}

// shortSleep is less than a peer takes to answer.
const shortSleep = 5 * time.Microsecond

// bulk is how many bytes are much data.
const bulk = 8 << 10

// stepAside is after how many turns the dispatcher lets others run first. It and
// the goroutines that it wakes hand a processor to each other past its queue of
// goroutines, for up to ten milliseconds at a time, while those that wait there
// have requests as well. (The slowest hundredth of echoes with 500 connections:
// 8 to 10 ms instead of 16 to 24 ms; throughput the same within 2 %.)
const stepAside = 128

// turn runs what prepare collected: timers, then posts, then tasks, a bounded
// number of each.
func (l *Loop) turn() {
	if l.together++; l.together == stepAside {
		l.together = 0
		runtime.Gosched()
	}
	l.sinceRelease = 0
	l.writers.BeginTurn()
	defer func() { l.writers.EndTurn(len(l.tasks) == 0 && !l.bulk) }()
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
		l.ran()
	}
	if l.due = l.due[:0]; cap(l.due) > maxPerTurn {
		l.due = nil
	}
}

func (l *Loop) runPosts() {
	for n := 0; l.batch.Len() > 0 && n < maxPerTurn && !l.ended.Load(); n++ {
		l.call(l.batch.Pop())
		l.ran()
	}
}

func (l *Loop) runTasks() {
	n := min(len(l.tasks), maxPerTurn)
	if t := l.first; t != nil {
		l.first = nil
		t.run()
		l.ran()
	}
	for ; n > 0 && !l.ended.Load(); n-- {
		(<-l.tasks).run()
		l.ran()
	}
}

// ran counts a callback and lets the writers have, every few callbacks, what
// was written.
func (l *Loop) ran() {
	if l.watch != nil {
		l.watch.progress.Add(1)
	}
	if l.sinceRelease++; l.sinceRelease >= releaseEvery {
		l.sinceRelease = 0
		l.writers.Release()
	}
}
