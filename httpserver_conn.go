package eventloop

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// An httpConn is a connection of a server. Its goroutine reads a request, hands
// it to the dispatcher, waits for the answer, writes it, and reads the next. It
// alone closes the descriptor. While there is nothing to read it holds no buffer.
type httpConn struct {
	s      *HTTPServer
	nc     net.Conn
	rc     syscall.RawConn // nil: read and write through nc
	fd     int             // to write to, or -1; the goroutine closes it, which waits for writers
	remote net.Addr
	ip     netip.Addr
	tls    *tls.ConnectionState // nil: in the clear
	back   chan struct{}        // wakes the goroutine from await; one slot

	// Of the connection's goroutine.
	br       *bufio.Reader // nil if nothing is buffered
	readFn   func(fd uintptr) bool
	writeFn  func(fd uintptr) bool
	readFD   uintptr         // to read from, inside readFn
	ioErr    error           // result of readFn or writeFn
	blocks   bool            // writeFn may park
	first    [1]byte         // see readThrough
	hasOne   bool            // first is to be read
	deaf     bool            // no deadline works, so no read can be ended
	armed    time.Duration   // the read deadline, by clock; zero if there is none
	last     time.Duration   // when a request was answered last, by clock
	served   int             // requests
	upgraded bool            // the connection belongs to a Conn, which also holds its place
	up       bool            // the handshake is over
	foreign  bool            // nc is not of package net: see meet
	dozed    bool            // idle for a while: see renew
	body     bodyReader      // of the current request
	out      sockio.Queue    // not written yet: of earlier requests, too
	writer   *ResponseWriter // of the current request, if its response is a stream
	eof      bool            // the client has ended its side
	linger   bool            // there may be input that nobody will read
	reset    bool            // the client must notice that the response is incomplete

	state     atomic.Uint32
	cur       atomic.Pointer[HTTPRequest] // that a writer may answer; nil if there is none
	settledAt time.Duration               // when it was answered; set before connSettled

	mu  sync.Mutex // held to set deadlines, and guards the following
	why error      // connGone
}

// The bits of httpConn.state.
const (
	connReading   uint32 = 1 << iota // waits in a read, which a kick ends
	connKicked                       // a kick did; set with mu held
	connIdle                         // waits for a request
	connGone                         // by force; set with mu held
	connSettled                      // the last request needs nothing more
	connHandshake                    // also while the address is asked for: no request comes before its end
	connMet                          // remote is set
)

func (c *httpConn) is(bits uint32) bool { return c.state.Load()&bits == bits }

func newHTTPConn(s *HTTPServer, nc net.Conn) *httpConn {
	c := &httpConn{s: s, fd: -1, back: make(chan struct{}, 1)}
	nc = guardConn(nc, c.panicked)
	c.nc = nc
	if c.foreign = !s.ours && isForeign(nc); c.foreign {
		s.loop.usesForeign.Store(true)
	} else {
		c.remote = nc.RemoteAddr()
		c.ip = addrIP(c.remote)
		c.state.Store(connMet)
		c.deaf = nc.SetDeadline(noDeadline) != nil
	}
	if s.cfg.TLS == nil {
		c.rc, _ = sockio.Descriptor(nc)
	}
	if c.rc != nil {
		c.readFn, c.writeFn = c.readable, c.writable
		if s.ours {
			c.rc.Control(func(fd uintptr) { c.fd = int(fd) })
		}
	}
	return c
}

var errKicked = errors.New("eventloop: woken from a read")

// after returns the time of the clock in d, or none, zero, if d is zero.
func after(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return clock() + d
}

// deadlineAt returns a time of the clock as net.Conn wants it.
func deadlineAt(at time.Duration) time.Time {
	if at == 0 {
		return noDeadline
	}
	return clockBase.Add(at)
}

// pastDeadline reports whether err is that of a deadline of ours; ETIMEDOUT, say,
// is not.
func pastDeadline(err error) bool { return deadlinePassed(err) }

// serve is the connection's goroutine.
func (c *httpConn) serve() {
	defer c.s.loop.wg.Done()
	goesOn, returned := false, false
	defer func() {
		if !returned && c.up { // foreign code called Goexit; handshake reports its own
			c.panicked("serve", errGoexit)
		}
		if !goesOn {
			c.over()
		}
	}()
	if c.up || c.meet() && c.handshake() {
		c.up = true
		goesOn = c.serveRequests()
	}
	returned = true
}

