package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/valyala/fasthttp"
)

// start prepares the connection for its first request: peer address and handshake. It
// reports whether the connection can be served.
func (c *httpConn) start() bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.core.Lock()
	c.cancel = cancel
	if d := c.s.cfg.ReadHeaderTimeout; d > 0 && (c.foreign || c.isTLS()) {
		c.limitStart(d)
	}
	gone := c.gone.Load()
	c.core.Unlock()
	if c.s.closing.Load() {
		c.endIdleWait() // again: the first call may have come before c.cancel was set
	}
	ok := !gone && c.readRemote() && c.handshake(ctx)
	c.core.Lock()
	defer c.core.Unlock()
	if c.limit != nil {
		c.limit.Stop()
		c.limit = nil
	}
	if c.phase == phaseStart {
		c.phase = phaseServe
	}
	c.ignoresDeadlines = !c.core.Raw() && !c.core.SupportsDeadlines()
	c.last = clock()
	return ok && !c.gone.Load() && !c.late
}

// isTLS reports whether the connection has a handshake. The caller holds the lock.
func (c *httpConn) isTLS() bool {
	_, ok := c.core.NetConn().(*tls.Conn)
	return ok || c.core.Secured()
}

// limitStart ends phaseStart after d. The caller holds the lock.
func (c *httpConn) limitStart(d time.Duration) {
	if c.limit == nil {
		c.limit = time.AfterFunc(d, c.startTimedOut)
	} else {
		c.limit.Reset(d)
	}
}

func (c *httpConn) startTimedOut() {
	c.core.Lock()
	defer c.core.Unlock()
	if c.phase != phaseStart || c.late || c.cancel == nil {
		return
	}
	c.late = true
	c.cancel()
	if !c.hasRemote.Load() {
		c.core.Cut(false) // the goroutine waits in foreign code
	}
}

// readRemote gets the peer's address from a foreign connection. The peer may make that take
// any time. readRemote reports whether the connection may stay under MaxConnsPerIP.
func (c *httpConn) readRemote() bool {
	if !c.foreign {
		return true
	}
	c.core.Lock()
	nc := c.core.NetConn()
	c.core.Unlock()
	nc.SetDeadline(noDeadline)
	var remote net.Addr
	err := aside(func() error { remote = nc.RemoteAddr(); return nil })
	c.remote = remote
	c.hasRemote.Store(true)
	if err != nil { // from the net.Conn below TLS
		c.panicked(OpAddr, err)
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.countIP(addrIP(c.remote), 1) {
		c.counted = true
		return true
	}
	c.s.loop.count.dropped.Add(1)
	c.s.loop.count.httpDropped.Add(1)
	return false
}

var errH2 = errors.New("the listener negotiated h2, which the server does not speak")

// handshake performs the TLS handshake if the connection has one, and opens the core.
func (c *httpConn) handshake(ctx context.Context) (ok bool) {
	c.core.Lock()
	isTLS, late := c.isTLS(), c.late
	c.core.Unlock()
	if late {
		return false
	}
	if isTLS {
		if err := c.handshakeTLS(ctx); err != nil {
			c.handshakeFailed(err)
			return false
		}
	}
	c.core.Open()
	return true
}

func (c *httpConn) handshakeTLS(ctx context.Context) error {
	if err := c.core.Handshake(ctx, c.s.cfg.TLS, false, nil); err != nil {
		return err
	}
	c.core.Lock()
	state := c.core.TLS().ConnectionState()
	c.core.Unlock()
	if state.NegotiatedProtocol == "h2" { // by a TLS listener of the application
		return errH2
	}
	c.tls = &state
	return nil
}

// handshakeFailed reports why a handshake failed. It reports nothing if the client only
// probed the port, or if the server ended the wait because it is closing.
func (c *httpConn) handshakeFailed(err error) {
	c.core.Lock()
	late := c.late
	c.core.DropUnsealed()
	c.core.Unlock()
	if late && !isUncaught(err) {
		err = os.ErrDeadlineExceeded
	}
	c.linger = err != io.EOF && !late // otherwise a reset could destroy the alert
	c.respondPlaintext(err)
	if err != io.EOF && !(late && c.s.closing.Load()) {
		c.report(OpHandshake, err)
	}
}

// respondPlaintext responds to a client that speaks plaintext HTTP where TLS is expected, as
// net/http does.
func (c *httpConn) respondPlaintext(err error) {
	var re tls.RecordHeaderError
	if !errors.As(err, &re) || re.Conn == nil || c.foreign {
		return
	}
	switch string(re.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		c.s.loop.count.responded(fasthttp.StatusBadRequest)
		io.WriteString(re.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}
