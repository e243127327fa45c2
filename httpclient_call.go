package eventloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/onloop/eventloop/internal/coding"
	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpconn"
)

// An httpCall is one request, redirects included, from Do to its result. One
// goroutine carries it through; a second one sends a body that is long, or that a
// reader gives, while the first waits for the answer. The first stays with a
// connection that is kept, and carries the next request there, if that is a plain
// one: see assign.
//
// It is ended early by abort: at the end of ctx or of the loop, or when the
// second goroutine fails. Whatever the goroutine waits for, then ends: the
// connection by a deadline in the past, everything else by a context.
type httpCall struct {
	handle
	future Future[*HTTPResponse]
	client *HTTPClient
	ctx    context.Context // of the caller
	asked  string          // the URL
	opts   *HTTPOptions    // a copy of the caller's, or noOptions
	begun  time.Time
	at     uintptr // where the caller is

	// Of the goroutine, changed by redirects.
	method string
	url    string
	target *httpTarget
	length int64 // of the body: -1 chunked
	close  bool  // after this request
	expect bool  // 100-continue

	deadline   time.Time
	releaseCtx func() bool // stops watching ctx

	assigned *httpconn.Conn // that has a keeper, and carries the request at first
	route    *httpRoute     // of assigned
	tried    bool           // assigned was
	kept     *httpconn.Conn // that the goroutine is to wait with

	mu     sync.Mutex      // guards the following
	cause  error           // why it is to end early; the first counts
	conn   *httpconn.Conn  // that carries it now
	waits  context.Context // ends with it; made when it is needed
	cancel func()          // of waits
	body   io.Reader       // BodyReader until it is closed
}

// noOptions are those of a request that was given none. They are not changed.
var noOptions HTTPOptions

func (c *httpCall) terminate() { c.abort(ErrLoopClosed) }

func (c *httpCall) describe() string { return redacted(c.asked) }

var (
	errNoMethod    = errors.New("method is not valid")
	errConnect     = errors.New("method CONNECT is for proxies")
	errTwoBodies   = errors.New("both Body and BodyReader are set")
	errShortLength = errors.New("negative ContentLength")
)

// prepare checks what was asked for. It runs in Do.
func (c *httpCall) prepare(method string) error {
	o := c.opts
	c.method, c.url = method, c.asked
	if c.method == "" {
		c.method = "GET"
	}
	place, err := c.client.place(c.asked)
	if err == nil {
		c.target, c.route = &place.target, place.route
	}
	switch {
	case err != nil:
		return err
	case !http1.IsToken(c.method):
		return fmt.Errorf("%w: %q", errNoMethod, c.method)
	case c.method == "CONNECT":
		return errConnect
	case !isHostField(o.Host):
		return fmt.Errorf("%w: Host %q", ErrHTTPHeader, o.Host)
	case !isHostField(o.Headers.Get("Host")):
		return fmt.Errorf("%w: Host %q", ErrHTTPHeader, o.Headers.Get("Host"))
	case !http1.IsFieldValue(c.client.cfg.UserAgent):
		return fmt.Errorf("%w: User-Agent %q", ErrHTTPHeader, c.client.cfg.UserAgent)
	case o.BodyReader != nil && o.Body != nil:
		return errTwoBodies
	case o.ContentLength < 0:
		return errShortLength
	}
	if err := o.Headers.validate(); err != nil {
		return err
	}
	c.length = bodyLength(o)
	c.close = o.Close || c.client.cfg.DisableKeepAlives || o.Headers.hasToken("Connection", "close")
	c.expect = o.Headers.hasToken("Expect", "100-continue") && c.length != 0
	c.watch()
	return c.ctx.Err()
}

// isHostField reports whether s may be sent as the field Host. Empty means the host of
// the URL.
func isHostField(s string) bool { return s == "" || http1.IsHost(s) }

// bodyLength returns the length of the body, -1 if it is not known.
func bodyLength(o *HTTPOptions) int64 {
	if o.BodyReader == nil {
		return int64(len(o.Body))
	}
	if o.ContentLength > 0 {
		return o.ContentLength
	}
	switch r := o.BodyReader.(type) {
	case *bytes.Buffer:
		return int64(r.Len())
	case *bytes.Reader:
		return int64(r.Len())
	case *strings.Reader:
		return int64(r.Len())
	}
	return -1
}