// serveRequests serves until no request will come, or until another goroutine goes
// on with it.
func (c *httpConn) serveRequests() (goesOn bool) {
	for c.serveNext() {
		if c.dozed {
			c.renew()
			return true
		}
	}
	return false
}

// renew goes on with a new goroutine. Requests make the stack grow, and it does
// not shrink again while the goroutine waits in a read; most connections wait most
// of the time, and a small stack does for that.
func (c *httpConn) renew() {
	c.dozed = false
	c.s.loop.wg.Add(1)
	go c.serve()
}

// dozeAfter is how long a connection has to be idle to be worth that.
const dozeAfter = time.Second

// over is the end of the connection.
func (c *httpConn) over() {
	defer c.s.remove(c)
	defer c.discard()
	if c.nc != nil {
		c.close()
	}
}

// meet asks a foreign connection who its peer is, which may take as long as its peer
// likes, and reports whether the connection may stay.
func (c *httpConn) meet() bool {
	if !c.foreign {
		return true
	}
	c.deaf = c.nc.SetReadDeadline(noDeadline) != nil
	c.state.Or(connHandshake)
	c.setDeadline(deadlineAt(after(c.s.cfg.ReadHeaderTimeout)))
	if c.s.closing.Load() {
		c.poke() // again: it may have come before the deadline above
	}
	if c.isCut() { // before the first of the deadlines
		return false
	}
	var remote net.Addr
	err := aside(func() error { remote = c.nc.RemoteAddr(); return nil })
	c.remote = remote
	c.state.Or(connMet)
	if err != nil { // of what is below TLS
		c.panicked("address", err)
	}
	c.state.And(^connHandshake)
	c.setDeadline(noDeadline)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if ip := addrIP(c.remote); c.s.countIP(ip, 1) {
		c.ip = ip
		return true
	}
	c.s.loop.count.dropped.Add(1)
	c.s.loop.count.httpDropped.Add(1)
	return false
}

// handshake makes the connection one of TLS if it is to be. The callbacks of a
// tls.Config run in it; their panics are treated as those of all callbacks.
func (c *httpConn) handshake() (ok bool) {
	conf := c.s.cfg.TLS
	tc, ok := c.nc.(*tls.Conn) // of a TLS listener
	if conf == nil && !ok {
		return true
	}
	if !ok {
		tc = tls.Server(c.nc, conf)
	}
	// Deadlines instead of a context: cut and poke set one, too.
	c.state.Or(connHandshake)
	c.setDeadline(deadlineAt(after(c.s.cfg.ReadHeaderTimeout)))
	if c.s.closing.Load() {
		c.poke() // again: it may have come before the deadline above
	}
	err := errGoexit // unless HandshakeContext returns
	defer func() {
		if v := recover(); v != nil {
			err, ok = newPanicError(v), false
		}
		// io.EOF: a port scan. A server that closes has ended the wait itself.
		if err != nil && err != io.EOF && !(pastDeadline(err) && c.s.closing.Load()) {
			c.report("handshake", err)
		}
	}()
	if err = tc.HandshakeContext(context.Background()); err != nil {
		return false
	}
	c.state.And(^connHandshake)
	c.setDeadline(noDeadline)
	state := tc.ConnectionState()
	if state.NegotiatedProtocol == "h2" { // by a TLS listener of the application's
		err = errH2
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc, c.tls = tc, &state
	return true
}

// readGuarded reads from a connection that is no socket. Callbacks of a tls.Config
// may run in it.
func (c *httpConn) readGuarded(p []byte) (n int, err error) {
	n, err = guardedRead(c.nc, p)
	if isUncaught(err) {
		c.panicked("read", err)
	}
	return n, err
}

var errH2 = errors.New("the listener negotiated h2, which the server does not speak")

// setDeadline sets both deadlines, unless the connection was cut.
func (c *httpConn) setDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.is(connGone) {
		c.nc.SetDeadline(t)
	}
}

