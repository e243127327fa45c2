package netcore

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// Queue returns the queue to which the user appends its output. The caller holds the lock,
// and calls Send afterwards.
func (c *Conn) Queue() *sockio.Queue {
	if c.sec != nil {
		return &c.sec.app
	}
	return &c.out
}

// Send starts to send the output that was appended to Queue. The caller holds the lock.
func (c *Conn) Send() { c.start() }

// Pending returns the number of bytes of the user's output that the kernel has not
// accepted. The caller holds the lock.
func (c *Conn) Pending() int {
	if c.cut {
		return 0
	}
	if c.sec != nil {
		return c.sec.clear + c.sec.sealed + c.sec.app.Len()
	}
	return c.out.Len()
}

// Writing reports whether a writer owns the output. The caller holds the lock.
func (c *Conn) Writing() bool { return c.output != outputIdle }

// Blocked reports whether a writer waits because the kernel accepts no more output. The
// caller holds the lock.
func (c *Conn) Blocked() bool { return c.output == outputBlocked }

// PauseOutput stops or resumes sending the user's output. The caller holds the lock.
func (c *Conn) PauseOutput(paused bool) {
	c.paused = paused
	c.recheck()
	c.start()
}

// SetStall limits the time in which the peer receives none of the pending output. Zero or
// negative means no limit. The time restarts. The caller holds the lock.
func (c *Conn) SetStall(d time.Duration) {
	c.stall = d
	c.recheck()
}

// recheck restarts the time of SetStall and applies the state of the connection to a
// waiting writer: it interrupts the writer, or gives the writer's Write a new deadline. The
// caller holds the lock.
func (c *Conn) recheck() {
	b := c.blocker()
	if b == nil {
		return
	}
	b.since = time.Now()
	switch {
	case c.rc != nil || c.cut:
		b.rechecked = true
		c.nc.SetWriteDeadline(longAgo)
	case c.paused:
		c.unbound()
	default:
		// After a Write of a tls.Conn has timed out, every later one fails. So the writer
		// stays in its Write, which gets the new bound.
		c.bound()
	}
}

// EndOutput ends the stream to the peer after all output is sent. The caller holds the
// lock.
func (c *Conn) EndOutput() {
	c.stream = max(c.stream, streamEnding)
	c.start()
}

// OutputEnding reports whether EndOutput was called. The caller holds the lock.
func (c *Conn) OutputEnding() bool { return c.stream != streamOpen }

// Lost returns the number of bytes of output that are known not to have been delivered.
// After Finish this includes bytes that the peer's kernel has not acknowledged, unless Cut
// was called. The caller holds the lock.
func (c *Conn) Lost() int64 {
	if c.x == nil {
		return 0
	}
	return c.x.lost
}

// addLost accounts for n bytes that are lost. The caller holds the lock.
func (c *Conn) addLost(n int64) {
	if n > 0 {
		c.extra().lost += n
	}
}

// LossCause returns the reason why output that the kernel had accepted was lost, as found
// by Finish, or nil. The caller holds the lock.
func (c *Conn) LossCause() error {
	if c.x == nil {
		return nil
	}
	return c.x.cause
}

// Unsealed returns the number of bytes of output that wait for TLS. The caller holds the
// lock.
func (c *Conn) Unsealed() int {
	if c.sec == nil {
		return 0
	}
	return c.sec.app.Len()
}

// Unacked returns the number of bytes of output that the peer's kernel has not
// acknowledged, or 0 if that is unknown.
func (c *Conn) Unacked() (n int) {
	n, _ = c.probe()
	return n
}

// Delivered reports whether the peer's kernel has acknowledged all output that the local
// kernel accepted, as far as that is known. The end of the stream does not count. The
// caller holds the lock.
func (c *Conn) Delivered() bool { return c.userUnacked() == 0 }

