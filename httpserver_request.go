package eventloop

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/valyala/fasthttp"
)

// ErrHTTPResponded is returned by a second attempt to respond to a request.
var ErrHTTPResponded = errors.New("eventloop: the request already has a response")

// An HTTPRequest is a request from a client. It owns its data: everything that its
// methods return stays valid as long as the application keeps it, even after the
// response. The application must not modify it.
//
// Call exactly one of [HTTPRequest.Respond], [HTTPRequest.RespondStream],
// [HTTPRequest.ServeHTTP] and [HTTPRequest.Upgrade], in the handler or at any later time.
// The requests of one connection arrive one at a time: the next one arrives when the
// response to this one is complete. A request that never gets a response keeps its
// connection open and the loop alive. [Loop.Handles] shows it,
// HTTPServerConfig.ResponseTimeout limits it, and it is logged a minute after its client
// has disconnected, and when the loop ends.
//
// All methods may be called from any goroutine and from any callback.
type HTTPRequest struct {
	loop *Loop
	via  exchange // a connection of our server, or a mountExchange
	head requestHead
	body []byte

	response atomic.Uint32 // a responseState; set with mu held
	mu       *sync.Mutex   // of via; guards the fields below

	stream     *bodyStream
	writer     *HTTPResponseWriter
	x          *requestExtra // see extra
	at         time.Duration // the time of the response, by clock
	pos        int64         // in the output: the response's beginning, and once complete, its end
	delayed    bool          // the handler returned before the response was complete
	last       bool          // close the connection after the response
	cut        bool          // close it in a way that the client cannot mistake for the end of the body
	untilClose bool          // the end of the connection ends the body of the response
}

// responseState is the state of the response to a request.
type responseState uint32

const (
	responseNone     responseState = iota
	responseBegun                  // it was chosen, and is not complete
	responseComplete               // all of it is queued
	responseLost                   // there can be no response; extra has the reason
)

func (r *HTTPRequest) state() responseState { return responseState(r.response.Load()) }

// setState changes the state. The caller holds r.mu.
func (r *HTTPRequest) setState(s responseState) { r.response.Store(uint32(s)) }

// over reports whether the response is complete or lost.
func (r *HTTPRequest) over() bool { return r.state() >= responseComplete }

// isComplete reports whether all of the response is queued.
func (r *HTTPRequest) isComplete() bool { return r.state() == responseComplete }

// isLost reports whether there can be no response.
func (r *HTTPRequest) isLost() bool { return r.state() == responseLost }

// begun reports whether a response was chosen, even if it was lost later. The caller
// holds r.mu.
func (r *HTTPRequest) begun() bool {
	return r.writer != nil || r.state() == responseBegun || r.isComplete()
}

// A requestExtra has the fields that a request does not need if its handler responds
// before it returns. Most handlers do. Keeping the fields apart halves the size of a
// request.
type requestExtra struct {
	pending       handle      // registered from the return of the handler until the response is over
	headers       HTTPHeaders // made by Headers
	upgraded      *Conn
	lost          error // the reason for responseLost
	abort         error // the error for onAbort; nil until the client ends its side or disconnects
	onAbortCalled bool
	onAbort       func(err error)
	ctx           context.Context
	cancel        context.CancelCauseFunc
	ctxLasts      bool // ctx ends with the task or http.Handler, not with the response
	served        *servedResponse
	timer         *Timer // for ResponseTimeout
	left          *Timer // logs that the request is abandoned
}

// noExtra is what peek returns for a request without a requestExtra.
var noExtra requestExtra

// extra returns the requestExtra of r, and makes it if needed. The caller holds r.mu.
func (r *HTTPRequest) extra() *requestExtra {
	if r.x == nil {
		r.x = &requestExtra{}
	}
	return r.x
}

// peek is like extra, but allocates nothing. The result must not be modified. The caller
// holds r.mu.
func (r *HTTPRequest) peek() *requestExtra {
	if r.x == nil {
		return &noExtra
	}
	return r.x
}

// A requestHead is the head of a request as it was sent, with the result of parsing it.
type requestHead struct {
	text string
	http1.Request
}

func (h *requestHead) method() string { return h.text[:h.MethodEnd] }
func (h *requestHead) uri() string    { return h.text[h.MethodEnd+1 : h.TargetEnd] }

// lines returns the fields, each with the end of its line.
func (h *requestHead) lines() string { return h.text[h.Fields : len(h.text)-len("\r\n")] }

// Method returns the method as it was sent. It need not be a standard method.
func (r *HTTPRequest) Method() string { return r.head.method() }

// URI returns the request target as it was sent, not decoded: path and query, "*", or one
// of the forms for a proxy (RFC 9112 section 3.2).
func (r *HTTPRequest) URI() string { return r.head.uri() }

