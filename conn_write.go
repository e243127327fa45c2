package eventloop

import (
	"errors"
	"net"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/writers"
)

// Write queues a copy of p to be sent and returns len(p). It never waits. Everything
// written in one callback is sent together after the callback returns. If a callback
// writes to 64 connections or more, sending may begin before the callback returns, but
// not on the connection whose OnData is running. Write may be called before the
// connection is up.
//
// After Close, Abort or CloseWrite, or after an error, Write returns net.ErrClosed. If
// more than MaxBuffered bytes would be pending, or more than Config.MaxBuffered on all
// connections of the loop, it returns [ErrBufferFull]. With an error, no byte of p is
// queued.
func (c *Conn) Write(p []byte) (int, error) {
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.mayWrite(len(p)); err != nil {
		return 0, err
	}
	c.core.Queue().Append(p)
	c.wrote(len(p))
	return len(p), nil
}

// WriteString is Write of the bytes of s. It does not convert s to a slice first.
func (c *Conn) WriteString(s string) (int, error) {
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.mayWrite(len(s)); err != nil {
		return 0, err
	}
	c.core.Queue().AppendString(s)
	c.wrote(len(s))
	return len(s), nil
}

// Writev is Write of all bufs, in order, in one operation: it queues either all of them
// or none.
func (c *Conn) Writev(bufs ...[]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.mayWrite(n); err != nil {
		return 0, err
	}
	for _, b := range bufs {
		c.core.Queue().Append(b)
	}
	c.wrote(n)
	return n, nil
}

// mayWrite checks whether n bytes may be queued. The caller holds the lock.
func (c *Conn) mayWrite(n int) error {
	pending := c.pending()
	switch {
	case c.life >= lifeClosing || c.reasons.why() != nil || c.facts.has(factDiscarded|factFailed) || c.outputEnding() || c.core.WriteError() != nil:
		return net.ErrClosed
	case n > c.cfg.Load().MaxBuffered-pending:
		return ErrBufferFull
	case pending == 0 && n <= smallWrite:
		return nil // too small to check the counters of the loop
	case !c.loop.hasRoom(n):
		return ErrBufferFull
	}
	return nil
}

// smallWrite is the number of bytes that a connection without pending output may always
// write.
const smallWrite = 4 << 10

// hasRoom reports whether n more bytes may be pending.
func (l *Loop) hasRoom(n int) bool {
	return int64(n) <= int64(limit(l.cfg.MaxBuffered, defaultTotalBuffers))-l.count.buffered()
}

// pending returns the number of bytes of output that the kernel has not accepted. The
// caller holds the lock.
func (c *Conn) pending() int {
	return c.unsent
}

// wrote accounts for n queued bytes and starts sending them. The caller holds the lock.
func (c *Conn) wrote(n int) {
	if n == 0 {
		return
	}
	c.facts |= factWrote
	c.unsent += n
	c.loop.count.written.Add(uint64(n))
	if x := c.x.Load(); x != nil {
		x.written += uint64(n)
	}
	c.core.Send()
	if c.pending() > c.cfg.Load().mark() {
		c.set(bitHigh)
		c.pauseIfHigh()
	}
}

// A highWater decides when a connection with much pending output resumes reading. Output
// over HighWater stops reading, because input may be the cause of the output. But the
// peer may have stopped reading for the same reason, and wait until we read. Therefore,
// if the peer takes nothing for delay, base is set to the pending output: the
// connection reads until HighWater more bytes are pending.
type highWater struct {
	base    int           // pending output that does not count towards HighWater
	delay   time.Duration // until base is set again; doubles each time in a row
	timer   *Timer
	sent    uint64 // moved at the last look
	unacked int    // unacknowledged bytes at the last look
	moved   uint64 // bytes that the kernel has accepted, as far as they were counted
}

// pauseIfHigh pauses reading if the pending output, less highWater.base, is over
// HighWater. The caller holds the lock.
func (c *Conn) pauseIfHigh() {
	cfg := c.cfg.Load()
	pending := c.pending()
	if c.facts.has(factSink) || cfg.HighWater > cfg.MaxBuffered || pending <= cfg.HighWater || c.is(pauseHigh) || c.life >= lifeClosing {
		return
	}
	x := c.extra()
	if x.high == nil {
		x.high = &highWater{delay: firstHighWaterDelay}
	}
	h := x.high
	if pending-h.base <= cfg.HighWater {
		return
	}
	c.set(pauseHigh)
	h.look(c)
	if h.timer == nil {
		h.timer = c.loop.AfterFunc(h.delay, c.loopSide().highTimedOut)
		h.timer.Unref()
	} else {
		h.timer.Reset(h.delay)
	}
}

// look reports whether the peer has received output since the last call. The caller
// holds the lock.
func (h *highWater) look(c *Conn) (progress bool) {
	unacked := c.core.Unacked()
	progress = h.moved != h.sent || unacked < h.unacked
	h.sent, h.unacked = h.moved, unacked
	return progress
}

