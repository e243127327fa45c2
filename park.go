package eventloop

import (
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// parking lets the dispatcher wait in the read of a connection instead of its channel,
// while that is all there is to wait for. A message then needs no switch to the
// connection's goroutine and back, for which the runtime often wakes a second processor
// as well. The goroutine stays in core.Wait meanwhile.
//
// Ending a read costs more than a wake-up. So the dispatcher waits there only after some
// turns in a row that consisted of input of that connection. When anything else comes it
// gives the place back, for a while.
type parking struct {
	in atomic.Pointer[connReader] // the dispatcher waits there

	// Only on the loop.
	held    *connReader // whose place the dispatcher has; nil: none
	offered bool        // held waits for input
	late    bool        // and has done so for a turn
	last    *connReader // that offered last
	streak  int         // how often in a row
}

// parkAfter is how many turns in a row must have been input of one connection,
// parkAgain the same after the dispatcher waited there without result.
const parkAfter, parkAgain = 8, 100

// offer says that the connection has nothing to do but to wait for input. It reports
// whether the dispatcher waits for it. On the loop, in a task of the connection.
func (l *Loop) offer(cr *connReader) bool {
	k := &l.parking
	alone := l.pace.calls == 0 && l.batch.Len() == 0 && len(l.tasks) == 0 && l.ordered == nil
	k.offered, k.late = alone && k.held == cr, false
	if !alone || k.last != cr {
		k.last, k.streak = cr, min(k.streak, 0)
	}
	if !alone || k.held != nil {
		return k.offered
	}
	if k.streak++; k.streak < parkAfter {
		return false
	}
	if k.streak = 0; !cr.quit.Load() && cr.core.Borrow() {
		k.held, k.offered = cr, true
	}
	return k.offered
}

// unpark ends the wait of the dispatcher in a connection. It is called after
// something was put where the dispatcher looks.
func (l *Loop) unpark() {
	if cr := l.parking.in.Load(); cr != nil {
		cr.core.Wake()
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
	if len(l.tasks) == 0 { // what is sent from now on finds k.in
		l.first = k.held.park(until)
	}
	k.in.Store(nil)
	if k.offered = false; l.first == nil {
		k.end()
	}
}

// park reads a chunk in the goroutine's place, and returns the task that handles it. It
// returns nil after Wake, at until unless that is zero, and if there is anything else
// to do, which is for the goroutine. It runs no code of the user.
func (cr *connReader) park(until time.Time) task {
	if cr.quit.Load() || cr.bits.Load() != 0 || cr.reasons.read() != nil || cr.hasNext() {
		return nil
	}
	if !until.Equal(cr.core.ReadDeadline()) { // the first deadline of a loop is often the same
		cr.core.SetReadDeadline(until)
	}
	b, err := cr.core.Read(cr.nextRead())
	switch {
	case b != nil:
		cr.took(b)
		return (*chunkTask)(cr)
	case err != netcore.ErrWoken && !deadlinePassed(err): // ETIMEDOUT is no deadline
		cr.reasons.setRead(err)
	}
	return nil
}

// postpone is called when the dispatcher has a turn instead of waiting. The first turn
// may be what the last callback has caused, like OnDrain. From the second on the
// goroutine reads meanwhile.
func (k *parking) postpone() {
	if k.offered && k.late {
		k.end()
	}
	k.late = k.offered
}

// end gives the place back, if one is borrowed. On the loop.
func (k *parking) end() {
	if cr := k.held; cr != nil {
		k.held, k.offered, k.streak = nil, false, parkAfter-parkAgain
		cr.core.SetReadDeadline(noDeadline)
		cr.core.Return()
	}
}
