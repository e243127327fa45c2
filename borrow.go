package eventloop

import (
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// A borrowedRead lets the dispatcher wait in the read of a connection instead of on its
// channel, while it has nothing else to wait for. A message then needs no switch to the
// connection's goroutine and back, for which the runtime often wakes a second processor
// as well. The goroutine stays in core.Wait meanwhile.
//
// Ending a read costs more than a wake-up. Therefore the dispatcher borrows the read only
// after borrowAfter turns in a row with nothing but input of that connection. When anything
// else happens it returns the read, and borrows again only after borrowAgain turns.
type borrowedRead struct {
	in atomic.Pointer[connReader] // the connection in whose read the dispatcher waits

	// Only on the loop.
	held    *connReader // the connection whose read the dispatcher has borrowed, or nil
	offered bool        // held waits for input
	late    bool        // offered has been set for a turn
	last    *connReader // the connection that called offer last
	streak  int         // how often in a row it did
}

// borrowAfter is the number of turns in a row with only input of one connection that come
// before the dispatcher borrows its read. borrowAgain is that number after the dispatcher
// has returned a read.
const borrowAfter, borrowAgain = 8, 100

// offer tells the dispatcher that the connection only waits for input. It reports whether
// the dispatcher waits for that input. It runs on the loop, in a task of the connection.
func (l *Loop) offer(cr *connReader) bool {
	b := &l.borrowed
	alone := l.pace.calls == 0 && l.batch.Len() == 0 && len(l.tasks) == 0 && l.ordered == nil
	b.offered, b.late = alone && b.held == cr, false
	if !alone || b.last != cr {
		b.last, b.streak = cr, min(b.streak, 0)
	}
	if !alone || b.held != nil {
		return b.offered
	}
	if b.streak++; b.streak < borrowAfter {
		return false
	}
	if b.streak = 0; !cr.quit.Load() && cr.core.Borrow() {
		b.held, b.offered = cr, true
	}
	return b.offered
}

// wakeRead ends the dispatcher's wait in a connection. It is called after a post, a task or
// other work for the dispatcher was queued.
func (l *Loop) wakeRead() {
	if cr := l.borrowed.in.Load(); cr != nil {
		cr.core.Wake()
	}
}

// readBorrowed waits in the read of the connection that was offered, until there is input, a
// task or a wake, or until the time when, unless that is 0.
func (l *Loop) readBorrowed(when int64) {
	b := &l.borrowed
	var until time.Time
	if when != 0 {
		until = l.epoch.Add(time.Duration(when))
	}
	b.in.Store(b.held)
	if len(l.tasks) == 0 { // the sender of a later task finds b.in and wakes the read
		l.first = b.held.readBorrowed(until)
	}
	b.in.Store(nil)
	if b.offered = false; l.first == nil {
		b.end()
	}
}

// readBorrowed reads a chunk in place of the connection's goroutine, and returns the task
// that handles it. It returns nil after Wake, at the time until unless that is zero, and if
// the connection has other work, which its goroutine does. It runs no user code.
func (cr *connReader) readBorrowed(until time.Time) task {
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
	case err != netcore.ErrWoken && !deadlinePassed(err): // ETIMEDOUT is not a deadline
		cr.reasons.setRead(err)
	}
	return nil
}

// postpone is called when the dispatcher runs a turn instead of waiting. The last
// callback may have caused the first such turn, for example an OnDrain. At the second one
// the dispatcher returns the read, so that the connection's goroutine reads meanwhile.
func (b *borrowedRead) postpone() {
	if b.offered && b.late {
		b.end()
	}
	b.late = b.offered
}

// end returns the borrowed read, if there is one. It runs on the loop.
func (b *borrowedRead) end() {
	if cr := b.held; cr != nil {
		b.held, b.offered, b.streak = nil, false, borrowAfter-borrowAgain
		cr.core.SetReadDeadline(noDeadline)
		cr.core.Return()
	}
}
