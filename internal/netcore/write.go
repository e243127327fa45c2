package netcore

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// Queue returns where the user's output is to be appended. The caller holds the
// lock, and calls Send afterwards.
func (c *Conn) Queue() *sockio.Queue {
	if c.sec != nil {
		return &c.sec.app
	}
	return &c.out
}

// Send has sent what was appended to Queue. The caller holds the lock.
func (c *Conn) Send() { c.start() }

// Pending returns how many bytes of the user's output are not with the kernel. The
// caller holds the lock.
func (c *Conn) Pending() int {
	if c.cut {
		return 0
	}
	if c.sec != nil {
		return c.sec.clear + c.sec.sealed + c.sec.app.Len()
	}
	return c.out.Len()
}

// Writing reports whether a writer has the output. The caller holds the lock.
func (c *Conn) Writing() bool { return c.output != outputIdle }

// Blocked reports whether the kernel takes no more output at the moment. The caller
// holds the lock.
func (c *Conn) Blocked() bool { return c.output == outputBlocked }

// PauseOutput keeps the user's output from being sent, or lets it go again. The
// caller holds the lock.
func (c *Conn) PauseOutput(paused bool) {
	c.paused = paused
	c.anew()
	c.start()
}

// SetStall bounds the time in which the peer takes nothing of pending output; zero
// or less is no bound. The time starts anew. The caller holds the lock.
func (c *Conn) SetStall(d time.Duration) {
	c.stall = d
	c.anew()
}

// anew has a writer that waits look at the state of the connection again. The
// caller holds the lock.
func (c *Conn) anew() {
	if b := c.blocker(); b != nil {
		b.since, b.kicked = time.Now(), true
		c.nc.SetWriteDeadline(longAgo)
	}
}

// EndOutput ends the stream to the peer when all output is sent. The caller holds
// the lock.
func (c *Conn) EndOutput() {
	c.stream = max(c.stream, streamEnding)
	c.start()
}

// OutputEnding reports whether EndOutput was called. The caller holds the lock.
func (c *Conn) OutputEnding() bool { return c.stream != streamOpen }

// Lost returns how many bytes of output are known not to have been delivered. After
// Finish that includes what the peer's kernel has not acknowledged, unless Cut was
// called. The caller holds the lock.
func (c *Conn) Lost() int64 {
	if c.x == nil {
		return 0
	}
	return c.x.lost
}

// lose accounts for n bytes that are lost. The caller holds the lock.
func (c *Conn) lose(n int64) {
	if n > 0 {
		c.extra().lost += n
	}
}

// LossCause returns why Finish found output that was with the kernel to be lost, or
// nil. The caller holds the lock.
func (c *Conn) LossCause() error {
	if c.x == nil {
		return nil
	}
	return c.x.cause
}

// Unsealed returns how many bytes of output wait for TLS. The caller holds the lock.
func (c *Conn) Unsealed() int {
	if c.sec == nil {
		return 0
	}
	return c.sec.app.Len()
}

// Unacked returns how many bytes of output the peer's kernel has not acknowledged; 0
// if that cannot be told.
func (c *Conn) Unacked() (n int) {
	n, _ = c.probe()
	return n
}

// Delivered reports whether the peer's kernel has all that was handed to ours, as far
// as that can be told. The end of the stream need not be with it. The caller holds the
// lock.
func (c *Conn) Delivered() bool { return c.userUnacked() == 0 }

// userUnacked returns how many bytes of the user's output the peer's kernel has not
// acknowledged, as far as that can be told. On a unix socket those count that the peer
// has not read. Neither the FIN counts nor, behind the user's last byte, what TLS says
// itself: a peer need not read close_notify. The caller holds the lock.
func (c *Conn) userUnacked() int {
	n, ok := c.probe()
	s := c.sec
	switch {
	case !ok, s != nil && !s.userSent:
		return 0
	case n > 0 && s != nil && s.tails > 0:
		c.probeFD(func(fd uintptr) { n -= sockio.Cost(fd, s.tail, s.tails) })
	}
	if n <= 1 && (c.shut || n <= 0) { // one is the FIN
		return 0
	}
	return n
}

