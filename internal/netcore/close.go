package netcore

import (
	"io"
	"net"
	"os"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// Linger is how long the end of a connection waits for the peer to end its own
// side. If the descriptor were closed while input comes, the kernel would answer
// it by a reset, which takes away from the peer what it has not read yet.
const Linger = time.Second

// SetPatience has Finish wait for the peer's end for as long as bytes come at least
// every Linger, but no longer than d: a peer that sends much before it reads has to
// be read from until it is done. Without it Finish waits for Linger. The caller
// holds the lock.
func (c *Conn) SetPatience(d time.Duration) {
	if d != 0 || c.x != nil {
		c.extra().patience = d
	}
}

// quiet is how long a connection that has no half-close is read, at its end, without
// anything coming: the same reset is to be avoided, and no end can be waited for.
const quiet = 50 * time.Millisecond

// deafAfter is when a net.Conn whose deadlines do nothing is closed under a Read or
// Write that they should have ended.
const deafAfter = time.Second

// Closing says that the connection is about to be ended by its goroutine, which it
// wakes. From now on a writer that becomes idle wakes it, too. A net.Conn that does
// not notice, because its deadlines do nothing, is closed when the output is
// sent. The caller holds the lock.
func (c *Conn) Closing() {
	c.closing = closing
	c.paused = false
	c.anew()
	c.start()
	c.Wake()
	if c.nc != nil && c.rc == nil {
		c.watchForeign(deafAfter)
		c.hangUpIfDeaf()
	}
}

// ClosingQuietly is Closing, but a goroutine that is in Read stays there, and a
// connection that is parked stays parked, until the peer ends its side, sends
// something, or Linger has passed: a writer alone sends what is pending and ends the
// stream. A short connection saves a wake-up that way, a fifth of its CPU time. The
// caller holds the lock.
func (c *Conn) ClosingQuietly() {
	place := c.place.Load() & placeMask
	if c.rc == nil || c.sec != nil || c.cut || c.failed() || c.closing != notClosing || place != placeRead && place != placeParked {
		c.Closing()
		return
	}
	c.closing = closingQuietly
	c.paused = false
	c.stream = max(c.stream, streamEnding)
	c.anew()
	c.start()
	if c.output == outputIdle && !c.awaitsPeer() {
		c.Wake()
	}
}

// awaitsPeer leaves the connection where it is, after ClosingQuietly, if nothing is
// left to be done but to wait for the peer. The caller holds the lock.
func (c *Conn) awaitsPeer() bool {
	if c.closing != closingQuietly || c.stream != streamEnded || c.cut || c.failed() {
		return false
	}
	d := Linger
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

// Finish ends the connection on its goroutine: it sends what is pending, ends the
// stream to the peer, waits until the peer's kernel has acknowledged everything, as
// long as it makes progress by the measure of SetStall, and a moment for the peer's
// own end, and closes the descriptor. Meanwhile it reads and drops what comes, so
// that two peers that both have much to send do not wait for each other. Cut cuts
// all of it short. over says that the peer's end, or an error, was read already.
//
// It returns how many bytes of output are known to be lost. What Cut leaves to the
// kernel is not.
func (c *Conn) Finish(over bool) (lost int64) {
	c.Lock()
	c.closing = closing
	c.Unlock()
	c.Own()
	c.SetReadDeadline(noDeadline)
	over = c.flush(over, true)
	if c.mayGoOn() && c.closeNotify() {
		over = c.flush(over, true)
	}
	switch {
	case c.mayGoOn():
		lost = c.lingerAtEnd(over)
	case c.WriteError() != nil: // it does not change any more
		lost = c.unacked()
	}
	c.Lock()
	defer c.Unlock()
	c.lose(lost)
	c.close()
	return c.Lost()
}

// Release ends the work on the connection without closing it: it sends what is
// pending and returns a net.Conn, nil if that failed. Nothing is read meanwhile.
// Orders that come after it has no effect any more. On the goroutine.
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
		c.sec.bare.Store(true)
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
	if c.reset {
		c.setReset()
	}
	nc := c.nc
	c.Unlock()
	c.unwatched()
	nc.Close()
	c.Lock()
}

// unwatched takes the descriptor away from the poller.
func (c *Conn) unwatched() {
	if p := c.user.Poller(); p != nil {
		p.forget(c)
	}
}

// awaitWriter waits until no writer has the connection, which gets nothing more to
// write. TLS may have had something to say until now. The caller holds the lock, which
// is released meanwhile.
func (c *Conn) awaitWriter() {
	for c.output != outputIdle {
		c.Unlock()
		c.Wait()
		c.Lock()
	}
}

// mayGoOn reports whether the connection is to be ended properly.
func (c *Conn) mayGoOn() bool {
	c.Lock()
	defer c.Unlock()
	return !c.cut && !c.failed()
}

func (c *Conn) wasCut() (cut, reset bool) {
	c.Lock()
	defer c.Unlock()
	return c.cut || c.failed(), c.reset || c.failed()
}

// flush waits until no writer has the connection: all is written or dropped. With
// discard it reads meanwhile until that is over, which it returns.
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

// skip reads once and drops what it gets. It reports whether the input is over.
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
		c.run.Load().broke = err
	}
	return true
}

