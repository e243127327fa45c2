package eventloop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/coding"
	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// An httpCall is one request, including its redirects, from Do to its result. It has no
// goroutine of its own: the goroutine of its connection does the work, see
// httpSlot. While the request waits for a connection, it is in a queue of the pool. A second
// goroutine sends a body that is long or comes from a reader, while the connection's
// goroutine waits for the response.
//
// abort ends the request early: at the end of ctx or of the loop, or when the second
// goroutine fails.
type httpCall struct {
	handle
	future Future[*HTTPResponse]
	client *HTTPClient
	ctx    context.Context // the caller's context
	rawURL string          // the caller's URL
	opts   *HTTPOptions    // a copy of the caller's options, or noOptions
	begun  time.Time
	at     uintptr     // the caller's program counter
	body   *bodyCloser // nil if there is nothing to close

	// Owned by the goroutine that sends the request. Redirects change them.
	method    string
	url       string
	target    *httpTarget
	route     *httpRoute  // nil: not determined yet
	length    int64       // the length of the body; -1: chunked
	redirects int32       // the number of followed redirects
	close     bool        // close the connection after this request
	expect    bool        // Expect: 100-continue
	retried   bool        // the request was sent twice
	upload    *httpUpload // sends the body concurrently; nil if not needed
	slow      *slowStart  // see start
	extra     *callExtra  // see more
	trip      *httpTrip   // the call of a RoundTripper; nil if the request comes from Do

	deadline   time.Time
	releaseCtx func() bool // stops watching ctx

	place httpclient.Place // the position in a queue; guarded by the mutex of the pool

	mu     sync.Mutex       // guards the following
	cause  error            // the first reason why the request must end early
	conn   *httpclient.Conn // the connection of the request
	waits  context.Context  // ends with the request; created when first needed
	cancel func()           // cancels waits
}

// A slowStart holds the state of a request that did not find an idle connection.
type slowStart struct {
	times     HTTPTiming // the phases up to the handshake
	queued    time.Time
	waitTimer *time.Timer // ends the wait for a connection at the request's deadline
}

// start returns the slowStart of the request, and creates it if needed.
func (c *httpCall) start() *slowStart {
	if c.slow == nil {
		c.slow = &slowStart{}
	}
	return c.slow
}

// A callExtra holds the state that few requests need.
type callExtra struct {
	cookies string       // the cookies of the jar for the current target
	source  uploadSource // the source of BodyReader
	upload  *httpUpload  // the last upload of BodyReader
}

// more returns the callExtra of the request, and creates it if needed.
func (c *httpCall) more() *callExtra {
	if c.extra == nil {
		c.extra = &callExtra{}
	}
	return c.extra
}

// noOptions holds the options of a request without options. It is never changed.
var noOptions HTTPOptions

func (c *httpCall) terminate() { c.abort(ErrLoopClosed) }

func (c *httpCall) describe() string {
	if c.trip != nil {
		return c.trip.address()
	}
	return redacted(c.rawURL)
}

var (
	errNoMethod    = errors.New("method is not valid")
	errConnect     = errors.New("method CONNECT is for proxies")
	errNilReader   = errors.New("BodyReader is a nil pointer")
	errTwoBodies   = errors.New("both Body and BodyReader are set")
	errShortLength = errors.New("negative ContentLength")
	errOnlyGetBody = errors.New("GetBody without BodyReader")
	errTwoFramings = errors.New("both Trailers and ContentLength are set")
)

// begin sends the request, or ends it with an error.
func (c *httpCall) begin(method string) {
	err := errGoexit
	returned := false
	defer func() {
		if !returned { // a method of the context panicked, so Do returns no future
			c.future.Ignore()
		}
		if err != nil {
			c.finishAside(err)
		}
	}()
	err = c.prepare(method)
	if returned = true; err == nil {
		c.submit()
	}
}

