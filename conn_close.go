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

// A closeMode determines how a connection closes and treats its pending output.
type closeMode uint8

const (
	closeFlush  closeMode = iota // sends it
	closeSealed                  // sends it, except output that waits for TLS, which failed
	closeCut                     // discards it
	closeReset                   // discards it and resets the connection
)

// Close sends the pending output and closes the connection. Close itself does not
// block: OnClose is called when the connection is closed.
//
// The connection continues to send as long as the peer receives some output within
// WriteTimeout (5 s if there is none), and drops bytes that arrive meanwhile. For output
// that could not be delivered, see [Conn.Err]. Then the peer sees the end of the stream.
// The descriptor is closed as soon as the peer ends its own side, or after one second.
// A connection that is not up yet still connects if it has pending output; otherwise
// connecting stops.
//
// A second call returns net.ErrClosed.
func (c *Conn) Close() error {
	if !c.closeWith(closeFlush) {
		return net.ErrClosed
	}
	return nil
}

// Abort closes the connection immediately and discards the unsent output. The peer sees
// a reset if the network supports resets. Abort also ends a Close that is in progress.
// After Abort, and once the connection is closed, it returns net.ErrClosed.
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

// closeWith starts to close the connection. It returns false if the call has no effect.
func (c *Conn) closeWith(how closeMode) bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.closeLocked(how)
}

// closeUnannounced closes the connection if none of its callbacks has been called, and
// then none is called later.
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
func (c *Conn) closeLocked(how closeMode) bool {
	cuts := how >= closeCut
	if c.life == lifeClosed || c.facts.has(factCut) || c.life == lifeClosing && !cuts {
		return false
	}
	if x := c.x.Load(); x != nil && c.life < lifeClosing {
		x.postLow(c.loop) // ends waits for room to write, and waits of streams for input
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
	c.interrupt()
	return true
}

// dropUnsealed discards output that waits for TLS, because TLS has failed. Sending the
// remaining output, such as an alert, is limited by flushTimeout. The caller holds the
// lock.
func (c *Conn) dropUnsealed() {
	n := min(c.core.Unsealed(), c.unsent)
	c.unsent -= n
	c.loop.count.discarded.Add(uint64(n))
	c.core.DropUnsealed()
	c.core.SetStall(min(c.flushTime(), flushTimeout))
}

// interrupt wakes the connection's goroutine so that it ends the connection. The
// caller holds the lock.
func (c *Conn) interrupt() {
	if c.closeDeferred() {
		c.extra().boundClose(c)
		return
	}
	if x := c.x.Load(); x != nil && x.cancel != nil {
		x.cancel() // ends a dial or a handshake; no effect after they have finished
	}
	switch {
	case !c.facts.has(factUp):
	case c.facts.has(factCut | factDetach):
		c.core.Closing()
	default:
		c.core.ClosingQuietly()
	}
}

// closeDeferred reports whether Close must let a dial or a handshake continue, because
// output waits for it. The caller holds the lock.
func (c *Conn) closeDeferred() bool {
	if c.facts.has(factCut) {
		return false
	}
	if c.facts.has(factUp) {
		return c.core.Handshaking() && c.core.Unsealed() > 0
	}
	return c.pending() > 0 && c.reasons.why() == nil
}

// upgradeDeferred reports whether Close must let a StartTLS continue that has not begun.
func (cr *connReader) upgradeDeferred() bool {
	c := (*Conn)(cr)
	if !c.is(bitUpgrade) {
		return false
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.closeDeferred()
}

// boundClose limits the time of a Close that needs a dial or a handshake before it can
// write: after flushTime, overdue resets the connection. The caller holds the lock.
func (x *connExtra) boundClose(c *Conn) {
	if x.closeTimer == nil {
		x.closeTimer = c.loop.AfterFunc(c.flushTime(), c.loopSide().overdue)
		x.closeTimer.Unref()
	}
}

// overdue resets a connection that is still dialing or in a handshake when the time of
// boundClose has passed. A flush has its own limit.
func (cl *connLoop) overdue() {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	if !c.facts.has(factUp) || c.core.Handshaking() {
		c.closeLocked(closeReset)
	}
}

// flushTime is the longest time that a flush may make no progress. The caller holds the
// lock.
func (c *Conn) flushTime() time.Duration {
	if _, d := c.timeouts(); d > 0 {
		return d
	}
	return flushTimeout
}

// failMode returns how the connection ends after reading failed with err. A reset
// ensures that the peer cannot mistake a partial stream for a complete one. TLS does not
// need a reset for that, and its alert tells the peer the reason.
func (cl *connLoop) failMode(err error) closeMode {
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

// end ends the connection, on its goroutine.
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
		c.loop.send((*closedTask)(c))
		return
	}
	cr.finish(c.reasons.read() != nil || c.over)
}

// finish closes the descriptor and sends the closedTask. over means that there is nothing
// left to read.
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
	c.loop.send((*closedTask)(c))
}

// countLost accounts for output that was not delivered, unless the application
// discarded it with Abort. The caller holds the lock.
func (cl *connLoop) countLost() {
	c := (*Conn)(cl)
	n := c.core.Lost()
	if n == 0 || c.facts.has(factAborted) {
		return
	}
	c.loop.count.lost.Add(uint64(n))
	if c.reasons.why() != nil && c.reasons.why() != io.EOF {
		return // Err already has the reason
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

// A LostError reports that a connection was closed and part of its output could not be
// delivered. It matches [ErrLost], net.ErrClosed, and the cause, such as [ErrTimeout] or
// [ErrReset].
type LostError struct {
	Bytes int64 // bytes of output not delivered; with TLS, and on unix sockets, an estimate
	Err   error // the cause, or nil
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

// Unwrap returns the cause and net.ErrClosed.
func (e *LostError) Unwrap() []error {
	if e.Err == nil {
		return []error{net.ErrClosed}
	}
	return []error{e.Err, net.ErrClosed}
}

// terminate closes c at the end of the loop. If output is pending, it is discarded and
// the peer sees a reset. Otherwise the peer can still read everything that was sent.
func (c *Conn) terminate() {
	c.core.Lock()
	how := closeCut
	if c.pending() > 0 {
		how = closeReset
	}
	c.core.Unlock()
	c.closeWith(how)
}

// isSpare implements spareable: it reports whether c is closing or closed, and its
// output delivered.
func (c *Conn) isSpare() bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.life >= lifeClosing && !c.facts.has(factDetach) && c.pending() == 0 && c.core.Delivered()
}

// detaching reports whether Detach was called: input then belongs to its caller.
func (cl *connLoop) detaching() bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return c.facts.has(factDetach)
}