// report delivers what went wrong, unless the server is the reason.
func (c *httpConn) report(op string, err error) {
	if isUncaught(err) {
		c.panicked(op, err)
	} else if !c.is(connGone) {
		c.s.loop.send(httpErrTask{c.s, c.opError(op, err)})
	}
}

// panicked reports a panic of foreign code that was called for c.
func (c *httpConn) panicked(op string, err error) {
	err = c.opError(op, err)
	c.s.loop.stray(func() {
		if !c.s.loop.knowsPanic(err) {
			c.s.event(err)
		}
	})
}

// client returns the address of the client.
func (c *httpConn) client() string {
	if !c.is(connMet) || c.remote == nil {
		return "unknown client"
	}
	return c.remote.Network() + " " + c.remote.String()
}

func (c *httpConn) opError(op string, err error) error {
	e := &OpError{Op: op, Err: err}
	if c.is(connMet) && c.remote != nil {
		e.Net, e.Addr = c.remote.Network(), c.remote.String()
	}
	return e
}

// serveNext serves the next request and reports whether there may be one more.
func (c *httpConn) serveNext() bool {
	if !c.awaitRequest() {
		return false
	}
	c.served++
	r, status, err := c.readRequest()
	if err != nil {
		return false // the client is gone, or we are
	}
	if status != 0 {
		c.refuse(status)
		return false
	}
	l := c.s.loop
	l.count.httpRequests.Add(1)
	// The goroutine waits for the next request meanwhile, and for the client
	// going away, unless there is something else for it to do.
	direct := c.fd >= 0 && c.out.Len() == 0 && len(c.buffered()) == 0 &&
		r.stream == nil && len(r.body) <= smallBody
	if r.direct = direct; direct {
		c.cur.Store(r)
	}
	l.send((*httpRequestTask)(r))
	if direct {
		return c.finishDirect()
	}
	answered := c.await(r)
	if c.body.wake != nil {
		c.settleBody(r)
	}
	if !answered {
		c.abandon(r)
		return false
	}
	return c.finishRequest(r)
}

// abandon is called when r is lost. If the end of the connection is what would end
// the body, the client must not take this for it.
func (c *httpConn) abandon(r *HTTPRequest) {
	r.mu.Lock()
	c.reset, c.writer = r.untilClose, nil
	r.mu.Unlock()
}

// finishDirect is the rest of serveNext for a request that is answered by a
// writer. Nothing here holds on to the request, which would take memory as long as
// the connection is idle.
func (c *httpConn) finishDirect() bool {
	// The deadline may be too early, which does no harm: who waits for a request
	// looks again.
	until := c.dozeUntil()
	for {
		err := c.fillOr(until, c.back, false)
		r := c.cur.Load() // before looking: answered lets go of it afterwards
		if c.is(connSettled) {
			c.state.And(^(connSettled | connIdle))
			c.last = c.settledAt
			c.dozed = pastDeadline(err)
			c.eof = err != nil && err != errKicked && !pastDeadline(err)
			return true
		}
		if pastDeadline(err) { // an answer that takes so long may take much longer
			c.last = clock()
			until = c.idleUntil()
		}
		if answered, over := c.awaitDirect(r, err); over {
			c.state.And(^(connSettled | connIdle))
			c.cur.Store(nil) // no writer has it any more
			if !answered {
				c.abandon(r)
				return false
			}
			return c.finishRequest(r)
		}
	}
}

// smallBody is the most of a body that an idle connection may hold on to.
const smallBody = 4 << 10

// finishRequest is called when the whole answer is in c.out. It reports whether
// the connection is to be kept.
func (c *httpConn) finishRequest(r *HTTPRequest) bool {
	r.mu.Lock()
	keep, upgrade, watched := r.keep(), r.peek().upgraded, r.watched()
	r.ended = !watched
	c.last = r.at
	c.reset = r.cut && r.untilClose
	r.mu.Unlock()
	if !c.body.Over() {
		keep, c.linger = false, true
	}
	if upgrade != nil {
		c.handOver(r, upgrade)
		return false
	}
	// Answers to pipelined requests leave together.
	var err error
	if !keep || len(c.buffered()) == 0 || c.out.Len() >= defaultHighWater {
		err = c.flush()
	}
	c.writer = nil
	if watched {
		r.end(err)
	}
	if err != nil {
		c.reset = r.untilClose
		c.writeFailed(err)
		return false
	}
	return keep
}