// watch sets the time of the request, and has it end with ctx.
func (c *httpCall) watch() {
	d := c.opts.Timeout
	if d == 0 {
		d = c.client.cfg.Timeout
	}
	if d > 0 {
		c.deadline = c.begun.Add(d)
	}
	if c.ctx.Done() != nil {
		c.releaseCtx = context.AfterFunc(c.ctx, func() { c.abort(endedBy(c.ctx, c.ctx.Err())) })
	}
}

// abort ends the request early. Any goroutine may call it.
func (c *httpCall) abort(cause error) { c.abortOn(nil, cause) }

// abortOn is abort, but only while conn carries the request, if it is not nil.
func (c *httpCall) abortOn(conn *httpconn.Conn, cause error) {
	c.mu.Lock()
	if conn != nil && c.conn != conn {
		c.mu.Unlock()
		return
	}
	if c.cause == nil {
		c.cause = cause
	}
	if c.conn != nil {
		c.conn.Interrupt()
	}
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// waitContext returns a context for what is waited for besides a connection.
func (c *httpCall) waitContext() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits != nil {
		return c.waits
	}
	ctx, cancel := context.WithCancel(c.ctx)
	if !c.deadline.IsZero() {
		outer := cancel
		ctx, cancel = context.WithDeadline(ctx, c.deadline)
		inner := cancel
		cancel = func() { inner(); outer() }
	}
	c.waits, c.cancel = ctx, cancel
	if c.cause != nil {
		cancel()
	}
	return ctx
}

// attach makes conn the connection of the request, to be interrupted by abort;
// nil for none.
func (c *httpCall) attach(conn *httpconn.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if conn != nil && c.cause != nil {
		conn.Interrupt()
	}
}

// run is a goroutine that carries requests, one after the other: as long as there
// is a connection to wait with for the next.
func (c *httpCall) run() {
	defer c.client.loop.wg.Done()
	growStack()
	client := c.client
	for c != nil {
		conn := c.carry()
		c = nil
		if conn != nil {
			c, _ = conn.Await(client.pool).(*httpCall)
		}
	}
}

// carry carries the request, and returns the connection to wait with, if any.
func (c *httpCall) carry() *httpconn.Conn {
	var res *HTTPResponse
	err := errGoexit // unless Proxy, Dial and the callbacks of TLS return
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
		c.finish(res, err)
	}()
	res, err = c.perform()
	return c.kept
}

// assign gives the request to an idle connection that has a keeper, if there is one and
// the request is a plain one, and has it sent. It returns false if the request needs a
// goroutine that finds it a connection.
func (c *httpCall) assign() bool {
	o := c.opts
	if o.BodyReader != nil || o.MaxRedirects > 0 || c.expect || !httpconn.Inline(len(o.Body)) {
		return false
	}
	if o.UnixSocket != "" {
		route, _ := c.client.route(c.target, o.UnixSocket)
		c.route = &route
	}
	if c.route == nil {
		return false
	}
	conn := c.client.pool.TakeKept(c.route.key)
	if conn == nil {
		return false
	}
	c.assigned = conn
	head := c.head(c.route)
	defer head.Release()
	if !head.Queue(conn, o.Body) {
		c.assigned = nil
		if conn.Retire() {
			c.client.keep(conn, c.begun, false)
		} else {
			conn.Close()
			c.client.pool.Release(c.route.key)
		}
		return false
	}
	c.attach(conn)
	conn.Assign(c, c.begun, c.deadline, c.client.cfg.InactivityTimeout)
	c.client.loop.writers.Add((*httpSender)(c))
	return true
}

// hire starts a goroutine that carries the request.
func (c *httpCall) hire() {
	c.loop.wg.Add(1)
	go c.run()
}

// An httpSender is a request as the pool of writers sees it.
type httpSender httpCall

// Flush writes what the kernel takes of the request.
func (s *httpSender) Flush() {
	if !s.assigned.TryFlush() {
		s.client.loop.wg.Go(s.assigned.FlushRest)
	}
}

// growStack gives the goroutine at once the stack that a request needs, when
// there is nothing to copy: growing it later, twice, costs more than a
// microsecond.
//
//go:noinline
func growStack() {
	var space [3 << 10]byte
	touch(&space)
}

//go:noinline
func touch(*[3 << 10]byte) {}

// finish ends what still goes on and resolves the future.
func (c *httpCall) finish(res *HTTPResponse, err error) {
	if c.releaseCtx != nil {
		c.releaseCtx()
	}
	if err != nil {
		if isUncaught(err) && c.loop.ended.Load() {
			c.loop.strayEvent(err) // the future does not tell any more
		}
		err = c.failure(err)
		res = nil
	}
	c.abort(errOver)
	defer c.resolve(res, err) // Close of the body may call runtime.Goexit
	c.closeBody()
}