// prepare checks the arguments of the request. It runs in Do.
func (c *httpCall) prepare(method string) error {
	o := c.opts
	c.method, c.url = method, c.rawURL
	if c.method == "" {
		c.method = "GET"
	}
	place, err := c.client.place(c.rawURL)
	if err == nil {
		c.target, c.route = &place.target, place.route
		if o.UnixSocket != "" {
			c.route = unixRoute(c.target, o.UnixSocket)
		}
	}
	switch {
	case err != nil:
		return err
	case isNilBody(o.BodyReader):
		return errNilReader
	case o.BodyReader != nil && o.Body != nil:
		return errTwoBodies
	case o.ContentLength < 0:
		return errShortLength
	case o.BodyReader == nil && o.ContentLength > 0 && o.ContentLength != int64(len(o.Body)):
		return fmt.Errorf("%w: ContentLength=%d with nil BodyReader and a Body of %d bytes", ErrHTTPBodyLength, o.ContentLength, len(o.Body))
	case o.BodyReader == nil && o.GetBody != nil:
		return errOnlyGetBody
	}
	c.length = c.bodyLength()
	if len(o.Trailers) > 0 {
		if o.ContentLength > 0 {
			return errTwoFramings
		}
		if _, err := trailerLines(o.Trailers); err != nil {
			return err
		}
		c.length = -1
	}
	if err := c.check(); err != nil {
		return err
	}
	c.watch()
	return c.ctx.Err()
}

// check validates the method and the header fields of the request.
func (c *httpCall) check() error {
	o := c.opts
	if err := c.checkTransport(); err != nil {
		return err
	}
	switch {
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
	}
	if err := o.Headers.validate(); err != nil {
		return err
	}
	if o.Upgrade != nil {
		if o.Headers.Get("Upgrade") == "" {
			return errNoProtocol
		}
		c.route = throughTunnel(c.route, c.target)
	}
	c.close = o.Close || c.client.cfg.DisableKeepAlives || o.Headers.hasToken("Connection", "close")
	c.expect = o.Headers.hasToken("Expect", "100-continue") && c.length != 0
	return nil
}

// isHostField reports whether s may be sent as the Host field. An empty s stands for the
// host of the URL.
func isHostField(s string) bool { return s == "" || http1.IsHost(s) }

// watch sets the deadline of the request, and makes the request end with ctx.
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
func (c *httpCall) abort(cause error) {
	c.interrupt(nil, cause)
	if c.client.pool.Remove(c) {
		c.finishAside(cause)
	}
}

// finishAside is finish with an error. It uses a separate goroutine if code of the
// application may run.
func (c *httpCall) finishAside(err error) {
	if c.body != nil {
		c.client.loop.wg.Go(func() { c.finish(nil, err) })
	} else {
		c.finish(nil, err)
	}
}