// userUnacked returns the number of bytes of the user's output that the peer's kernel has
// not acknowledged, as far as that is known. On a unix socket it counts bytes that the
// peer has not read. It does not count the FIN, nor output of the TLS layer after the
// user's last byte, because a peer need not read close_notify. The caller holds the lock.
func (c *Conn) userUnacked() int {
	n, ok := c.probe()
	s := c.sec
	switch {
	case !ok, s != nil && !s.userSent:
		return 0
	case n > 0 && s != nil && s.tailWrites > 0:
		c.probeFD(func(fd uintptr) { n -= cost(fd, s.tailBytes, s.tailWrites) })
	}
	if n <= 1 && (c.shut || n <= 0) { // the FIN counts as one byte
		return 0
	}
	return n
}

// OutputEnded reports whether the end of the stream was sent. The caller holds the lock.
func (c *Conn) OutputEnded() bool { return c.stream == streamEnded }

// Cut discards the output. With reset, the peer sees a reset if the network supports
// resets. The buffers of an active writer return to their pool only when it has stopped.
// The caller holds the lock.
func (c *Conn) Cut(reset bool) {
	c.cut = true
	c.reset = c.reset || reset
	c.recheck()
	if c.output == outputIdle {
		c.drop()
	}
	if c.nc != nil && c.rc == nil {
		c.hangUp() // no need to wait for a Read or Write
	}
}

// DropUnsealed discards output that waits for a handshake, after it has failed. The caller
// holds the lock.
func (c *Conn) DropUnsealed() {
	if s := c.sec; s != nil && s.app.Len() > 0 {
		c.addLost(int64(s.app.Len()))
		s.app.Reset()
	}
}

// drop empties the queues. No writer may use them. The caller holds the lock.
func (c *Conn) drop() {
	if s := c.sec; s != nil {
		c.addLost(int64(s.clear + s.sealed + s.app.Len()))
		s.clear, s.sealed = 0, 0
		s.app.Reset()
	} else {
		c.addLost(int64(c.out.Len()))
	}
	c.out.Reset()
}

// start enqueues a writer if there is work for it and no writer owns the output. The
// caller holds the lock.
func (c *Conn) start() {
	if c.output == outputIdle && c.hasWork() {
		c.output = outputQueued
		c.user.Enqueue(c)
	}
}

// hasWork reports whether there is work for a writer. The caller holds the lock.
func (c *Conn) hasWork() bool {
	switch {
	case c.cut || c.shut || c.finished || c.failed() || c.nc == nil || c.writersBlocked:
		return false
	case c.sec != nil:
		if c.out.Len() > 0 {
			return true // output of TLS, or output written before TLS
		}
		return c.sec.open && !c.paused && (c.sec.app.Len() > 0 || c.stream == streamEnding)
	}
	return c.up && !c.paused && (c.out.Len() > 0 || c.stream == streamEnding)
}

// Flush is the job of a writer of the pool. It does not wait.
func (c *Conn) Flush() {
	c.Lock()
	c.output = outputWriting
	if c.rc == nil || c.sec != nil && c.sec.mayBlock {
		c.block() // Write may wait
		return
	}
	var space [sockio.MaxViews][]byte
	for c.hasWork() {
		n := c.out.Views(space[:])
		if n == 0 {
			c.produce()
			continue
		}
		if !c.mayStartWriting() {
			break
		}
		c.Unlock()
		n, errno := c.writeNow(space[:n])
		c.Lock()
		switch errno {
		case 0:
			c.sent(n)
		case syscall.EAGAIN:
			c.block()
			return
		default:
			c.fail(errno)
		}
	}
	c.stop()
	c.Unlock()
}

// block passes the output to a goroutine that may wait. The caller holds the lock, which
// block releases.
func (c *Conn) block() {
	c.output = outputBlocked
	c.extra().blocked = &blockedWriter{since: time.Now()}
	c.Unlock()
	c.user.Go(c.writeBlocking)
}

// A blockedWriter is a writer that waits for the peer. Guarded by the lock.
type blockedWriter struct {
	since         time.Time // when the peer last received output
	unacked       int       // bytes that the peer's kernel had not acknowledged at the last look
	rechecked     bool      // recheck has set a write deadline in the past
	timedOutEarly bool      // a Write timed out early, and nothing was written since then
}

