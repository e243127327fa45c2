package beanstalk

import (
	"time"

	"github.com/onloop/eventloop"
)

// A timeout watches a queue of requests for the first one to be overdue. It is used only on
// the loop.
type timeout struct {
	l       *eventloop.Loop
	due     func() time.Time    // when the first request is due; zero: never
	overdue func(now time.Time) // called when that time has passed

	timer *eventloop.Timer
	armed time.Time // when the timer is due; zero: it is not armed
	grace bool      // the timer was late and is armed again
}

// lateTimer and lateGrace are for timers that a slow callback has delayed, see timeout.fire.
const (
	lateTimer = 10 * time.Millisecond // a timer is this late only after a slow callback
	lateGrace = 50 * time.Millisecond
)

// arm sets the timer to the time when the first request is due.
func (t *timeout) arm() {
	due := t.due()
	if due.IsZero() || t.grace || !t.armed.IsZero() && !due.Before(t.armed) {
		return
	}
	t.armed = due
	t.set(time.Until(due))
}

func (t *timeout) set(d time.Duration) {
	if t.timer == nil {
		t.timer = t.l.AfterFunc(d, t.fire)
		t.timer.Unref()
	} else {
		t.timer.Reset(d)
	}
}

// fire calls overdue if the first request is overdue. If the timer is late, fire first
// waits for lateGrace, so that the loop can handle replies, or a connection, that are there:
// a slow callback has delayed the loop as well as the timer.
func (t *timeout) fire() {
	t.armed = time.Time{}
	late := time.Duration(-1)
	now := time.Now()
	if due := t.due(); !due.IsZero() {
		late = now.Sub(due)
	}
	if late > lateTimer && !t.grace {
		t.grace = true
		t.set(lateGrace)
		return
	}
	t.grace = false
	if late >= 0 {
		t.overdue(now)
	}
	t.arm()
}

// stop stops the timer. arm must not be called after it.
func (t *timeout) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}
