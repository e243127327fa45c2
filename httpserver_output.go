package eventloop

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// An exchange receives a request and sends its response: a connection of our own server (httpConn),
// or a handler mounted in a foreign server (mountExchange). The caller of the methods below the
// line holds the lock of the request.
type exchange interface {
	client() net.Addr
	secured() *tls.ConnectionState
	settings() *HTTPServerConfig
	context() context.Context        // the parent of the request's context
	httpRequest() *http.Request      // nil unless the server is one of net/http
	handler() func(r *HTTPRequest)   // of the application
	mayUpgrade() bool                // the connection can become a Conn
	send(t task)                     // from the goroutine of the exchange to the dispatcher
	event(r *HTTPRequest, err error) // reports an error of our side, on the loop
	deliverEvent(err error)          // like event, for errors that do not concern the loop

	// ------------------------------------------------------------------------

	// wake makes the goroutine of the exchange look at r again.
	wake()

	// mayStream returns an error if the response cannot be sent in parts.
	mayStream() error

	// respond queues the whole response.
	respond(r *HTTPRequest, status int, headers HTTPHeaders, body []byte)

	// open queues the head of a response. The body follows later. It has length bytes or,
	// if length is negative, an unknown number. open reports whether the caller must
	// encode the body in chunks.
	open(r *HTTPRequest, status int, headers HTTPHeaders, length int64) (chunked bool)

	// queue appends to the body. flush sends the queued output.
	queue(p []byte)
	flush()

	// pending returns how many queued bytes of the response the kernel has not taken.
	pending(r *HTTPRequest) int

	// completed is called when the whole response is queued, and lost when there can be no
	// response. abort discards the unsent output of the response.
	completed(r *HTTPRequest)
	lost(r *HTTPRequest)
	abort(r *HTTPRequest)

	// serveHTTP starts s, which makes the response.
	serveHTTP(r *HTTPRequest, s *servedResponse)

	// whenSent arranges for r.endLocked to be called when the kernel has taken the whole
	// response. It returns false if the kernel already has.
	whenSent(r *HTTPRequest) bool
}

func (c *httpConn) client() net.Addr                { return c.remote }
func (c *httpConn) secured() *tls.ConnectionState   { return c.tls }
func (c *httpConn) settings() *HTTPServerConfig     { return c.s.cfg }
func (c *httpConn) context() context.Context        { return c.s.loop.ctx }
func (c *httpConn) httpRequest() *http.Request      { return nil }
func (c *httpConn) handler() func(*HTTPRequest)     { return c.s.handler }
func (c *httpConn) mayUpgrade() bool                { return true }
func (c *httpConn) send(t task)                     { c.s.loop.send(t) }
func (c *httpConn) event(_ *HTTPRequest, err error) { c.s.event(err) }
func (c *httpConn) deliverEvent(err error)          { c.s.deliverEvent(err) }
func (c *httpConn) wake()                           { c.core.Wake() }
func (c *httpConn) mayStream() error                { return nil }
func (c *httpConn) lost(*HTTPRequest)               { c.core.Wake() }

func (c *httpConn) respond(r *HTTPRequest, status int, headers HTTPHeaders, body []byte) {
	var space [1024]byte
	r.pos = c.queued
	b := c.appendHead(space[:0], r, status, headers, int64(len(body)))
	switch {
	case r.bodyless(status):
		c.queue(b)
	case len(body) <= cap(b)-len(b):
		c.queue(append(b, body...))
	default:
		c.queue(b)
		c.queue(body)
	}
}

func (c *httpConn) open(r *HTTPRequest, status int, headers HTTPHeaders, length int64) (chunked bool) {
	var space [1024]byte
	r.pos = c.queued
	c.queue(c.appendHead(space[:0], r, status, headers, length))
	return length < 0 && r.head.HTTP11
}

// serveHTTP starts a server of net/http for the response. That server frames the response,
// so we know that the end of the connection ends the body only for HTTP/1.0 clients,
// which do not support chunks.
func (c *httpConn) serveHTTP(r *HTTPRequest, s *servedResponse) {
	r.pos = c.queued
	if !r.head.HTTP11 {
		r.untilClose, c.untilEnd = true, true
	}
	local := c.s.addr
	if !c.foreign {
		local = c.core.NetConn().LocalAddr()
	}
	s.server.SetKeepAlivesEnabled(!c.lastRequest())
	s.start(local)
}

