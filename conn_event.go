package eventloop

import (
	"io"
	"net"
	"os"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// This file contains the dispatcher's work for a connection, except for delivering
// data: opening, events and closing. Each task is the connection itself, converted to
// another type.
type (
	upTask        Conn // the connection is up
	failedTask    Conn // dialing or the handshake failed with reasons.read
	endTask       Conn // reading ended with reasons.read
	failureTask   Conn // the connection failed with x.failure while nothing was read
	abandonedTask Conn // the peer ended its side, and its last bytes have no reader
	closedTask    Conn // the descriptor is closed or detached
)

func (t *upTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	x := c.x.Load()
	if x != nil && x.connected != nil {
		c.set(pauseGate)
		x.connected.resolve(c, nil)
	}
	if c.life == lifeOpen {
		c.armReadTimer()
		c.facts |= factAnnounced
	}
	ends := c.facts.has(factEndAtUp)
	c.core.Unlock()
	if f := c.cfg.Load().OnConnect; f != nil && !c.quit.Load() && !c.loop.ended.Load() {
		c.loopSide().callback(f)
	}
	if ends {
		c.endOrClose()
	}
	c.loopSide().startTask()
	x = c.x.Load()
	if x == nil {
		return
	}
	c.core.Lock()
	defer c.core.Unlock()
	if x.connected != nil {
		c.loopSide().gate()
	} else {
		c.readerChanged() // delivers bytes that arrived before an upgrade
	}
}

// gate delays data until the callbacks of a future that was just resolved, and the
// tasks that wait for it, have run: they were posted earlier than the function of gate.
// The caller is on the loop and holds the lock.
func (cl *connLoop) gate() {
	c := (*Conn)(cl)
	c.set(pauseGate)
	err := c.loop.Post(func() {
		c.core.Lock()
		defer c.core.Unlock()
		c.clearPause(pauseGate)
	})
	if err != nil {
		c.unset(pauseGate) // the loop has ended
	}
}

// callback runs a callback whose only argument is the connection.
func (cl *connLoop) callback(f func(c *Conn)) {
	c := (*Conn)(cl)
	defer cl.caught()
	f(c)
}

// caught is deferred around all callbacks of a connection except OnEvent and OnClose.
// If Config.CatchPanics is set, it recovers a panic and makes it an error of the
// connection.
func (cl *connLoop) caught() {
	c := (*Conn)(cl)
	v := recover()
	if v == nil {
		return
	}
	pe := newPanicError(v)
	switch {
	case !c.loop.cfg.CatchPanics:
		c.loop.stopPanic(pe)
	case c.quit.Load(): // the callback closed c, so OnEvent is no longer called
		c.loop.event(pe, true)
	default:
		cl.fail(pe, closeReset)
	}
}

// panicked reports a panic of foreign code that was called for c.
func (c *Conn) panicked(op string, err error) {
	c.loop.postReport(func() { c.loopSide().fail(c.opError(op, err), closeReset) })
}

func (t *endTask) run() { (*connLoop)(t).deliverEnd() }

// deliverEnd reports how reading ended, and closes the connection unless it may stay
// half-open.
func (cl *connLoop) deliverEnd() {
	c := (*Conn)(cl)
	err := c.reasons.read()
	c.core.Lock()
	if werr := c.core.WriteError(); err == io.EOF && werr != nil {
		err = werr // a reset that the writer saw first; reading then returns io.EOF
	}
	overtakes := err != io.EOF && c.is(pauseUser) // an error does not wait for ResumeReading
	c.core.Unlock()
	switch {
	case c.quit.Load() || c.failed:
		c.loop.tookPanic(err, true)
		return
	case !overtakes && c.is(pauseReads) && cl.hold(factEndHeld):
		return
	}
	c.ending = err == io.EOF
	cl.deliverUnread()
	c.ending = false
	switch {
	case c.quit.Load():
	case !(err != io.EOF && c.is(pauseUser)) && cl.holdsRest():
	case err != io.EOF:
		cl.fail(c.opError(OpRead, err), cl.failMode(err))
	case cl.awaitsReader():
	default:
		cl.deliverEOF()
	}
}

// holdsRest delays the end if a splitter has put bytes back, which come before it. It
// reports whether it did.
func (cl *connLoop) holdsRest() bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	if !c.facts.has(factRest) || !c.is(bitUnread) {
		return false
	}
	c.facts |= factEndHeld
	return true
}