// took accounts for n bytes that the kernel has accepted; left bytes are still pending.
// The caller holds the lock.
func (h *highWater) took(c *Conn, n, left int) {
	h.moved += uint64(n)
	h.base = min(h.base, left)
	h.delay = firstHighWaterDelay
	if c.is(pauseHigh) && left-h.base <= c.cfg.Load().HighWater/2 {
		c.clearPause(pauseHigh)
	}
}

// highTimedOut resumes reading if the peer has received no output since the last look.
func (cl *connLoop) highTimedOut() {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	if !c.is(pauseHigh) || c.life >= lifeClosing {
		return
	}
	h := c.x.Load().high
	switch {
	case h.look(c):
		h.delay = firstHighWaterDelay
	case !c.loop.hasRoom(0):
	default:
		h.base = c.pending()
		h.delay *= 2
		c.clearPause(pauseHigh)
		return
	}
	h.timer.Reset(h.delay)
}

func (u *connUser) Go(f func()) { u.loop.wg.Go(f) }

func (u *connUser) Aside(f func() error) error {
	return u.loop.aside(func() string { return "TLS handshake of conn " + (*Conn)(u).describe() }, f)
}

func (u *connUser) Enqueue(job writers.Job) { u.loop.enqueue(job) }

func (u *connUser) Poller() *netcore.Poller { return &u.loop.poller }
func (u *connUser) Serve()                  { (*connReader)(u).serve() }

func (u *connUser) CloseAside(nc net.Conn, reset bool) { u.loop.closeWith(nc, reset) }

func (u *connUser) Recovered(v any) error { return uncaught(v) }

// Sent accounts for output that was sent, and reports whether to notify the dispatcher.
func (u *connUser) Sent(n int, all bool) (report bool) {
	c := (*Conn)(u)
	n = min(n, c.unsent) // discarded bytes are already accounted for
	c.unsent -= n
	c.loop.count.bytesOut.Add(uint64(n))
	left := c.unsent
	x := c.x.Load()
	if x != nil {
		x.sent += uint64(n)
		if x.high != nil && n > 0 {
			x.high.took(c, n, left)
		}
	}
	if c.is(bitHigh) && left <= c.cfg.Load().mark()/2 {
		c.unset(bitHigh)
		if x != nil {
			x.postLow(c.loop)
		}
	}
	due := x != nil && x.flushDue() || all && c.facts.has(factUp) && (c.facts.has(factWrote) && c.cfg.Load().OnDrain != nil || c.halfClosed())
	if !due || c.facts.has(factDrainSent) {
		return false
	}
	c.facts |= factDrainSent
	return true
}

// Report notifies the dispatcher.
func (u *connUser) Report() { u.loop.hand((*drainTask)(u)) }

// WriteFailed discards the pending output and notifies the dispatcher.
func (u *connUser) WriteFailed(err error) {
	c := (*Conn)(u)
	if isUncaught(err) {
		c.panicked(OpWrite, err)
	}
	c.core.Lock()
	c.discard()
	c.core.Unlock()
	c.loop.hand((*writeErrTask)(c))
}

// discard accounts for output that will not be sent. The caller holds the lock.
func (c *Conn) discard() {
	c.facts |= factDiscarded
	c.loop.count.discarded.Add(uint64(c.unsent))
	c.unsent = 0
}

// halfClosed reports whether both directions have ended on a connection that stayed open
// after io.EOF, so that it must be closed now. Streams close it themselves when they end:
// the callbacks may have to get the end before that. The caller holds the lock.
func (c *Conn) halfClosed() bool {
	if !c.facts.has(factEnded) || !c.core.OutputEnded() || c.life != lifeOpen {
		return false
	}
	x := c.x.Load()
	if x == nil {
		return true
	}
	_, streams := x.sink.(*streamSink)
	return !streams
}

// A drainTask reports that output was sent for which OnDrain, a Flushed or the end of a
// half-open connection waits.
type drainTask Conn

func (t *drainTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	c.facts &^= factDrainSent
	if x := c.x.Load(); x != nil {
		x.resolveFlushed()
	}
	drained := c.pending() == 0 && c.facts.has(factWrote) && c.core.WriteError() == nil
	if drained {
		c.facts &^= factWrote
	}
	over := c.halfClosed()
	c.core.Unlock()
	if f := c.cfg.Load().OnDrain; f != nil && drained && !c.quit.Load() && !c.loop.ended.Load() {
		c.loopSide().callback(f)
	}
	if over {
		c.loopSide().afterEOF()
	}
}

// A writeErrTask reports that writing has failed.
type writeErrTask Conn

