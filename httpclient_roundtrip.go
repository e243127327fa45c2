package eventloop

import (
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/onloop/eventloop/internal/httpclient"
	"github.com/onloop/eventloop/internal/netcore"
	"github.com/onloop/eventloop/internal/writers"
)

// A requestEnd is the outcome of a request on a connection.
type requestEnd struct {
	res  *HTTPResponse // nil for a RoundTripper
	head bool          // the head of a response has arrived
	next *httpTarget   // the target of a redirect that is to be followed
	err  error
	over time.Time // the end of the response

	switched *switched // the connection, if it becomes a Conn

	reusable bool // the connection may carry another request
}

// submit gives the request to the transport, if there is one, or finds a connection for
// it: an idle one, which gets the request at once, or a new one. At the limit of
// connections, the request waits until one is free.
func (c *httpCall) submit() {
	client := c.client
	if c.jar() == nil && !c.asksProxy() {
		c.submitTo(c.findRoute())
		return
	}
	client.loop.wg.Go(func() { // Jar and Proxy are code of the application
		client.loop.worksFor(&c.handle)
		err := c.loadCookies()
		if err == nil {
			err = c.findRoute()
		}
		c.submitTo(err)
	})
}

// submitTo submits the request to the transport or the pool, unless there is an error.
func (c *httpCall) submitTo(err error) {
	l, transport := c.client.loop, c.client.cfg.Transport
	switch {
	case err != nil:
		c.finishAside(err)
	case transport != nil:
		l.goForeign(fmt.Sprintf("RoundTrip of %T", transport), c.sendWithTransport)
	default:
		c.getConn()
	}
}

// asksProxy reports whether the way to the target is for HTTPClientConfig.Proxy to say.
func (c *httpCall) asksProxy() bool {
	return c.route == nil && c.client.ownProxy && c.opts.UnixSocket == "" && c.client.cfg.Transport == nil
}

// findRoute sets the route to the target.
func (c *httpCall) findRoute() error {
	if c.route != nil || c.client.cfg.Transport != nil {
		return nil
	}
	target, socket := c.target, c.opts.UnixSocket
	if !c.asksProxy() {
		r, err := c.client.route(target, socket)
		return c.take(&r, err)
	}
	var r httpRoute
	what := func() string { return "HTTPClientConfig.Proxy for the request " + c.describe() }
	err := c.client.loop.aside(what, func() (err error) { r, err = c.client.route(target, socket); return err })
	if err != nil {
		return err
	}
	return c.take(&r, nil)
}

// take makes r the route of the request, unless there is an error.
func (c *httpCall) take(r *httpRoute, err error) error {
	if err != nil {
		return err
	}
	if c.route = r; c.opts.Upgrade != nil {
		c.route = throughTunnel(r, c.target)
	}
	return nil
}

// getConn asks the pool for a connection.
func (c *httpCall) getConn() {
	client := c.client
	var m *httpclient.Message
	if !c.uploads() && client.pool.Idle() > 0 {
		m = c.message(c.opts.Body)
	}
	if client.pool.Get(c.route.key, c, m, c.deadline, client.cfg.InactivityTimeout) {
		s := &httpSlot{client: client, key: &c.route.key, call: c}
		client.goroutineBegun()
		client.loop.wg.Go(s.serve)
		return
	}
	if c.isAborted() && client.pool.Remove(c) { // aborted before it was in the pool's queue
		c.finishAside(errOver)
	}
}

// An httpSlot is a slot of the pool, with a goroutine. The goroutine dials, serves requests
// on the connection, waits for the next request while the connection is idle, and closes
// it. A parked connection has no goroutine.
type httpSlot struct {
	client *HTTPClient
	key    *httpclient.Key
	conn   *httpclient.Conn // nil: must be dialed for call
	call   *httpCall        // nil: conn is idle, or the slot is free
	begun  bool             // call has begun on conn
	end    requestEnd       // of call
}

// serve is the goroutine.
func (s *httpSlot) serve() {
	over := false
	defer func() {
		if !over { // foreign code called Goexit: continue on another goroutine
			if s.conn != nil {
				s.conn.Core().Own()
			}
			(*httpHost)(s.client).Go(s.recover)
		}
	}()
	if s.call != nil {
		s.client.loop.worksFor(&s.call.handle)
	}
	for s.conn != nil || s.call != nil {
		if !s.step() {
			over = true
			return
		}
	}
	over = true
	s.client.goroutineEnded()
}

// recover continues after a Goexit in Read of the connection, or in Close of the body of a
// request that has its result.
func (s *httpSlot) recover() {
	if s.conn != nil {
		s.conn.Fail(errGoexit)
	}
	if s.begun {
		s.end.err = errGoexit
		s.conclude()
	}
	s.serve()
}