// deliverEOF reports the end of the peer's side, unless a Read has returned it.
func (cl *connLoop) deliverEOF() {
	c := (*Conn)(cl)
	c.core.Lock()
	reported := c.facts.has(factEnded)
	c.facts |= factEnded
	c.core.Unlock()
	if s := cl.sink(); s != nil && s.end(io.EOF) {
		return // the sink closes the connection when it no longer needs it
	}
	if !reported {
		cl.event(io.EOF)
	}
	cl.afterEOF()
}

// awaitsReader delays the end of the peer's side if nothing reads the connection, and
// either unread bytes come before the end, or a task may be about to call NetConn, and to
// write. It reports whether it did.
func (cl *connLoop) awaitsReader() bool {
	c := (*Conn)(cl)
	cfg := c.cfg.Load()
	if cfg.OnData != nil || cl.sink() != nil {
		return false
	}
	if !c.is(bitUnread) && (cfg.OnEvent != nil || !c.loop.hasTasks()) {
		return false
	}
	c.core.Lock()
	c.set(bitNoReader)
	c.core.Unlock()
	if !cl.hold(factEndHeld) {
		return false
	}
	cl.armReaderTimer()
	return true
}

// afterEOF closes a connection whose peer has ended its side, unless it may stay
// half-open.
func (cl *connLoop) afterEOF() {
	c := (*Conn)(cl)
	c.core.Lock()
	stay := c.cfg.Load().AllowHalfOpen && !c.core.OutputEnded()
	if !stay && c.life == lifeOpen {
		c.reasons.setWhy(io.EOF)
	}
	c.core.Unlock()
	if !stay {
		c.closeWith(closeFlush)
	}
}

func (t *failureTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	err := c.x.Load().failure
	c.core.Unlock()
	c.loopSide().fail(c.opError(OpRead, err), closeReset)
}

func (t *abandonedTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	c.facts |= factPeerLeft
	c.core.Unlock()
	c.loopSide().armReaderTimer()
}

// armReaderTimer starts a timer if none runs. After the peer has ended its side, the
// timer limits how long held bytes, or the end, wait for a reader. It runs on the loop.
func (cl *connLoop) armReaderTimer() {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	if x.readerTimer == nil && c.life == lifeOpen {
		x.readerTimer = c.loop.AfterFunc(cl.readerTime(), cl.noReader)
		x.readerTimer.Unref()
	}
}

// readerTime is the longest time that held bytes, or the end, wait for a reader. The
// caller holds the lock.
func (cl *connLoop) readerTime() time.Duration {
	c := (*Conn)(cl)
	if d, _ := c.timeouts(); d > 0 {
		return d
	}
	return noReaderTimeout
}

// noReader ends a connection if its peer has ended its side and nothing reads the bytes.
// During a pause it waits again: the reader may come with the end of the pause.
func (cl *connLoop) noReader() {
	c := (*Conn)(cl)
	c.core.Lock()
	x := c.x.Load()
	if c.is(pauseReads) && c.life == lifeOpen {
		x.readerTimer.Reset(cl.readerTime())
		c.core.Unlock()
		return
	}
	held, waits := c.facts, !c.mayDeliver() && c.is(bitNoReader) && c.life == lifeOpen
	x.readerTimer = nil
	if waits {
		c.facts &^= factEndHeld
	}
	c.core.Unlock()
	switch {
	case !waits:
	case held.has(factHeld), held.has(factEndHeld) && c.is(bitUnread):
		cl.fail(c.opError(OpRead, ErrNoReader), closeReset)
	case held.has(factEndHeld):
		cl.deliverEOF()
	}
}

// fail delivers the first error of the connection and closes it. It runs on the loop.
func (cl *connLoop) fail(err error, how closeMode) {
	c := (*Conn)(cl)
	if c.failed || c.quit.Load() {
		c.loop.tookPanic(err, true)
		return
	}
	c.failed = true
	c.core.Lock()
	c.reasons.setWhy(err)
	c.core.Unlock()
	if s := cl.sink(); s == nil || !s.end(err) {
		cl.event(err)
	}
	c.closeWith(how)
}