// resolve gives the future its result. That is the end of the request.
func (c *httpCall) resolve(res *HTTPResponse, err error) {
	c.settle()
	if err == ErrLoopClosed {
		c.future.fail(err)
	} else {
		c.future.finishFrom(origin{kind: kindHTTPClient, at: c.at}, futureResolved, res, err)
	}
	l := c.loop
	c.opts, c.target, c.route = &noOptions, nil, nil // the future may live on
	l.unregister(&c.handle)
	if l.ended.Load() {
		l.wake() // closeAll waits for the last handle
	}
}

// settle takes the request out of those that Stats counts, before its callbacks
// can look. The handle still keeps the loop alive until they are posted.
func (c *httpCall) settle() {
	l := c.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[c.handle.kind]--
	c.handle.kind = kindHTTPPool
	l.kinds[c.handle.kind]++
}

// errOver is the cause of what still goes on when the request has its result.
var errOver = errors.New("request is over")

// failure returns the error that is told, once, for err.
func (c *httpCall) failure(err error) error {
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	switch {
	case cause != nil:
		err = cause // err is what came of it
	case c.ctx.Err() != nil:
		err = endedBy(c.ctx, c.ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		err = os.ErrDeadlineExceeded
	}
	var pe *PanicError
	if err == ErrLoopClosed || errors.As(err, &pe) {
		return err
	}
	return &OpError{Op: OpRequest, Addr: redacted(c.url), Err: err}
}

// closeBody closes BodyReader, once, when it is not needed any more.
func (c *httpCall) closeBody() {
	c.mu.Lock()
	body := c.body
	c.body = nil
	c.mu.Unlock()
	if closer, ok := body.(io.Closer); ok {
		defer func() {
			if v := recover(); v != nil { // the request has its result already
				c.client.loop.strayEvent(newPanicError(v))
			}
		}()
		closer.Close()
	}
}

// perform sends the request, and again where the answers lead.
func (c *httpCall) perform() (*HTTPResponse, error) {
	for n := 0; ; n++ {
		x := exchanges.Get().(*httpExchange)
		x.call = c
		res, next, err := x.do(n)
		*x = httpExchange{}
		exchanges.Put(x)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return res, nil
		}
		if n == c.opts.MaxRedirects {
			return nil, ErrHTTPRedirects
		}
		c.follow(res.Status, next)
	}
}

// follow makes the request the one for the target that an answer led to.
func (c *httpCall) follow(status int, next *httpTarget) {
	if !c.target.sameOrigin(next) {
		c.opts.Headers = slices.DeleteFunc(slices.Clone(c.opts.Headers), func(h HTTPHeader) bool {
			return http1.EqualFold(h.Name, "Authorization") || http1.EqualFold(h.Name, "Cookie") ||
				http1.EqualFold(h.Name, "Host") || http1.EqualFold(h.Name, "Proxy-Authorization")
		})
		c.opts.Host = ""
	}
	if status != 307 && status != 308 {
		if c.method != "HEAD" {
			c.method = "GET"
		}
		c.dropBody()
	}
	c.target = next
	c.url = next.u.String()
}

// dropBody makes it a request without a body.
func (c *httpCall) dropBody() {
	c.closeBody()
	c.opts.Body, c.opts.BodyReader = nil, nil
	c.length, c.expect = 0, false
	c.opts.Headers = slices.DeleteFunc(slices.Clone(c.opts.Headers), func(h HTTPHeader) bool {
		return len(h.Name) > len("Content-") && http1.EqualFold(h.Name[:len("Content-")], "Content-") ||
			http1.EqualFold(h.Name, "Expect")
	})
}

// An httpExchange is one request on one connection, and its answer.
type httpExchange struct {
	call   *httpCall
	route  httpRoute
	conn   *httpconn.Conn
	resp   httpconn.Response
	upload *httpUpload // sends the body meanwhile; nil if none is needed
	times  HTTPTiming
	keep   bool      // the connection, when it is over
	over   time.Time // when that was
	last   bool      // no other follows
}

var exchanges = sync.Pool{New: func() any { return new(httpExchange) }}