// Host returns the host of the request, with the port if one was sent: the host of the
// target if it has one, and otherwise the Host field, which may be empty.
// [HTTPRequest.Header] always returns the Host field. If the target has a host, RFC 9112
// section 3.2.2 requires that the field be ignored.
func (r *HTTPRequest) Host() string {
	switch uri := r.URI(); {
	case uri != "" && uri[0] == '/': // the common case
	case r.Method() == fasthttp.MethodConnect:
		return uri
	default:
		if host, _, ok := http1.CutAuthority(uri); ok {
			return host
		}
	}
	return r.Header("Host")
}

// Path returns the path of the target as it was sent: the part before "?", without the
// authority if there is one. It is not decoded and not cleaned.
func (r *HTTPRequest) Path() string {
	target := r.URI()
	if _, rest, ok := http1.CutAuthority(target); ok {
		target = rest
	}
	path, _, _ := strings.Cut(target, "?")
	if path == "" {
		return "/"
	}
	return path
}

// Query returns the part of the target after the first "?", as it was sent.
// [HTTPRequest.QueryValues] parses it.
func (r *HTTPRequest) Query() string {
	_, query, _ := strings.Cut(r.URI(), "?")
	return query
}

// Headers returns all header fields as they were sent, in order.
func (r *HTTPRequest) Headers() HTTPHeaders {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.extra()
	if x.headers == nil {
		lines := r.head.lines()
		x.headers = make(HTTPHeaders, 0, strings.Count(lines, "\n"))
		for line := range strings.Lines(lines) {
			x.headers.Add(http1.SplitField(line))
		}
	}
	return x.headers[:len(x.headers):len(x.headers)]
}

// Header returns the value of the first header field with that name, or "".
func (r *HTTPRequest) Header(name string) string {
	for rest := r.head.lines(); rest != ""; {
		line := rest
		if i := strings.IndexByte(rest, '\n'); i >= 0 {
			line, rest = rest[:i], rest[i+1:]
		} else {
			rest = ""
		}
		if len(line) > len(name) && line[len(name)] == ':' && http1.EqualFold(line[:len(name)], name) {
			_, value := http1.SplitField(line)
			return value
		}
	}
	return ""
}

// Body returns the body, for any method. It returns nil if there is none, or if the body is
// longer than HTTPServerConfig.MaxInlineBody: read such a body with [HTTPRequest.OnBody].
func (r *HTTPRequest) Body() []byte { return r.body }

// RemoteAddr returns the address of the client.
func (r *HTTPRequest) RemoteAddr() net.Addr { return r.via.client() }

// TLS returns the TLS state of the connection, or nil if it does not use TLS.
func (r *HTTPRequest) TLS() *tls.ConnectionState { return r.via.secured() }

// Loop returns the loop of the request.
func (r *HTTPRequest) Loop() *Loop { return r.loop }

// Context returns a context that ends when the response has been written, when the
// client closes or resets the connection, and when the loop ends. For a [TaskHandler] it
// ends with the task instead of the response, and for the handler of
// [HTTPRequest.ServeHTTP] when that handler returns.
//
// The server cannot distinguish a client that has closed its connection from a client
// that has ended only its own side and waits for the response. As in net/http, both end
// the context, with the cause io.EOF, and the response is sent in either case. With
// HTTPServerConfig.AllowHalfOpen, neither ends the context.
//
// In a net/http server (see [HTTPHandler]), the context derives from the context of the
// http.Request: it has the same values and deadline, and ends with it.
func (r *HTTPRequest) Context() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.extra()
	if x.ctx == nil {
		x.ctx, x.cancel = context.WithCancelCause(r.via.context())
		switch {
		case r.isLost():
			x.cancel(x.lost)
		case r.isComplete() && !x.ctxLasts:
			if !r.via.whenSent(r) {
				x.cancel(nil)
			}
		case r.abortEnds(x.abort):
			x.cancel(x.abort)
		}
	}
	return x.ctx
}

// abortEnds reports whether a disconnect with err ends the context.
func (r *HTTPRequest) abortEnds(err error) bool {
	return err != nil && !(err == io.EOF && r.via.settings().AllowHalfOpen)
}