// step dials, serves a request, or waits for the next one. It returns false if the
// connection is parked. Then the caller must not touch s.
func (s *httpSlot) step() bool {
	pool := s.client.pool
	switch {
	case s.conn == nil:
		conn, err := s.call.dial()
		if err != nil {
			call := s.call
			s.call = asCall(pool.Release(*s.key))
			call.finish(nil, err)
			return true
		}
		s.conn = conn
		conn.SetServe(s.serve)
	case s.call == nil:
		next, parked := s.conn.Next(pool)
		if parked {
			return false
		}
		if s.call = asCall(next); s.call == nil {
			s.close()
		}
	default:
		s.conn.Core().Own() // during a request, the goroutine may wait in many places
		s.begun = true
		s.call.exchange(s.conn, &s.end)
		s.conclude()
	}
	return true
}

func (s *httpSlot) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// conclude ends the request on the connection, gets the next request from the pool, and
// then delivers the result. In this order, a callback that sends another request can use
// the connection.
func (s *httpSlot) conclude() {
	call, end, pool := s.call, s.end, s.client.pool
	s.begun, s.end = false, requestEnd{}
	reusable, retry := call.endExchange(s.conn, &end)
	if end.err == nil && call.switches(end.res) && !call.bodyPanicked() {
		end.err = call.switchProtocols(s.conn, &end)
		if s.conn.Released() {
			s.conn = nil
		}
	}
	if retry {
		s.close()
		return
	}
	kept := false
	s.call = nil
	if reusable {
		var next httpclient.Request
		next, kept = pool.Put(s.conn, end.over)
		s.call = asCall(next)
	}
	if s.call == nil && !kept {
		s.close()
		s.call = asCall(pool.Release(*s.key))
	}
	call.conclude(&end)
}

// asCall returns the request from the pool, or nil.
func asCall(r httpclient.Request) *httpCall {
	call, _ := r.(*httpCall)
	return call
}

// conclude follows a redirect, or ends the request.
func (c *httpCall) conclude(end *requestEnd) {
	switch {
	case end.err != nil:
		c.finish(nil, end.err)
	case end.next == nil:
		c.finish(end.res, nil)
		if end.switched != nil {
			end.switched.begin()
		}
	case int(c.redirects) == c.maxRedirects():
		c.finish(nil, ErrHTTPRedirects)
	default:
		c.follow(end.res, end.next)
		c.submit()
	}
}

// exchange sends the request on conn, receives the response, and stores the outcome in end.
func (c *httpCall) exchange(conn *httpclient.Conn, end *requestEnd) {
	resp := conn.Response()
	queued := conn.Begin(c.deadline, c.client.cfg.InactivityTimeout)
	if end.err = c.exchangeHeads(conn, resp, queued); end.err != nil {
		return
	}
	conn.SetKeepAlive(resp.KeepAliveTimeout())
	end.head = true
	if c.trip != nil {
		end.err = c.trip.receive(conn)
		end.over = time.Now()
		end.reusable = end.err == nil && !c.close && resp.Reusable()
		return
	}
	end.res = c.response(conn, resp)
	if end.err = c.storeCookies(resp); end.err == nil {
		end.err = c.receive(conn, end)
	}
	end.reusable = end.err == nil && !c.close && resp.Reusable()
}

// endExchange ends the exchange. It reports whether conn can carry another request, and if not,
// whether to retry this one on a new connection.
func (c *httpCall) endExchange(conn *httpclient.Conn, end *requestEnd) (reusable, retry bool) {
	c.Attach(nil) // from here on, abort does not interrupt the connection
	c.endUpload()
	if end.err != nil || !c.switches(end.res) {
		reusable = conn.End(end.reusable)
	}
	c.count(conn)
	if end.err == nil || end.head || !c.shouldRetry(conn, end.err) {
		if end.next == nil && c.body != nil && c.trip == nil {
			c.closeBody() // Close may block; conn must not wait for it
		}
		return reusable, false
	}
	if end.err != httpclient.ErrStale {
		c.retried = true
		c.client.loop.count.httpRetried.Add(1)
	}
	return false, true
}

// exchangeHeads sends the request, or starts its upload, and reads the head of the
// response.
func (c *httpCall) exchangeHeads(conn *httpclient.Conn, resp *httpclient.Response, queued bool) error {
	if conn.Stale() {
		return httpclient.ErrStale
	}
	if !queued {
		c.send(conn)
	}
	// Read the head even after a failed write: a server that refused the request may have
	// sent a response before it closed the connection.
	err := resp.ReadHead(conn, c.method, c.client.cfg.MaxHeaderBytes, c)
	if conn.Stale() {
		return httpclient.ErrStale
	}
	if conn.Reused() {
		c.client.loop.count.httpReused.Add(1)
	}
	if err != nil {
		if werr := conn.WriteError(); werr != nil {
			return werr
		}
	}
	return err
}

// uploads reports whether the body is sent on its own goroutine.
func (c *httpCall) uploads() bool {
	return c.opts.BodyReader != nil || !httpclient.Inline(len(c.opts.Body)) || c.expect || c.length < 0
}