// writeFailed reports that an answer could not be written.
func (c *httpConn) writeFailed(err error) {
	c.s.loop.count.httpAborts.Add(1)
	c.report("write", err)
}

// awaitRequest waits for the first byte of a request. It returns false if none
// comes, or is to come.
func (c *httpConn) awaitRequest() bool {
	if len(c.buffered()) > 0 {
		return true
	}
	if err := c.flush(); err != nil {
		c.writeFailed(err)
		return false
	}
	if c.eof {
		return false
	}
	c.release()
	err := c.fillOr(c.idleUntil(), nil, true)
	if err == errKicked {
		// The server closes. A request that is on its way already, or nearly,
		// is served: a client cannot know better.
		err = c.fill(after(lastCall))
	}
	c.last = clock() // the answer before may be long ago: see finishDirect
	return err == nil
}

// lastCall is how long a server that closes waits for a request on an idle
// connection.
const lastCall = time.Millisecond

// idleUntil returns when to give up.
func (c *httpConn) idleUntil() time.Duration {
	if c.served == 0 {
		return after(c.s.cfg.ReadHeaderTimeout)
	}
	return c.sinceLast(c.s.cfg.IdleTimeout)
}

// sinceLast returns the time when the last answer is d ago, or none if d is zero.
// A deadline that is armed already serves if it is not much later than need be, so
// a busy connection sets none.
func (c *httpConn) sinceLast(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	if left := c.armed - c.last; left >= d && left <= d+d/10 {
		return c.armed
	}
	return c.last + d + d/10
}

// dozeUntil returns when a connection is idle for long enough to doze, or for too
// long.
func (c *httpConn) dozeUntil() time.Duration {
	if d := c.s.cfg.IdleTimeout; d != 0 && d <= dozeAfter {
		return c.sinceLast(d)
	}
	return c.sinceLast(dozeAfter)
}

// buffered returns what has been read and not been used.
func (c *httpConn) buffered() []byte {
	if c.br == nil {
		return nil
	}
	b, _ := c.br.Peek(c.br.Buffered())
	return b
}

// release gives the reader back if it is empty.
func (c *httpConn) release() {
	if c.br != nil && c.br.Buffered() == 0 {
		c.s.putReader(c.br)
		c.br = nil
	}
}

// fill waits until more input is buffered, for which there must be room. When
// until has come the error is one that pastDeadline knows; errKicked means that
// the goroutine has to look at its orders.
func (c *httpConn) fill(until time.Duration) error {
	return c.fillOr(until, nil, false)
}

// fillOr is fill that a token on wake ends, too. idle says that it waits for a
// request, which a server that closes does not.
//
// No lock is taken where nothing happens but that input comes: who wants to end
// the wait leaves the reason first (a token, closing, connGone) and looks for
// connReading then; here it is the other way round, so one of the two sees the
// other.
func (c *httpConn) fillOr(until time.Duration, wake <-chan struct{}, idle bool) error {
	bits := connReading
	if idle {
		bits |= connIdle
	}
	for {
		if until != c.armed && (until != 0 || wake == nil) {
			c.arm(until)
		}
		c.state.Or(bits)
		var err error
		ordered := c.ordered(wake)
		if !ordered {
			err = c.read()
		}
		state := c.state.And(^(connReading | connIdle))
		bits |= state & connIdle // which answered may have set
		if state&connKicked != 0 {
			c.forgetKick()
			if err != nil && pastDeadline(err) {
				continue // there is an order, unless somebody has carried it out
			}
		}
		switch {
		case ordered:
			return errKicked
		case err == nil || !pastDeadline(err) || until != 0:
			return err
		}
		// A deadline from before, which fillOr leaves armed if it does not care.
		c.arm(0)
	}
}

// ordered reports whether there is something else to do than to wait for input.
func (c *httpConn) ordered(wake <-chan struct{}) bool {
	state := c.state.Load()
	if state&connGone != 0 || state&connIdle != 0 && c.s.closing.Load() {
		return true
	}
	select {
	case <-wake:
		return true
	default:
		return false
	}
}

// arm sets the read deadline, unless that of a cut is in force.
func (c *httpConn) arm(until time.Duration) {
	c.armed = until
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.is(connGone) {
		c.nc.SetReadDeadline(deadlineAt(until))
	}
}

