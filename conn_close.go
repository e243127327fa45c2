package eventloop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
)

// howToClose says what becomes of pending output.
type howToClose uint8

const (
	closeFlush  howToClose = iota // it is sent
	closeSealed                   // it is sent but for what waits for TLS, which failed
	closeCut                      // it is discarded
	closeReset                    // so it is, and the peer sees a reset
)

// Close sends what was written and closes the connection. It goes on sending as
// long as the peer takes something within WriteTimeout, or 5 s without one, and
// drops what arrives meanwhile; see [Conn.Err] for output that could not be
// delivered. Then the other side sees the end of the stream, and the descriptor is
// closed as soon as it ends its own side, or after a second. A connection that is
// not up yet connects first if something was written, and gives up otherwise.
// OnClose tells when it is over.
//
// A second call returns net.ErrClosed.
func (c *Conn) Close() error {
	if !c.closeWith(closeFlush) {
		return net.ErrClosed
	}
	return nil
}

// Abort closes the connection at once and discards what was not sent yet. The
// peer sees a reset where the network has such a thing. It cuts a Close short;
// otherwise a second call returns net.ErrClosed.
func (c *Conn) Abort() error {
	c.core.Lock()
	if c.life != lifeClosed {
		c.facts |= factAborted
	}
	c.core.Unlock()
	if !c.closeWith(closeReset) {
		return net.ErrClosed
	}
	return nil
}

// closeWith begins to close the connection, and reports whether that changed
// anything.
func (c *Conn) closeWith(how howToClose) bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.closeLocked(how)
}

// closeUnannounced closes the connection unless a callback of it has been called.
// Then none ever is.
func (c *Conn) closeUnannounced() {
	c.core.Lock()
	defer c.core.Unlock()
	if c.facts.has(factAnnounced | factUnannounced) {
		return
	}
	c.facts |= factUnannounced
	c.loop.count.dropped.Add(1)
	c.closeLocked(closeReset)
}

// closeLocked is closeWith for callers that hold the lock.
func (c *Conn) closeLocked(how howToClose) bool {
	cuts := how >= closeCut
	if c.life == lifeClosed || c.facts.has(factCut) || c.life == lifeClosing && !cuts {
		return false
	}
	if x := c.x.Load(); x != nil && c.life < lifeClosing {
		x.postLow(c.loop) // ends waits for room to write, and of streams for input
	}
	c.life = lifeClosing
	c.quit.Store(true)
	c.core.SetStall(c.flushTime())
	switch {
	case cuts:
		c.facts |= factCut
		c.discard()
		c.core.Cut(how == closeReset)
	case how == closeSealed:
		c.dropUnsealed()
	}
	c.order()
	return true
}

// dropUnsealed discards what waits for TLS, which has failed. What is left, an alert
// maybe, gets little time. The caller holds the lock.
func (c *Conn) dropUnsealed() {
	n := min(c.core.Unsealed(), c.unsent)
	c.unsent -= n
	c.loop.count.discarded.Add(uint64(n))
	c.core.DropUnsealed()
	c.core.SetStall(min(c.flushTime(), flushTimeout))
}

// order has the connection's goroutine end what it does and look at its orders. The
// caller holds the lock.
func (c *Conn) order() {
	if c.owes() {
		c.extra().boundClose(c)
		return
	}
	if x := c.x.Load(); x != nil && x.cancel != nil {
		x.cancel() // a dial or a handshake; it does nothing once they are over
	}
	switch {
	case !c.facts.has(factUp):
	case c.facts.has(factCut | factDetach):
		c.core.Closing()
	default:
		c.core.ClosingQuietly()
	}
}

// owes reports whether Close has to let a dial or a handshake go on, because
// there is output that waits for it. The caller holds the lock.
func (c *Conn) owes() bool {
	if c.facts.has(factCut) {
		return false
	}
	if c.facts.has(factUp) {
		return c.core.Shaking() && c.core.Unsealed() > 0
	}
	return c.pending() > 0 && c.reasons.why() == nil
}