// send sends the request, or its head if the body has its own goroutine.
func (c *httpCall) send(conn *httpclient.Conn) {
	if !c.uploads() {
		conn.Send(c.message(c.opts.Body), false)
		return
	}
	conn.Send(c.message(nil), c.length != 0)
	c.upload = newHTTPUpload(c, conn)
	c.upload.start()
}

// message returns the head of the request together with body.
func (c *httpCall) message(body []byte) *httpclient.Message {
	head := c.head(c.route)
	defer head.Release()
	return head.Message(body)
}

// Interim handles an interim response.
func (c *httpCall) Interim(status int) {
	if status == 100 && c.upload != nil {
		c.upload.permit()
	}
}

// response returns the response, with the values of its head.
func (c *httpCall) response(conn *httpclient.Conn, r *httpclient.Response) *HTTPResponse {
	res := &HTTPResponse{
		Status: r.Status, Reason: r.Reason, Proto: r.Proto,
		Headers:    headersOf(r.Fields, r.Fields.Count()),
		URL:        withoutUser(c.target.u, c.url),
		Redirects:  int(c.redirects),
		Reused:     conn.Reused(),
		RemoteAddr: conn.RemoteAddr(),
	}
	if c.slow != nil {
		res.Timing = c.slow.times
	}
	res.Timing.FirstByte = conn.FirstByte().Sub(c.begun)
	res.TLS = tlsState(conn)
	return res
}

// tlsState returns the state of the TLS connection, or nil if conn has none.
func tlsState(conn *httpclient.Conn) *tls.ConnectionState {
	core := conn.Core()
	core.Lock()
	nc := unguarded(core.NetConn())
	if t := core.TLS(); t != nil {
		nc = t
	}
	core.Unlock() // ConnectionState takes locks of crypto/tls
	tc, ok := nc.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	state := tc.ConnectionState()
	return &state
}

// maxDiscard limits how much of a redirect's body is read. Reading it is cheaper than a new
// connection only if it is short.
const maxDiscard = 64 << 10

// receive reads the body of the response.
func (c *httpCall) receive(conn *httpclient.Conn, end *requestEnd) (err error) {
	resp := conn.Response()
	if c.opts.mustUpgrade && resp.Status != 101 {
		return refusal(resp, false)
	}
	if c.opts.Upgrade != nil && resp.Status == 101 {
		if err := c.checkSwitch(resp); err != nil {
			return err
		}
	}
	if end.next, err = c.redirectTarget(resp); end.next != nil && err == nil {
		err = c.checkRedirect(end)
		conn.Renew()
	}
	switch {
	case end.next != nil || err != nil:
		resp.Discard(maxDiscard)
		end.over = time.Now()
		return err
	case c.opts.OnResponse != nil || c.opts.OnBody != nil:
		err = c.stream(end.res, conn)
	default:
		err = c.readBody(end.res, resp)
	}
	end.res.Trailers = headersOf(resp.Trailers(), 0)
	end.res.Timing.Total = time.Since(c.begun)
	end.over = c.begun.Add(end.res.Timing.Total)
	return err
}

// readBody reads the whole body.
func (c *httpCall) readBody(res *HTTPResponse, resp *httpclient.Response) error {
	body, err := resp.ReadAll(c.client.cfg.MaxBodyBytes)
	if err != nil {
		return err
	}
	res.Body = body
	if c.decodes() && len(body) > 0 {
		return decompress(res, c.client.cfg.MaxBodyBytes)
	}
	return nil
}

// endUpload ends the upload, if there is one, so that it no longer reads the body.
func (c *httpCall) endUpload() {
	if c.upload != nil {
		c.upload.end()
		c.upload = nil
	}
}

// count adds the bytes of the connection to the statistics.
func (c *httpCall) count(conn *httpclient.Conn) {
	in, out := conn.Bytes()
	count := &c.client.loop.count
	count.bytesIn.Add(uint64(in))
	count.written.Add(uint64(out)) // no output is pending
	count.bytesOut.Add(uint64(out))
}

// An httpHost is the HTTPClient as the host of its connections.
type httpHost HTTPClient

// Go runs f. The loop does not end before f, because the loop's writers send the output of
// a connection's goroutine.
func (h *httpHost) Go(f func()) {
	c := (*HTTPClient)(h)
	c.goroutineBegun()
	c.loop.wg.Go(func() {
		defer c.goroutineEnded()
		f()
	})
}

// Aside implements netcore.Host.
func (h *httpHost) Aside(f func() error) error {
	return h.loop.aside(func() string { return "TLS handshake of an HTTP client" }, f)
}

func (h *httpHost) Enqueue(job writers.Job)            { h.loop.enqueue(job) }
func (h *httpHost) CloseAside(nc net.Conn, reset bool) { h.loop.closeWith(nc, reset) }

func (h *httpHost) Poller() *netcore.Poller { return &h.loop.poller }

func (h *httpHost) Recovered(v any) error { return uncaught(v) }