// forgetKick takes the deadline of a kick away.
func (c *httpConn) forgetKick() {
	c.mu.Lock() // until who kicked has set it
	c.state.And(^connKicked)
	c.mu.Unlock()
	c.arm(0)
}

// read reads once into the reader, for which it waits without a buffer.
func (c *httpConn) read() error {
	if c.rc == nil {
		return c.readThrough()
	}
	if err := c.rc.Read(c.readFn); err != nil {
		return err
	}
	return c.ioErr
}

// readable is called when there may be something to read, and always tries:
// only after EAGAIN is it safe to park (returning false).
func (c *httpConn) readable(fd uintptr) (done bool) {
	if c.br == nil {
		c.br = c.s.getReader(c)
	}
	c.readFD = fd
	c.ioErr = c.readMore()
	switch {
	case c.ioErr == syscall.EAGAIN:
		c.release()
		return false
	case c.ioErr == io.EOF && sockio.WasReset(fd):
		c.ioErr = syscall.ECONNRESET // which a writer has met
	}
	return true
}

// readMore makes the reader read once.
func (c *httpConn) readMore() error {
	n := c.br.Buffered()
	_, err := c.br.Peek(n + 1)
	if c.br.Buffered() > n {
		return nil
	}
	return err
}

// readThrough is reading through net.Conn: TLS, and connections that are no
// sockets. A single byte is read first where there is no reader, so that an idle
// connection holds none; TLS has the rest of the record then.
func (c *httpConn) readThrough() error {
	if c.br == nil {
		if _, err := io.ReadFull(c.nc, c.first[:]); err != nil {
			return err
		}
		c.hasOne = true
		c.br = c.s.getReader(c)
	}
	return c.readMore()
}

// httpSource is what a connection's reader reads from.
type httpSource httpConn

func (src *httpSource) Read(p []byte) (n int, err error) {
	c := (*httpConn)(src)
	switch {
	case c.hasOne:
		c.hasOne = false
		p[0] = c.first[0]
		n = 1
	case c.rc == nil:
		n, err = c.readGuarded(p)
	default:
		var errno syscall.Errno
		n, errno = sockio.ReadFD(c.readFD, p)
		switch {
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		}
	}
	c.s.loop.count.httpBytesIn.Add(uint64(n))
	return n, err
}

// await waits for the answer to r, and writes what of it comes before the end. It
// carries the body to the application if it is taken as a stream, and watches
// for the client going away. It returns false if there is nobody to answer, or
// nobody who will.
func (c *httpConn) await(r *HTTPRequest) bool {
	for c.waitWriter(r); ; {
		r.mu.Lock()
		c.take(r)
		if c.writer = r.writer; c.writer != nil {
			c.writer.moving.Store(int64(c.out.Len()))
		}
		complete, lost, delayed := r.complete.Load(), r.isLost, r.delayed
		wanted, held := false, false
		if st := r.stream; st != nil && !st.whole {
			if wanted, held = st.wanted(), st.held; !held {
				c.consumePiece(st)
			}
		}
		r.mu.Unlock()
		switch {
		case lost:
			return false
		case complete:
			return true
		case c.isCut():
			if c.why == ErrLoopClosed {
				<-c.back // the dispatcher comes to r, too, and says what it loses
				break
			}
			r.lose(c.why)
		case delayed && c.out.Len() > 0:
			if err := c.flush(); err != nil {
				c.lose(r, "write", err)
				break // or it is complete meanwhile: finishRequest meets the error
			}
			r.drained()
		case wanted:
			c.moveBody(r)
		case delayed && !held: // a piece of the body is in the reader
			c.watch(r)
		default:
			<-c.back
		}
	}
}

// awaitDirect looks at a request that a writer is to answer, after a read that
// returned err. It returns over if that was all, or if the goroutine was needed
// after all and there is nothing more to wait for.
func (c *httpConn) awaitDirect(r *HTTPRequest, err error) (answered, over bool) {
	r.mu.Lock()
	flushed, blocked, lost := r.flushed, r.blocked, r.isLost
	r.mu.Unlock()
	switch {
	case flushed && err != nil && err != errKicked && !pastDeadline(err):
		c.eof = true
		return true, true
	case flushed:
		return true, true
	case err == io.EOF:
		c.eof = true
		r.aborted(err)
	case err != nil && err != errKicked && !pastDeadline(err):
		c.waitWriter(r)
		c.lose(r, "read", err)
	case pastDeadline(err),
		err == errKicked && !blocked && !lost && !c.is(connGone):
		return false, false
	}
	return c.await(r), true
}

