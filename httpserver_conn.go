package eventloop

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/onloop/eventloop/internal/writers"
)

// An httpConn is a connection of a server. Its goroutine reads a request, parses it,
// passes it to the dispatcher, and reads the next one. The connection owns the output:
// responses are appended to it, and a writer of the core sends it.
type httpConn struct {
	s    *HTTPServer
	core netcore.Conn // its lock is also that of the requests

	// Set before the first request.
	remote net.Addr
	tls    *tls.ConnectionState // nil for plaintext

	hasRemote atomic.Bool // remote is set
	gone      atomic.Bool // closed by force; set with the lock held

	// There are many idle connections, so the order of the fields below minimizes padding.

	// Set before the first request.
	foreign          bool // the net.Conn is not from package net: see readRemote
	ignoresDeadlines bool // deadlines have no effect, so no read can be interrupted
	counted          bool // for a foreign connection: its address counts for MaxConnsPerIP

	// Owned by the connection's goroutine.
	up       bool // the handshake is complete
	upgraded bool // the connection belongs to a Conn, which also counts for MaxConns
	awaiting bool // a request was passed on, and the goroutine is in await
	wasIdle  bool // idle for a while: see renew
	slow     bool // the current request takes longer than renewAfter
	eof      bool // the client has ended its side, or has disconnected
	linger   bool // there may be input that will not be read
	in       input
	armed    time.Duration // the read deadline, by clock; zero if there is none
	last     time.Duration // when the last response was complete, or start ended, by clock
	served   int           // number of requests
	body     bodyReader    // of the current request

	// Guarded by the lock.
	phase       httpPhase
	reading     httpWait
	corked      bool         // output waits for the response to the next request
	dropped     bool         // output is discarded
	reset       bool         // the client must notice that the response is incomplete
	untilEnd    bool         // the end of the connection ends the body of a response
	late        bool         // phaseStart took too long
	cur         *HTTPRequest // the current request; nil if the goroutine need not return to it
	queued      int64        // bytes of output, in total
	sent        int64        // of queued: bytes that the kernel has taken, or that were discarded
	unsent      []*HTTPRequest
	respondedAt time.Duration // when a response was complete while the goroutine read ahead
	why         error         // why gone is set
	cancel      context.CancelFunc
	limit       *time.Timer // limits phaseStart, and a read after interrupt
}

// httpPhase is the phase of a connection.
type httpPhase uint8

const (
	phaseStart httpPhase = iota // RemoteAddr or the handshake is running
	phaseServe
	phaseOver // the goroutine is closing the connection, or it belongs to a Conn
)

// httpWait is the kind of wait of a connection's goroutine, as far as other goroutines
// need to know it.
type httpWait uint8

const (
	waitOther httpWait = iota
	waitAhead          // for the next request: an ordinary response need not wake it
	waitIdle           // for a request, while no request is open
	waitRoom           // for output to be sent
)

func newHTTPConn(s *HTTPServer, nc net.Conn) *httpConn {
	c := &httpConn{s: s}
	nc = guardConn(nc, c.panicked)
	c.core.Init((*httpUser)(c))
	c.core.Lock()
	if s.cfg.TLS != nil {
		c.core.Secure()
	}
	c.core.SetStall(s.cfg.WriteTimeout)
	c.core.Unlock()
	if c.foreign = !s.ours && isForeign(nc); !c.foreign {
		c.remote = nc.RemoteAddr()
		c.hasRemote.Store(true)
		if !s.ours {
			nc.SetDeadline(noDeadline)
		}
	}
	c.core.Attach(nc, s.ours)
	return c
}

// after returns the time d from now, by clock. If d is zero it returns zero: no deadline.
func after(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return clock() + d
}

// deadlineAt converts a time of the clock to a deadline for a net.Conn.
func deadlineAt(at time.Duration) time.Time {
	if at == 0 {
		return noDeadline
	}
	return clockBase.Add(at)
}

// serve is the connection's goroutine. A parked connection has none.
func (c *httpConn) serve() {
	step, returned := httpEnds, false
	defer func() {
		switch {
		case !returned && c.up: // foreign code called Goexit; the handshake reports that itself
			c.panicked(OpServe, errGoexit)
			c.end()
		case step == httpEnds:
			c.end()
		}
	}()
	if c.up || c.start() {
		c.up = true
		for step = httpGoesOn; step == httpGoesOn; {
			step = c.serveNext()
		}
	}
	returned = true
}

