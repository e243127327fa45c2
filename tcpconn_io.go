package eventloop

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// This file has the three parties that move the bytes of a connection:
//
//   - its goroutine reads a chunk, hands it to the dispatcher through the task
//     channel, waits until the dispatcher is done with it, and reads again. It
//     alone closes the descriptor, and so nobody ever uses one that is closed;
//   - the dispatcher runs the callbacks;
//   - a writer of the pool hands what was written to the kernel, without ever
//     blocking. When the kernel is full, a goroutine takes over that may block,
//     until all is written. At most one of them is active (flagWriting).
//
// c.mu is never held while sending to the task channel, or in a system call that
// moves data.

// Tasks of a connection. Each is the connection itself under another type.
type (
	upTask       Conn // the connection is up
	chunkTask    Conn // c.chunk has data
	endTask      Conn // reading ended with c.readErr
	drainTask    Conn // output was sent that somebody waits for
	writeErrTask Conn // writing failed with c.werr
	tlsTask      Conn // StartTLS is done, or failed
	goneTask     Conn // the descriptor is closed
)

// connect dials and then lets serve run on a goroutine of its own: dialling needs
// a deep stack, and a goroutine keeps the stack that it has grown.
func (c *Conn) connect(ctx context.Context, cancel context.CancelFunc, network, address string) {
	defer c.loop.wg.Done()
	defer cancel()
	cfg := c.cfg.Load()
	nc, err := c.loop.dialContext(ctx, network, address, cfg)
	if err != nil {
		c.connectFailed("dial", err)
		return
	}
	if cfg.TLS == nil {
		c.up(nc, true)
		return
	}
	c.handshake(ctx, tls.Client(nc, clientTLS(cfg.TLS, address)))
}

// clientTLS returns conf with the host of address as ServerName if it has none.
// It is sent to the server even if nobody verifies what comes back.
func clientTLS(conf *tls.Config, address string) *tls.Config {
	if conf.ServerName != "" {
		return conf
	}
	conf = conf.Clone()
	if host, _, err := net.SplitHostPort(address); err == nil {
		conf.ServerName = host
	}
	return conf
}

// handshakeAndServe brings up a connection that was accepted or adopted. direct
// says that nobody else has nc.
func (c *Conn) handshakeAndServe(nc net.Conn, conf *tls.Config, client, direct bool) {
	defer c.loop.wg.Done()
	nc = guardConn(unguarded(nc), c.panicked)
	if !direct {
		nc.SetDeadline(noDeadline) // of its life before
	}
	tc, isTLS := nc.(*tls.Conn) // whoever made it may have left the handshake to us
	foreign := isForeign(nc)
	if foreign {
		c.loop.usesForeign.Store(true)
		c.mu.Lock()
		c.extra().foreign = unguarded(nc)
		c.mu.Unlock()
	}
	asks := foreign && !c.knowsAddrs()
	if conf == nil && !isTLS && !asks {
		c.up(nc, direct)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	if c.flags.has(flagClosing) && !c.owes() {
		cancel()
	}
	c.extra().cancel = cancel
	c.mu.Unlock()
	if asks && !c.askAddrs(ctx, nc) {
		return
	}
	switch {
	case conf != nil:
		tc = tlsConn(nc, conf, client)
	case !isTLS:
		c.up(nc, direct)
		return
	}
	c.handshake(ctx, tc)
}

func (c *Conn) knowsAddrs() bool {
	x := c.x.Load()
	return x != nil && x.hasAddrs
}

// askAddrs asks a foreign connection for its addresses, with the bound of a
// handshake. It reports whether the connection may go on; if not, it is closed.
func (c *Conn) askAddrs(ctx context.Context, nc net.Conn) bool {
	ctx, cancel := c.handshakeContext(ctx)
	defer cancel()
	c.loop.wg.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer c.loop.wg.Done()
		c.loop.closeAside(nc)
	})
	var local, remote net.Addr
	err := aside(func() error { local, remote = nc.LocalAddr(), nc.RemoteAddr(); return nil })
	if !stop() {
		c.connectFailed("handshake", contextError(ctx))
		return false
	}
	c.loop.wg.Done()
	if err != nil { // of what is below TLS
		c.panicked("address", err)
	}
	c.setAddrs(local, remote)
	return true
}

func tlsConn(nc net.Conn, conf *tls.Config, client bool) *tls.Conn {
	if client {
		return tls.Client(nc, conf)
	}
	return tls.Server(nc, conf)
}

func (c *Conn) handshake(ctx context.Context, tc *tls.Conn) {
	err := errGoexit // unless no callback of the tls.Config calls it
	defer func() {
		if err != nil {
			tc.NetConn().Close()
			c.connectFailed("handshake", err)
		}
	}()
	if err = c.shakeHands(ctx, tc); err == nil {
		c.up(tc, true)
	}
}