// waitWriter waits until no writer has the output of r, and keeps it for the
// goroutine.
func (c *httpConn) waitWriter(r *HTTPRequest) {
	for r.keepFromWriters() {
		<-c.back
	}
}

// An httpWriter is a connection as the pool of writers sees it.
type httpWriter httpConn

// Flush writes what the kernel takes of the answer. When that is not all, the
// connection's goroutine has to go on.
func (w *httpWriter) Flush() {
	c := (*httpConn)(w)
	r := c.cur.Load()
	var space [sockio.MaxViews][]byte
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		views := r.writerViews(space[:])
		if len(views) == 0 {
			return
		}
		r.mu.Unlock()
		n, errno := sockio.WriteFD(uintptr(c.fd), views)
		r.mu.Lock()
		r.writerSent(n, errno)
	}
}

// take moves the output of r to that of the connection. The caller holds r.mu.
func (c *httpConn) take(r *HTTPRequest) {
	if c.out.Len() == 0 {
		c.out, r.out = r.out, c.out
		return
	}
	var views [sockio.MaxViews][]byte
	for r.out.Len() > 0 {
		n := 0
		for _, v := range views[:r.out.Views(views[:])] {
			c.out.Append(v)
			n += len(v)
		}
		r.out.Advance(n)
	}
}

// watch waits until there is something to do for r, and meanwhile for the client
// going away. A request that the client sends already is kept in the reader.
func (c *httpConn) watch(r *HTTPRequest) {
	if c.eof || c.deaf || len(c.buffered()) >= c.s.readerSize() {
		<-c.back
		return
	}
	c.release()
	switch err := c.fillOr(0, c.back, false); {
	case err == nil, err == errKicked:
	case err == io.EOF:
		c.eof = true
		r.aborted(err)
	default:
		c.lose(r, "read", err)
	}
}

// lose tells r that its client is gone.
func (c *httpConn) lose(r *HTTPRequest, op string, err error) {
	e := c.opError(OpRequest, err)
	r.lose(e)
	if op == "write" && pastDeadline(err) && !r.complete.Load() {
		c.report(op, err)
	}
}

// moveBody hands a piece of the body to the dispatcher.
func (c *httpConn) moveBody(r *HTTPRequest) {
	st := r.stream
	if len(st.first) > 0 {
		st.piece, st.first = st.first, nil
	} else {
		c.body.until = 0 // each wait has its own time
		if len(c.buffered()) == 0 {
			c.allowBody(r)
		}
		p, err := c.peekBody()
		if err != nil {
			c.endBody(r, err)
			return
		}
		st.piece = p
		st.peeked = len(p)
	}
	r.mu.Lock()
	st.held = true
	r.mu.Unlock()
	c.s.loop.send((*httpBodyTask)(r))
}

// allowBody sends 100 Continue if the client waits for it, unless a response has
// begun: interim responses come before the final one (RFC 9110 section 15.2), and
// after that the client sends the body unasked or not at all.
func (c *httpConn) allowBody(r *HTTPRequest) {
	if !c.body.expect {
		return
	}
	c.body.expect = false
	r.mu.Lock()
	begun := r.begun
	r.mu.Unlock()
	if !begun { // what begins now is sent later, by this goroutine, too
		c.send(continueHead)
	}
}

// consumePiece frees the room of a piece that the dispatcher is done with.
func (c *httpConn) consumePiece(st *bodyStream) {
	if st.peeked > 0 {
		c.consumeBody(st.peeked)
		st.peeked = 0
	}
}

// settleBody waits until no callback can have a piece of the body in its hands.
func (c *httpConn) settleBody(r *HTTPRequest) {
	for r.bodyInUse() {
		<-c.back
	}
}