// do sends the request. next is where the answer leads, if that is to be followed.
func (x *httpExchange) do(redirects int) (res *HTTPResponse, next *httpTarget, err error) {
	defer x.end()
	if err := x.ask(); err != nil {
		return nil, nil, err
	}
	x.times.FirstByte = x.conn.FirstByte().Sub(x.call.begun)
	res = x.response(redirects)
	next, err = x.next()
	x.last = next == nil
	if next != nil || err != nil {
		x.resp.Discard(maxDiscard)
		x.over = time.Now()
	} else if err = x.receive(res); err == nil {
		res.Trailers = headersOf(x.resp.Trailers(), 0)
		res.Timing.Total = time.Since(x.call.begun)
		x.over = x.call.begun.Add(res.Timing.Total)
	}
	if err != nil {
		return nil, nil, err
	}
	x.keep = x.reusable()
	return res, next, nil
}

// maxDiscard bounds the body of an answer that redirects: reading it is cheaper
// than a new connection only if it is short.
const maxDiscard = 64 << 10

// ask sends the request and reads the head of the answer, on another connection
// if the first was a kept one that the server has closed, or has spoken on before
// it was asked.
func (x *httpExchange) ask() (err error) {
	c := x.call
	if c.assigned != nil && !c.tried {
		c.tried = true
		x.route, x.conn = *c.route, c.assigned
		err = x.answer()
	} else if err = x.connect(); err == nil {
		err = x.attempt()
	} else {
		return err
	}
	stale := err == httpconn.ErrStale
	if err == nil || !x.mayRepeat(err) {
		return err
	}
	// In the slot of the connection that is gone.
	x.conn.Close()
	c.attach(nil)
	x.endUpload()
	x.count()
	x.resp = httpconn.Response{}
	x.conn.End()
	x.conn = nil
	if x.conn, err = c.dialSlot(&x.route, &x.times); err != nil {
		return err
	}
	if !stale {
		c.client.loop.count.httpRetried.Add(1)
	}
	return x.attempt()
}

// connect finds a connection.
func (x *httpExchange) connect() (err error) {
	c := x.call
	if x.route, err = c.client.route(c.target, c.opts.UnixSocket); err != nil {
		return err
	}
	x.conn, err = c.acquire(&x.route, &x.times)
	return err
}

// answer reads the head of the answer to a request that was assigned.
func (x *httpExchange) answer() error {
	err := x.readHead()
	if err == httpconn.ErrStale {
		return err
	}
	x.call.client.loop.count.httpReused.Add(1)
	if err != nil {
		if _, werr := x.conn.Sent(); werr != nil {
			return werr
		}
	}
	return err
}

// attempt sends the request and reads the head of the answer.
func (x *httpExchange) attempt() error {
	c := x.call
	x.conn.Begin(c.deadline, c.client.cfg.InactivityTimeout)
	c.attach(x.conn)
	if x.conn.Reused() {
		c.client.loop.count.httpReused.Add(1)
	}
	werr := x.send()
	if werr != nil && isTimeout(werr) {
		return werr
	}
	// After a failed write too: a server that did not want the request may have
	// said so before it closed the connection.
	err := x.readHead()
	if err != nil && werr != nil {
		return werr
	}
	return err
}

func (x *httpExchange) readHead() error {
	c := x.call
	return x.resp.ReadHead(x.conn, c.method, c.client.cfg.MaxHeaderBytes, x)
}

// mayRepeat reports whether the request may be sent a second time after err.
func (x *httpExchange) mayRepeat(err error) bool {
	c := x.call
	c.mu.Lock()
	aborted := c.cause != nil
	c.mu.Unlock()
	if aborted || err == httpconn.ErrStale {
		return !aborted // what was never sent can be
	}
	return x.conn.Reused() && !x.conn.Answered() && idempotent(c.method) &&
		c.opts.BodyReader == nil && (err == io.EOF || isReset(err))
}

// idempotent reports whether a method is, by RFC 9110 section 9.2.2.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// send sends the request, or begins to.
func (x *httpExchange) send() error {
	c := x.call
	head := c.head(&x.route)
	defer head.Release()
	if c.opts.BodyReader == nil && httpconn.Inline(len(c.opts.Body)) && !c.expect {
		return head.Send(x.conn, c.opts.Body)
	}
	x.conn.BeginWriting()
	if err := head.Send(x.conn, nil); err != nil {
		x.conn.FinishWriting()
		return err
	}
	x.upload = newHTTPUpload(c, x.conn)
	c.client.loop.wg.Add(1)
	go x.upload.run()
	return nil
}