// String returns a readable summary: the request line, the header fields, and the body if
// it is valid UTF-8 of up to 4 KB, or otherwise its length.
func (r *HTTPRequest) String() string {
	var b strings.Builder
	version := "HTTP/1.0"
	if r.head.HTTP11 {
		version = "HTTP/1.1"
	}
	fmt.Fprintf(&b, "%s %s %s", r.Method(), r.URI(), version)
	if addr := r.RemoteAddr(); addr != nil {
		fmt.Fprintf(&b, " from %v", addr)
	}
	b.WriteByte('\n')
	for _, f := range r.Headers() {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	switch {
	case len(r.body) == 0:
	case len(r.body) <= 4<<10 && utf8.Valid(r.body):
		fmt.Fprintf(&b, "\n%s\n", r.body)
	default:
		fmt.Fprintf(&b, "\n(%d bytes)\n", len(r.body))
	}
	return b.String()
}

// FastHTTP returns the request as a fasthttp.Request, for its parsers: Header.Cookie,
// URI().QueryArgs, PostArgs, MultipartForm. Each call makes a new one. It belongs to the
// caller, but shares the body.
func (r *HTTPRequest) FastHTTP() *fasthttp.Request {
	req := &fasthttp.Request{}
	br := bufio.NewReaderSize(strings.NewReader(r.head.text), len(r.head.text))
	if req.Header.Read(br) != nil { // fasthttp rejects heads that we accept, such as an empty Host
		req.Header.Reset()
		req.Header.SetMethod(r.Method())
		req.Header.SetRequestURI(r.URI())
		for _, f := range r.Headers() {
			req.Header.Add(f.Name, f.Value)
		}
		if !r.head.HTTP11 {
			req.Header.SetProtocol("HTTP/1.0")
		}
	}
	req.SetBodyRaw(r.body)
	return req
}

// OnAbort sets f to be called on the loop, at most once, if the client disconnects before
// the response is complete, streamed or not. The error matches [ErrReset] if the client
// reset the connection. It is io.EOF if the client ended its own side. That may be a
// half-close by a client that still waits, so a response is sent in this case. f is
// called within a second of the disconnect, usually within a millisecond, even if the
// client left before OnAbort was called. A second call replaces f.
//
// There is a limit: once the server has read ahead HTTPServerConfig.MaxHeaderBytes of
// further requests, or holds that much of the body while OnBody is paused, it does not
// notice a disconnect until the response is written.
func (r *HTTPRequest) OnAbort(f func(err error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.extra()
	x.onAbort = f
	if x.abort != nil && !x.onAbortCalled {
		r.loop.Post(r.callOnAbort)
	}
}

// callOnAbort calls the function of OnAbort, on the loop.
func (r *HTTPRequest) callOnAbort() {
	r.mu.Lock()
	x := r.extra()
	f, err := x.onAbort, x.abort
	if f == nil || x.onAbortCalled || r.isComplete() {
		r.mu.Unlock()
		return
	}
	x.onAbortCalled = true
	r.mu.Unlock()
	r.call(func() { f(err) })
}

// aborted notes that the client has ended its side or disconnected.
func (r *HTTPRequest) aborted(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abortedLocked(err)
	r.watchAbandoned()
}

func (r *HTTPRequest) abortedLocked(err error) {
	x := r.extra()
	if r.isComplete() || x.abort != nil {
		return
	}
	x.abort = err
	r.loop.count.httpAborts.Add(1)
	if x.onAbort != nil {
		r.loop.Post(r.callOnAbort)
	}
	if x.cancel != nil && r.abortEnds(err) {
		x.cancel(err)
	}
	if x.served != nil {
		x.served.turn.Broadcast()
	}
}

// watchAbandoned starts the timer that logs the request if it stays open. The caller
// holds r.mu.
func (r *HTTPRequest) watchAbandoned() {
	if x := r.extra(); x.left == nil && !r.isComplete() {
		x.left = r.loop.AfterFunc(abandonedAfter, r.abandoned)
		x.left.Unref()
	}
}

// abandonedAfter is how long a request may stay open after its client has disconnected
// before it is logged.
const abandonedAfter = time.Minute

// abandoned is the callback of watchAbandoned's timer.
func (r *HTTPRequest) abandoned() {
	r.loop.log(slog.LevelWarn, "a request is still open long after its client disconnected",
		"request", r.describe(), "since", abandonedAfter)
}

// lose ends a request to which there can be no response, because of err.
func (r *HTTPRequest) lose(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loseLocked(err)
}

func (r *HTTPRequest) loseLocked(err error) {
	if r.over() {
		return
	}
	r.loseBody(err)
	if err != ErrLoopClosed {
		r.abortedLocked(err)
	}
	x := r.extra()
	x.lost = err
	r.setState(responseLost)
	if x.cancel != nil {
		x.cancel(err)
	}
	if x.served != nil {
		x.served.turn.Broadcast()
	}
	r.settle()
	r.via.lost(r)
}

// settle releases the handle and the timers of the request. It is called once, when the
// response is complete or lost. The caller holds r.mu.
func (r *HTTPRequest) settle() {
	r.loop.count.httpSettled.Add(1)
	if r.delayed {
		r.loop.unregister(&r.extra().pending)
	}
	r.stopTimer()
	if t := r.peek().left; t != nil {
		t.Stop()
	}
}

// stopTimer stops the timer of ResponseTimeout. The caller holds r.mu.
func (r *HTTPRequest) stopTimer() {
	if t := r.peek().timer; t != nil {
		t.Stop()
	}
}

// keep reports whether to keep the connection after the response. The caller holds r.mu.
func (r *HTTPRequest) keep() bool {
	x := r.peek()
	return !r.last && !r.cut && x.upgraded == nil && (x.served == nil || !x.served.hijacked)
}

// sent is called when output of r has been sent. The caller holds r.mu.
func (r *HTTPRequest) sent() {
	if r.writer != nil {
		r.writer.checkDrain()
	} else if s := r.peek().served; s != nil {
		s.sent()
	}
}

// watched reports whether r has a context that must end with its response. The caller
// holds r.mu.
func (r *HTTPRequest) watched() bool {
	x := r.peek()
	return x.cancel != nil && !x.ctxLasts
}

// endLocked ends the context of r. It is called when the response is written, or cannot
// be. The caller holds r.mu.
func (r *HTTPRequest) endLocked(err error) {
	if x := r.peek(); x.cancel != nil && !(x.ctxLasts && err == nil) {
		x.cancel(err)
	}
}

// httpRequestTask calls the handler with a request. The request is registered only if the
// handler returns before the response is complete, so a response in the handler does not
// pay for a registration.
type httpRequestTask HTTPRequest

func (t *httpRequestTask) run() {
	r := (*HTTPRequest)(t)
	if r.loop.ended.Load() {
		r.lose(ErrLoopClosed)
		return
	}
	defer r.handled() // the handler may call runtime.Goexit
	defer r.caught()
	r.via.handler()(r)
}

// handled is called when the handler has returned.
func (r *HTTPRequest) handled() {
	if r.isComplete() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.over():
	case r.delayed: // by ServeHTTP
		r.via.flush()
	default:
		r.delay()
	}
}

// delay registers r as a handle of the loop. The caller holds r.mu.
func (r *HTTPRequest) delay() {
	x := r.extra()
	if err := r.loop.register(&x.pending, r, kindHTTPRequest, false); err != nil {
		r.loseLocked(ErrLoopClosed)
		return
	}
	r.delayed = true
	if d := r.via.settings().ResponseTimeout; d > 0 && !r.begun() {
		x.timer = r.loop.AfterFunc(d, r.timedOut)
		x.timer.Unref()
	}
	r.via.flush()
}

// timedOut responds after ResponseTimeout in place of the application.
func (r *HTTPRequest) timedOut() {
	if r.respondError(fasthttp.StatusServiceUnavailable) == nil {
		r.event(r.opError(os.ErrDeadlineExceeded))
	}
}

// call runs a callback of the request.
func (r *HTTPRequest) call(f func()) {
	defer r.caught()
	f()
}

// caught is deferred around the handler and all callbacks of the request. If
// Config.CatchPanics is set, it recovers a panic and makes it an event of the request.
func (r *HTTPRequest) caught() {
	v := recover()
	if v == nil {
		return
	}
	if pe := newPanicError(v); r.loop.cfg.CatchPanics {
		r.panicked(pe)
	} else {
		r.loop.stopPanic(pe)
	}
}

// panicked ends the response after a panic in the handler or a callback.
func (r *HTTPRequest) panicked(err error) {
	if r.respondError(fasthttp.StatusInternalServerError) == ErrHTTPResponded {
		r.mu.Lock()
		if !r.over() && r.writer != nil { // an orderly end would make the stream look complete
			r.cutShort()
		}
		r.mu.Unlock()
	}
	r.event(err)
}

// event reports an error of the server's own side of r. On the loop.
func (r *HTTPRequest) event(err error) { r.via.event(r, err) }

// opError wraps err as an error of the request.
func (r *HTTPRequest) opError(err error) *OpError {
	e := &OpError{Op: OpRequest, Addr: r.describe(), Err: err}
	if a := r.RemoteAddr(); a != nil {
		e.Net = a.Network()
	}
	return e
}

// terminate loses the request at the end of the loop.
func (r *HTTPRequest) terminate() {
	r.mu.Lock()
	dropped := r.state() == responseNone
	r.mu.Unlock()
	if dropped {
		r.loop.log(slog.LevelWarn, "a request never got a response", "request", r.describe())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loseLocked(ErrLoopClosed)
	r.loop.unregister(&r.extra().pending)
}

func (r *HTTPRequest) describe() string { return r.Method() + " " + r.URI() }

var _ fmt.Stringer = (*HTTPRequest)(nil)
