package redis

import (
	"time"

	"github.com/onloop/eventloop"
)

// lateTimer and lateGrace are for timeouts whose timer a slow callback has delayed. Such a
// timeout waits for lateGrace, so that the loop can handle replies, or a connection, that
// are there: the callback has delayed the loop as well as the timer.
const (
	lateTimer = 10 * time.Millisecond // a timer is this late only after a slow callback
	lateGrace = 50 * time.Millisecond
)

// afterTimeout is like Loop.AfterFunc, for a timeout. The timer does not keep the loop
// alive: the pending commands do.
func afterTimeout(l *eventloop.Loop, d time.Duration, f func()) *eventloop.Timer {
	var t *eventloop.Timer
	due, grace := time.Now().Add(d), false
	t = l.AfterFunc(d, func() {
		if !grace && time.Since(due) > lateTimer {
			grace = true
			t.Reset(lateGrace)
			return
		}
		f()
	})
	t.Unref()
	return t
}
