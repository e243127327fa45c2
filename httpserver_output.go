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

// An exchange is what a request came through: a connection of our own server, or the
// handler that is mounted in a server of others. Methods below the line expect the
// caller to hold the lock of the request.
type exchange interface {
	client() net.Addr
	secured() *tls.ConnectionState
	settings() *HTTPServerConfig
	context() context.Context        // what that of the request is derived from
	httpRequest() *http.Request      // nil unless the server is one of net/http
	handler() func(r *HTTPRequest)   // of the application
	mayUpgrade() bool                // the connection can be made a Conn
	send(t task)                     // from the goroutine of the exchange to the dispatcher
	event(r *HTTPRequest, err error) // on the loop: what went wrong on our side
	tell(err error)                  // is event for what does not concern the loop

	// ------------------------------------------------------------------------

	// wake has the goroutine of the exchange look at r again.
	wake()

	// mayStream says what is against a response in parts.
	mayStream() error

	// respond gives the whole response.
	respond(r *HTTPRequest, status int, headers HTTPHeaders, body []byte)

	// open gives the head of a response of which the body follows, length bytes or,
	// if negative, an unknown number. It reports whether that is sent in chunks.
	open(r *HTTPRequest, status int, headers HTTPHeaders, length int64) (chunked bool)

	// queue adds to the body, and flush has sent what was added.
	queue(p []byte)
	flush()

	// pending returns how many bytes of the response to r are not with the kernel.
	pending(r *HTTPRequest) int

	// completed says that nothing of the response to r is to come; lost, that r
	// cannot be answered any more, and abort, that what was not sent is not wanted.
	completed(r *HTTPRequest)
	lost(r *HTTPRequest)
	abort(r *HTTPRequest)

	// serveHTTP has s answer r.
	serveHTTP(r *HTTPRequest, s *servedResponse)

	// whenSent has r.end called when the response to r is with the kernel. It
	// returns false if it is.
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
func (c *httpConn) tell(err error)                  { c.s.tell(err) }
func (c *httpConn) wake()                           { c.core.Wake() }
func (c *httpConn) mayStream() error                { return nil }
func (c *httpConn) lost(*HTTPRequest)               { c.core.Wake() }

func (c *httpConn) respond(r *HTTPRequest, status int, headers HTTPHeaders, body []byte) {
	var space [1024]byte
	r.pos = c.queued
	b := c.appendHead(space[:0], r, status, headers, int64(len(body)))
	switch {
	case r.bodyless(status):
		c.queueOwn(b)
	case len(body) <= cap(b)-len(b):
		c.queueOwn(append(b, body...))
	default:
		c.queueOwn(b)
		c.queueOwn(body)
	}
}

func (c *httpConn) open(r *HTTPRequest, status int, headers HTTPHeaders, length int64) (chunked bool) {
	var space [1024]byte
	r.pos = c.queued
	c.queueOwn(c.appendHead(space[:0], r, status, headers, length))
	return length < 0 && r.head.HTTP11
}

// serveHTTP lets a server of net/http frame the response, so whether the end of the
// connection ends its body is only known of clients that know no chunks.
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

func (c *httpConn) queue(p []byte) { c.queueOwn(p) }

// queueOwn appends p to the output. The caller holds the lock.
func (c *httpConn) queueOwn(p []byte) {
	c.s.loop.count.httpWritten.Add(uint64(len(p)))
	if c.dropped {
		c.s.loop.count.httpDiscarded.Add(uint64(len(p)))
		return
	}
	c.core.Queue().Append(p)
	c.queued += int64(len(p))
}

// flush has the output sent, unless it waits for that of pipelined requests: then the
// goroutine decides.
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

// completed has the output sent. The goroutine, which reads ahead most often, has
// nothing to do after an ordinary response but to go on reading, unless the next that
// comes is not a request but the rest of a body. It does not touch the body meanwhile.
func (c *httpConn) completed(r *HTTPRequest) {
	r.pos = c.queued
	if r.watched() && !c.whenSent(r) {
		r.endLocked(nil)
	}
	if !c.corked {
		c.core.Send()
	}
	if c.reading == waitAhead && c.cur == r && r.keep() && c.body.Over() && !c.s.closing.Load() {
		c.cur, c.answered = nil, r.at
		return
	}
	c.interrupt()
}

// abort discards what was not sent of the response to r.
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

// endSent ends the requests of which the response is with the kernel. The caller
// holds the lock.
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

// discard accounts for output that will not be sent. The caller holds the lock.
func (c *httpConn) discard() { c.discardFor(net.ErrClosed) }

// discardFor is discard because of err.
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

// appendHead appends the head of a response, whose body has length bytes, or an
// unknown number if it is negative. The caller holds the lock.
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
				stated = f.Value
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

// appendFraming appends how the end of the body is found (RFC 9112 section 6).
// stated is the Content-Length that the application gave.
func (c *httpConn) appendFraming(b []byte, r *HTTPRequest, status int, length int64, stated string) []byte {
	switch {
	case status == fasthttp.StatusSwitchingProtocols, status == fasthttp.StatusNoContent:
		return b
	case status == fasthttp.StatusResetContent:
		length = 0
	case status == fasthttp.StatusNotModified, r.Method() == fasthttp.MethodHead:
		// What counts is what a GET would get, which only the application knows.
		if n, ok := http1.ParseLength(stated); ok {
			length = n
		} else if length == 0 || status == fasthttp.StatusNotModified {
			return b
		}
	}
	if length >= 0 {
		b = append(b, "Content-Length: "...)
		b = appendInt(b, length)
		return append(b, "\r\n"...)
	}
	if r.head.HTTP11 {
		return append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	r.last, r.untilClose, c.untilEnd = true, true, true
	return b
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// leave takes the connection out of the server. It returns what was read ahead, and no
// connection if that has failed.
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

// leaveServer gives the place of a connection back that the server counts no more.
func (c *httpConn) leaveServer() { c.s.release(c.ip()) }

// giveUp gives the connection to a handler of net/http that has hijacked it.
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

// handOver gives the connection to what the request upgraded it to.
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

// An input is what a connection has read and not used. It holds nothing when it is
// empty.
type input struct {
	buf *sockio.Buffer // that p is in, unless p outgrew all buffers
	p   []byte
}

// add appends what is in b, which it takes over. What p was before stays valid until
// then.
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