// shakeHands runs a TLS handshake under its timeout. The callbacks of a
// tls.Config run in it; their panics are treated as those of all callbacks.
func (c *Conn) shakeHands(ctx context.Context, tc *tls.Conn) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
	}()
	ctx, cancel := c.handshakeContext(ctx)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = contextError(ctx) // not "use of closed connection"
		}
		return err
	}
	return nil
}

// handshakeContext bounds a handshake, as ConnConfig.ConnectTimeout says.
func (c *Conn) handshakeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	cfg := c.cfg.Load()
	d := cfg.ConnectTimeout
	if d == 0 {
		d = cfg.ReadTimeout
	}
	if d == 0 {
		d = handshakeTimeout
	}
	if d < 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// connectFailed ends a connection that never came up.
func (c *Conn) connectFailed(op string, err error) {
	c.readErr = c.opError(op, err)
	c.loop.send((*goneTask)(c))
}

// up makes nc the connection and starts its goroutine.
func (c *Conn) up(nc net.Conn, direct bool) {
	c.attach(nc, direct, flagUp|flagWriting)
	c.loop.send((*upTask)(c))
	c.loop.wg.Add(1)
	go c.serve()
	c.mu.Lock()
	c.stopWriting() // only now may a writer come: no OnDrain before OnConnect
	c.startWriting()
	c.mu.Unlock()
}