func (t *writeErrTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	err := c.opErrorLocked(OpWrite, c.core.WriteError())
	ended := c.facts.has(factEnded)
	c.core.Unlock()
	// After a reset, reading ends as well, after the bytes that had arrived before it.
	// deliverEnd then reports the reset, so it is not reported here, unless nothing is
	// read.
	if isReset(err) && !ended && !c.is(pauseUser) {
		if s, ok := c.loopSide().sink().(*streamSink); ok {
			s.endOutput(err)
		}
		c.core.Lock()
		defer c.core.Unlock()
		c.clearPause(pauseHigh) // no more output will be sent
		return
	}
	c.loopSide().fail(err, closeReset)
}

// CloseWrite ends the stream to the peer after the pending output is sent. Bytes from
// the peer are still received. Afterwards Write and a second CloseWrite return
// net.ErrClosed. If the connection does not support half-close, such as net.Pipe,
// CloseWrite returns an error that matches errors.ErrUnsupported. If CloseWrite is called
// before the connection is up, OnEvent receives that error, after the output was sent.
func (c *Conn) CloseWrite() error {
	c.core.Lock()
	defer c.core.Unlock()
	if c.outputEnding() {
		return net.ErrClosed
	}
	return c.endOutput()
}

// outputEnding reports whether CloseWrite or endOrClose was called. The caller holds the
// lock.
func (c *Conn) outputEnding() bool {
	return c.core.OutputEnding() || c.facts.has(factEndAtUp)
}

// endOutput is CloseWrite for callers that hold the lock.
func (c *Conn) endOutput() error {
	if c.life >= lifeClosing || c.reasons.why() != nil || c.core.OutputEnding() || c.core.WriteError() != nil {
		return net.ErrClosed
	}
	if c.facts.has(factUp) && !c.core.CanEndOutput() {
		return c.opErrorLocked(OpClose, errUnsupported)
	}
	c.core.EndOutput()
	return nil
}

// endOrClose is CloseWrite, or Close if the connection does not support half-close. That
// is known only when the connection is up. Before then, the output ends after OnConnect.
func (c *Conn) endOrClose() {
	c.core.Lock()
	defer c.core.Unlock()
	switch {
	case !c.facts.has(factAnnounced):
		c.facts |= factEndAtUp
	case errors.Is(c.endOutput(), errUnsupported):
		c.closeLocked(closeFlush)
	}
}

type closeWriter interface{ CloseWrite() error }

// PauseWriting stops sending (disable-socket). Write still queues output. A system call
// that is in progress is not interrupted.
func (c *Conn) PauseWriting() {
	c.core.Lock()
	defer c.core.Unlock()
	if c.life < lifeClosing {
		c.core.PauseOutput(true)
	}
}

// ResumeWriting undoes PauseWriting (enable-socket). Close and StartTLS also undo it,
// because they flush the output.
func (c *Conn) ResumeWriting() {
	c.core.Lock()
	defer c.core.Unlock()
	c.core.PauseOutput(false)
}

// Buffered returns the number of written bytes that the kernel has not accepted yet. It
// is 0 after Abort, which discards them.
func (c *Conn) Buffered() int {
	c.core.Lock()
	defer c.core.Unlock()
	return c.pending()
}

// NeedDrain reports whether a producer should wait for OnDrain. It becomes true when
// more than HighWater bytes are pending (MaxBuffered if that is less), and false when
// half of that limit or less is pending.
func (c *Conn) NeedDrain() bool { return c.is(bitHigh) }

// Flushed returns a future that succeeds when the kernel has accepted all output written
// so far, and fails if the connection ends first. It may also be called after Close, and
// after OnClose.
func (c *Conn) Flushed() *Future[struct{}] {
	c.core.Lock()
	defer c.core.Unlock()
	f := unregisteredFuture[struct{}](c.loop)
	pending := c.pending()
	switch {
	case c.facts.has(factDiscarded) || c.core.WriteError() != nil:
		f.resolve(struct{}{}, c.closedError())
	case pending == 0:
		f.resolve(struct{}{}, nil)
	default:
		x := c.extra()
		if len(x.flushed) == 0 { // the counters only matter while something waits
			x.written, x.sent = uint64(pending), 0
		}
		x.flushed = append(x.flushed, flushWaiter{x.written, f})
	}
	return f
}

// A flushWaiter is resolved when pos bytes have been sent.
type flushWaiter struct {
	pos uint64
	f   *Future[struct{}]
}

// flushDue reports whether the bytes that a Flushed waits for have been sent. The
// caller holds the lock.
func (x *connExtra) flushDue() bool {
	return len(x.flushed) > 0 && x.sent >= x.flushed[0].pos
}

// resolveFlushed resolves the futures of bytes that have been sent. The caller holds
// the lock.
func (x *connExtra) resolveFlushed() {
	n := 0
	for n < len(x.flushed) && x.flushed[n].pos <= x.sent {
		x.flushed[n].f.resolve(struct{}{}, nil)
		n++
	}
	x.flushed = x.flushed[n:]
}