// interrupt ends all waits of the request. If conn is not nil, it does so only while conn
// serves the request.
func (c *httpCall) interrupt(conn *httpclient.Conn, cause error) {
	c.mu.Lock()
	if conn != nil && c.conn != conn {
		c.mu.Unlock()
		return
	}
	if c.cause == nil {
		c.cause = cause
		if c.trip != nil && c.trip.cut != nil {
			close(c.trip.cut)
		}
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

// isAborted reports whether the request must end early.
func (c *httpCall) isAborted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause != nil
}

// waitContext returns the context of all waits except the wait for a connection.
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

// Attach makes conn the connection of the request, which abort interrupts. A nil conn
// means none.
func (c *httpCall) Attach(conn *httpclient.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if conn != nil && c.cause != nil {
		conn.Interrupt()
	}
}

// Place returns the position of the request in a queue of the pool.
func (c *httpCall) Place() *httpclient.Place { return &c.place }

// Queued begins the wait for a connection. It ends at the request's deadline at the latest.
func (c *httpCall) Queued() {
	w := c.start()
	w.queued = time.Now()
	if !c.deadline.IsZero() {
		w.waitTimer = time.AfterFunc(c.deadline.Sub(w.queued), func() { c.abort(os.ErrDeadlineExceeded) })
	}
}

// Unqueued ends the wait for a connection.
func (c *httpCall) Unqueued() {
	w := c.slow
	w.times.Wait = time.Since(w.queued)
	if w.waitTimer != nil {
		w.waitTimer.Stop()
	}
}

// finish ends the parts of the request that are still running, and resolves the future.
func (c *httpCall) finish(res *HTTPResponse, err error) {
	if c.releaseCtx != nil {
		c.releaseCtx()
	}
	if err != nil {
		if isUncaught(err) && c.loop.ended.Load() {
			c.loop.reportUnowned(err) // the future no longer reports it
		}
		err = c.failure(err)
		res = nil
	}
	c.interrupt(nil, errOver)
	if c.trip != nil {
		c.trip.finish(err)
		return
	}
	c.closeBody()
	c.resolve(c.afterClose(res, err))
}

// afterClose returns the result of the request after its body has been closed: a panic in
// Close is part of the result.
func (c *httpCall) afterClose(res *HTTPResponse, err error) (*HTTPResponse, error) {
	if c.body == nil || c.body.panicked() == nil {
		return res, err
	}
	switch pe := c.body.panicked(); {
	case c.loop.ended.Load():
		c.loop.reportUnowned(pe) // the future no longer reports it
		return res, err
	case err == nil:
		return nil, c.opError(pe)
	default:
		return nil, errors.Join(err, c.opError(pe))
	}
}

// resolve resolves the future, which ends the request.
func (c *httpCall) resolve(res *HTTPResponse, err error) {
	c.settle()
	defer c.loop.worksFor(&c.handle)()
	if err == ErrLoopClosed {
		c.future.fail(err)
	} else {
		c.future.finishFrom(origin{kind: kindHTTPClient, at: c.at}, futureResolved, res, err)
	}
	// The future may outlive the request.
	c.opts, c.target, c.route, c.slow, c.extra = &noOptions, nil, nil, nil, nil
	c.loop.unregisterAside(&c.handle)
}

// settle removes the request from the number of requests in Stats, before its callbacks can
// read Stats. The handle keeps the loop alive until the callbacks are posted.
func (c *httpCall) settle() {
	l := c.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.handle.owner == nil {
		return // the request was abandoned, and is no longer counted
	}
	l.kinds[c.handle.kind]--
	c.handle.kind = kindHTTPPool
	l.kinds[c.handle.kind]++
}

// errOver ends the remaining waits and the upload when the request has its result.
var errOver = errors.New("request is over")

// failure returns the error that the request reports, once, for err.
func (c *httpCall) failure(err error) error {
	c.mu.Lock()
	cause := c.cause
	c.mu.Unlock()
	switch {
	case cause != nil:
		err = cause // err is only a consequence of it
	case c.ctx.Err() != nil:
		err = endedBy(c.ctx, c.ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		err = os.ErrDeadlineExceeded
	}
	if err == ErrLoopClosed {
		return err
	}
	return c.opError(err)
}

// opError wraps err in the OpError of the request.
func (c *httpCall) opError(err error) error {
	address := ""
	if c.trip != nil {
		address = c.trip.address()
	} else {
		address = redacted(c.url)
	}
	return &OpError{Op: OpRequest, Addr: address, Err: err}
}

// A bodyCloser closes a BodyReader, once.
type bodyCloser struct {
	mu    sync.Mutex // held during Close; guards body
	body  io.Closer  // nil when Close was called
	state atomic.Uint32
	stuck atomic.Bool // a Read is in progress that Close does not interrupt
	panic *PanicError // the panic of Close; valid in the state bodyClosed
}

// States of a bodyCloser.
const (
	bodyOpen    uint32 = iota
	bodyClosing        // a goroutine is about to call Close, or is calling it
	bodyClosed         // Close has returned, or Run no longer waits for it
)

// closeBody closes BodyReader, once, when it is no longer needed. When closeBody returns,
// this or another goroutine has closed the body, unless the loop has abandoned that call of
// Close.
func (c *httpCall) closeBody() {
	if c.body != nil {
		c.body.close(c)
	}
}

// close closes the body, once. A second caller waits for the first. That wait is an unnamed
// foreign call, because the error of Run already names the call of the first caller.
func (b *bodyCloser) close(c *httpCall) {
	switch {
	case b.state.CompareAndSwap(bodyOpen, bodyClosing):
		b.closeNow(c)
	case b.state.Load() == bodyClosing:
		c.client.loop.aside(unnamed, func() error { b.closeNow(c); return nil })
	}
}

// panicked returns the panic of Close, or nil if there was none or Close has not returned.
func (b *bodyCloser) panicked() *PanicError {
	if b.state.Load() != bodyClosed {
		return nil
	}
	return b.panic
}

func (b *bodyCloser) closeNow(c *httpCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body := b.body
	if body == nil {
		return
	}
	b.body = nil        // the future may outlive the request
	if b.stuck.Load() { // body is a file
		go body.Close() // on Windows, Close waits for the Read
		b.state.Store(bodyClosed)
		return
	}
	what := func() string { return "Close of the body of the request " + c.describe() }
	b.panic = panicIn(c.client.loop.aside(what, func() error { body.Close(); return nil }))
	b.state.Store(bodyClosed)
}

// bodyPanicked reports whether Close of BodyReader has panicked.
func (c *httpCall) bodyPanicked() bool { return c.body != nil && c.body.panicked() != nil }

// closeUnused closes the BodyReader of a request that was rejected.
func (c *httpCall) closeUnused() {
	c.closeBody()
	if pe := c.body.panicked(); pe != nil {
		c.client.loop.reportUnowned(pe)
	}
}

// follow changes c to the request for next, the target to which res redirects.
func (c *httpCall) follow(res *HTTPResponse, next *httpTarget) {
	if c.jar() != nil {
		c.overrideCookies(cookiesOf(res.Headers))
	}
	if !c.target.sameOrigin(next) {
		c.opts.Headers = slices.DeleteFunc(slices.Clone(c.opts.Headers), func(h HTTPHeader) bool {
			return http1.EqualFold(h.Name, "Authorization") || http1.EqualFold(h.Name, "Cookie") ||
				http1.EqualFold(h.Name, "Host") || http1.EqualFold(h.Name, "Proxy-Authorization")
		})
		c.opts.Host = ""
	}
	if res.Status != 307 && res.Status != 308 {
		if c.method != "HEAD" {
			c.method = "GET"
		}
		c.dropBody()
	}
	c.target, c.route = next, nil
	c.url = next.u.String()
	c.redirects++
	c.slow = nil
}

// dropBody changes c to a request without a body.
func (c *httpCall) dropBody() {
	c.closeBody()
	c.opts.Body, c.opts.BodyReader, c.opts.Trailers = nil, nil, nil
	c.length, c.expect = 0, false
	c.opts.Headers = slices.DeleteFunc(slices.Clone(c.opts.Headers), func(h HTTPHeader) bool {
		return len(h.Name) > len("Content-") && http1.EqualFold(h.Name[:len("Content-")], "Content-") ||
			http1.EqualFold(h.Name, "Expect")
	})
}

// head returns the request line and the header for route.
func (c *httpCall) head(route *httpRoute) *httpclient.Head {
	target := c.target.uri
	if route.absolute() && c.target.u.Opaque == "" {
		target = "http://" + c.target.host + target
	}
	h := httpclient.GetHead(c.method, target)
	c.addFields(h, route)
	return h
}

// addFields adds the header fields for route.
func (c *httpCall) addFields(h fieldAdder, route *httpRoute) {
	h.Add("Host", c.hostField())
	if value, named := c.opts.Headers.lookup("User-Agent"); !named {
		h.Add("User-Agent", c.client.cfg.UserAgent)
	} else if c.trip != nil && value != "" {
		h.Add("User-Agent", value)
	}
	c.addOwn(h, route)
	jar := c.extra != nil && c.extra.cookies != ""
	if jar {
		h.Add("Cookie", c.cookieField(c.extra.cookies))
	}
	for i := range c.opts.Headers {
		if f := &c.opts.Headers[i]; c.sends(f) && !(jar && http1.EqualFold(f.Name, "Cookie")) {
			h.Add(f.Name, f.Value)
		}
	}
}

// sends reports whether the client sends f, which is a field of the caller.
func (c *httpCall) sends(f *HTTPHeader) bool {
	switch len(f.Name) {
	case len("Expect"):
		// RFC 9110 section 10.1.1 forbids it in a request without a body.
		return c.length != 0 || !http1.EqualFold(f.Name, "Expect")
	case len("User-Agent"):
		if (f.Value == "" || c.trip != nil) && http1.EqualFold(f.Name, "User-Agent") {
			return false
		}
	}
	if c.opts.Upgrade != nil && http1.EqualFold(f.Name, "Upgrade") {
		return true
	}
	return c.trip != nil || !ownField(f.Name)
}

// hostField returns the value of the Host field.
func (c *httpCall) hostField() string {
	if c.opts.Host != "" {
		return c.opts.Host
	}
	if host := c.opts.Headers.Get("Host"); host != "" {
		return host
	}
	return c.target.host
}

// addOwn adds the fields that the request needs and the caller did not set.
func (c *httpCall) addOwn(h fieldAdder, route *httpRoute) {
	has := func(name string) bool { _, ok := c.opts.Headers.lookup(name); return ok }
	switch {
	case c.length < 0:
		h.Add("Transfer-Encoding", "chunked")
		if len(c.opts.Trailers) > 0 && !has("Trailer") {
			h.Add("Trailer", c.opts.Trailers.names())
		}
	case c.length > 0 || hasBody(c.method):
		h.Add("Content-Length", strconv.FormatInt(c.length, 10))
	}
	if u := c.target.u.User; u != nil && c.trip == nil && !has("Authorization") {
		h.Add("Authorization", basicAuth(u))
	}
	if route.absolute() && route.proxy.User != nil && !has("Proxy-Authorization") {
		h.Add("Proxy-Authorization", basicAuth(route.proxy.User))
	}
	if c.decodes() && !has("Accept-Encoding") {
		h.Add("Accept-Encoding", c.codings())
	}
	switch {
	case c.opts.Upgrade != nil:
		h.Add("Connection", "Upgrade")
	case c.close && (c.trip == nil || c.trip.saysClose()):
		h.Add("Connection", "close")
	}
}

// hasBody reports whether requests with the method usually have a body. Such a request
// without a body must have Content-Length: 0 (RFC 9110 section 8.6).
func hasBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// ownField reports whether the client ignores a field of the caller, because it sets the
// field itself, or because the field concerns the connection.
func ownField(name string) bool {
	switch len(name) {
	case len("Host"):
		return http1.EqualFold(name, "Host")
	case len("Upgrade"):
		return http1.EqualFold(name, "Upgrade")
	case len("Connection"): // also the length of Keep-Alive
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

// decodes reports whether the client requests a content coding and decodes it. It does
// neither for a range request, because a part of a coded body cannot be decoded.
func (c *httpCall) decodes() bool {
	if !c.opts.Decompress {
		return false
	}
	_, part := c.opts.Headers.lookup("Range")
	return !part
}

// codings returns the content codings that the client requests and can decode.
func (c *httpCall) codings() string {
	if c.opts.OnBody != nil {
		return "gzip"
	}
	return "gzip, br, zstd"
}

// codingOf returns the coding of the body if it is one of codings, or else "".
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

// decoded removes the fields that describe only the coded body.
func decoded(res *HTTPResponse) {
	res.Headers.Del("Content-Encoding")
	res.Headers.Del("Content-Length")
}

// decompress decodes the whole body.
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