// writeBlocking writes until no output is left.
func (c *Conn) writeBlocking() {
	returned := false
	defer func() {
		if !returned { // foreign code called runtime.Goexit
			c.Lock()
			c.fail(c.user.Recovered(nil))
			c.hangUp() // as after a panic, so that Read also ends
			c.stop()
			c.Unlock()
		}
	}()
	var space [sockio.MaxViews][]byte
	c.Lock()
	for c.hasWork() {
		n := c.out.Views(space[:])
		if n == 0 {
			c.produce()
			continue
		}
		if !c.mayStartWriting() {
			break
		}
		c.bound()
		c.Unlock()
		n, err := c.writeWaiting(space[:n])
		c.Lock()
		if n > 0 {
			c.x.blocked.since, c.x.blocked.timedOutEarly = time.Now(), false
			c.sent(n)
		}
		if err != nil && !c.isTransient(n, err) {
			c.fail(err)
		}
	}
	c.stop()
	c.Unlock()
	returned = true
}

// checksPerStall is how often a waiting writer checks the peer's progress within the time
// of SetStall.
const checksPerStall = 8

// bound sets a write deadline for the next look, or for the end of the time of SetStall if
// progress cannot be checked. The caller holds the lock, so every later change of the
// state calls recheck and reaches the writer.
func (c *Conn) bound() {
	b := c.x.blocked
	if c.stall <= 0 {
		c.unbound()
		b.rechecked = false
		return
	}
	b.rechecked = false
	left := time.Until(b.since.Add(c.stall))
	n, ok := c.probe()
	if b.unacked = n; ok || c.rc != nil {
		left = min(left, c.stall/checksPerStall)
	}
	if c.rc == nil {
		c.watchForeign(left + time.Second)
	}
	c.bounded = true
	c.nc.SetWriteDeadline(time.Now().Add(left))
}

// unbound removes the write deadline. The caller holds the lock.
func (c *Conn) unbound() {
	if b := c.blocker(); c.bounded || b != nil && b.rechecked {
		c.nc.SetWriteDeadline(noDeadline)
	}
	c.bounded = false
}

// isTransient reports whether err, of a write of n bytes, is not a failure: recheck
// interrupted the write, or it was time for a look and the peer is slow. The caller holds
// the lock.
func (c *Conn) isTransient(n int, err error) bool {
	b := c.x.blocked
	switch {
	case !isTimeout(err):
		return false
	case n > 0 || b.rechecked:
		if b.rechecked {
			c.nc.SetWriteDeadline(noDeadline)
		}
		return true
	case c.stall <= 0 || !c.bounded:
		return false // a deadline of a wrapper around the connection
	}
	left, ok := c.probe()
	if ok && left < b.unacked {
		b.since = time.Now()
	}
	if time.Since(b.since) >= c.stall || b.timedOutEarly {
		return false
	}
	b.timedOutEarly = !ok // the bound changed during the Write; a second time, nc itself is the cause
	return true
}

// writeWaiting waits until the kernel has accepted a part of views.
func (c *Conn) writeWaiting(views [][]byte) (n int, err error) {
	if c.rc == nil {
		return c.foreignWrite(views[0][:min(len(views[0]), 16<<10)])
	}
	var errno syscall.Errno
	err = c.rc.Write(func(fd uintptr) bool {
		n, errno = writeFD(fd, views)
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return n, err
}

// foreignWrite is Write of nc. It returns a panic as an error.
func (c *Conn) foreignWrite(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, c.user.Recovered(v)
		}
	}()
	n, err = c.nc.Write(p)
	return CheckCount("Write", c.nc, len(p), n, err)
}