// event reports err to OnEvent, to a future that is waited for, or to
// Config.EventHandler.
func (cl *connLoop) event(err error) {
	c := (*Conn)(cl)
	if c.loop.tookPanic(err, false) {
		return
	}
	if !IsInfo(err) {
		c.loop.count.errors.Add(1)
	}
	if c.loop.ended.Load() {
		return
	}
	if f := c.cfg.Load().OnEvent; f != nil {
		c.loop.callEvent(func() { f(c, err) })
		return
	}
	switch {
	case err != io.EOF && cl.futureReports():
	case err != io.EOF && !isPanic(err) && c.loop.hasTasks() && !cl.taskNeverStarts():
		// A task may be about to call NetConn, which then returns the error.
		x := cl.lockedExtra()
		x.unreported = unregisteredFuture[struct{}](c.loop)
		x.unreported.fail(err)
	default:
		c.loop.event(err, c.kind == kindConnIn)
	}
}

func (cl *connLoop) lockedExtra() *connExtra {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	return c.extra()
}

// futureReports reports whether a future of c that is about to fail is handled. The
// future then reports the error, and nothing else does.
func (cl *connLoop) futureReports() bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.x.Load()
	if x == nil {
		return false
	}
	for _, w := range x.flushed {
		if w.f.isHandled() {
			return true
		}
	}
	return x.connected != nil && !c.facts.has(factUp) && x.connected.isHandled() ||
		x.upgrade != nil && x.upgrade.done.isHandled()
}

// run reports why the connection did not come up.
func (t *failedTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	closing := c.life >= lifeClosing
	if !closing {
		c.reasons.setWhy(c.reasons.read())
		c.facts |= factAnnounced
	}
	c.core.Unlock()
	if closing {
		c.loop.tookPanic(c.reasons.read(), true)
		return
	}
	c.failed = true
	if s := c.loopSide().sink(); s == nil || !s.end(c.reasons.read()) {
		c.loopSide().event(c.reasons.read())
	}
	c.closeWith(closeSealed)
}

func (t *closedTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	abandoned := c.life == lifeClosed
	c.core.Unlock()
	if abandoned {
		return
	}
	// Deferred, because callbacks may call runtime.Goexit (t.FailNow does).
	defer c.loopSide().forget()
	c.loopSide().closed()
}

// closed resolves all futures and waits of the connection, and calls OnClose.
func (cl *connLoop) closed() {
	c := (*Conn)(cl)
	c.quit.Store(true)
	c.core.Lock()
	c.life = lifeClosed
	c.facts &^= factHeld | factEndHeld
	if c.pending() > 0 {
		c.discard()
	}
	c.core.Cut(false)
	cl.countLost()
	if t := c.readTimer.Load(); t != nil {
		t.timer.Stop()
	}
	if x := c.x.Load(); x != nil {
		cl.closeExtra(x)
	}
	secret := c.facts.has(factUnannounced)
	c.core.Unlock()
	if s := cl.sink(); s != nil {
		s.end(cl.endReason())
	}
	if f := c.cfg.Load().OnClose; f != nil && !secret {
		cl.callClose(f)
	}
}

func (cl *connLoop) callClose(f func(c *Conn)) {
	c := (*Conn)(cl)
	defer c.loop.caught(nil)
	f(c)
}

// forget resolves Detach, releases everything that c holds, and unregisters c.
func (cl *connLoop) forget() {
	c := (*Conn)(cl)
	if x := c.x.Load(); x != nil && x.detached != nil {
		cl.resolveDetach(x)
	}
	for _, b := range []*sockio.Buffer{c.chunk, c.readerSide().takeNext()} {
		if b != nil {
			b.Release() // it was read but never delivered
		}
	}
	c.chunk = nil
	if x := c.x.Load(); x != nil && x.release != nil {
		x.release()
	}
	if c.listener != nil {
		c.listener.connClosed()
	}
	c.loop.unregister(&c.handle)
}

// endReason returns the error for waits on c that its end fails.
func (cl *connLoop) endReason() error {
	c := (*Conn)(cl)
	if c.loop.ended.Load() {
		return ErrLoopClosed
	}
	c.core.Lock()
	defer c.core.Unlock()
	return c.closedError()
}

// closeExtra stops the timers, fails the futures and ends the waits. The caller holds
// the lock.
func (cl *connLoop) closeExtra(x *connExtra) {
	c := (*Conn)(cl)
	err := c.closedError()
	if c.loop.ended.Load() {
		err = ErrLoopClosed
	}
	timers := []*Timer{x.closeTimer, x.readerTimer}
	if x.high != nil {
		timers = append(timers, x.high.timer)
	}
	for _, t := range timers {
		if t != nil {
			t.Stop()
		}
	}
	if x.connected != nil {
		failWith(c, x.connected, err)
	}
	for _, w := range x.flushed {
		failWith(c, w.f, err)
	}
	x.flushed = nil
	if x.upgrade != nil {
		failWith(c, x.upgrade.done, err)
	}
	x.postLow(c.loop)
}

