package eventloop

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/timerheap"
)

// A Timer calls a function on the loop once, at a time ([Loop.AfterFunc]), or
// again and again ([Loop.Every]). While it is armed it keeps the loop alive,
// unless it is unref'd. All methods may be called from any goroutine, and in the
// timer's own callback.
//
// A timer never fires before its time, measured by the monotonic clock, and as
// soon after it as the loop gets to it. Timers with equal deadlines fire in the
// order in which they were armed.
type Timer struct {
	loop    *Loop
	f       func()
	onEvent atomic.Pointer[func(err error)]

	// Guarded by loop.mu.
	slot   timerheap.Slot
	period time.Duration // 0: fires once
	when   time.Duration // it fires, or the next tick of an interval; since Run
	born   time.Duration // it was armed; since Run
	state  timerState
	unref  bool
}

type timerState uint8

const (
	timerIdle    timerState = iota // fired, or not armed yet
	timerArmed                     // in the heap
	timerDue                       // taken from the heap to be fired in this turn
	timerStopped                   // by Stop; nothing of the timer is called before Reset
)

// TimerSlot is for the heap.
func (t *timerItem) TimerSlot() *timerheap.Slot { return &t.slot }

// AfterFunc arranges for f to be called on the loop once, d from now (delay);
// d <= 0 means the next turn. Before Run, d counts from the beginning of Run.
// After the end of the loop, the timer never fires. AfterFunc panics if f is nil.
func (l *Loop) AfterFunc(d time.Duration, f func()) *Timer {
	return l.newTimer(d, 0, f)
}

// Every arranges for f to be called on the loop every d, for the first time d
// from now (interval). Ticks keep their distance from the first one: a tick that
// comes late does not delay the next. Ticks that are missed altogether because
// the loop was busy are dropped, so there is never a burst. With an interval of
// 50 ms and a callback that once takes 120 ms from the tick at 50 ms on, ticks
// come at 50, 170 (that of 100, late; that of 150 is dropped) and 200 ms.
//
// Every panics if d <= 0, as time.NewTicker does, or if f is nil.
func (l *Loop) Every(d time.Duration, f func()) *Timer {
	if d <= 0 {
		panic("eventloop: Every with an interval that is not positive")
	}
	return l.newTimer(d, d, f)
}

func (l *Loop) newTimer(d, period time.Duration, f func()) *Timer {
	if f == nil {
		panic(errNilFunc)
	}
	t := &Timer{loop: l, f: f, period: period}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.usable(true) == nil {
		t.arm(d)
	}
	return t
}

// arm puts t, which is idle, into the heap. The caller holds loop.mu.
func (t *Timer) arm(d time.Duration) {
	l := t.loop
	now := l.now()
	t.born = now
	t.when = now + max(d, 0)
	if t.when < now {
		t.when = math.MaxInt64 // d was huge: in some three hundred years
	}
	t.enqueue()
	if !t.unref {
		l.refs++
	}
}

// enqueue puts t into the heap and wakes the dispatcher if it sleeps for longer.
func (t *Timer) enqueue() {
	l := t.loop
	first, ok := l.timers.Min()
	l.timers.Push((*timerItem)(t), int64(t.when))
	t.state = timerArmed
	if !ok || int64(t.when) < first {
		l.wakeLocked()
	}
}

// disarm takes t out of the heap, or out of what is due, and reports whether it
// was to fire. The caller holds loop.mu, and sets the state that follows.
func (t *Timer) disarm() bool {
	switch {
	case !t.pending() || t.loop.state == stateClosed:
		return false
	case t.state == timerArmed:
		t.loop.timers.Remove((*timerItem)(t))
	}
	if !t.unref {
		t.loop.release()
	}
	return true
}

// pending reports whether t is to fire. The caller holds loop.mu.
func (t *Timer) pending() bool { return t.state == timerArmed || t.state == timerDue }

