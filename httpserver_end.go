package eventloop

import (
	"cmp"
	"net"
	"strconv"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// refuse responds with status to a request that cannot be served.
func (c *httpConn) refuse(status int) {
	c.s.loop.count.responded(status)
	var space [256]byte
	c.core.Lock()
	c.queue(appendRefusal(space[:0], status))
	c.corked = false
	c.core.Send()
	c.core.Unlock()
	c.linger = true
}

func appendRefusal(b []byte, status int) []byte {
	text := fasthttp.StatusMessage(status)
	b = appendStatusLine(b, status)
	b = appendDate(b, clock())
	b = append(b, "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(text)+1), 10)
	b = append(b, "\r\n\r\n"...)
	b = append(b, text...)
	return append(b, '\n')
}

// rejectExcess responds to a connection above the limit with 429, and closes it. Nothing was
// sent on it before, so the kernel takes the whole response and the call does not block.
func (s *HTTPServer) rejectExcess(nc net.Conn) {
	rc, ok := sockio.Descriptor(nc)
	if ok && s.cfg.TLS == nil {
		s.loop.count.responded(fasthttp.StatusTooManyRequests)
		var space [256]byte
		views := [1][]byte{appendRefusal(space[:0], fasthttp.StatusTooManyRequests)}
		rc.Control(func(fd uintptr) {
			n, _ := sockio.WriteFD(fd, views[:])
			s.loop.count.httpWritten.Add(uint64(n))
			s.loop.count.httpBytesOut.Add(uint64(n))
			var b [1024]byte
			sockio.ReadFD(fd, b[:]) // with unread input, closing would send a reset
		})
	}
	nc.Close()
}

// end ends the connection, on its goroutine.
func (c *httpConn) end() {
	defer c.s.remove(c)
	c.core.Lock()
	if c.limit != nil {
		c.limit.Stop()
	}
	c.phase, c.reading = phaseOver, waitOther
	if c.upgraded {
		c.core.Unlock()
		return
	}
	if c.reset && !c.gone.Load() {
		c.discard()
		c.core.Cut(true)
	}
	c.core.SetStall(cmp.Or(c.s.cfg.WriteTimeout, flushTimeout))
	if !c.s.closing.Load() { // a server that is closing waits for Linger at most
		c.core.SetPatience(maxLinger)
	}
	over := c.eof || !c.linger && len(c.in.p) == 0
	c.core.Unlock()
	c.in.release()
	c.finish(over)
}

// maxLinger limits the reading after the last response. It ends earlier if the client
// pauses for lingerTimeout.
const maxLinger = 30 * time.Second

// finish closes the connection when its output is delivered. If over is set, no input
// needs to be read.
func (c *httpConn) finish(over bool) {
	returned := false
	defer func() {
		if !returned { // foreign code called Goexit in Read
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.finish(true)
			}()
			<-done
		}
	}()
	lost := c.core.Finish(over)
	returned = true
	c.core.Lock()
	dropped, why := c.dropped, c.core.LossCause()
	c.discard()
	c.core.Unlock()
	if lost > 0 && !dropped {
		c.s.loop.count.lost.Add(uint64(lost))
		c.s.loop.count.httpAborts.Add(1)
		c.report(OpWrite, &LostError{Bytes: lost, Err: why})
	}
}

// endIdleWait ends the wait for a request of which no byte has arrived. A connection in
// phaseStart has handshakeGrace to end that phase.
func (c *httpConn) endIdleWait() {
	c.core.Lock()
	defer c.core.Unlock()
	switch c.phase {
	case phaseStart:
		if c.cancel != nil { // otherwise start calls endIdleWait again
			c.limitStart(handshakeGrace)
		}
	default:
		c.core.SetPatience(0)
		c.interrupt()
	}
}

// handshakeGrace is how long a server that is closing waits for a TLS handshake. The
// client may not have sent anything.
const handshakeGrace = time.Second

// announceLast adds "Connection: close" to the current response if an http.Handler makes
// it.
func (c *httpConn) announceLast() {
	c.core.Lock()
	var s *servedResponse
	if r := c.cur; r != nil {
		s = r.peek().served
	}
	c.core.Unlock()
	if s != nil {
		s.server.SetKeepAlivesEnabled(false)
	}
}

// cut closes the connection by force.
func (c *httpConn) cut(why error) {
	c.core.Lock()
	defer c.core.Unlock()
	if c.gone.Load() || c.upgraded {
		return
	}
	c.why = why
	c.gone.Store(true)
	reset := c.untilEnd && (c.cur != nil || c.core.Pending() > 0)
	c.discard()
	c.core.Cut(reset)
	if c.cancel != nil {
		c.cancel()
	}
	c.core.Closing()
}

// isSpare reports whether the connection is idle or ending, and its output is delivered.
func (c *httpConn) isSpare() bool {
	c.core.Lock()
	defer c.core.Unlock()
	idle := c.isStuck() || c.phase == phaseOver && !c.upgraded
	return idle && c.core.Pending() == 0 && c.core.Delivered()
}