// closeNotify ends the stream of TLS, and reports whether there is anything to be
// sent for it. After a handshake that failed an alert is all there is.
func (c *Conn) closeNotify() bool {
	c.Lock()
	defer c.Unlock()
	if c.sec == nil || c.sec.tls == nil || c.stream == streamEnded {
		return false
	}
	c.EndOutput()
	return true
}

// lingerAtEnd shuts the socket's own side down and waits for acknowledgements, and
// for the end of the peer's side. It returns how many bytes are lost.
func (c *Conn) lingerAtEnd(over bool) (lost int64) {
	if !c.shutDown() && !c.isPatient() {
		c.lingerQuietly(over)
		return 0
	}
	now := time.Now()
	began, since := c.lingersFrom(now), now
	until := began.Add(Linger)
	left, look := c.unacked(), time.Millisecond
	for {
		if cut, reset := c.wasCut(); cut {
			if !reset {
				left = 0 // the kernel goes on sending it
			}
			return left
		}
		now = time.Now()
		next := until
		if left > 0 {
			if why := c.whyLost(now.Sub(since)); why != nil {
				c.Lock()
				c.reset, c.extra().cause = true, why
				c.Unlock()
				return c.unacked()
			}
			c.stillNeeded()
			next = now.Add(look)
			look = min(2*look, 100*time.Millisecond)
		} else if over || !now.Before(until) {
			return 0
		}
		skipped := c.run.Load().skipped
		over = c.pass(over, next)
		if c.rc == nil && c.run.Load().broke != nil && left > 0 { // such a socket forgets what it had
			c.Lock()
			c.extra().cause = c.run.Load().broke
			c.Unlock()
			return left
		}
		if c.run.Load().skipped > skipped {
			until = c.longer(until, began)
		}
		if left == 0 {
			continue
		}
		if n := c.unacked(); n < left {
			if left, since = n, time.Now(); n == 0 {
				until = since.Add(Linger)
			}
		}
	}
}

// lingersFrom returns since when there was nothing to do but to wait for the peer;
// it is now at the latest.
func (c *Conn) lingersFrom(now time.Time) time.Time {
	c.Lock()
	defer c.Unlock()
	if e := c.x; e != nil && e.since > 0 {
		return epoch.Add(e.since)
	}
	return now
}

// isPatient reports whether a connection that has no half-close is lingered on all
// the same, because its user wants it and TLS has told the peer of the end.
func (c *Conn) isPatient() bool {
	c.Lock()
	defer c.Unlock()
	return c.x != nil && c.x.patience > 0 && c.sec != nil && c.stream == streamEnded
}

// longer returns for how long to linger after input, which it was until before.
func (c *Conn) longer(until, began time.Time) time.Time {
	c.Lock()
	last := began
	if c.x != nil {
		last = began.Add(c.x.patience)
	}
	c.Unlock()
	if t := time.Now().Add(Linger); t.Before(last) {
		return t
	}
	return until
}

// pass reads, or waits if the input is over, until t, or until something happens.
func (c *Conn) pass(over bool, t time.Time) bool {
	if over {
		c.WaitUntil(t)
		return true
	}
	c.SetReadDeadline(t)
	return c.skip()
}

