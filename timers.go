package eventloop

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/timerheap"
)

// A Timer calls a function on the loop, either once ([Loop.AfterFunc]) or repeatedly
// ([Loop.Every]). An armed timer keeps the loop alive unless it is unref'd. All methods
// may be called from any goroutine, including from the timer's own callback.
//
// A timer never fires before its deadline, measured by the monotonic clock; it fires as
// soon after the deadline as the loop gets to it. Timers with equal deadlines fire in the
// order in which they were armed.
type Timer struct {
	loop    *Loop
	f       func()
	onEvent atomic.Pointer[func(err error)]

	// Guarded by loop.mu.
	slot   timerheap.Slot
	period time.Duration // 0: fires once
	when   time.Duration // when it fires, or when the interval ticks next; since Run
	born   time.Duration // when it was armed; since Run
	state  timerState
	unref  bool
}

type timerState uint8

const (
	timerIdle    timerState = iota // fired, or not armed yet
	timerArmed                     // in the heap
	timerDue                       // taken from the heap, fires in this turn
	timerStopped                   // by Stop; no callback of the timer runs before Reset
)

// TimerSlot implements timerheap.Item.
func (t *timerItem) TimerSlot() *timerheap.Slot { return &t.slot }

// AfterFunc arranges for f to be called on the loop once, after d (delay). If d <= 0, f
// runs in the next turn. Before Run, d counts from the beginning of Run. After the end
// of the loop, the timer never fires. AfterFunc panics if f is nil.
func (l *Loop) AfterFunc(d time.Duration, f func()) *Timer {
	return l.newTimer(d, 0, f)
}

// Every arranges for f to be called on the loop every d; the first call comes after d
// (interval). Ticks keep their distance from the first one: a late tick does not delay
// the next. If the loop is so busy that it misses a tick altogether, the tick is
// dropped, so ticks never come in a burst. For example, if the interval is 50 ms and
// the callback for the tick at 50 ms takes 120 ms, ticks come at 50 ms, at 170 ms (the
// tick of 100 ms, late; the tick of 150 ms is dropped) and at 200 ms.
//
// Every panics if d <= 0, as time.NewTicker does, or if f is nil.
func (l *Loop) Every(d time.Duration, f func()) *Timer {
	if d <= 0 {
		panic("eventloop: non-positive interval for Every")
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
		t.when = math.MaxInt64 // d was huge: about three hundred years
	}
	t.enqueue()
	if !t.unref {
		l.refs++
	}
}

// enqueue puts t into the heap. It wakes the dispatcher if t is now the first timer.
func (t *Timer) enqueue() {
	l := t.loop
	first, ok := l.timers.Min()
	l.timers.Push((*timerItem)(t), int64(t.when))
	t.state = timerArmed
	if !ok || int64(t.when) < first {
		l.wakeLocked()
	}
}

// disarm removes t from the heap, or cancels it if it is due, and reports whether it
// was pending. The caller holds loop.mu and sets the next state.
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

// pending reports whether t is going to fire. The caller holds loop.mu.
func (t *Timer) pending() bool { return t.state == timerArmed || t.state == timerDue }

// Stop disarms the timer and reports whether it was armed. After the end of the loop it
// returns false. When Stop is called on the loop, neither the callback nor the function
// of OnEvent runs afterwards, unless Reset arms the timer again. When Stop is called on
// another goroutine, the callback may be running; Stop does not wait for it.
func (t *Timer) Stop() bool {
	t.loop.mu.Lock()
	defer t.loop.mu.Unlock()
	armed := t.disarm()
	t.state = timerStopped
	return armed
}

// Reset arms the timer to fire after d, whether it is armed, has fired or was stopped.
// An interval then ticks every d; for an interval, Reset panics if d <= 0. Reset
// reports whether the timer was armed. After the end of the loop it does not arm the
// timer.
func (t *Timer) Reset(d time.Duration) bool {
	l := t.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.period > 0 {
		if d <= 0 {
			panic("eventloop: non-positive interval for Reset")
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

// OnEvent sets the function that receives a panic of the timer's callback, as a
// [*PanicError], if Config.CatchPanics is set. It is called on the loop. Without it, or
// if the timer was stopped before the panic, the panic goes to Config.EventHandler. An
// interval continues after a panic. A second call replaces f.
func (t *Timer) OnEvent(f func(err error)) {
	if f == nil {
		t.onEvent.Store(nil)
	} else {
		t.onEvent.Store(&f)
	}
}

// Ref makes the timer keep the loop alive while it is armed. This is the default.
func (t *Timer) Ref() { t.setRef(true) }

// Unref lets the loop end although the timer is armed. Until then the timer fires as
// before.
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

// fire runs a timer that collectDue took from the heap, unless the timer was stopped or
// reset since then. It runs on the loop.
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

// nextTick arms an interval for its next tick after now. fire calls it before the
// callback, so that the callback can call Stop and Reset.
func (t *Timer) nextTick(now time.Duration) {
	missed := (now - t.when) / t.period
	if t.when += (missed + 1) * t.period; t.when < 0 {
		t.when = math.MaxInt64 // overflow
	}
	t.enqueue()
}

// caught is deferred around the callback. Loop.caught would need a closure each time a
// timer fires.
func (t *Timer) caught() {
	if v := recover(); v != nil {
		t.loop.panicEvent(newPanicError(v), t.route())
	}
}

// route returns the function that receives a panic of the callback, or nil.
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

// A timerItem is a Timer in the heap. The separate type keeps TimerSlot out of the method
// set of Timer.
type timerItem Timer