// attach stores nc, with flags, and finds out how to read and write it.
func (c *Conn) attach(nc net.Conn, direct bool, flags connFlags) {
	rc, ok := sockio.Descriptor(nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc
	c.flags |= flags
	c.rc, c.fd = nil, -1
	if !ok {
		return
	}
	c.rc = rc
	if direct {
		rc.Control(func(fd uintptr) { c.fd = int32(fd) })
	} else {
		c.extra().write = newRawWrite()
	}
}

// serve is the connection's goroutine.
func (c *Conn) serve() {
	over := false
	defer func() {
		if over {
			c.loop.wg.Done()
			return
		}
		// Foreign code called Goexit: the connection goes on, to its end, elsewhere.
		if c.readErr == nil {
			c.readErr = errGoexit
		}
		go c.serve()
	}()
	ended := false
	for {
		// Looked at before the order: Close may owe what waits for StartTLS.
		quit := c.quit.Load()
		ended = c.upgradeIfOrdered(ended)
		if quit {
			break
		}
		if ended {
			if !c.ordered() { // flush may have taken the token of an order that came meanwhile
				<-c.back
			}
		} else if ended = c.read(); ended {
			c.loop.send((*endTask)(c))
		}
	}
	c.finish()
	over = true
}

// panicked reports a panic of foreign code that was called for c.
func (c *Conn) panicked(op string, err error) {
	c.loop.stray(func() { c.fail(c.opError(op, err)) })
}

// read hands over what arrives until reading ends, which it reports, or until
// there is an order: to quit or to upgrade.
func (c *Conn) read() (ended bool) {
	if c.readErr != nil {
		return true // see serve
	}
	var err error
	if c.rc != nil {
		err = c.rc.Read(c.readable)
	} else {
		err = c.readConn()
	}
	// With an order a deadline says no more than that the order came. Without one
	// it is somebody else's: that of a wrapper around the connection.
	if err != nil && c.readErr == nil && !(deadlinePassed(err) && c.ordered()) {
		c.readErr = err
	}
	return c.readErr != nil
}

// readable reads until nothing is there and returns false, which parks the
// goroutine until there is something again, with no buffer in hand. It returns
// true to end.
//
// Parking is only safe after EAGAIN: the poller reports edges, and data and FIN
// that arrived together make one edge. But the goroutine waits for the callback
// before it tries, and by then the next message is often there: it is read
// without going through the poller, which is worth more than the vain try costs
// (echo with 50 connections: 1.15 of a goroutine per connection, 1.08 with a FIN
// hint from TCP_INQ instead of the try; with 500 1.08 against 1.00).
func (c *Conn) readable(fd uintptr) (done bool) {
	for c.mayRead() {
		b := sockio.GetBuffer(c.nextRead())
		n, errno := sockio.ReadFD(fd, c.room(b))
		switch {
		case errno == syscall.EAGAIN:
			b.Release()
			return false
		case errno != 0:
			b.Release()
			c.readErr = errno
			return true
		case n == 0:
			b.Release()
			c.readErr = c.endOf(fd)
			return true
		}
		if c.early(b, n) {
			return true
		}
		c.hand(b, n)
	}
	return true
}

// endOf returns why reading fd found the end of the stream.
func (c *Conn) endOf(fd uintptr) error {
	c.mu.Lock()
	shut := c.flags.has(flagShutDone)
	c.mu.Unlock()
	if !shut && sockio.WasReset(fd) {
		return syscall.ECONNRESET // which a writer has met
	}
	return io.EOF
}

// early keeps what was read into b after StartTLS was called, which is for the
// handshake. The goroutine may have been on its way to read when the order came,
// and slow enough for the peer to have begun.
func (c *Conn) early(b *sockio.Buffer, n int) bool {
	if c.pauses.Load()&orderUpgrade == 0 {
		return false
	}
	b.Fill(n)
	c.x.Load().upgrade.early = b
	return true
}

// readConn is reading through net.Conn: TLS, and connections that are no sockets.
func (c *Conn) readConn() error {
	for c.mayRead() {
		b := sockio.GetBuffer(c.nextRead())
		n, err := guardedRead(c.nc, c.room(b))
		if n > 0 {
			if c.early(b, n) {
				return nil
			}
			c.hand(b, n)
			if err != nil && !c.mayRead() { // the error has to wait for its data
				return nil
			}
		} else {
			b.Release()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readSizes are the sizes of reads; classes are their indexes. A connection
// begins with the smallest.
var readSizes = [...]int{4 << 10, 16 << 10, sockio.MaxBuffer}

func (c *Conn) nextRead() int {
	return min(readSizes[c.class], c.cfg.Load().ReadBufferSize)
}

func (c *Conn) room(b *sockio.Buffer) []byte {
	return b.Room()[:min(len(b.Room()), c.nextRead())]
}

// hand gives the n bytes that were read into b to the dispatcher. A full buffer
// makes the next one larger, a nearly empty one smaller.
func (c *Conn) hand(b *sockio.Buffer, n int) {
	switch size := readSizes[c.class]; {
	case n >= size && int(c.class) < len(readSizes)-1:
		c.class++
	case c.class > 0 && n < size/16:
		c.class--
	}
	b.Fill(n)
	c.chunk = b
	c.holding.Store(true)
	c.loop.send((*chunkTask)(c))
}

// mayRead waits until the dispatcher is done with the last chunk and no pause is
// in force. It returns false if there is an order instead.
func (c *Conn) mayRead() bool {
	for {
		if c.ordered() {
			return false
		}
		if !c.holding.Load() && !c.readPaused() {
			return true
		}
		// Say so before looking again: who changes anything looks at waiting
		// after the change, so one of the two sees the other.
		c.waiting.Store(true)
		if (c.holding.Load() || c.readPaused()) && !c.ordered() {
			<-c.back
		}
		c.waiting.Store(false)
	}
}

// wakeReader wakes the goroutine from mayRead, after a change that it waits for.
func (c *Conn) wakeReader() {
	if c.waiting.Load() {
		c.token()
	}
}

// ordered reports whether the goroutine is to do something other than read.
func (c *Conn) ordered() bool {
	return c.quit.Load() || c.pauses.Load()&orderUpgrade != 0
}

// consumed gives the credit for the next chunk back. On the loop.
func (c *Conn) consumed() {
	c.holding.Store(false)
	c.wakeReader()
}

// A rawWrite writes to a descriptor through its RawConn, which is slower than
// using the number, but safe if somebody else may close the connection. It has
// views of its own: those of Flush are to stay on its stack.
type rawWrite struct {
	space [sockio.MaxViews][]byte // a copy: views are on the writer's stack
	views int
	n     int
	errno syscall.Errno
	f     func(fd uintptr) bool
}

func newRawWrite() *rawWrite {
	w := &rawWrite{}
	w.f = func(fd uintptr) bool {
		w.n, w.errno = sockio.WriteFD(fd, w.space[:w.views])
		return true
	}
	return w
}

// startWriting gives c to the writers if there is something for them to do and
// none of them has it. The caller holds c.mu.
func (c *Conn) startWriting() {
	if c.flags&(flagUp|flagWriting|flagGone) != flagUp || !c.hasOutput() {
		return
	}
	c.flags |= flagWriting
	c.loop.writers.Add((*connWriter)(c))
}

// hasOutput reports whether a writer has something to do. The caller holds c.mu.
func (c *Conn) hasOutput() bool {
	return c.werr == nil && !c.flags.has(flagCut) && c.pauses.Load()&pauseWrite == 0 &&
		(c.out.Len() > 0 || c.flags&(flagShut|flagShutDone|flagGate) == flagShut)
}

// A connWriter is a connection as the pool of writers sees it.
type connWriter Conn

// Flush writes what the kernel takes.
func (w *connWriter) Flush() {
	c := (*Conn)(w)
	if c.rc == nil {
		c.block() // TLS, or no socket: Write may block
		return
	}
	var space [sockio.MaxViews][]byte
	for {
		views := c.views(space[:])
		if len(views) == 0 {
			if !c.doneWriting() {
				return
			}
			continue
		}
		n, errno := c.writeNow(views)
		switch errno {
		case 0:
			if c.sentLast(n) {
				return
			}
		case syscall.EAGAIN:
			c.block()
			return
		default:
			c.writeFailed(errno)
			return
		}
	}
}

// writeNow hands views to the kernel without waiting.
func (c *Conn) writeNow(views [][]byte) (int, syscall.Errno) {
	if c.fd >= 0 {
		return sockio.WriteFD(uintptr(c.fd), views)
	}
	w := c.x.Load().write
	w.views = copy(w.space[:], views)
	err := c.rc.Write(w.f)
	clear(w.space[:])
	if err != nil {
		return 0, syscall.EPIPE // closed behind our back
	}
	return w.n, w.errno
}

// block makes a goroutine that may block the writer.
func (c *Conn) block() {
	c.mu.Lock()
	c.flags |= flagBlocked
	c.mu.Unlock()
	c.loop.wg.Go(c.writeBlocking)
}

// writeBlocking writes until nothing is left. It runs on a goroutine of its own.
func (c *Conn) writeBlocking() {
	over := false
	defer func() {
		if !over { // foreign code called Goexit
			c.loop.wg.Go(func() { c.writeFailed(errGoexit) })
		}
	}()
	c.writeAll()
	over = true
}

func (c *Conn) writeAll() {
	var space [sockio.MaxViews][]byte
	for {
		views := c.views(space[:])
		if len(views) == 0 {
			if !c.doneWriting() {
				return
			}
			continue
		}
		n, err := c.writeSome(views)
		c.sent(n)
		if err != nil && !(n > 0 && c.slowly(err)) {
			c.writeFailed(err)
			return
		}
	}
}

// slowly reports whether err, of a write that wrote something, only means that
// the peer is slow. A TLS connection cannot go on after that.
func (c *Conn) slowly(err error) bool {
	_, isTLS := c.nc.(*tls.Conn)
	return !isTLS && deadlinePassed(err)
}

// boundWrite gives a writer that may block the time of WriteTimeout from now on,
// or takes the bound away: while writing is paused, and once the connection is
// being closed, when flush bounds all that is left. The caller holds c.mu.
func (c *Conn) boundWrite() {
	if !c.flags.has(flagBlocked) || c.flags.has(flagCut) {
		return // after a cut a deadline is in force that has to stay
	}
	_, d := c.timeouts()
	if d <= 0 || c.flags.has(flagClosing) || c.pauses.Load()&pauseWrite != 0 {
		c.unbound()
		return
	}
	c.flags |= flagBounded
	c.nc.SetWriteDeadline(time.Now().Add(d))
}

// unbound takes away the write deadline. The caller holds c.mu.
func (c *Conn) unbound() {
	if c.flags.has(flagBounded) && !c.flags.has(flagCut) {
		c.nc.SetWriteDeadline(noDeadline)
	}
	c.flags &^= flagBounded
}

// writeSome waits until a piece of the output is written.
func (c *Conn) writeSome(views [][]byte) (n int, err error) {
	if c.rc == nil {
		// A piece at a time, so that the deadline is that of a piece.
		return guardedWrite(c.nc, views[0][:min(len(views[0]), 16<<10)])
	}
	var errno syscall.Errno
	err = c.rc.Write(func(fd uintptr) bool {
		n, errno = sockio.WriteFD(fd, views)
		return errno != syscall.EAGAIN
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return n, err
}

// views returns the next pieces of output, none if there is nothing to write or
// writing is not allowed now.
func (c *Conn) views(space [][]byte) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hasOutput() {
		return nil
	}
	c.boundWrite()
	return space[:c.out.Views(space)]
}

// sent accounts for n bytes that the kernel has taken.
func (c *Conn) sent(n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	due := c.advance(n)
	c.mu.Unlock()
	if due {
		c.loop.hand((*drainTask)(c))
	}
}

// sentLast is sent, and doneWriting too if that was all and nobody waits to hear
// of it: the usual case, which one lock is enough for.
func (c *Conn) sentLast(n int) (done bool) {
	c.mu.Lock()
	due := c.advance(n)
	done = !due && !c.hasOutput() && !c.wantsDrain()
	if done {
		c.stopWriting()
	}
	c.mu.Unlock()
	if due {
		c.loop.hand((*drainTask)(c))
	}
	return done
}

// advance drops n bytes of output and reports whether the dispatcher is to hear
// of it, because somebody waits for them. The caller holds c.mu.
func (c *Conn) advance(n int) bool {
	c.loop.count.bytesOut.Add(uint64(n))
	c.out.Advance(n)
	left := c.pending()
	x := c.x.Load()
	if c.NeedDrain() && left <= c.cfg.Load().mark()/2 {
		c.pauses.Store(c.pauses.Load() &^ outputHigh)
		c.clearPause(pauseHigh)
		if x != nil {
			x.postLow(c.loop)
		}
	}
	if x == nil {
		return false
	}
	x.sent += uint64(n)
	if !x.flushDue() || c.flags.has(flagDrainSent|flagCut) {
		return false
	}
	c.flags |= flagDrainSent
	return true
}

// flushDue reports whether the bytes that a Flushed waits for have been sent. The
// caller holds the connection's mu.
func (x *connExtra) flushDue() bool {
	return len(x.flushed) > 0 && x.sent >= x.flushed[0].pos
}

// doneWriting ends the turn of a writer, when there is nothing more to write, and
// reports whether there is after all. While it sends a task the connection still
// counts as being written, so its goroutine cannot end before.
func (c *Conn) doneWriting() (more bool) {
	c.mu.Lock()
	if c.hasOutput() {
		if c.out.Len() > 0 {
			c.mu.Unlock()
			return true
		}
		c.flags |= flagShutDone
		c.mu.Unlock()
		cw, ok := c.nc.(closeWriter)
		if !ok { // CloseWrite was called before the connection was up
			c.writeFailed(c.opError("close", errUnsupported))
			return false
		}
		cw.CloseWrite()
		c.mu.Lock()
	}
	if c.wantsDrain() {
		c.flags |= flagDrainSent
		c.mu.Unlock()
		c.loop.hand((*drainTask)(c))
		return true // look again: something may have been written meanwhile
	}
	c.stopWriting()
	c.mu.Unlock()
	return false
}

// wantsDrain reports whether the dispatcher is to hear that output was sent. The
// caller holds c.mu.
func (c *Conn) wantsDrain() bool {
	if c.flags.has(flagDrainSent | flagCut) {
		return false
	}
	if x := c.x.Load(); x != nil && x.flushDue() {
		return true
	}
	if c.pending() > 0 {
		return false
	}
	return c.flags.has(flagWrote) && c.cfg.Load().OnDrain != nil || c.halfClosed()
}

// halfClosed reports whether both directions are over on a connection that lives
// on after io.EOF, and that therefore has to be closed now. The caller holds
// c.mu.
func (c *Conn) halfClosed() bool {
	return c.flags.has(flagEOF) && c.flags.has(flagShutDone) && !c.flags.has(flagClosing)
}

// stopWriting ends flagWriting. The caller holds c.mu.
func (c *Conn) stopWriting() {
	c.unbound()
	c.flags &^= flagWriting | flagBlocked
	if c.flags.has(flagCut) || c.werr != nil {
		c.discard()
	}
	if c.flags.has(flagDeaf) && !c.hasOutput() {
		c.hangUp()
	}
	if c.flags.has(flagClosing | flagGate) {
		c.token() // its goroutine waits for this in flush
	}
}

// writeFailed ends writing with err, unless it was ended by force, which is why
// it failed then.
func (c *Conn) writeFailed(err error) {
	err = c.opError("write", err)
	if isUncaught(err) {
		c.panicked("write", err) // also where writing has been cut
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.flags.has(flagCut) {
		c.werr = err
		c.mu.Unlock()
		c.loop.hand((*writeErrTask)(c))
		c.mu.Lock()
	}
	c.stopWriting()
}

// flush waits, on the connection's goroutine, until the output is written or
// discarded; after the time of a Close it is discarded.
func (c *Conn) flush() {
	var timeout <-chan time.Time
	for {
		c.mu.Lock()
		c.resumeWriting()
		writing := c.flags.has(flagWriting)
		d := c.flushTime()
		c.mu.Unlock()
		if !writing {
			return
		}
		if timeout == nil && c.quit.Load() {
			t := time.NewTimer(d)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-c.back:
		case <-timeout:
			c.closeWith(flagCut | flagReset)
		}
	}
}

// finish closes the connection: it flushes, ends the stream, waits a moment for
// the peer to do the same, and closes the descriptor.
func (c *Conn) finish() {
	c.flush()
	c.mu.Lock()
	flags, nc, failed := c.flags, c.nc, c.werr != nil
	c.mu.Unlock()
	switch {
	case flags.has(flagCut) || failed:
	case flags.has(flagDetach):
		nc.SetDeadline(noDeadline)
		c.loop.send((*goneTask)(c))
		return
	default:
		c.linger(nc, flags.has(flagShutDone))
	}
	c.mu.Lock()
	if c.flags.has(flagCut) { // perhaps only while it lingered
		c.setReset()
		nc = c.lowest()
	}
	c.mu.Unlock()
	nc.Close()
	c.loop.send((*goneTask)(c))
}

// linger ends the stream to the peer and reads until the peer ends its own. If
// the descriptor were closed with input unread, the kernel would send a reset,
// which takes away from the peer what it has not read yet of the answer.
func (c *Conn) linger(nc net.Conn, shut bool) {
	if !shut {
		cw, ok := nc.(closeWriter)
		if !ok {
			return
		}
		nc.SetWriteDeadline(time.Now().Add(lingerTimeout)) // TLS sends an alert
		if cw.CloseWrite() != nil {
			return
		}
	}
	if c.readErr != nil {
		return // the peer has ended already
	}
	nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	if c.cutNow() {
		return
	}
	b := sockio.GetBuffer(0)
	defer b.Release()
	for {
		n, err := c.readInto(b.Room())
		if n == 0 || err != nil || c.cutNow() {
			return
		}
	}
}

// readInto reads once into p, of which the bytes are going to be dropped.
func (c *Conn) readInto(p []byte) (int, error) {
	if c.rc != nil {
		return sockio.ReadWait(c.rc, p)
	}
	n, err := guardedRead(c.nc, p)
	if isUncaught(err) {
		c.panicked("read", err)
	}
	return n, err
}

// cutNow reports whether Abort or the end of the loop wants no lingering. It is
// asked after the deadline is set: who cuts sets a deadline of its own.
func (c *Conn) cutNow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flags.has(flagCut)
}

// Below: what the dispatcher does with the tasks.

func (t *upTask) run() {
	c := (*Conn)(t)
	c.mu.Lock()
	if x := c.x.Load(); x != nil && x.connected != nil {
		x.connected.resolve(c, nil)
	}
	if !c.flags.has(flagClosing) {
		c.armReadTimer()
		c.flags |= flagAnnounced
	}
	c.mu.Unlock()
	if f := c.cfg.Load().OnConnect; f != nil && !c.quit.Load() && !c.loop.ended.Load() {
		c.callback(f)
	}
	c.startTask()
}

// callback runs a callback that takes nothing but the connection.
func (c *Conn) callback(f func(c *Conn)) {
	defer c.caught()
	f(c)
}

// caught is deferred around the callbacks of a connection but OnEvent and
// OnClose. A panic that is caught is an error of the connection.
func (c *Conn) caught() {
	v := recover()
	if v == nil {
		return
	}
	pe := newPanicError(v)
	switch {
	case !c.loop.cfg.CatchPanics:
		c.loop.stopPanic(pe)
	case c.quit.Load(): // closed by the callback: no OnEvent any more
		c.loop.event(pe, true)
	default:
		c.fail(pe)
	}
}

func (t *chunkTask) run() {
	c := (*Conn)(t)
	n := c.chunk.Len()
	c.loop.count.bytesIn.Add(uint64(n))
	c.loop.pace.received(n)
	t.redeliver()
}

// redeliver delivers the chunk now or after a pause.
func (t *chunkTask) redeliver() {
	c := (*Conn)(t)
	if c.readPaused() && c.hold(flagHeld) {
		return
	}
	c.deliver()
}

// hold keeps what arrived for later, unless the pause is over.
func (c *Conn) hold(what connFlags) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.readPaused() || c.flags.has(flagClosing) {
		return false
	}
	c.flags |= what
	return true
}

// deliverHeld delivers what a pause held back.
func (c *Conn) deliverHeld() {
	c.mu.Lock()
	held := c.flags & (flagHeld | flagEndHeld)
	if c.readPaused() && !c.flags.has(flagClosing) {
		held = 0
	}
	c.flags &^= held
	c.mu.Unlock()
	if held.has(flagHeld) {
		c.deliver()
	}
	if held.has(flagEndHeld) {
		c.deliverEnd()
	}
}

// deliver runs OnData with the chunk, and gives the credit for the next.
func (c *Conn) deliver() {
	b, f, s := c.chunk, c.cfg.Load().OnData, c.sink()
	c.heard()
	quit := c.quit.Load() // once: Detach may come between two looks
	switch {
	case quit && c.detaching():
		return // handOut has it
	case quit || c.loop.ended.Load():
	case s != nil:
		c.chunk = nil
		s.chunk(b)
		return
	case f != nil:
		c.callData(f, b.Bytes())
	case c.unclaimed(flagHeld):
		return
	}
	c.chunk = nil
	b.Release()
	c.consumed()
}

// unclaimedGrace is how long data waits for a task to ask for a Stream: one that
// OnConnect starts does so a turn later, when the data may be here already.
const unclaimedGrace = time.Second

// unclaimed holds back the chunk or the end, for which there is nobody, if
// somebody may still come.
func (c *Conn) unclaimed(what connFlags) bool {
	if !c.loop.hasTasks() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.extra()
	if x.unclaimed != nil {
		return false // it was waited for already
	}
	x.unclaimed = c.loop.AfterFunc(unclaimedGrace, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clearPause(pauseClaim)
	})
	x.unclaimed.Unref()
	c.setPause(pauseClaim)
	c.flags |= what
	return true
}

// claim delivers what was held back, now that there is somebody to take it. The
// caller holds c.mu.
func (c *Conn) claim() {
	if x := c.x.Load(); x != nil && x.unclaimed != nil {
		x.unclaimed.Stop()
		x.unclaimed = nil // the next stream may be waited for as well
		c.clearPause(pauseClaim)
	}
}

func (c *Conn) callData(f func(c *Conn, data []byte), data []byte) {
	defer poison(data)
	defer c.caught()
	f(c, data)
}

func (t *endTask) run() {
	c := (*Conn)(t)
	c.ended = true
	if c.readPaused() && c.hold(flagEndHeld) {
		return
	}
	c.deliverEnd()
}

// deliverEnd tells how reading ended, and closes the connection unless it may
// stay half-open.
func (c *Conn) deliverEnd() {
	c.mu.Lock()
	err := c.readErr
	if c.werr != nil {
		err = c.werr // a reset that the writer saw first; reading says io.EOF
	}
	c.mu.Unlock()
	if c.quit.Load() || c.failed {
		c.loop.tookPanic(err, true)
		return
	}
	if err != io.EOF {
		c.fail(c.opError("read", err))
		return
	}
	if cfg := c.cfg.Load(); cfg.OnData == nil && cfg.OnEvent == nil && c.sink() == nil && c.unclaimed(flagEndHeld) {
		return
	}
	c.mu.Lock()
	c.flags |= flagEOF
	c.mu.Unlock()
	if s := c.sink(); s != nil && s.end(io.EOF) {
		return // it closes the connection when it is done with it
	}
	c.event(io.EOF)
	c.afterEOF()
}

// afterEOF closes a connection whose peer has ended, unless it is half-open.
func (c *Conn) afterEOF() {
	c.mu.Lock()
	stay := c.cfg.Load().AllowHalfOpen && !c.flags.has(flagShutDone)
	if !stay && !c.flags.has(flagClosing) {
		c.why = io.EOF
	}
	c.mu.Unlock()
	if !stay {
		c.closeWith(0)
	}
}

func (t *writeErrTask) run() {
	c := (*Conn)(t)
	c.mu.Lock()
	err := c.werr
	c.mu.Unlock()
	// After a reset the reading side ends as well, with what had arrived before
	// it: leave it to deliverEnd to report, once. Unless nobody reads.
	if isReset(err) && !c.ended && !c.readPaused() {
		if _, ok := c.sink().(*streamSink); ok {
			c.endOutput(err)
		}
		return
	}
	c.fail(err)
}

// endOutput tells those who wait for output to be sent that they wait in vain: a
// stream may hold what arrived before err, so that reading does not get to it, and
// its task may wait for just that.
func (c *Conn) endOutput(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses.Store(c.pauses.Load() &^ outputHigh)
	x := c.x.Load() // there is a sink, so it is there
	for _, w := range x.flushed {
		w.f.Then(nil) // Read is going to tell
		w.f.resolve(struct{}{}, err)
	}
	x.flushed = nil
	x.postLow(c.loop)
}

// fail delivers an error, once, and closes the connection by a reset: what the
// peer has got must not look like all of it. On the loop.
func (c *Conn) fail(err error) { c.failBy(err, flagCut|flagReset) }

// failBy is fail that closes the connection as how says.
func (c *Conn) failBy(err error, how connFlags) {
	if c.failed || c.quit.Load() {
		c.loop.tookPanic(err, true)
		return
	}
	c.failed = true
	c.mu.Lock()
	c.why = err
	c.mu.Unlock()
	if s := c.sink(); s == nil || !s.end(err) {
		c.event(err)
	}
	c.closeWith(how)
}

// event tells OnEvent, who asked for a future, or the default handler.
func (c *Conn) event(err error) {
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
	if err == io.EOF || !c.asked() {
		c.loop.event(err, c.kind == kindConnIn)
	}
}

// asked reports whether somebody has asked for a future of c that is going to
// fail, and so hears of an error.
func (c *Conn) asked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.x.Load()
	if x == nil {
		return false
	}
	for _, w := range x.flushed {
		if w.f.isAsked() {
			return true
		}
	}
	return x.connected != nil && !c.flags.has(flagUp) && x.connected.isAsked() ||
		x.upgrade != nil && x.upgrade.done.isAsked()
}

func (t *drainTask) run() {
	c := (*Conn)(t)
	c.mu.Lock()
	c.flags &^= flagDrainSent
	c.resolveFlushed()
	drained := c.pending() == 0 && c.flags.has(flagWrote) && c.werr == nil
	if drained {
		c.flags &^= flagWrote
	}
	over := c.halfClosed()
	c.mu.Unlock()
	if f := c.cfg.Load().OnDrain; f != nil && drained && !c.quit.Load() && !c.loop.ended.Load() {
		c.callback(f)
	}
	if over {
		c.afterEOF()
	}
}

// resolveFlushed tells those whose bytes have been sent. The caller holds c.mu.
func (c *Conn) resolveFlushed() {
	x := c.x.Load()
	if x == nil {
		return
	}
	n := 0
	for n < len(x.flushed) && x.flushed[n].pos <= x.sent {
		x.flushed[n].f.resolve(struct{}{}, nil)
		n++
	}
	x.flushed = x.flushed[n:]
}

func (t *goneTask) run() {
	c := (*Conn)(t)
	c.mu.Lock()
	abandoned := c.flags.has(flagGone)
	c.mu.Unlock()
	if abandoned {
		return
	}
	// Deferred, because callbacks may call runtime.Goexit (t.FailNow does).
	defer c.forget()
	defer c.closed()
	if c.readErr != nil && !c.isUp() {
		c.dialFailed()
	}
}

// closed ends everything that was promised, and calls OnClose.
func (c *Conn) closed() {
	c.quit.Store(true)
	c.mu.Lock()
	c.flags |= flagClosing | flagGone
	c.flags &^= flagHeld | flagEndHeld
	c.discard()
	c.closeExtra()
	secret := c.flags.has(flagUnannounced)
	c.mu.Unlock()
	if s := c.sink(); s != nil {
		s.end(c.endReason())
	}
	if f := c.cfg.Load().OnClose; f != nil && !secret {
		c.callClose(f)
	}
}

// forget is the very end of c.
func (c *Conn) forget() {
	rest := c.chunk // undelivered: read in a pause, or on the way to Detach
	c.chunk = nil
	if x := c.x.Load(); x != nil && x.detached != nil {
		c.handOut(x.detached, rest)
	} else if rest != nil {
		rest.Release()
	}
	if c.listener != nil {
		c.listener.connGone()
	}
	if x := c.x.Load(); x != nil && x.release != nil {
		x.release()
	}
	c.loop.unregister(&c.handle)
}

// whenForgotten has release called at the very end of c.
func (c *Conn) whenForgotten(release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.extra().release = release
}

// detaching reports whether what arrives is for whoever called Detach.
func (c *Conn) detaching() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flags.has(flagDetach)
}

func (c *Conn) isUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flags.has(flagUp)
}