// owesUpgrade reports whether Close has to let a StartTLS go on that has not begun.
func (cr *connReader) owesUpgrade() bool {
	c := (*Conn)(cr)
	if !c.is(bitUpgrade) {
		return false
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.owes()
}

// boundClose ends a Close by force if it takes longer than a flush may, where
// more is to be done for it than to write. The caller holds the lock.
func (x *connExtra) boundClose(c *Conn) {
	if x.closeTimer == nil {
		x.closeTimer = c.loop.AfterFunc(c.flushTime(), c.loopSide().overdue)
		x.closeTimer.Unref()
	}
}

// overdue ends what boundClose bounds. A flush has a bound of its own.
func (cl *connLoop) overdue() {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	if !c.facts.has(factUp) || c.core.Shaking() {
		c.closeLocked(closeReset)
	}
}

// flushTime is for how long a flush may make no progress. The caller holds the lock.
func (c *Conn) flushTime() time.Duration {
	if _, d := c.timeouts(); d > 0 {
		return d
	}
	return flushTimeout
}

// howToFail returns how the connection ends after err of reading. A reset keeps the
// peer from taking what it has got for all of it. TLS does that itself, and says in
// an alert what was wrong.
func (cl *connLoop) howToFail(err error) howToClose {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	var errno syscall.Errno
	if c.core.Secured() && !errors.As(err, &errno) && !isUncaught(err) &&
		!errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, netcore.ErrFlood) && !errors.Is(err, ErrTimeout) {
		return closeSealed
	}
	return closeReset
}

// end is the end of the connection on its goroutine.
func (cr *connReader) end() {
	c := (*Conn)(cr)
	c.core.Lock()
	detach := c.facts.has(factDetach)
	c.core.Unlock()
	if detach {
		nc := c.core.Release()
		c.core.Lock()
		c.extra().released = nc
		c.core.Unlock()
		c.loop.send((*goneTask)(c))
		return
	}
	cr.finish(c.reasons.read() != nil || c.over)
}

// finish ends the connection and says that it is gone. over says that nothing is to
// be read any more.
func (cr *connReader) finish(over bool) {
	c := (*Conn)(cr)
	returned := false
	defer func() {
		if !returned { // foreign code called Goexit in Read
			c.loop.wg.Go(func() { cr.finish(true) })
		}
	}()
	c.core.Finish(over)
	returned = true
	c.loop.send((*goneTask)(c))
}

// countLost accounts for output that was not delivered, which the application has
// not discarded itself. The caller holds the lock.
func (cl *connLoop) countLost() {
	c := (*Conn)(cl)
	n := c.core.Lost()
	if n == 0 || c.facts.has(factAborted) {
		return
	}
	c.loop.count.lost.Add(uint64(n))
	if c.reasons.why() != nil && c.reasons.why() != io.EOF {
		return // that is why
	}
	cause := c.core.WriteError()
	switch {
	case cause != nil:
	case c.loop.ended.Load():
		cause = ErrLoopClosed
	default:
		cause = c.reasons.why()
	}
	c.reasons.setWhy(c.opErrorLocked(OpClose, &LostError{Bytes: n, Err: cause}))
}

// A LostError says that a connection was closed and output that was written to it
// could not be delivered. It matches [ErrLost], net.ErrClosed, and what was the
// reason, such as [ErrTimeout] or [ErrReset].
type LostError struct {
	Bytes int64 // of output; with TLS, and on unix sockets, an estimate
	Err   error // why, or nil
}

func (e *LostError) Error() string {
	s := fmt.Sprintf("%d bytes of output were not delivered", e.Bytes)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is reports whether target is [ErrLost].
func (e *LostError) Is(target error) bool { return target == ErrLost }

// Unwrap returns what else e matches.
func (e *LostError) Unwrap() []error {
	if e.Err == nil {
		return []error{net.ErrClosed}
	}
	return []error{e.Err, net.ErrClosed}
}

// terminate closes c at the end of the loop. The peer of a connection with nothing
// to send keeps what it was sent; that of one whose output is cut sees a reset.
func (c *Conn) terminate() {
	c.core.Lock()
	how := closeCut
	if c.pending() > 0 {
		how = closeReset
	}
	c.core.Unlock()
	c.closeWith(how)
}

// isSpare implements spareable: it reports whether c is closed, and its output
// delivered. If c is not up yet and has nothing to send, it gives up.
func (c *Conn) isSpare() bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.life >= lifeClosing && !c.facts.has(factDetach) && c.pending() == 0 && c.core.Delivered()
}

// detaching reports whether what arrives is for what called Detach.
func (cl *connLoop) detaching() bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return c.facts.has(factDetach)
}
