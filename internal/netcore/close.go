package netcore

import (
	"io"
	"net"
	"os"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// Linger is how long closing a connection waits for the peer to end its own side. If the
// descriptor were closed while input arrives, the kernel would respond with a reset, which
// discards bytes that the peer has not read yet.
const Linger = time.Second

// linger and stuckTime are Linger and stuckAfter, except in tests that call Prolong.
var linger, stuckTime = tunable(Linger), tunable(stuckAfter)

// Prolong replaces Linger and stuckAfter for all connections of the process, until undo is
// called. It is for tests of what must not wait for a peer.
func Prolong(d time.Duration) (undo func()) {
	oldLinger, oldStuck := linger.Swap(int64(d)), stuckTime.Swap(int64(d))
	return func() {
		linger.Store(oldLinger)
		stuckTime.Store(oldStuck)
	}
}

func lingerTime() time.Duration { return time.Duration(linger.Load()) }

// SetPatience makes Finish wait for the peer's end as long as bytes arrive at least every
// Linger, but no longer than d. This is for a peer that sends much before it reads: it
// must be read from until it has sent everything. Without SetPatience, Finish waits for
// Linger. The caller holds the lock.
func (c *Conn) SetPatience(d time.Duration) {
	if d != 0 || c.x != nil {
		c.extra().patience = d
	}
}

// quiet limits the closing of a connection without half-close: it is read until nothing
// has arrived for this long. This avoids the same reset, and there is no end of the peer's
// side to wait for.
const quiet = 50 * time.Millisecond

// stuckAfter is the time after which a net.Conn whose deadlines have no effect is closed
// during a Read or Write that a deadline should have ended.
const stuckAfter = time.Second

// Closing wakes the connection's goroutine, so that it ends the connection. From now on a
// writer that becomes idle also wakes it. If the goroutine does not wake, because the
// deadlines of the net.Conn have no effect, the net.Conn is closed when the output is
// sent. The caller holds the lock.
func (c *Conn) Closing() {
	c.closing = closing
	c.paused = false
	c.recheck()
	c.start()
	c.Wake()
	if c.nc != nil && c.rc == nil {
		c.watchForeign(time.Duration(stuckTime.Load()))
		c.hangUpIfStuck()
	}
}

// ClosingQuietly is Closing, but a goroutine in Read stays there, and a parked connection
// stays parked, until the peer ends its side or sends bytes, or Linger has passed. The
// writer alone sends the pending output and ends the stream. This saves a short connection
// one wake-up, a fifth of its CPU time. The caller holds the lock.
func (c *Conn) ClosingQuietly() {
	place := c.place.Load() & placeMask
	if c.rc == nil || c.sec != nil || c.cut || c.failed() || c.closing != notClosing || place != placeRead && place != placeParked {
		c.Closing()
		return
	}
	c.closing = closingQuietly
	c.paused = false
	c.stream = max(c.stream, streamEnding)
	c.recheck()
	c.start()
	if c.output == outputIdle && !c.awaitsPeer() {
		c.Wake()
	}
}

// awaitsPeer reports whether, after ClosingQuietly, the connection only waits for the
// peer, and limits that wait. Otherwise the goroutine must be woken. The caller holds the
// lock.
func (c *Conn) awaitsPeer() bool {
	if c.closing != closingQuietly || c.stream != streamEnded || c.cut || c.failed() {
		return false
	}
	d := lingerTime()
	if c.stall > 0 {
		d = min(d, c.stall)
	}
	e := c.extra()
	e.since = time.Since(epoch)
	if c.place.Load() == placeParked {
		return c.user.Poller().bound(c, e.since+d)
	}
	return c.wakeIn(d)
}

// Finish ends the connection, on its goroutine. It sends the pending output and ends the
// stream to the peer. It waits until the peer's kernel has acknowledged everything, as
// long as there is progress within the time of SetStall, and then briefly for the peer's
// own end, see Linger and SetPatience. Then it closes the descriptor. Meanwhile it reads
// and drops input, so that two peers that both have much to send do not wait for each
// other. Cut ends all these waits. over means that the peer's end, or an error, was already
// read.
//
// Finish returns the number of bytes of output that are known to be lost. Bytes that Cut
// leaves to the kernel do not count.
func (c *Conn) Finish(over bool) (lost int64) {
	c.Lock()
	c.closing = closing
	c.Unlock()
	c.Own()
	c.SetReadDeadline(noDeadline)
	over = c.flush(over, true)
	if c.mayContinue() && c.closeNotify() {
		over = c.flush(over, true)
	}
	switch {
	case c.mayContinue():
		lost = c.lingerAtEnd(over)
	case c.WriteError() != nil: // it no longer changes
		lost = c.unacked()
	}
	c.Lock()
	defer c.Unlock()
	c.addLost(lost)
	c.close()
	return c.Lost()
}

// Release ends the work on the connection without closing it, on its goroutine. It sends
// the pending output and returns the net.Conn, or nil if sending failed. It reads nothing.
// Later calls of Wake, Cut and the like have no effect.
func (c *Conn) Release() net.Conn {
	c.Lock()
	c.closing = closing
	c.Unlock()
	c.Own()
	c.flush(true, false)
	c.Lock()
	defer c.Unlock()
	if c.cut || c.failed() {
		c.close()
		return nil
	}
	c.finished = true
	c.awaitWriter()
	c.stopGuard()
	c.unwatched()
	c.nc.SetDeadline(noDeadline)
	if c.run.Load().tls != nil {
		c.sec.released.Store(true)
		return c.run.Load().tls
	}
	return c.nc
}

// close closes the descriptor. The caller holds the lock, which is released
// meanwhile.
func (c *Conn) close() {
	c.cut = true
	c.awaitWriter()
	c.drop()
	c.finished = true
	c.stopGuard()
	nc, reset := c.nc, c.reset
	c.Unlock()
	c.unwatched()
	if reset {
		SetReset(nc)
	}
	nc.Close()
	c.Lock()
}

// unwatched removes the descriptor from the poller.
func (c *Conn) unwatched() {
	if p := c.user.Poller(); p != nil {
		p.forget(c)
	}
}

// awaitWriter waits until no writer uses the connection. No more output is added then, but
// TLS may have added some before. The caller holds the lock, which is released meanwhile.
func (c *Conn) awaitWriter() {
	for c.output != outputIdle {
		c.Unlock()
		c.Wait()
		c.Lock()
	}
}

// mayContinue reports whether the connection is still to be ended gracefully: it was not
// cut and has not failed.
func (c *Conn) mayContinue() bool {
	c.Lock()
	defer c.Unlock()
	return !c.cut && !c.failed()
}

func (c *Conn) wasCut() (cut, reset bool) {
	c.Lock()
	defer c.Unlock()
	return c.cut || c.failed(), c.reset || c.failed()
}

// flush waits until no writer uses the connection: all output is written or dropped. With
// discard it reads and drops input meanwhile. It returns whether the input has ended.
func (c *Conn) flush(over, discard bool) bool {
	for {
		c.Lock()
		c.paused = false
		c.start()
		busy, cut := c.output != outputIdle, c.cut
		c.Unlock()
		switch {
		case !busy:
			return over
		case over || cut || !discard:
			c.Wait()
		default:
			over = c.skip()
		}
	}
}

// skip reads once and drops the bytes. It reports whether the input has ended.
func (c *Conn) skip() (over bool) {
	b, err := c.Read(sockio.MaxBuffer)
	if b != nil {
		c.run.Load().skipped += int64(b.Len())
		b.Release()
	}
	if err == nil || err == ErrWoken || isTimeout(err) {
		return false
	}
	if err != io.EOF {
		c.run.Load().readErr = err
	}
	return true
}

// closeNotify ends the stream of TLS, and reports whether a close_notify must be sent.
// After a failed handshake there is only an alert, so it returns false.
func (c *Conn) closeNotify() bool {
	c.Lock()
	defer c.Unlock()
	if c.sec == nil || c.sec.tls == nil || c.stream == streamEnded {
		return false
	}
	c.EndOutput()
	return true
}

// lingerAtEnd shuts down the socket's own side and waits for acknowledgements, and for the
// end of the peer's side. It returns the number of bytes that are lost.
func (c *Conn) lingerAtEnd(over bool) (lost int64) {
	if !c.shutDown() && !c.isPatient() {
		c.lingerQuietly(over)
		return 0
	}
	now := time.Now()
	began, since := c.lingerStart(now), now
	until := began.Add(lingerTime())
	left, look := c.unacked(), time.Millisecond
	for {
		if cut, reset := c.wasCut(); cut {
			if !reset {
				left = 0 // the kernel continues to send it
			}
			return left
		}
		now = time.Now()
		next := until
		if left > 0 {
			if why := c.lossReason(now.Sub(since)); why != nil {
				c.Lock()
				c.reset, c.extra().cause = true, why
				c.Unlock()
				return c.unacked()
			}
			c.resetGuard()
			next = now.Add(look)
			look = min(2*look, 100*time.Millisecond)
		} else if over || !now.Before(until) {
			return 0
		}
		skipped := c.run.Load().skipped
		over = c.readOrWait(over, next)
		if c.rc == nil && c.run.Load().readErr != nil && left > 0 { // a failed socket forgets its output
			c.Lock()
			c.extra().cause = c.run.Load().readErr
			c.Unlock()
			return left
		}
		if c.run.Load().skipped > skipped {
			until = c.extendLinger(until, began)
		}
		if left == 0 {
			continue
		}
		if n := c.unacked(); n < left {
			if left, since = n, time.Now(); n == 0 {
				until = since.Add(lingerTime())
			}
		}
	}
}

// lingerStart returns the time since which the connection has only waited for the peer, at
// the latest now.
func (c *Conn) lingerStart(now time.Time) time.Time {
	c.Lock()
	defer c.Unlock()
	if e := c.x; e != nil && e.since > 0 {
		return epoch.Add(e.since)
	}
	return now
}

// isPatient reports whether a connection lingers even if it has no half-close, because its
// user called SetPatience and TLS has sent its close_notify.
func (c *Conn) isPatient() bool {
	c.Lock()
	defer c.Unlock()
	return c.x != nil && c.x.patience > 0 && c.sec != nil && c.stream == streamEnded
}

// extendLinger returns the new end of lingering after input has arrived. until is the old
// end.
func (c *Conn) extendLinger(until, began time.Time) time.Time {
	c.Lock()
	last := began
	if c.x != nil {
		last = began.Add(c.x.patience)
	}
	c.Unlock()
	if t := time.Now().Add(lingerTime()); t.Before(last) {
		return t
	}
	return until
}

// readOrWait reads once, or waits if the input has ended, until t or Wake. It reports
// whether the input has ended.
func (c *Conn) readOrWait(over bool, t time.Time) bool {
	if over {
		c.WaitUntil(t)
		return true
	}
	c.SetReadDeadline(t)
	return c.skip()
}

// lingerQuietly reads until no more bytes arrive. This is needed only if nc wraps a
// socket, which could send a reset.
func (c *Conn) lingerQuietly(over bool) {
	if a := c.nc.LocalAddr(); over || a == nil || len(a.Network()) < 3 || a.Network()[:3] != "tcp" && a.Network() != "unix" {
		return
	}
	until := time.Now().Add(lingerTime())
	for c.mayContinue() {
		c.SetReadDeadline(time.Now().Add(quiet))
		b, err := c.Read(sockio.MaxBuffer)
		if b != nil {
			b.Release()
		}
		if err != nil && err != ErrWoken || !time.Now().Before(until) {
			return
		}
	}
}

// shutDown ends the socket's own side. It returns false if there is no half-close.
func (c *Conn) shutDown() bool {
	c.Lock()
	nc, shut := c.nc, c.shut
	c.Unlock()
	cw, ok := nc.(closeWriter)
	if !ok || shut {
		return ok
	}
	if c.rc == nil {
		nc.SetWriteDeadline(time.Now().Add(lingerTime())) // a foreign TLS connection sends an alert
	}
	c.Lock()
	c.shut = true
	c.Unlock()
	cw.CloseWrite()
	return true
}

// unacked is userUnacked for callers that do not hold the lock.
func (c *Conn) unacked() int64 {
	c.Lock()
	defer c.Unlock()
	return int64(c.userUnacked())
}

// lossReason returns the reason why output will not be acknowledged, or nil if it may still
// be. idle is the time without progress.
func (c *Conn) lossReason(idle time.Duration) (why error) {
	if d := c.stallTime(); d > 0 && idle >= d {
		return os.ErrDeadlineExceeded
	}
	c.control(func(fd uintptr) {
		if errno, is := broken(fd, false); is {
			why = errno
		}
	})
	return why
}

func (c *Conn) stallTime() time.Duration {
	c.Lock()
	defer c.Unlock()
	return c.stall
}

// SetReset makes closing nc reset the connection, if nc can do that. nc may be foreign, so
// the caller must not hold the lock.
func SetReset(nc net.Conn) {
	if t, ok := lowest(nc).(interface{ SetLinger(sec int) error }); ok {
		t.SetLinger(0)
	}
}

// lowest returns the connection below nc if nc is TLS, because closing TLS waits for the
// peer.
func lowest(nc net.Conn) net.Conn {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		return Below(t)
	}
	return nc
}