// lingerQuietly reads until nothing comes any more. Only a socket below, which nc
// hides, can do damage.
func (c *Conn) lingerQuietly(over bool) {
	if a := c.nc.LocalAddr(); over || a == nil || len(a.Network()) < 3 || a.Network()[:3] != "tcp" && a.Network() != "unix" {
		return
	}
	until := time.Now().Add(Linger)
	for c.mayGoOn() {
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

// shutDown ends the socket's own side. It reports whether there is such a thing.
func (c *Conn) shutDown() bool {
	c.Lock()
	nc, shut := c.nc, c.shut
	c.Unlock()
	cw, ok := nc.(closeWriter)
	if !ok || shut {
		return ok
	}
	if c.rc == nil {
		nc.SetWriteDeadline(time.Now().Add(Linger)) // TLS of others sends an alert
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

// whyLost returns why output will not be acknowledged, after no progress for idle,
// or nil if it may be.
func (c *Conn) whyLost(idle time.Duration) (why error) {
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

// setReset has the descriptor closed by a reset. The caller holds the lock.
func (c *Conn) setReset() {
	if t, ok := lowest(c.nc).(*net.TCPConn); ok {
		t.SetLinger(0)
	}
}

// lowest returns the connection below nc if nc is TLS: closing TLS waits for the
// peer.
func lowest(nc net.Conn) net.Conn {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		return Below(t)
	}
	return nc
}

// Below returns the connection below TLS, also if TLS is that of a Conn.
func Below(t interface{ NetConn() net.Conn }) net.Conn {
	nc := t.NetConn()
	if s, ok := nc.(*secure); ok {
		return s.c.nc
	}
	return nc
}

// Lowest returns the net.Conn that everything else rests on, or nil. The caller
// holds the lock.
func (c *Conn) Lowest() net.Conn { return lowest(c.nc) }

// hangUpIfDeaf closes a net.Conn that cannot be interrupted otherwise, unless it is
// being written to. The caller holds the lock.
func (c *Conn) hangUpIfDeaf() {
	c.pokeMu.Lock()
	deaf := c.deaf
	c.pokeMu.Unlock()
	if deaf && (c.cut || c.output == outputIdle) {
		c.hangUp()
	}
}

// hangUp closes nc under those who use it. It is no socket that is written to by
// its number. The Close of foreign code may wait, so it gets a goroutine. The caller
// holds the lock.
func (c *Conn) hangUp() {
	if c.finished {
		return
	}
	if c.reset {
		c.setReset()
	}
	c.user.CloseAside(lowest(c.nc))
}

// watchForeign has a net.Conn closed in d from now, and then again and again, if it
// is still used and nothing is left to be written. The caller holds the lock.
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

// stillNeeded keeps the guard from taking the wait for acknowledgements for one that
// should be over.
func (c *Conn) stillNeeded() {
	c.Lock()
	defer c.Unlock()
	if s := c.slow(); s != nil {
		s.idle = 0
	}
}

// guard ends a Read or a Write that a deadline should have ended.
func (c *Conn) guard() {
	c.Lock()
	defer c.Unlock()
	switch b := c.blocker(); {
	case c.finished:
		return
	case b != nil && !c.cut:
		if c.stall <= 0 || time.Since(b.since) < c.stall {
			break
		}
		c.hangUp()
	case c.closing == notClosing && !c.cut && !c.sec.ended():
		return // it is armed again when it is needed
	default:
		// Lingering takes as long as two ticks.
		s := c.x.slow
		if s.idle++; s.idle > 2 || c.cut || c.isDeaf() {
			c.hangUp()
		}
	}
	c.x.slow.guard.Reset(deafAfter)
}

// isDeaf reports whether the goroutine is where a read deadline in the past should
// have taken it out of.
func (c *Conn) isDeaf() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	return c.poked || c.deaf
}

// ended reports whether a handshake was ended.
func (s *secure) ended() bool { return s != nil && s.stopped.Load() }

func (c *Conn) stopGuard() {
	if s := c.slow(); s != nil && s.guard != nil {
		s.guard.Stop()
	}
}