// endBody tells r how its streamed body ended.
func (c *httpConn) endBody(r *HTTPRequest, err error) {
	st := r.stream
	gone := false
	switch {
	case err == io.EOF:
		err = nil
	case err == errKicked:
		return
	case err == errBadBody, err == fasthttp.ErrBodyTooLarge, pastDeadline(err):
		c.linger = true
		err = c.opError(OpRequest, err)
	default:
		gone = true
		err = c.opError(OpRequest, err)
	}
	r.mu.Lock()
	st.ended, st.err = true, err
	r.mu.Unlock()
	c.s.loop.send((*httpBodyTask)(r))
	if gone {
		r.lose(err)
	}
}

// refuse answers a request that is none.
func (c *httpConn) refuse(status int) {
	c.s.loop.count.answered(status)
	text := fasthttp.StatusMessage(status)
	var space [256]byte
	head := appendStatusLine(space[:0], status)
	head = appendDate(head, clock())
	head = append(head, "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "...)
	head = strconv.AppendInt(head, int64(len(text)+1), 10)
	head = append(head, "\r\n\r\n"...)
	head = append(head, text...)
	c.send(append(head, '\n'))
	c.linger = true
	c.flush()
}

// turnAway answers a connection that is one too many, and closes it. Nothing was
// sent on it before, so the kernel takes it all and nothing waits.
func (c *httpConn) turnAway() {
	if c.rc != nil {
		c.refuse(fasthttp.StatusTooManyRequests)
		c.rc.Read(func(fd uintptr) bool { // unread input would become a reset
			var b [1024]byte
			sockio.ReadFD(fd, b[:])
			return true
		})
	}
	c.discard()
	c.nc.Close()
}

// flush writes c.out.
func (c *httpConn) flush() error {
	for c.out.Len() > 0 {
		n := c.out.Len()
		var err error
		if c.rc != nil {
			err = c.writeRaw()
		} else {
			err = c.writeThrough()
		}
		if err != nil && !(pastDeadline(err) && c.out.Len() < n && !c.isCut()) {
			return err
		}
	}
	return nil
}

// sent takes n bytes that were written from the output. The writer of a stream can
// count on it at once, however long the rest takes.
func (c *httpConn) sent(n int) {
	c.out.Advance(n)
	c.s.loop.count.httpBytesOut.Add(uint64(n))
	if c.writer != nil {
		c.writer.moving.Add(-int64(n))
	}
}

// send queues output of the connection's own.
func (c *httpConn) send(p []byte) {
	c.s.loop.count.httpWritten.Add(uint64(len(p)))
	c.out.Append(p)
}

func (c *httpConn) isCut() bool { return c.is(connGone) }

// writeRaw writes to the descriptor: at first without waiting, and so without a
// deadline.
func (c *httpConn) writeRaw() error {
	c.blocks = false
	err := c.rc.Write(c.writeFn)
	if err != nil || c.ioErr != syscall.EAGAIN {
		return firstError(err, c.ioErr)
	}
	c.blocks = true
	c.setWriteDeadline(deadlineAt(after(c.s.cfg.WriteTimeout)))
	err = c.rc.Write(c.writeFn)
	c.setWriteDeadline(noDeadline)
	return firstError(err, c.ioErr)
}

func firstError(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// writable is called when the kernel may take something.
func (c *httpConn) writable(fd uintptr) (done bool) {
	var views [sockio.MaxViews][]byte
	for {
		n := c.out.Views(views[:])
		if n == 0 {
			c.ioErr = nil
			return true
		}
		n, errno := sockio.WriteFD(fd, views[:n])
		c.sent(n)
		switch errno {
		case 0:
		case syscall.EAGAIN:
			c.ioErr = errno
			return !c.blocks
		default:
			c.ioErr = errno
			return true
		}
	}
}

// writeThrough writes through net.Conn, a piece at a time, so that the deadline
// is that of a piece.
func (c *httpConn) writeThrough() error {
	var views [1][]byte
	c.out.Views(views[:])
	c.setWriteDeadline(deadlineAt(after(c.s.cfg.WriteTimeout)))
	n, err := guardedWrite(c.nc, views[0][:min(len(views[0]), 16<<10)])
	c.sent(n)
	return err
}

func (c *httpConn) setWriteDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.is(connGone) {
		c.nc.SetWriteDeadline(t)
	}
}