// An httpOutcome is the next step of a connection's goroutine.
type httpOutcome uint8

const (
	httpEnds   httpOutcome = iota // close the connection
	httpGoesOn                    // serve the next request
	httpLeaves                    // return: the connection is parked, or has another goroutine
)

// renew continues on a new goroutine, where connections cannot be parked. Requests make
// the stack grow, and the stack does not shrink while the goroutine waits in a read. Most
// connections wait most of the time, and a small stack is enough for that.
func (c *httpConn) renew() {
	c.wasIdle = false
	c.s.loop.wg.Go(c.serve)
}

// renewAfter is how long a connection must be idle before renew pays off.
const renewAfter = time.Second

// report delivers an error of the connection, unless the server has closed it.
func (c *httpConn) report(op string, err error) {
	if isUncaught(err) {
		c.panicked(op, err)
	} else if !c.gone.Load() {
		c.s.loop.send(httpErrTask{c, c.opError(op, err)})
	}
}

// panicked reports a panic of foreign code that was called for c.
func (c *httpConn) panicked(op string, err error) {
	err = c.opError(op, err)
	c.s.loop.postReport(func() {
		if !c.s.loop.knowsPanic(err) {
			c.s.event(err)
		}
	})
}

// ip returns the address that counts for MaxConnsPerIP, or the zero Addr if the
// connection does not count.
func (c *httpConn) ip() netip.Addr {
	if c.foreign && !c.counted {
		return netip.Addr{}
	}
	return addrIP(c.remote)
}

// name returns the client's address as readable text.
func (c *httpConn) name() string {
	if !c.hasRemote.Load() || c.remote == nil {
		return "unknown client"
	}
	return c.remote.Network() + " " + c.remote.String()
}

func (c *httpConn) opError(op string, err error) error {
	e := &OpError{Op: op, Err: err}
	if c.hasRemote.Load() && c.remote != nil {
		e.Net, e.Addr = c.remote.Network(), c.remote.String()
	}
	return e
}

// serveNext serves the next request, or continues with the current one.
func (c *httpConn) serveNext() httpOutcome {
	if !c.awaiting {
		if step := c.awaitRequest(); step != httpGoesOn {
			return step
		}
		if !c.takeRequest() {
			return httpEnds
		}
		c.awaiting = true
	}
	step := c.await()
	switch {
	case step == httpLeaves:
		return step
	case step == httpGoesOn && c.wasIdle:
		c.awaiting = false
		c.renew()
		return httpLeaves
	}
	c.awaiting = false
	return step
}

// takeRequest reads a request and passes it to the dispatcher. It returns false if there
// is none.
func (c *httpConn) takeRequest() bool {
	c.served++
	r, status, err := c.readRequest()
	if err != nil {
		return false // the client has disconnected, or the connection was closed by force
	}
	if status != 0 {
		c.refuse(status)
		return false
	}
	c.core.Lock()
	if c.dropped {
		c.core.Unlock()
		return false
	}
	c.cur = r
	// Responses to pipelined requests leave together.
	c.corked = len(c.in.p) > 0
	c.core.Unlock()
	c.slow = false
	c.s.loop.count.httpRequests.Add(1)
	c.s.loop.send((*httpRequestTask)(r))
	return true
}

// awaitRequest waits for the first byte of a request, or for the end of the connection.
func (c *httpConn) awaitRequest() httpOutcome {
	if !c.awaitRoom() {
		return httpEnds
	}
	if len(c.in.p) > 0 {
		return httpGoesOn
	}
	if c.eof {
		return httpEnds
	}
	c.idles(waitIdle)
	step := c.idle()
	if step != httpLeaves {
		c.idles(waitOther)
	}
	return step
}

// idle waits for the first byte of a request while no request is open.
func (c *httpConn) idle() httpOutcome {
	for !c.isOver() {
		if c.s.closing.Load() {
			return c.awaitLast()
		}
		switch err := c.fillOrPark(c.idleUntil(), headRead); {
		case err == nil:
			c.last = clock() // the last response may be long ago: see readAhead
			return httpGoesOn
		case err == netcore.ErrParked:
			return httpLeaves
		case err != netcore.ErrWoken:
			c.eof = !deadlinePassed(err)
			return httpEnds
		}
	}
	return httpEnds
}