// OutputEnded reports whether EndOutput was carried out. The caller holds the lock.
func (c *Conn) OutputEnded() bool { return c.stream == streamEnded }

// Cut discards the output, and with reset has the peer see a reset where the network
// has such a thing. What a writer has in its hands is safe: buffers go back to their
// pool when it is done. The caller holds the lock.
func (c *Conn) Cut(reset bool) {
	c.cut = true
	c.reset = c.reset || reset
	c.anew()
	if c.output == outputIdle {
		c.drop()
	}
	if c.nc != nil && c.rc == nil {
		c.hangUp() // there is nothing to wait for
	}
}

// DropUnsealed discards what waits for a handshake, which failed. The caller holds
// the lock.
func (c *Conn) DropUnsealed() {
	if s := c.sec; s != nil && s.app.Len() > 0 {
		c.lose(int64(s.app.Len()))
		s.app.Reset()
	}
}

// drop empties the queues, when no writer has anything of them. The caller holds
// the lock.
func (c *Conn) drop() {
	if s := c.sec; s != nil {
		c.lose(int64(s.clear + s.sealed + s.app.Len()))
		s.clear, s.sealed = 0, 0
		s.app.Reset()
	} else {
		c.lose(int64(c.out.Len()))
	}
	c.out.Reset()
}

// start gives the output to a writer if there is something for it to do and none
// has it. The caller holds the lock.
func (c *Conn) start() {
	if c.output == outputIdle && c.hasWork() {
		c.output = outputQueued
		c.user.Enqueue(c)
	}
}

// hasWork reports whether a writer has something to do. The caller holds the lock.
func (c *Conn) hasWork() bool {
	switch {
	case c.cut || c.shut || c.finished || c.failed() || c.nc == nil || c.hearing:
		return false
	case c.sec != nil:
		if c.out.Len() > 0 {
			return true // of TLS, or written before it
		}
		return c.sec.open && !c.paused && (c.sec.app.Len() > 0 || c.stream == streamEnding)
	}
	return c.up && !c.paused && (c.out.Len() > 0 || c.stream == streamEnding)
}

// Flush is the job of a writer of the pool.
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
		if !c.mayBegin() {
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

// block makes a goroutine that may wait the writer. The caller holds the lock,
// which is released.
func (c *Conn) block() {
	c.output = outputBlocked
	c.extra().blocked = &blockedWriter{since: time.Now()}
	c.Unlock()
	c.user.Go(c.writeBlocking)
}

// A blockedWriter is a writer that waits for the peer. Guarded by the lock.
type blockedWriter struct {
	since   time.Time // when the peer last took something
	unacked int       // bytes that the peer's kernel had not acknowledged when last looked at
	kicked  bool      // the write deadline is there to have the state looked at
}

// writeBlocking writes until nothing is left.
func (c *Conn) writeBlocking() {
	returned := false
	defer func() {
		if !returned { // foreign code called runtime.Goexit
			c.Lock()
			c.fail(c.user.Recovered(nil))
			c.hangUp() // as after a panic, so that Read ends, too
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
		if !c.mayBegin() {
			break
		}
		c.bound()
		c.Unlock()
		n, err := c.writeWaiting(space[:n])
		c.Lock()
		if n > 0 {
			c.x.blocked.since = time.Now()
			c.sent(n)
		}
		if err != nil && !c.excused(n, err) {
			c.fail(err)
		}
	}
	c.stop()
	c.Unlock()
	returned = true
}

// looks is how many times within its bound a writer that waits looks whether the
// peer takes anything.
const looks = 8

// bound sets a write deadline for the next look, or for the end of the bound if
// there is no way to look. The caller holds the lock, and so no other party can
// change what it depends on without taking the writer out of its wait.
func (c *Conn) bound() {
	b := c.x.blocked
	if c.stall <= 0 {
		c.unbound()
		b.kicked = false
		return
	}
	b.kicked = false
	left := time.Until(b.since.Add(c.stall))
	n, ok := c.probe()
	if b.unacked = n; ok || c.rc != nil {
		left = min(left, c.stall/looks)
	}
	if c.rc == nil {
		c.watchForeign(left + time.Second)
	}
	c.bounded = true
	c.nc.SetWriteDeadline(time.Now().Add(left))
}

// unbound takes the write deadline away. The caller holds the lock.
func (c *Conn) unbound() {
	if b := c.blocker(); c.bounded || b != nil && b.kicked {
		c.nc.SetWriteDeadline(noDeadline)
	}
	c.bounded = false
}

// excused reports whether err, of a write that took n bytes, is no failure: a look
// at the state, or a peer that is slow. The caller holds the lock.
func (c *Conn) excused(n int, err error) bool {
	b := c.x.blocked
	switch {
	case !isTimeout(err):
		return false
	case n > 0 || b.kicked:
		if b.kicked {
			c.nc.SetWriteDeadline(noDeadline)
		}
		return true
	case c.stall <= 0 || !c.bounded:
		return false // a deadline of a wrapper's
	}
	if left, ok := c.probe(); ok && left < b.unacked {
		b.since = time.Now()
	}
	return time.Since(b.since) < c.stall
}

// writeWaiting waits until the kernel has taken some of views.
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

// foreignWrite is Write of nc, whose panics are errors.
func (c *Conn) foreignWrite(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, c.user.Recovered(v)
		}
	}()
	n, err = c.nc.Write(p)
	if n < 0 || n > len(p) {
		return 0, errors.New("invalid result of Write")
	}
	return n, err
}