// Below returns the connection below TLS, also below the TLS of a Conn.
func Below(t interface{ NetConn() net.Conn }) net.Conn {
	nc := t.NetConn()
	if s, ok := nc.(*secure); ok {
		return s.c.nc
	}
	return nc
}

// hangUpIfStuck closes a net.Conn whose deadlines have no effect, unless a writer uses it.
// The caller holds the lock.
func (c *Conn) hangUpIfStuck() {
	c.deadlineMu.Lock()
	stuck := c.ignoresDeadlines
	c.deadlineMu.Unlock()
	if stuck && (c.cut || c.output == outputIdle) {
		c.hangUp()
	}
}

// hangUp closes nc while other goroutines use it. This is safe because no writer uses the
// descriptor of such a connection directly. Close of foreign code may wait, so a separate
// goroutine calls it. The caller holds the lock.
func (c *Conn) hangUp() {
	if c.finished {
		return
	}
	c.user.CloseAside(lowest(c.nc), c.reset)
}

// watchForeign starts the guard: after d and then periodically, it closes a net.Conn that
// is still in use although its output is written. The caller holds the lock.
func (c *Conn) watchForeign(d time.Duration) {
	s := c.x.slow
	switch {
	case c.finished:
	case s.guard == nil:
		s.guard = time.AfterFunc(d, c.guard)
	default:
		s.guard.Reset(d)
	}
	s.idle = 0
}