// awaitLast waits for a request that is already in flight: the client cannot know that
// the server is closing.
func (c *httpConn) awaitLast() httpOutcome {
	c.core.Lock()
	c.limitRead()
	c.core.Unlock()
	until := after(lastRequestWait)
	for !c.isOver() {
		if err := c.fill(until, headRead); err != netcore.ErrWoken {
			c.eof = err != nil && !deadlinePassed(err)
			if err == nil {
				return httpGoesOn
			}
			return httpEnds
		}
	}
	return httpEnds
}

// lastRequestWait is how long a server that is closing waits for a request on an idle
// connection.
const lastRequestWait = time.Millisecond

// awaitRoom waits while too much output is pending. This slows down a client that sends
// requests and does not read the responses. It returns false if the output will not be
// sent.
func (c *httpConn) awaitRoom() bool {
	for {
		c.core.Lock()
		c.reading = waitOther
		full, lost := c.core.Pending() >= defaultHighWater, c.dropped
		if full && !lost {
			c.reading, c.corked = waitRoom, false
			c.core.Send()
		}
		c.core.Unlock()
		switch {
		case lost:
			return false
		case !full:
			return true
		}
		c.core.Wait()
	}
}

// idles sets what the goroutine waits for, and sends the output that was held back to
// leave together with the next response.
func (c *httpConn) idles(w httpWait) {
	c.core.Lock()
	c.reading, c.corked = w, false
	c.core.Send()
	c.core.Unlock()
}

// interrupt makes the goroutine look at its state again. No further request is expected.
// Waking the goroutine ends its read. If deadlines have no effect on the connection,
// limitRead closes it instead. The caller holds the lock.
func (c *httpConn) interrupt() {
	c.core.Wake()
	c.limitRead()
}

// limitRead arranges for the connection to be closed if its goroutine does not return
// from a read in time. The caller holds the lock.
func (c *httpConn) limitRead() {
	if !c.core.Raw() && c.isStuck() && c.limit == nil {
		c.limit = time.AfterFunc(interruptGrace, c.closeStuck)
	}
}

// interruptGrace is how long a goroutine may take to return from an interrupted read.
const interruptGrace = time.Second

// isStuck reports whether the goroutine waits for a request, and no request is open. The
// caller holds the lock.
func (c *httpConn) isStuck() bool {
	return c.reading == waitIdle || c.reading == waitAhead && (c.cur == nil || c.cur.over())
}

func (c *httpConn) closeStuck() {
	c.core.Lock()
	defer c.core.Unlock()
	switch {
	case !c.isStuck() || c.gone.Load():
		c.limit = nil
	case c.core.Pending() > 0:
		c.limit.Reset(interruptGrace)
	default:
		c.core.Cut(false)
	}
}

// uncork sends the output that was held back to leave together with the next response.
func (c *httpConn) uncork() {
	c.core.Lock()
	c.corked = false
	c.core.Send()
	c.core.Unlock()
}

// idleUntil returns the deadline of the wait for a request, or zero if there is none. It
// does not depend on the time of the call, because a wait that is interrupted, for
// example to park the connection, continues later.
func (c *httpConn) idleUntil() time.Duration {
	if d := c.s.cfg.ReadHeaderTimeout; c.served == 0 && d != 0 {
		return c.last + d
	} else if c.served == 0 {
		return 0
	}
	return c.sinceLast(c.s.cfg.IdleTimeout)
}

// sinceLast returns a deadline d after the last response, or zero if d is zero. The
// deadline may be up to a tenth of d late, so it can keep the armed deadline in most
// cases, and a busy connection sets none.
func (c *httpConn) sinceLast(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	if left := c.armed - c.last; left >= d && left <= d+d/10 {
		return c.armed
	}
	return c.last + d + d/10
}

// renewAt returns when the connection has been idle for renewAfter, or for IdleTimeout
// if that is shorter.
func (c *httpConn) renewAt() time.Duration {
	if d := c.s.cfg.IdleTimeout; d != 0 && d <= renewAfter {
		return c.sinceLast(d)
	}
	return c.sinceLast(renewAfter)
}

// Sizes of reads: for a head, and the largest for a body.
const (
	headRead = 4 << 10
	bodyRead = sockio.MaxBuffer
)