// endReason returns the error for what waits for something of c when it ends.
func (c *Conn) endReason() error {
	if c.loop.ended.Load() {
		return ErrLoopClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closedError()
}

// dialFailed reports why the connection never came up.
func (c *Conn) dialFailed() {
	c.mu.Lock()
	closing := c.flags.has(flagClosing)
	if !closing {
		c.why = c.readErr
		c.flags |= flagAnnounced
	}
	c.mu.Unlock()
	if closing {
		c.loop.tookPanic(c.readErr, true)
		return
	}
	c.failed = true
	if s := c.sink(); s == nil || !s.end(c.readErr) {
		c.event(c.readErr)
	}
}

// closeExtra ends what was promised. The caller holds c.mu.
func (c *Conn) closeExtra() {
	x := c.x.Load()
	if x == nil {
		return
	}
	err := c.closedError()
	if c.loop.ended.Load() {
		err = ErrLoopClosed
	}
	for _, t := range []*Timer{x.readTimer, x.closeTimer, x.unclaimed} {
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

// failWith fails a future of c. An error that was an event of c is not reported
// again if nobody asks for the future.
func failWith[T any](c *Conn, f *Future[T], err error) {
	if c.failed {
		f.Then(nil)
	}
	f.fail(err)
}

func (c *Conn) callClose(f func(c *Conn)) {
	defer c.loop.caught(nil)
	f(c)
}

// armReadTimer starts the read timeout anew, or ends it. The caller holds c.mu.
func (c *Conn) armReadTimer() {
	d, _ := c.timeouts()
	if d <= 0 {
		if x := c.x.Load(); x != nil && x.readTimer != nil {
			x.readTimer.Stop()
		}
		return
	}
	x := c.extra()
	x.lastRead.Store(int64(time.Since(c.loop.epoch)))
	if x.readTimer == nil {
		x.readTimer = c.loop.AfterFunc(d, c.readTimedOut)
		x.readTimer.Unref() // the connection itself keeps the loop alive
		x.timed.Store(true)
		return
	}
	x.readTimer.Reset(d)
}

// heard notes that the peer sent something. The timer is not touched, which
// would cost each chunk a change of the heap: it looks at lastRead when it fires.
func (c *Conn) heard() {
	if x := c.x.Load(); x != nil && x.timed.Load() {
		x.lastRead.Store(int64(time.Since(c.loop.epoch)))
	}
}

func (c *Conn) readTimedOut() {
	c.mu.Lock()
	d, _ := c.timeouts()
	if d <= 0 || c.readPaused() || c.flags.has(flagEOF|flagClosing) {
		c.mu.Unlock()
		return
	}
	x := c.x.Load()
	if c.holding.Load() || c.flags.has(flagGate) {
		// Something arrived in time, and the loop was too busy to look at it; or a
		// handshake goes on, which has a bound of its own.
		x.readTimer.Reset(d)
		c.mu.Unlock()
		return
	}
	if left := time.Duration(x.lastRead.Load()) + d - time.Since(c.loop.epoch); left > 0 {
		x.readTimer.Reset(left)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.fail(c.opError("read", os.ErrDeadlineExceeded))
}