// queue appends p to the output. The caller holds the lock.
func (c *httpConn) queue(p []byte) {
	c.s.loop.count.httpWritten.Add(uint64(len(p)))
	if c.dropped {
		c.s.loop.count.httpDiscarded.Add(uint64(len(p)))
		return
	}
	c.core.Queue().Append(p)
	c.queued += int64(len(p))
}

// flush sends the output, unless it is held back for the responses to pipelined requests:
// then the goroutine decides.
func (c *httpConn) flush() {
	if c.corked {
		c.core.Wake()
	} else {
		c.core.Send()
	}
}

func (c *httpConn) pending(r *HTTPRequest) int {
	end := c.queued
	if r.state() == responseComplete {
		end = r.pos
	}
	return int(max(0, end-c.sent))
}

// completed sends the output. If the goroutine is reading ahead, as usual, it need not wake
// after an ordinary response: the next input is the next request, unless the request body
// is not read to its end. The goroutine does not touch c.body while it reads ahead.
func (c *httpConn) completed(r *HTTPRequest) {
	r.pos = c.queued
	if r.watched() && !c.whenSent(r) {
		r.endLocked(nil)
	}
	if !c.corked {
		c.core.Send()
	}
	if c.reading == waitAhead && c.cur == r && r.keep() && c.body.Over() && !c.s.closing.Load() {
		c.cur, c.respondedAt = nil, r.at
		return
	}
	c.interrupt()
}

// abort discards the unsent output of the response to r.
func (c *httpConn) abort(r *HTTPRequest) {
	if c.sent >= r.pos { // nothing of an earlier response is pending
		c.discard()
		c.core.Cut(c.untilEnd)
	}
}

func (c *httpConn) whenSent(r *HTTPRequest) bool {
	if c.sent >= r.pos {
		return false
	}
	c.unsent = append(c.unsent, r)
	return true
}

// endSent ends the requests whose responses the kernel has taken. The caller holds the
// lock.
func (c *httpConn) endSent(err error) {
	n := 0
	for n < len(c.unsent) && c.unsent[n].pos <= c.sent {
		c.unsent[n].endLocked(err)
		n++
	}
	if n > 0 {
		c.unsent = append(c.unsent[:0], c.unsent[n:]...)
	}
}

// discard counts the output as discarded: it will not be sent. The caller holds the lock.
func (c *httpConn) discard() { c.discardFor(net.ErrClosed) }

// discardFor is like discard. The contexts of the requests end with the cause err.
func (c *httpConn) discardFor(err error) {
	if !c.dropped {
		c.dropped = true
		c.s.loop.count.httpDiscarded.Add(uint64(c.core.Pending()))
	}
	c.sent = c.queued
	c.endSent(err)
}

// lastRequest reports whether the connection serves no request after the current one.
func (c *httpConn) lastRequest() bool {
	most := c.s.cfg.MaxRequestsPerConn
	return c.s.closing.Load() || most > 0 && c.served >= most
}

