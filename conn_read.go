package eventloop

import (
	"io"
	"net"
	"slices"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
)

// This file contains the input side of a connection. Its goroutine reads a chunk, sends
// it to the dispatcher on the task channel, waits until the dispatcher has consumed it,
// and reads again. The lock is never held while sending to the channel.

// serve is the connection's goroutine. A parked connection has no goroutine.
func (cr *connReader) serve() {
	c := (*Conn)(cr)
	returned := false
	defer func() {
		if returned {
			return
		}
		// Foreign code called Goexit. A new goroutine serves the connection to its end.
		if c.reasons.read() == nil {
			c.reasons.setRead(errGoexit)
		}
		c.core.Own()
		c.loop.wg.Go(cr.serve)
	}()
	c.loop.worksFor(&c.handle)
	cr.serveToEnd()
	returned = true
}

// serveToEnd returns when the connection has ended or is parked.
func (cr *connReader) serveToEnd() {
	c := (*Conn)(cr)
	for !c.quit.Load() || cr.upgradeDeferred() {
		if !cr.step() {
			return
		}
	}
	cr.end()
}

// step performs the next action of the connection's goroutine: it reads, or waits until
// the state changes. Code that changes the state calls core.Wake afterwards. step
// returns false if the connection is parked; the goroutine must not access it afterwards.
func (cr *connReader) step() bool {
	c := (*Conn)(cr)
	switch bits := c.bits.Load(); {
	case bits&bitUpgrade != 0:
		cr.upgrade()
		return true
	case c.reasons.read() != nil && !c.endSent:
		c.endSent = true
		c.loop.send((*endTask)(c))
		return true
	case c.over:
		return c.core.WaitOrPark()
	case c.reasons.read() == io.EOF:
		return cr.watch(false) // half-open
	case c.reasons.read() != nil:
		return c.core.WaitOrPark()
	case bits&pauseUser != 0:
		return cr.watch(false)
	case bits&bitNoReader != 0 && c.holding.Load() && !c.sawEnd:
		return cr.watch(true)
	case bits&bitNoReader != 0 && c.holding.Load() && !c.probed:
		return cr.probe()
	case c.holding.Load() || bits&pauseReads != 0:
		return c.core.WaitOrPark()
	default:
		return cr.read()
	}
}

// read reads a chunk and sends it to the dispatcher. Its result is that of step.
func (cr *connReader) read() bool {
	c := (*Conn)(cr)
	if b := cr.takeNext(); b != nil {
		cr.hand(b)
		return true
	}
	b, err := c.core.ReadOrPark(cr.nextRead())
	switch {
	case b != nil:
		cr.hand(b)
	case err == netcore.ErrParked:
		return false
	case err != netcore.ErrWoken:
		c.reasons.setRead(err)
	}
	return true
}

// watch waits while nothing is read, and notices when the connection fails. With forEnd
// it also notices the peer's end of stream while bytes are held for a reader. Its result
// is that of step.
func (cr *connReader) watch(forEnd bool) bool {
	c := (*Conn)(cr)
	err := c.core.WatchOrPark(forEnd)
	switch {
	case err == netcore.ErrParked:
		return false
	case err == netcore.ErrWoken:
	case forEnd:
		c.sawEnd = true
		c.loop.send((*abandonedTask)(c))
	default:
		cr.reportFailure(err)
	}
	return true
}

// reportFailure reports that the connection has failed. The report overtakes held bytes.
func (cr *connReader) reportFailure(err error) {
	c := (*Conn)(cr)
	c.core.Lock()
	c.extra().failure = err
	c.core.Unlock()
	c.over = true
	c.loop.send((*failureTask)(c))
}

// probe checks whether a TLS peer that has ended its side sent a close_notify. If not,
// the connection fails, although bytes are still held for a reader. Its result is that
// of step.
func (cr *connReader) probe() bool {
	c := (*Conn)(cr)
	c.core.Lock()
	secured := c.core.Secured()
	c.core.Unlock()
	if !secured {
		c.probed = true
		return true
	}
	b, err := c.core.ReadOrPark(cr.nextRead())
	if err == netcore.ErrParked {
		return false
	}
	if b != nil {
		c.core.Lock()
		c.extra().next = b
		c.core.Unlock()
	}
	c.probed = err != netcore.ErrWoken
	if c.probed && err != nil && err != io.EOF {
		cr.reportFailure(err)
	}
	return true
}

// hasNext reports whether probe has read bytes.
func (cr *connReader) hasNext() bool {
	x := cr.x.Load()
	return x != nil && x.next != nil
}

// takeNext returns the buffer that probe has read, or nil.
func (cr *connReader) takeNext() (b *sockio.Buffer) {
	if cr.hasNext() {
		x := cr.x.Load()
		b, x.next = x.next, nil
	}
	return b
}