// fill waits for more input and reads up to size bytes. After until, it returns an error
// for which deadlinePassed is true. netcore.ErrWoken means that the goroutine must look at
// its state again.
func (c *httpConn) fill(until time.Duration, size int) error {
	c.arm(until)
	return c.took(c.core.Read(size))
}

// fillOrPark is like fill, but may park the connection. Then it returns
// netcore.ErrParked, and the goroutine must not touch the connection again.
func (c *httpConn) fillOrPark(until time.Duration, size int) error {
	c.arm(until)
	return c.took(c.core.ReadOrPark(size))
}

// arm sets the read deadline.
func (c *httpConn) arm(until time.Duration) {
	if until != c.armed {
		c.armed = until
		c.core.SetReadDeadline(deadlineAt(until))
	}
}

// took adds the result of a read to the input, or returns its error.
func (c *httpConn) took(b *sockio.Buffer, err error) error {
	switch {
	case b != nil:
		c.s.loop.count.httpBytesIn.Add(uint64(b.Len()))
		c.in.add(b)
		return nil
	case isUncaught(err):
		c.panicked(OpRead, err)
	case err == netcore.ErrTruncated:
		return io.EOF // the framing of HTTP shows whether a message is complete
	}
	return err
}

// fillAll is like fill, but returns netcore.ErrWoken only at the end of the connection.
func (c *httpConn) fillAll(until time.Duration, size int) error {
	for {
		err := c.fill(until, size)
		if err != netcore.ErrWoken || c.isOver() {
			return err
		}
	}
}

// isOver reports whether output is discarded, so that no response can be sent.
func (c *httpConn) isOver() bool {
	c.core.Lock()
	defer c.core.Unlock()
	return c.dropped
}

// An httpStep is the next step of the goroutine for the current request.
type httpStep uint8

const (
	stepWait   httpStep = iota // wait for a wake-up
	stepAhead                  // read what follows the request
	stepWatch                  // only watch for a failure of the connection
	stepBody                   // read a piece of the body
	stepFinish                 // the response is complete
	stepLost                   // there will be no response
)

// await waits until the response to the current request is complete. Meanwhile it passes
// a streamed body to the application and watches for the client to disconnect. While it
// reads ahead it keeps no reference to a request whose response is complete, because the
// next request may come much later.
func (c *httpConn) await() httpOutcome {
	for {
		c.core.Lock()
		r := c.cur
		if r == nil { // the response was completed meanwhile
			c.last = c.respondedAt
			c.core.Unlock()
			return httpGoesOn
		}
		step := c.nextStep(r)
		c.core.Unlock()
		switch step {
		case stepFinish:
			if c.finishRequest(r) {
				return httpGoesOn
			}
			return httpEnds
		case stepLost:
			c.abandon(r)
			return httpEnds
		case stepBody:
			r.moveBody()
		case stepAhead:
			if !c.readAhead() {
				return httpLeaves
			}
		case stepWatch:
			switch err := c.core.WatchOrPark(false); err {
			case netcore.ErrWoken:
			case netcore.ErrParked:
				return httpLeaves
			default:
				c.lose(r, OpRead, err)
			}
		default:
			if !c.core.WaitOrPark() {
				return httpLeaves
			}
		}
	}
}

// nextStep returns the next step for r. The caller holds the lock.
func (c *httpConn) nextStep(r *HTTPRequest) httpStep {
	c.reading = waitOther // the connection may have been parked while it read ahead
	st := r.stream
	if st != nil && !st.held {
		c.consumePiece()
	}
	switch state := r.state(); {
	case st.inUse(r.over()):
		return stepWait // until no callback can hold a piece of the body
	case state == responseLost:
		return stepLost
	case state == responseComplete:
		return stepFinish
	case c.gone.Load() && c.why == ErrLoopClosed:
		return stepWait // the dispatcher also ends r, and reports what r loses
	case c.gone.Load():
		r.loseLocked(c.why)
		return stepLost
	case st.wanted():
		return stepBody
	case !r.delayed && (c.corked || st.reads()):
		return stepWait // for the handler to return
	}
	if c.corked { // the response may take long
		c.corked = false
		c.core.Send()
	}
	switch {
	case c.eof:
		return stepWatch
	case c.ignoresDeadlines, len(c.in.p) >= c.s.maxAhead():
		return stepWait
	}
	if len(c.in.p) == 0 {
		c.reading = waitAhead
	}
	return stepAhead
}