// writeNow passes views to the kernel without waiting.
func (c *Conn) writeNow(views [][]byte) (int, syscall.Errno) {
	if c.fd >= 0 {
		return writeFD(uintptr(c.fd), views)
	}
	// Other code may close the descriptor, so it is only used within RawConn.Write.
	// The function for it needs a copy of views, because those of Flush must stay on
	// the stack.
	w := c.x.slow
	w.views = copy(w.space[:], views)
	err := c.rc.Write(w.write)
	clear(w.space[:])
	if err != nil {
		return 0, syscall.EPIPE // other code has closed it
	}
	return w.n, w.errno
}

func newSlowPath() *slowPath {
	w := &slowPath{}
	w.write = func(fd uintptr) bool {
		w.n, w.errno = writeFD(fd, w.space[:w.views])
		return true
	}
	return w
}

// sent accounts for n bytes that the kernel has accepted. The caller holds the lock, which
// is released while the user reports.
func (c *Conn) sent(n int) {
	c.out.Advance(n)
	own := n
	if s := c.sec; s != nil {
		own = min(n, s.clear)
		s.clear -= own
		s.wrote(n, own)
		if c.out.Len() == 0 {
			own += s.sealed
			s.sealed = 0
		}
	}
	c.reportSent(own)
}

// reportSent reports n sent bytes to the user. The caller holds the lock, which is released
// while the user reports.
func (c *Conn) reportSent(n int) {
	if c.cut {
		return
	}
	all := c.Pending() == 0 && c.stream != streamEnding
	if c.user.Sent(n, all) {
		c.Unlock()
		c.user.Report()
		c.Lock()
	}
}

// produce adds bytes to the wire's queue by encrypting output, or ends the stream. The
// caller holds the lock, which is released meanwhile.
func (c *Conn) produce() {
	s := c.sec
	if s != nil && s.app.Len() > 0 {
		s.seal()
		return
	}
	c.stream = streamEnded
	c.shut = s == nil                 // set first: a reader that sees the effects checks shut
	closes := c.closing != notClosing // closing ends the stream in any case
	var err error
	c.Unlock()
	if s != nil {
		err = s.tls.CloseWrite() // queues close_notify
	} else if cw, ok := c.nc.(closeWriter); ok {
		cw.CloseWrite()
	} else if !closes { // EndOutput was called before the connection was attached
		err = errors.ErrUnsupported
	}
	c.Lock()
	switch {
	case err != nil:
		c.fail(err)
	case c.out.Len() == 0: // TLS may have added its close_notify
		c.reportSent(0)
	}
}

// fail ends writing with err. After Cut it does nothing, because Cut has caused the error.
// The caller holds the lock, which is released meanwhile.
func (c *Conn) fail(err error) {
	if c.cut || c.failed() {
		return
	}
	if isTimeout(err) {
		err = os.ErrDeadlineExceeded
	}
	c.extra().werr = err
	c.Unlock()
	c.user.WriteFailed(err)
	c.Lock()
}

// WriteError returns the error of writing, or nil. The caller holds the lock.
func (c *Conn) WriteError() error {
	if c.x == nil {
		return nil
	}
	return c.x.werr
}

// failed reports whether writing failed. The caller holds the lock.
func (c *Conn) failed() bool { return c.x != nil && c.x.werr != nil }

// extra returns c.x and allocates it if needed. The caller holds the lock.
func (c *Conn) extra() *extra {
	if c.x == nil {
		c.x = &extra{}
	}
	return c.x
}

// blocker returns the writer that waits for the peer, or nil. The caller holds the lock.
func (c *Conn) blocker() *blockedWriter {
	if c.x == nil {
		return nil
	}
	return c.x.blocked
}

// stop ends the work of a writer. The caller holds the lock.
func (c *Conn) stop() {
	if !c.cut {
		c.unbound()
	}
	if c.x != nil {
		c.x.blocked = nil
	}
	c.output = outputIdle
	if c.cut || c.failed() {
		c.drop()
	}
	if c.closing != notClosing && !c.awaitsPeer() {
		c.Wake() // the goroutine waits until the output is idle
		c.hangUpIfStuck()
	}
}