// readSizes are the sizes of read buffers. Elsewhere, a class is an index into readSizes. A
// connection starts with the smallest size.
var readSizes = [...]int{4 << 10, 16 << 10, sockio.MaxBuffer}

func (cr *connReader) nextRead() int {
	c := (*Conn)(cr)
	return min(readSizes[c.class], c.cfg.Load().ReadBufferSize)
}

// hand sends b to the dispatcher.
func (cr *connReader) hand(b *sockio.Buffer) {
	c := (*Conn)(cr)
	cr.took(b)
	c.loop.send((*chunkTask)(c))
}

// took makes b the chunk for the dispatcher. A full buffer makes the next one larger, a
// nearly empty buffer makes it smaller.
func (cr *connReader) took(b *sockio.Buffer) {
	c := (*Conn)(cr)
	switch n, size := b.Len(), readSizes[c.class]; {
	case n >= size && int(c.class) < len(readSizes)-1:
		c.class++
	case c.class > 0 && n < size/16:
		c.class--
	}
	c.chunk = b
	c.holding.Store(true)
}

// consumed returns the credit for the next chunk to the connection's goroutine. It runs
// on the loop.
func (cl *connLoop) consumed() {
	c := (*Conn)(cl)
	c.noteRead() // the time spent in a callback does not count against the peer
	c.holding.Store(false)
	if !c.loop.offer(c.readerSide()) {
		c.core.Wake()
	}
}

// A chunkTask delivers c.chunk.
type chunkTask Conn

func (t *chunkTask) run() {
	c := (*Conn)(t)
	n := c.chunk.Len()
	c.loop.count.bytesIn.Add(uint64(n))
	c.loop.pace.received(n)
	c.loop.reading = &c.core
	c.loopSide().deliver()
	c.loop.reading = nil
}

// deliver passes the chunk to the sink or to OnData, or holds it. It runs on the loop.
func (cl *connLoop) deliver() {
	c := (*Conn)(cl)
	switch {
	case c.is(bitUpgrade):
		cl.takeEarly()
		return
	case c.is(pauseReads) && cl.hold(factHeld):
		return
	}
	f, s := c.cfg.Load().OnData, cl.sink()
	quit := c.quit.Load() // loaded once: Detach may be called between two loads
	switch {
	case quit && cl.detaching():
		return // resolveDetach passes the chunk on
	case quit || c.loop.ended.Load():
	case s != nil:
		b := c.chunk
		c.chunk = nil
		s.chunk(b)
		return
	case f == nil:
		c.core.Lock()
		c.set(bitNoReader)
		left := c.facts.has(factPeerLeft)
		c.core.Unlock()
		if cl.hold(factHeld) {
			c.core.Wake() // the goroutine watches from now on
			if left {     // it reports the end only once; a reader has come and gone since
				cl.armReaderTimer()
			}
			return
		}
		if f = c.cfg.Load().OnData; f == nil {
			break // the connection is being closed
		}
		fallthrough
	default:
		cl.callData(f, cl.withUnread(c.chunk.Bytes()))
	}
	c.chunk.Release()
	c.chunk = nil
	cl.consumed()
}

// callData runs OnData.
func (cl *connLoop) callData(f func(c *Conn, data []byte), data []byte) {
	c := (*Conn)(cl)
	defer poison(data)
	defer cl.caught()
	f(c, data)
}

// mayDeliver reports whether held bytes, or the end, may be delivered now. The caller
// holds the lock.
func (c *Conn) mayDeliver() bool {
	return !c.is(pauseReads|bitUpgrade) && (!c.is(bitNoReader) || c.cfg.Load().OnData != nil || c.facts.has(factSink))
}

// hold records that a chunk or the end waits, and returns true. If it may be delivered
// now, or the connection is being closed, hold returns false. It runs on the loop.
func (cl *connLoop) hold(what connFacts) bool {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	if c.mayDeliver() || c.life >= lifeClosing {
		c.unset(bitNoReader)
		return false
	}
	c.facts |= what
	return true
}

// readerChanged schedules held bytes, or the end, for delivery in a later turn. The
// caller holds the lock.
func (c *Conn) readerChanged() {
	if c.facts.has(factHeld|factEndHeld) || c.is(bitUnread) {
		c.noteRead() // the wait for a reader does not count against the peer
		c.loop.Post(c.loopSide().redeliver)
	}
}

// redeliver delivers held bytes and the end, if they may be delivered now.
func (cl *connLoop) redeliver() {
	c := (*Conn)(cl)
	c.core.Lock()
	if !c.mayDeliver() || c.life >= lifeClosing {
		c.core.Unlock()
		return
	}
	c.unset(bitNoReader)
	held := c.facts & (factHeld | factEndHeld)
	c.facts &^= held
	c.core.Unlock()
	switch {
	case held.has(factHeld):
		cl.deliver()
	case c.is(bitUnread) && !c.holding.Load():
		cl.deliverUnread()
	}
	if held.has(factEndHeld) {
		cl.deliverEnd()
	}
}

