package eventloop

import (
	"sync/atomic"
	"time"
)

// A parker is something whose goroutine waits for input and hands it to the
// dispatcher, and in whose place the dispatcher can wait itself.
type parker interface {
	// borrow takes the goroutine's place, unless it does something else just now.
	borrow() bool

	// park waits in that place and returns the task that handles what came. It
	// returns nil after interrupt, at until unless that is zero, and if the
	// goroutine is needed. It runs no code of the user.
	park(until time.Time) task

	// interrupt makes park return, this time or the next. Any goroutine may call
	// it, also too late.
	interrupt()

	// resume gives the place back.
	resume()
}

// parking lets the dispatcher wait in the read of a connection instead of its
// channel, while that is all there is to wait for. A message then needs no switch
// to the connection's goroutine and back, for which the runtime often wakes a second
// processor as well.
//
// To end a read costs more than a wake-up. So the dispatcher does it only after
// some turns in a row that consisted of input of that connection, and when anything
// else comes it gives the place back, for a while.
type parking struct {
	in atomic.Pointer[parker] // the dispatcher waits there

	// Only on the loop.
	held    *parker // was borrowed; nil: none is
	offered bool    // held waits for input
	late    bool    // and has done so for a turn
	last    parker  // that offered last
	streak  int     // how often in a row
}

// parkAfter is how many turns in a row must have been input of one connection,
// parkAgain the same after the dispatcher waited there without result.
const parkAfter, parkAgain = 8, 100

// offer says that p has nothing to do but to wait for input. It reports whether the
// dispatcher waits for it. On the loop, in a task of p.
func (l *Loop) offer(p parker) bool {
	k := &l.parking
	alone := l.pace.calls == 0 && l.batch.Len() == 0 && len(l.tasks) == 0 && l.ordered == nil
	switch {
	case k.held != nil:
		k.offered, k.late = alone && *k.held == p, false
		return k.offered
	case !alone:
		k.last = nil
		return false
	case k.last != p:
		k.last, k.streak = p, min(k.streak, 0)
	}
	if k.streak++; k.streak < parkAfter {
		return false
	}
	k.streak = 0
	if p.borrow() {
		held := p // p itself would be allocated each time
		k.held, k.offered, k.late = &held, true, false
	}
	return k.offered
}

// unpark ends the wait of the dispatcher in a connection. It is called after
// something was put where the dispatcher looks.
func (l *Loop) unpark() {
	if p := l.parking.in.Load(); p != nil {
		(*p).interrupt()
	}
}

// park waits in the connection that was offered, until there is input, a task, a
// wake-up, or until the deadline when, if that is not 0.
func (l *Loop) park(when int64) {
	k := &l.parking
	var until time.Time
	if when != 0 {
		until = l.epoch.Add(time.Duration(when))
	}
	k.in.Store(k.held)
	select {
	case l.first = <-l.tasks: // from before; what is sent now finds k.in
	default:
		l.first = (*k.held).park(until)
		k.offered = false
	}
	k.in.Store(nil)
	if k.offered || l.first == nil {
		k.end()
	}
}

// postpone is called when the dispatcher has a turn instead of waiting. That may be
// what the last callback has caused, like OnDrain. With the second one the goroutine
// had better read meanwhile.
func (k *parking) postpone() {
	if k.offered && k.late {
		k.end()
	}
	k.late = k.offered
}

// end gives the place back, if one is borrowed. On the loop.
func (k *parking) end() {
	if p := k.held; p != nil {
		k.held, k.offered, k.streak = nil, false, parkAfter-parkAgain
		(*p).resume()
	}
}