// failWith fails a future of c. If c has already reported an error as an event, the
// future does not report it again when it is unhandled.
func failWith[T any](c *Conn, f *Future[T], err error) {
	if c.failed {
		f.Ignore()
	}
	f.fail(err)
}

// armReadTimer restarts the read timeout, or stops it if there is none. The caller holds
// the lock.
func (c *Conn) armReadTimer() {
	d, _ := c.timeouts()
	if d <= 0 {
		if t := c.readTimer.Load(); t != nil {
			t.timer.Stop()
		}
		return
	}
	t := c.readTimer.Load()
	if t == nil {
		t = &readTimer{timer: Timer{loop: c.loop, f: c.loopSide().readTimedOut}}
		t.timer.Unref() // the connection itself keeps the loop alive
		c.readTimer.Store(t)
	}
	t.last.Store(int64(time.Since(c.loop.epoch)))
	t.timer.Reset(d)
}

// noteRead restarts the read timeout after input was consumed, or has a reader. It only
// stores the time, which the timer checks when it fires: resetting the timer would change
// the heap for each chunk.
func (c *Conn) noteRead() {
	if t := c.readTimer.Load(); t != nil {
		t.last.Store(int64(time.Since(c.loop.epoch)))
	}
}

func (cl *connLoop) readTimedOut() {
	c := (*Conn)(cl)
	c.core.Lock()
	d, _ := c.timeouts()
	if d <= 0 || c.is(pauseReads) || c.facts.has(factEnded|factEndHeld) || c.life >= lifeClosing {
		c.core.Unlock()
		return
	}
	t := c.readTimer.Load()
	left := time.Duration(t.last.Load()) + d - time.Since(c.loop.epoch)
	if at := c.core.LastReceived(); !at.IsZero() {
		left = max(left, d-time.Since(at)) // part of a TLS record arrived
	}
	x := c.x.Load()
	unread := c.is(bitUnread) && (c.facts.has(factSink) || c.cfg.Load().OnData == nil)
	if left <= 0 && (c.holding.Load() || unread || x != nil && x.upgrade != nil || c.core.HasInput()) {
		// Input waits for a reader, or it has arrived and the loop or the goroutine was
		// too busy to process it, or a handshake is in progress, which has its own timeout.
		left = d
		c.core.Wake() // the goroutine may not have noticed the input yet
	}
	if left > 0 {
		t.timer.Reset(left)
		c.core.Unlock()
		return
	}
	c.core.Unlock()
	cl.fail(c.opError(OpRead, os.ErrDeadlineExceeded), closeReset)
}

// timeouts returns the timeouts in force. The caller holds the lock.
func (c *Conn) timeouts() (read, write time.Duration) {
	if x := c.x.Load(); x != nil && x.ownTimeouts {
		return x.readTimeout, x.writeTimeout
	}
	cfg := c.cfg.Load()
	return cfg.ReadTimeout, cfg.WriteTimeout
}

// SetTimeouts replaces ReadTimeout and WriteTimeout, and restarts both
// (set-socket-timeouts). Zero or negative means no timeout. On a closed connection it
// returns net.ErrClosed.
func (c *Conn) SetTimeouts(read, write time.Duration) error {
	c.core.Lock()
	defer c.core.Unlock()
	if c.life >= lifeClosing {
		return net.ErrClosed
	}
	x := c.extra()
	x.readTimeout, x.writeTimeout, x.ownTimeouts = max(read, 0), max(write, 0), true
	if c.life == lifeOpen {
		c.armReadTimer()
	}
	c.core.SetStall(x.writeTimeout)
	return nil
}

// removeLow removes low from x.onLow. The caller holds the lock.
func (x *connExtra) removeLow(low *onLow) {
	for i, l := range x.onLow {
		if l == low {
			x.onLow = append(x.onLow[:i:i], x.onLow[i+1:]...)
			return
		}
	}
}

// postLow posts the functions that wait for room. The caller holds the lock.
func (x *connExtra) postLow(l *Loop) {
	for _, low := range x.onLow {
		l.Post(low.f)
	}
}

// An onLow is a function to be posted. Its address identifies it in removeLow.
type onLow struct{ f func() }