// deliverUnread delivers only the unread bytes. It runs on the loop.
func (cl *connLoop) deliverUnread() {
	c := (*Conn)(cl)
	f := c.cfg.Load().OnData
	switch s := cl.sink(); {
	case !c.is(bitUnread) || c.quit.Load() || c.loop.ended.Load():
	case s != nil:
		s.unread()
	case f != nil:
		cl.callData(f, cl.withUnread(nil))
		c.noteRead()
	}
}

// withUnread takes the unread bytes and returns them followed by p.
func (cl *connLoop) withUnread(p []byte) []byte {
	c := (*Conn)(cl)
	if !c.is(bitUnread) {
		return p
	}
	return append(cl.takeUnread(), p...)
}

func (cl *connLoop) takeUnread() []byte {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	c.unset(bitUnread)
	c.facts &^= factRest
	x := c.extra()
	p := x.unread
	x.unread = nil
	return p
}

// Unread puts back bytes that OnData received or that Read of a NetConn returned, so
// that they are read again, before all other input. The bytes of the last call come
// first. Unread copies p. Unread alone causes no callback. The bytes are delivered
// together with the next input, or before the end of the stream, or in a later turn
// after SetCallbacks, NetConn, Pipe, StartTLS, Detach or ResumeReading. OnData may then
// receive more than ReadBufferSize bytes. If nothing reads the connection, the bytes wait
// for a reader, see ConnConfig.OnData.
//
// It returns [ErrBufferFull] if more than MaxBuffered bytes would be unread, and
// net.ErrClosed if the connection is closed.
func (c *Conn) Unread(p []byte) error {
	c.core.Lock()
	defer c.core.Unlock()
	if c.life >= lifeClosing {
		return net.ErrClosed
	}
	if len(p) == 0 {
		return nil
	}
	if len(p) > c.cfg.Load().MaxBuffered-len(c.extra().unread) {
		return ErrBufferFull
	}
	c.putBack(p)
	return nil
}

// putBack inserts p before all other unread bytes. The caller holds the lock.
func (c *Conn) putBack(p []byte) {
	x := c.extra()
	x.unread = slices.Concat(p, x.unread)
	c.set(bitUnread)
}

// giveBack is Unread without a limit, for bytes that HTTP has read beyond its last
// message.
func (cr *connReader) giveBack(p []byte) {
	c := (*Conn)(cr)
	if len(p) > 0 {
		c.core.Lock()
		defer c.core.Unlock()
		c.putBack(p)
	}
}

// PauseReading stops calls of OnData, and soon afterwards reading itself, so that the
// peer has to wait (disable-socket). If it is called on the loop, OnData is not called
// afterwards. The end of the stream is also delayed until ResumeReading. A reset by the
// peer is reported immediately, and the undelivered bytes are dropped.
func (c *Conn) PauseReading() {
	c.core.Lock()
	defer c.core.Unlock()
	c.set(pauseUser)
	c.core.Wake() // the goroutine watches from now on
}

// ResumeReading undoes PauseReading (enable-socket).
func (c *Conn) ResumeReading() {
	c.core.Lock()
	defer c.core.Unlock()
	c.clearPause(pauseUser)
}

// clearPause removes a reason for not reading. When it removes the last one, held bytes
// are delivered in a later turn. The caller holds the lock.
func (c *Conn) clearPause(reason uint32) {
	if !c.is(reason) {
		return
	}
	c.unset(reason)
	if c.is(pauseReads) || c.life >= lifeClosing {
		return
	}
	if c.readTimer.Load() != nil {
		c.armReadTimer() // the pause does not count
	}
	c.readerChanged()
	c.core.Wake()
}

// A sink receives the input instead of the callbacks. Its methods run on the loop.
type sink interface {
	// chunk takes ownership of b. It must lead to a call of connLoop.consumed.
	chunk(b *sockio.Buffer)

	// unread is called when there are unread bytes; it takes them with takeUnread.
	unread()

	// end is called with the reason why reading ended. If it returns false, the
	// event goes to OnEvent as well.
	end(err error) bool
}

// setSink sets the receiver of the input. With nil, the callbacks receive it again. The
// caller holds the lock.
func (c *Conn) setSink(s sink) {
	c.extra().sink = s
	if s == nil {
		c.facts &^= factSink
		c.pauseIfHigh()
	} else {
		c.facts |= factSink
		c.clearPause(pauseHigh) // streams and pipes wait for room when they write
	}
	c.readerChanged()
}

// sink returns the sink, or nil. It runs on the loop.
func (cl *connLoop) sink() sink {
	c := (*Conn)(cl)
	x := c.x.Load()
	if x == nil {
		return nil
	}
	c.core.Lock()
	defer c.core.Unlock()
	return x.sink
}