// appendHead appends the head of a response. The body has length bytes or, if length is
// negative, an unknown number. The caller holds the lock.
func (c *httpConn) appendHead(b []byte, r *HTTPRequest, status int, headers HTTPHeaders, length int64) []byte {
	b = appendStatusLine(b, status)
	r.last = r.head.Close || c.lastRequest() || r.bodyLeft()
	r.at = clock()
	dated, upgrade, stated := false, false, ""
	for i := range headers {
		f := &headers[i]
		switch len(f.Name) {
		case len("Date"):
			dated = dated || http1.EqualFold(f.Name, "Date")
		case len("Connection"):
			if http1.EqualFold(f.Name, "Connection") {
				r.last = r.last || headers[i:i+1].hasToken("Connection", "close")
				upgrade = upgrade || headers[i:i+1].hasToken("Connection", "upgrade")
				continue
			}
		case len("Content-Length"):
			if http1.EqualFold(f.Name, "Content-Length") {
				if stated == "" { // the first field counts
					stated = f.Value
				}
				continue
			}
		case len("Transfer-Encoding"):
			if http1.EqualFold(f.Name, "Transfer-Encoding") {
				continue
			}
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
	}
	if !dated {
		b = appendDate(b, r.at)
	}
	b = c.appendFraming(b, r, status, length, stated)
	switch {
	case upgrade:
		b = append(b, "Connection: Upgrade\r\n"...)
	case r.last:
		b = append(b, "Connection: close\r\n"...)
	case !r.head.HTTP11:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendFraming appends the field that frames the body (RFC 9112 section 6), if it needs
// one. stated is the Content-Length of the application.
func (c *httpConn) appendFraming(b []byte, r *HTTPRequest, status int, length int64, stated string) []byte {
	switch {
	case status == fasthttp.StatusSwitchingProtocols, status == fasthttp.StatusNoContent:
		return b
	case status == fasthttp.StatusResetContent:
		length = 0
	case status == fasthttp.StatusNotModified, r.Method() == fasthttp.MethodHead:
		// The length is that of the response to a GET, which only the application knows.
		if n, ok := http1.ParseLength(stated); ok {
			length = n
		} else if length == 0 || status == fasthttp.StatusNotModified {
			return b
		}
	}
	if length >= 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		return append(b, "\r\n"...)
	}
	if r.head.HTTP11 {
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	r.last, r.untilClose, c.untilEnd = true, true, true
	return b
}

// leave removes the connection from the server. It returns the net.Conn and the input that
// was read ahead. If the connection has failed, nc is nil.
func (c *httpConn) leave(r *HTTPRequest) (nc net.Conn, rest []byte, err error) {
	rest = append([]byte(nil), c.in.p...)
	c.in.release()
	nc = c.core.Release()
	c.core.Lock()
	c.upgraded = true
	err = c.core.WriteError()
	if err == nil {
		err = c.why
	}
	r.endLocked(err)
	if nc == nil {
		c.discard()
	}
	gone := c.gone.Load()
	c.core.Unlock()
	if nc != nil && gone {
		c.s.loop.closeConn(nc)
		nc = nil
	}
	return nc, rest, err
}

// leaveServer stops counting the connection for the limits of the server.
func (c *httpConn) leaveServer() { c.s.release(c.ip()) }

// giveUp passes the connection to the http.Handler that has hijacked it.
func (c *httpConn) giveUp(r *HTTPRequest, s *servedResponse) {
	unread := s.takeUnread(c)
	nc, rest, _ := c.leave(r)
	rest = append(unread, rest...)
	if nc == nil {
		c.leaveServer()
	} else {
		nc = &hijackedConn{prefixConn: prefixConn{Conn: unguarded(nc), rest: rest}, left: c.leaveServer}
	}
	c.core.Lock()
	defer c.core.Unlock()
	s.adopt(nc)
}

// handOver passes the connection to the Conn that Upgrade has made.
func (c *httpConn) handOver(r *HTTPRequest, to *Conn) {
	to.core.Lock()
	to.extra().release = c.leaveServer
	to.core.Unlock()
	nc, rest, err := c.leave(r)
	if nc == nil {
		to.readerSide().connectFailed(OpWrite, err)
		return
	}
	if isForeign(nc) {
		to.readerSide().setAddrs(nc.LocalAddr(), c.remote)
	}
	to.readerSide().giveBack(rest)
	c.s.loop.wg.Add(1)
	to.readerSide().adopted(nc, nil, false, true)
}

// An input holds the bytes that a connection has read and not used yet. An empty input
// holds no buffer.
type input struct {
	buf *sockio.Buffer // contains p, unless p is larger than any buffer
	p   []byte
}

// add appends the bytes of b, and takes ownership of b. Slices of p are invalid afterwards.
func (in *input) add(b *sockio.Buffer) {
	n := len(in.p) + b.Len()
	switch {
	case len(in.p) == 0:
		in.release()
		in.buf, in.p = b, b.Bytes()
		return
	case n <= cap(in.p):
		in.p = append(in.p, b.Bytes()...)
	case n <= sockio.MaxBuffer:
		larger := sockio.GetBuffer(n)
		larger.Fill(copy(larger.Room(), in.p))
		larger.Fill(copy(larger.Room(), b.Bytes()))
		in.release()
		in.buf, in.p = larger, larger.Bytes()
	default:
		p := append(in.p[:len(in.p):len(in.p)], b.Bytes()...)
		in.release()
		in.p = p
	}
	b.Release()
}

// discard drops the first n bytes.
func (in *input) discard(n int) {
	if in.p = in.p[n:]; len(in.p) == 0 {
		in.release()
	}
}

// release drops everything.
func (in *input) release() {
	if in.buf != nil {
		in.buf.Release()
	}
	in.buf, in.p = nil, nil
}