// resetGuard tells the guard that the wait for acknowledgements is intended.
func (c *Conn) resetGuard() {
	c.Lock()
	defer c.Unlock()
	if s := c.slow(); s != nil {
		s.idle = 0
	}
}

// guard closes the net.Conn if a Read or a Write continues that a deadline should have
// ended.
func (c *Conn) guard() {
	c.Lock()
	defer c.Unlock()
	switch b := c.blocker(); {
	case c.finished:
		return
	case b != nil && !c.cut:
		if c.stall <= 0 || c.paused || time.Since(b.since) < c.stall {
			break
		}
		c.hangUp()
	case c.closing == notClosing && !c.cut && !c.sec.ended():
		return // watchForeign starts it again when needed
	default:
		// Lingering takes as long as two ticks.
		s := c.x.slow
		if s.idle++; s.idle > 2 || c.cut || c.isStuck() {
			c.hangUp()
		}
	}
	c.x.slow.guard.Reset(time.Duration(stuckTime.Load()))
}

// isStuck reports whether the goroutine is still in a Read that a read deadline in the past
// should have ended.
func (c *Conn) isStuck() bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.interrupted || c.ignoresDeadlines
}

// ended reports whether a handshake was ended.
func (s *secure) ended() bool { return s != nil && s.stopped.Load() }

func (c *Conn) stopGuard() {
	if s := c.slow(); s != nil && s.guard != nil {
		s.guard.Stop()
	}
}
