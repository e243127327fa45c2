package eventloop

import (
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/httpconn"
)

// An attendant is what lets the dispatcher, when it would go to sleep, attend to a
// request itself: it sends it and waits for the answer with a read of the
// connection, where otherwise a goroutine does and the dispatcher waits for that. A
// request alone, and the next one after it, then need no other goroutine at all.
// With one, each answer costs a hop to the dispatcher, for which the runtime wakes a
// second processor that finds nothing to do: 15 instead of 8 µs where client and
// server are one process, and where they are two, three times the processor time in
// the worst case (measured).
//
// Whoever has something for the dispatcher meanwhile has to end its read, which
// costs more than to wake it up otherwise. So it attends to a request only after
// some of them were alone, and a goroutine takes over when it did so in vain.
//
// Attending to all requests, with an epoll of our own, was tried: with 100 of them
// at a time it makes no difference where the client has one processor, and takes a
// sixth longer where it has two.
type attendant struct {
	conn atomic.Pointer[httpconn.Conn] // attended to, until somebody ends that
	bare atomic.Bool                   // goroutines are to leave their connections alone
	left chan struct{}                 // who took conn away has done so; one slot
	rung chan struct{}                 // the alarm has done so; one slot

	// Only on the loop.
	call  *httpCall   // to be attended to in the next sleep
	alone int         // how many requests in a row were, up to attendAfter
	alarm *time.Timer // ends the attendance for the first deadline of the loop
	at    int64       // when alarm fires or has fired; -1 if it does not
}

// attendAfter is how many requests in a row must have been alone, attendAgain the
// same after one that was attended to in vain. Variables for tests.
var attendAfter, attendAgain = 8, 100

func (a *attendant) init() {
	a.left, a.rung = make(chan struct{}, 1), make(chan struct{}, 1)
	a.at = -1
}

// solitary reports whether the dispatcher is to attend to a new request. alone says
// that it is the only one. On the loop.
func (a *attendant) solitary(alone bool) bool {
	if alone {
		a.alone = min(a.alone+1, attendAfter)
	} else {
		a.alone = min(a.alone, 0)
	}
	bare := a.alone == attendAfter
	if bare != a.bare.Load() {
		a.bare.Store(bare)
	}
	return bare && a.call == nil
}

// giveUp lets a goroutine carry the request that was to be attended to: there is
// something else to do, or something else has come than the answer.
func (a *attendant) giveUp() {
	c := a.call
	a.call = nil
	a.alone = attendAfter - attendAgain
	a.bare.Store(false)
	c.hire()
}

// attend attends to a request until its answer is there, until somebody has
// something for the dispatcher, or until when, which is in d, if timed. It reports
// whether the whole answer is there. If there is anything else a goroutine takes
// over.
func (l *Loop) attend(when int64, d time.Duration, timed bool) (there bool) {
	a := &l.attendant
	if timed {
		a.setAlarm(l, when, d)
	}
	c := a.call
	conn := c.assigned
	a.conn.Store(conn)
	nothing := true
	select {
	case l.first = <-l.tasks: // from before; who sends one now looks at a.conn after that
	default:
		there, nothing = conn.Attend(c.method)
	}
	roused := !a.conn.CompareAndSwap(conn, nil)
	if roused {
		<-a.left
		conn.Calm()
	}
	switch {
	case there:
		a.call = nil
		l.first = (*attendedTask)(c)
		l.together = 0 // meanwhile those ran who could
	case !nothing || !roused && l.first == nil:
		a.giveUp()
	case l.first == nil:
		select {
		case l.first = <-l.tasks:
		default: // whoever roused it had sent his task long before
		}
	}
	return there
}

// rouse ends the attendance, if there is any. It is called after something was put
// where the dispatcher looks, by all who do that, so it is small enough to be inlined.
func (l *Loop) rouse() {
	if l.attendant.conn.Load() != nil {
		l.attendant.end()
	}
}

func (a *attendant) end() {
	if conn := a.conn.Load(); conn != nil && a.conn.CompareAndSwap(conn, nil) {
		conn.Nudge()
		a.left <- struct{}{}
	}
}

// setAlarm has the attendance end at when, which is in d. The alarm runs on while
// the dispatcher is awake: the first deadline is often the same as the last time.
func (a *attendant) setAlarm(l *Loop, when int64, d time.Duration) {
	select {
	case <-a.rung:
		a.at = -1
	default:
	}
	if when == a.at {
		return
	}
	a.stopAlarm()
	a.at = when
	if a.alarm != nil {
		a.alarm.Reset(d)
		return
	}
	a.alarm = time.AfterFunc(d, func() {
		l.wake()
		a.rung <- struct{}{} // the last that is done here: see stopAlarm
	})
}

// stopAlarm stops the alarm. If it has rung it waits for the end of that.
func (a *attendant) stopAlarm() {
	if a.at >= 0 && !a.alarm.Stop() {
		<-a.rung
	}
	a.at = -1
}

// An attendedTask is a request that was attended to.
type attendedTask httpCall

func (t *attendedTask) run() {
	c := (*httpCall)(t)
	c.attended = true
	c.carry()
}