// Stop disarms the timer and reports whether it was armed. After the end of the
// loop no timer is. When Stop is called on the loop, neither the callback nor that
// of OnEvent runs after it, unless Reset arms the timer again. Stop does not wait:
// when it is called on another goroutine, the callback may be running.
func (t *Timer) Stop() bool {
	t.loop.mu.Lock()
	defer t.loop.mu.Unlock()
	armed := t.disarm()
	t.state = timerStopped
	return armed
}

// Reset arms the timer, whether it is armed, has fired or was stopped, to fire d
// from now; an interval ticks every d from then on, and for it Reset panics if
// d <= 0. It reports whether the timer was armed. After the end of the loop it
// does nothing.
func (t *Timer) Reset(d time.Duration) bool {
	l := t.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.period > 0 {
		if d <= 0 {
			panic("eventloop: Reset of an interval to one that is not positive")
		}
		t.period = d
	}
	if l.usable(true) != nil {
		return false
	}
	armed := t.disarm()
	t.arm(d)
	return armed
}

// OnEvent sets the function that is called on the loop with the panic of the
// timer's callback, a [*PanicError], if Config.CatchPanics is set. Without one, or
// if the timer was stopped before the panic, Config.EventHandler gets it. An
// interval goes on after a panic.
// A second call replaces f.
func (t *Timer) OnEvent(f func(err error)) {
	if f == nil {
		t.onEvent.Store(nil)
	} else {
		t.onEvent.Store(&f)
	}
}

// Ref makes the timer keep the loop alive while it is armed, as it does from the
// start.
func (t *Timer) Ref() { t.setRef(true) }

// Unref lets the loop end although the timer is armed. While the loop lives, the
// timer fires as before.
func (t *Timer) Unref() { t.setRef(false) }

func (t *Timer) setRef(ref bool) {
	l := t.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.unref != ref {
		return
	}
	t.unref = !ref
	switch {
	case !t.pending():
	case ref:
		l.refs++
	default:
		l.release()
	}
}

func (t *Timer) kind() string {
	if t.period > 0 {
		return KindInterval
	}
	return KindTimer
}

// handle describes the timer. The caller holds loop.mu.
func (t *Timer) handle(now time.Duration) Handle {
	return Handle{Kind: t.kind(), Ref: !t.unref, Age: now - t.born, Due: max(t.when-now, 0)}
}

// fire runs a timer that collectDue took from the heap, unless it was stopped or
// reset since. On the loop.
func (l *Loop) fire(t *Timer) {
	l.mu.Lock()
	if t.state != timerDue {
		l.mu.Unlock()
		return
	}
	if t.period > 0 {
		t.nextTick(l.now())
	} else {
		t.state = timerIdle
		if !t.unref {
			l.refs-- // no wake-up needed: this is the dispatcher
		}
	}
	l.mu.Unlock()
	defer t.caught()
	t.f()
}

// nextTick arms an interval for its next tick after now. It is done before the
// callback, so that the callback may Stop and Reset.
func (t *Timer) nextTick(now time.Duration) {
	missed := (now - t.when) / t.period
	if t.when += (missed + 1) * t.period; t.when < 0 {
		t.when = math.MaxInt64 // beyond the end of time
	}
	t.enqueue()
}

// caught is deferred around the callback. It is not part of Loop.caught, which
// would cost a closure for each timer that fires.
func (t *Timer) caught() {
	if v := recover(); v != nil {
		t.loop.panicEvent(newPanicError(v), t.route())
	}
}

// route returns the function that gets a panic of the callback, or nil.
func (t *Timer) route() func(err error) {
	t.loop.mu.Lock()
	stopped := t.state == timerStopped
	t.loop.mu.Unlock()
	f := t.onEvent.Load()
	if stopped || f == nil {
		return nil
	}
	return *f
}

// A timerItem is a Timer as the heap sees it: it keeps TimerSlot out of the
// methods of Timer.
type timerItem Timer
