package eventloop

import (
	"io"
	"net"
	"slices"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
)

// This file has what a connection does with its input. Its goroutine reads a chunk,
// hands it to the dispatcher through the task channel, waits until the dispatcher
// is done with it, and reads again. The lock is never held while sending to the
// channel.

// serve is the connection's goroutine. While the connection is parked there is none.
func (cr *connReader) serve() {
	c := (*Conn)(cr)
	returned := false
	defer func() {
		if returned {
			return
		}
		// Foreign code called Goexit: the connection goes on, to its end, elsewhere.
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

// serveToEnd returns when the connection has ended, or is parked.
func (cr *connReader) serveToEnd() {
	c := (*Conn)(cr)
	for !c.quit.Load() || cr.owesUpgrade() {
		if !cr.step() {
			return
		}
	}
	cr.end()
}

// step does the next thing that is to be done on the connection's goroutine: it
// reads, or waits for a reason to do something else. Code that gives it one
// calls core.Wake afterwards. It returns false if the connection is parked, and must not be
// touched any more.
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

// read reads a chunk and hands it over. It returns what step does.
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

// watch waits while nothing is read, and notices that the connection fails. With
// forEnd it also notices the peer's end behind bytes that are held for a reader. It
// returns what step does.
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
		cr.broke(err)
	}
	return true
}

// broke says that the connection has failed, ahead of what is held.
func (cr *connReader) broke(err error) {
	c := (*Conn)(cr)
	c.core.Lock()
	c.extra().failure = err
	c.core.Unlock()
	c.over = true
	c.loop.send((*failureTask)(c))
}

// probe looks whether a TLS peer that has left has ended its stream properly. If not
// that is an error, for which the bytes that are held for a reader do not wait. It
// returns what step does.
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
		cr.broke(err)
	}
	return true
}

// hasNext reports whether probe has read something.
func (cr *connReader) hasNext() bool {
	x := cr.x.Load()
	return x != nil && x.next != nil
}

// takeNext returns what probe has read, or nil.
func (cr *connReader) takeNext() (b *sockio.Buffer) {
	if cr.hasNext() {
		x := cr.x.Load()
		b, x.next = x.next, nil
	}
	return b
}

// readSizes are the sizes of reads; classes are their indexes. A connection
// begins with the smallest.
var readSizes = [...]int{4 << 10, 16 << 10, sockio.MaxBuffer}

func (cr *connReader) nextRead() int {
	c := (*Conn)(cr)
	return min(readSizes[c.class], c.cfg.Load().ReadBufferSize)
}

// hand gives b to the dispatcher.
func (cr *connReader) hand(b *sockio.Buffer) {
	c := (*Conn)(cr)
	cr.took(b)
	c.loop.send((*chunkTask)(c))
}

// took makes b the chunk that is handed over. A full buffer makes the next one
// larger, a nearly empty one smaller.
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

// consumed gives the credit for the next chunk back. On the loop.
func (cl *connLoop) consumed() {
	c := (*Conn)(cl)
	cl.heard() // the time of a callback is not the peer's
	c.holding.Store(false)
	if !c.loop.offer(c.readerSide()) {
		c.core.Wake()
	}
}

// A chunkTask says that c.chunk has data.
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

// deliver gives the chunk to what takes the data, or holds it. On the loop.
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
	quit := c.quit.Load() // once: Detach may come between two looks
	switch {
	case quit && cl.detaching():
		return // handOut has it
	case quit || c.loop.ended.Load():
	case s != nil:
		b := c.chunk
		c.chunk = nil
		s.chunk(b)
		return
	case f == nil:
		c.core.Lock()
		c.set(bitNoReader)
		c.core.Unlock()
		if cl.hold(factHeld) {
			c.core.Wake() // it watches from now on
			return
		}
		if f = c.cfg.Load().OnData; f == nil {
			break // it is being closed
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

// mayDeliver reports whether what arrived may be told. The caller holds the lock.
func (c *Conn) mayDeliver() bool {
	return !c.is(pauseReads|bitUpgrade) && (!c.is(bitNoReader) || c.cfg.Load().OnData != nil || c.facts.has(factSink))
}

// hold keeps what arrived for later, unless that is over. A connection that is being
// closed holds nothing. On the loop.
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

// readerChanged has what is held delivered in a later turn. The caller holds the
// lock.
func (c *Conn) readerChanged() {
	if c.facts.has(factHeld|factEndHeld) || c.is(bitUnread) {
		c.loop.Post(c.loopSide().redeliver)
	}
}

// redeliver delivers what is held, if it may be delivered now.
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

// deliverUnread delivers unread bytes without others. On the loop.
func (cl *connLoop) deliverUnread() {
	c := (*Conn)(cl)
	f := c.cfg.Load().OnData
	switch s := cl.sink(); {
	case !c.is(bitUnread) || c.quit.Load() || c.loop.ended.Load():
	case s != nil:
		s.unread()
	case f != nil:
		cl.callData(f, cl.withUnread(nil))
	}
}

// withUnread returns p behind the unread bytes, which it takes.
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

// Unread gives back bytes that OnData got or Read of a NetConn returned, so that they are
// read again: before whatever else arrives, the bytes of the last call first. They
// are copied. Unread alone causes no callback: the bytes are delivered together with
// those that arrive next, or before the end, or in a later turn when what reads
// changes, by SetCallbacks, NetConn, Pipe, StartTLS, Detach or ResumeReading. OnData
// may get more than ReadBufferSize then.
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

// putBack puts p before what is read next. The caller holds the lock.
func (c *Conn) putBack(p []byte) {
	x := c.extra()
	x.unread = slices.Concat(p, x.unread)
	c.set(bitUnread)
}

// giveBack is Unread without a bound, for what HTTP has read beyond its last message.
func (cr *connReader) giveBack(p []byte) {
	c := (*Conn)(cr)
	if len(p) > 0 {
		c.core.Lock()
		defer c.core.Unlock()
		c.putBack(p)
	}
}

// PauseReading stops OnData, and soon reading itself, so that the peer has to
// wait (disable-socket). If it is called on the loop, no OnData comes after it.
// The end of the stream, too, is told only after ResumeReading. A reset by the peer
// is told at once, and what was not delivered is dropped then.
func (c *Conn) PauseReading() {
	c.core.Lock()
	defer c.core.Unlock()
	c.set(pauseUser)
	c.core.Wake() // it watches from now on
}

// ResumeReading undoes PauseReading (enable-socket).
func (c *Conn) ResumeReading() {
	c.core.Lock()
	defer c.core.Unlock()
	c.clearPause(pauseUser)
}

// clearPause takes a reason not to read away; with the last, what was held back
// is delivered. The caller holds the lock.
func (c *Conn) clearPause(reason uint32) {
	if !c.is(reason) {
		return
	}
	c.unset(reason)
	if c.is(pauseReads) || c.life >= lifeClosing {
		return
	}
	if c.silence.Load() != nil {
		c.armReadTimer() // the time of the pause does not count
	}
	c.readerChanged()
	c.core.Wake()
}

// A sink takes what arrives instead of the callbacks. On the loop.
type sink interface {
	// chunk takes b over and must lead to Conn.consumed.
	chunk(b *sockio.Buffer)

	// unread says that there are unread bytes to be taken.
	unread()

	// end is told how reading ended, and reports whether it took the event.
	end(err error) bool
}

// setSink changes what takes the data; nil gives it back to the callbacks. The
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

// sink returns what takes the data, or nil. On the loop.
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