// head returns the head of the request on the way that route is.
func (c *httpCall) head(route *httpRoute) *httpconn.Head {
	target := c.target.uri
	if route.absolute() {
		target = "http://" + c.target.host + target
	}
	h := httpconn.GetHead(c.method, target)
	h.Add("Host", c.hostField())
	if _, named := c.opts.Headers.lookup("User-Agent"); !named {
		h.Add("User-Agent", c.client.cfg.UserAgent)
	}
	c.addOwn(h, route)
	for i := range c.opts.Headers {
		if f := &c.opts.Headers[i]; c.sends(f) {
			h.Add(f.Name, f.Value)
		}
	}
	return h
}

// sends reports whether a field of the caller is sent.
func (c *httpCall) sends(f *HTTPHeader) bool {
	switch len(f.Name) {
	case len("Expect"):
		// RFC 9110 section 10.1.1: not without a body.
		return c.length != 0 || !http1.EqualFold(f.Name, "Expect")
	case len("User-Agent"):
		if f.Value == "" && http1.EqualFold(f.Name, "User-Agent") {
			return false
		}
	}
	return !ownField(f.Name)
}

// hostField returns the value of the field Host.
func (c *httpCall) hostField() string {
	if c.opts.Host != "" {
		return c.opts.Host
	}
	if host := c.opts.Headers.Get("Host"); host != "" {
		return host
	}
	return c.target.host
}

// addOwn adds the fields that the request needs and the caller did not give.
func (c *httpCall) addOwn(h *httpconn.Head, route *httpRoute) {
	has := func(name string) bool { _, ok := c.opts.Headers.lookup(name); return ok }
	switch {
	case c.length < 0:
		h.Add("Transfer-Encoding", "chunked")
	case c.length > 0 || hasBody(c.method):
		h.Add("Content-Length", strconv.FormatInt(c.length, 10))
	}
	if u := c.target.u.User; u != nil && !has("Authorization") {
		h.Add("Authorization", basicAuth(u))
	}
	if route.absolute() && route.proxy.User != nil && !has("Proxy-Authorization") {
		h.Add("Proxy-Authorization", basicAuth(route.proxy.User))
	}
	if c.decodes() && !has("Accept-Encoding") {
		h.Add("Accept-Encoding", c.codings())
	}
	if c.close {
		h.Add("Connection", "close")
	}
}