// writeNow hands views to the kernel without waiting.
func (c *Conn) writeNow(views [][]byte) (int, syscall.Errno) {
	if c.fd >= 0 {
		return writeFD(uintptr(c.fd), views)
	}
	// Other code may close the descriptor, so that only its owner can be trusted
	// with the number. That takes views of its own: those of Flush are to stay on
	// the stack.
	w := c.x.slow
	w.views = copy(w.space[:], views)
	err := c.rc.Write(w.write)
	clear(w.space[:])
	if err != nil {
		return 0, syscall.EPIPE // closed behind our back
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

// sent accounts for n bytes that the kernel has taken. The caller holds the lock,
// which is released while the user reports.
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
	c.tell(own)
}

// tell tells the user of n bytes. The caller holds the lock, which is released
// while the user reports.
func (c *Conn) tell(n int) {
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

// produce makes more bytes for the wire: output to be encrypted, or the end. The
// caller holds the lock, which is released meanwhile.
func (c *Conn) produce() {
	s := c.sec
	if s != nil && s.app.Len() > 0 {
		s.seal()
		return
	}
	c.stream = streamEnded
	c.shut = s == nil // before it is: a reader that sees its effects asks
	var err error
	c.Unlock()
	if s != nil {
		err = s.tls.CloseWrite() // queues close_notify
	} else if cw, ok := c.nc.(closeWriter); ok {
		cw.CloseWrite()
	} else { // EndOutput was called before the connection was attached
		err = errors.ErrUnsupported
	}
	c.Lock()
	switch {
	case err != nil:
		c.fail(err)
	case c.out.Len() == 0: // of TLS there may be something now
		c.tell(0)
	}
}

// fail ends writing with err, unless it was ended by force, which is why it
// failed then. The caller holds the lock, which is released meanwhile.
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

// WriteError returns why writing failed, or nil. The caller holds the lock.
func (c *Conn) WriteError() error {
	if c.x == nil {
		return nil
	}
	return c.x.werr
}

// failed reports whether writing failed. The caller holds the lock.
func (c *Conn) failed() bool { return c.x != nil && c.x.werr != nil }

// extra returns c.x, which it makes if need be. The caller holds the lock.
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
		c.Wake() // the goroutine waits for this
		c.hangUpIfDeaf()
	}
}