// readAhead waits for input from the client before the response is complete. It returns
// false if the connection is parked.
func (c *httpConn) readAhead() bool {
	until := c.renewAt()
	if c.slow || c.core.Raw() {
		until = c.idleUntil()
	}
	err := c.fillOrPark(until, headRead)
	if err == netcore.ErrParked {
		return false
	}
	c.core.Lock()
	c.reading = waitOther
	r := c.cur
	c.core.Unlock()
	switch {
	case err == nil, err == netcore.ErrWoken:
	case deadlinePassed(err) && r == nil:
		c.wasIdle = !c.core.Raw()
	case deadlinePassed(err): // a response that takes this long may take much longer
		c.last, c.slow = clock(), true
	default:
		c.eof = true
		if r != nil && err == io.EOF {
			r.aborted(err)
		} else if r != nil {
			c.lose(r, OpRead, err)
		}
	}
	return true
}

// abandon is called when r is lost. If the end of the connection would end the body, the
// client must not mistake this end for it.
func (c *httpConn) abandon(r *HTTPRequest) {
	c.core.Lock()
	defer c.core.Unlock()
	c.reset = c.reset || r.untilClose
	c.cur = nil
}

// finishRequest is called when the whole response is in the output. It reports whether
// to keep the connection.
func (c *httpConn) finishRequest(r *HTTPRequest) bool {
	c.core.Lock()
	keep, x := r.keep(), r.peek()
	hijacked := x.served != nil && x.served.hijacked
	c.cur, c.last = nil, r.at
	c.reset = c.reset || r.cut && r.untilClose
	if !c.body.Over() {
		keep, c.linger = false, true
	}
	if !keep || len(c.in.p) == 0 {
		c.corked = false
		c.core.Send()
	}
	c.core.Unlock()
	switch {
	case x.upgraded != nil:
		c.handOver(r, x.upgraded)
	case hijacked:
		c.giveUp(r, x.served)
	}
	return keep
}

// lose ends r because its client has disconnected.
func (c *httpConn) lose(r *HTTPRequest, op string, err error) {
	r.lose(c.opError(OpRequest, err))
	if isUncaught(err) {
		c.panicked(op, err)
	}
}

// An httpUser is the httpConn as the user of its core.
type httpUser httpConn

func (u *httpUser) Go(f func()) { u.s.loop.wg.Go(f) }

func (u *httpUser) Aside(f func() error) error {
	c := (*httpConn)(u)
	return u.s.loop.aside(func() string { return "TLS handshake of http server " + addrName(c.s.addr) }, f)
}

func (u *httpUser) Enqueue(job writers.Job)            { u.s.loop.enqueue(job) }
func (u *httpUser) Poller() *netcore.Poller            { return &u.s.loop.poller }
func (u *httpUser) Serve()                             { (*httpConn)(u).serve() }
func (u *httpUser) CloseAside(nc net.Conn, reset bool) { u.s.loop.closeWith(nc, reset) }
func (u *httpUser) Report()                            {}

func (u *httpUser) Recovered(v any) error { return uncaught(v) }

// Sent accounts for output that the kernel has taken.
func (u *httpUser) Sent(n int, _ bool) bool {
	c := (*httpConn)(u)
	c.s.loop.count.httpBytesOut.Add(uint64(n))
	c.sent += int64(n)
	c.endSent(nil)
	if r := c.cur; r != nil {
		r.sent()
	}
	if c.reading == waitRoom && c.core.Pending() <= defaultHighWater/2 {
		c.reading = waitOther
		c.core.Wake()
	}
	return false
}

// WriteFailed ends the connection: its output cannot be written.
func (u *httpUser) WriteFailed(err error) {
	c := (*httpConn)(u)
	c.core.Lock()
	r := c.cur
	c.reset = c.reset || c.untilEnd
	c.discardFor(err)
	lost := r != nil && r.state() < responseComplete
	if lost {
		r.loseLocked(c.opError(OpRequest, err))
	}
	c.core.Wake()
	c.core.Unlock()
	if !lost {
		c.s.loop.count.httpAborts.Add(1)
	}
	if !lost || deadlinePassed(err) || isUncaught(err) {
		c.report(OpWrite, err)
	}
}