// discard drops the output that will not be written.
func (c *httpConn) discard() {
	c.s.loop.count.httpDiscarded.Add(uint64(c.out.Len()))
	c.out.Reset()
	if c.br != nil {
		c.s.putReader(c.br)
		c.br = nil
	}
}

// close closes the connection.
func (c *httpConn) close() {
	if c.reset {
		hangUp(c.nc)
		return
	}
	defer c.nc.Close()
	if !c.isCut() && (c.linger || len(c.buffered()) > 0) {
		c.drain()
	}
}

// hangUp closes a connection with a reset and, under TLS, without close_notify,
// since a proper end would end the body. On a unix socket, which knows no reset,
// there is nothing that the client could notice.
func hangUp(nc net.Conn) {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	if t, ok := nc.(interface{ SetLinger(sec int) error }); ok {
		t.SetLinger(0)
	}
	nc.Close()
}

// drain ends the output and reads on until the client closes, too (RFC 9112 section
// 9.6). Closing at once would make the kernel send a reset, which discards the
// response if the client has not read it yet. A client that uploads at full speed
// reads the response when it has sent all, so time bounds this, not bytes.
func (c *httpConn) drain() {
	cw, ok := c.nc.(closeWriter)
	if !ok {
		return
	}
	c.setDeadline(time.Now().Add(lingerTimeout))
	if cw.CloseWrite() != nil {
		return
	}
	b := sockio.GetBuffer(sockio.MaxBuffer)
	defer b.Release()
	for until := time.Now().Add(maxLinger); ; {
		if n, err := c.readInto(b.Room()); n == 0 || err != nil {
			return
		}
		if now := time.Now(); now.After(until) {
			return
		} else if !c.s.closing.Load() { // a server that closes waits no longer than once
			c.setDeadline(now.Add(lingerTimeout))
		}
	}
}

// readInto reads once into p, of which the bytes are going to be dropped.
func (c *httpConn) readInto(p []byte) (int, error) {
	if c.rc != nil {
		return sockio.ReadWait(c.rc, p)
	}
	return c.readGuarded(p)
}

// maxLinger bounds the reading after the last response. A client that pauses for
// lingerTimeout ends it sooner.
const maxLinger = 30 * time.Second

// kick wakes the goroutine from await and awaitDirect.
func (c *httpConn) kick() {
	c.token() // see fillOr
	if c.is(connReading) {
		c.endRead(connReading)
	}
}

// endRead ends a read if all bits are set still. It returns an error if the
// connection knows no deadlines.
func (c *httpConn) endRead(bits uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		state := c.state.Load()
		if state&bits != bits || state&connKicked != 0 {
			return nil
		}
		if c.state.CompareAndSwap(state, state|connKicked) {
			return c.nc.SetReadDeadline(longAgo)
		}
	}
}

func (c *httpConn) token() {
	select {
	case c.back <- struct{}{}:
	default:
	}
}

// answered says that r was answered, and that nothing is left to do for the
// goroutine but to wait for the next request. It may serve that as soon as
// connSettled is set. The caller holds r.mu.
func (c *httpConn) answered(r *HTTPRequest) {
	c.settledAt = r.at
	c.state.Or(connIdle | connSettled)
	c.cur.CompareAndSwap(r, nil) // unless that is the next one
	if c.s.closing.Load() {
		c.kick()
	}
}

// poke ends the wait for a request that did not begin to arrive. A handshake gets
// handshakeGrace to end.
func (c *httpConn) poke() {
	if c.is(connHandshake) {
		c.setDeadline(time.Now().Add(handshakeGrace))
		return
	}
	if c.endRead(connReading|connIdle) != nil {
		c.s.loop.closeConn(c.nc)
	}
}

// handshakeGrace is how long a server that closes waits for a TLS handshake. The
// client may have sent nothing at all.
const handshakeGrace = time.Second

// cut closes the connection by force.
func (c *httpConn) cut(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.is(connGone) {
		return
	}
	c.why = why
	c.state.Or(connGone | connKicked)
	if c.nc == nil {
		return // handed over
	}
	if c.nc.SetDeadline(longAgo) != nil {
		c.s.loop.closeConn(c.nc) // it knows no deadlines
	}
	c.token()
}