// hasBody reports whether requests with that method usually have a body, so that
// its absence must be said (RFC 9110 section 8.6).
func hasBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// ownField reports whether a field is not for the caller to send: the client sends
// it itself, or it belongs to the connection.
func ownField(name string) bool {
	switch len(name) {
	case len("Host"):
		return http1.EqualFold(name, "Host")
	case len("Upgrade"):
		return http1.EqualFold(name, "Upgrade")
	case len("Connection"): // and of Keep-Alive
		return http1.EqualFold(name, "Connection") || http1.EqualFold(name, "Keep-Alive")
	case len("Content-Length"):
		return http1.EqualFold(name, "Content-Length")
	case len("Proxy-Connection"):
		return http1.EqualFold(name, "Proxy-Connection")
	case len("Transfer-Encoding"):
		return http1.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

// Interim is told of answers before the answer.
func (x *httpExchange) Interim(status int) {
	if status == 100 && x.upload != nil {
		x.upload.permit()
	}
}

// response returns what the head of the answer says.
func (x *httpExchange) response(redirects int) *HTTPResponse {
	r, c := &x.resp, x.call
	res := &HTTPResponse{
		Status: r.Status, Reason: r.Reason, Proto: r.Proto,
		Headers:    headersOf(r.Fields, r.Fields.Count()),
		URL:        withoutUser(c.target.u, c.url),
		Redirects:  redirects,
		Reused:     x.conn.Reused(),
		RemoteAddr: x.conn.NetConn().RemoteAddr(),
		Timing:     x.times,
	}
	if tc, ok := unguarded(x.conn.NetConn()).(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := tc.ConnectionState()
		res.TLS = &state
	}
	return res
}

func headersOf(fields http1.Fields, n int) HTTPHeaders {
	var h HTTPHeaders
	if n > 0 {
		h = make(HTTPHeaders, 0, n)
	}
	for name, value, ok := fields.Next(); ok; name, value, ok = fields.Next() {
		h = append(h, HTTPHeader{name, value})
	}
	return h
}

// next returns where the answer leads, nil if it is the result.
func (x *httpExchange) next() (*httpTarget, error) {
	c := x.call
	if c.opts.MaxRedirects <= 0 {
		return nil, nil
	}
	switch x.resp.Status {
	case 301, 302, 303:
	case 307, 308:
		if c.opts.BodyReader != nil {
			return nil, nil // it cannot be read again
		}
	default:
		return nil, nil
	}
	fields := x.resp.Fields
	for name, value, ok := fields.Next(); ok; name, value, ok = fields.Next() {
		if name == "Location" && value != "" {
			next, err := c.target.redirect(value)
			return &next, err
		}
	}
	return nil, nil
}

// receive reads the body of the answer.
func (x *httpExchange) receive(res *HTTPResponse) error {
	c := x.call
	if c.opts.OnBody != nil {
		return x.stream(res)
	}
	body, err := x.resp.ReadAll(c.client.cfg.MaxBodyBytes)
	if err != nil {
		return err
	}
	res.Body = body
	if c.decodes() && len(body) > 0 {
		return decompress(res, c.client.cfg.MaxBodyBytes)
	}
	return nil
}

// decodes reports whether the client asks for a coding, and undoes it. A part of a
// coded body cannot be decoded.
func (c *httpCall) decodes() bool {
	if !c.opts.Decompress {
		return false
	}
	_, part := c.opts.Headers.lookup("Range")
	return !part
}

// codings are those that the client asks for and can undo.
func (c *httpCall) codings() string {
	if c.opts.OnBody != nil {
		return "gzip"
	}
	return "gzip, br, zstd"
}

// codingOf returns the coding of the body if it is one of those, else "".
func codingOf(res *HTTPResponse, codings string) string {
	values := res.Headers.Values("Content-Encoding")
	if len(values) != 1 {
		return ""
	}
	name := strings.ToLower(values[0])
	if name == "x-gzip" {
		name = "gzip"
	}
	if !slices.Contains(strings.Split(codings, ", "), name) {
		return ""
	}
	return name
}

// decoded takes the fields away that are true of the coded body only.
func decoded(res *HTTPResponse) {
	res.Headers.Del("Content-Encoding")
	res.Headers.Del("Content-Length")
}

// decompress undoes the coding of the whole body.
func decompress(res *HTTPResponse, max int) error {
	name := codingOf(res, "gzip, br, zstd")
	if name == "" {
		return nil
	}
	body, err := coding.Decode(name, res.Body, max)
	if errors.Is(err, coding.ErrTooLarge) {
		return fmt.Errorf("%w: more than %d bytes when decompressed", ErrHTTPTooLarge, max)
	}
	if err != nil {
		return fmt.Errorf("%w: Content-Encoding %s: %v", ErrHTTPMalformed, name, err)
	}
	res.Body = body
	decoded(res)
	return nil
}

// maxUploadWait is how long a request that is answered already may take to be sent
// to its end. Longer is not worth it: the connection is closed.
const maxUploadWait = 50 * time.Millisecond

// reusable reports whether the connection can carry another request.
func (x *httpExchange) reusable() bool {
	if x.call.close || !x.resp.Reusable() {
		return false
	}
	if x.upload != nil && !x.upload.sent(maxUploadWait) {
		return false
	}
	if x.conn == x.call.assigned {
		if all, _ := x.conn.Sent(); !all {
			return false
		}
	}
	x.conn.SetKeepAlive(x.resp.KeepAliveTimeout())
	return true
}

// end gives the connection back to the pool, or closes it.
func (x *httpExchange) end() {
	conn := x.conn
	if conn == nil {
		return
	}
	c := x.call
	c.attach(nil) // from here on abort leaves the connection alone
	x.endUpload()
	x.count()
	if conn.End() && x.keep {
		keeper := x.last && conn.Keepable()
		if c.client.keep(conn, x.over, keeper) && keeper {
			c.kept = conn
		}
		return
	}
	conn.Close()
	c.client.pool.Release(x.route.key)
}

// endUpload ends what still sends the body. It does not wait for a write that goes on,
// but nothing reads the body any more.
func (x *httpExchange) endUpload() {
	if x.upload != nil {
		x.upload.end()
		x.upload = nil
	}
}

// count adds what the connection carried to the statistics.
func (x *httpExchange) count() {
	in, out := x.conn.Bytes()
	count := &x.call.client.loop.count
	count.bytesIn.Add(uint64(in))
	count.written.Add(uint64(out)) // nothing of it waits
	count.bytesOut.Add(uint64(out))
}
