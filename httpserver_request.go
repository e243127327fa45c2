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

// ErrHTTPResponded is returned by the second attempt to answer a request.
var ErrHTTPResponded = errors.New("eventloop: request answered already")

// An HTTPRequest is a request of a client. It owns what it gives: all of it stays
// valid as long as the application keeps it, also after the answer. What it gives
// must not be modified.
//
// Exactly one of [HTTPRequest.Respond], [HTTPRequest.RespondStream],
// [HTTPRequest.ServeHTTP] and [HTTPRequest.Upgrade] answers it, in the handler or any time later. Requests of
// one connection come one after the other: the next when this one is answered. A
// request that is dropped without an answer keeps its connection and the loop;
// [Loop.Handles] shows it, HTTPServerConfig.ResponseTimeout bounds it, and it is
// logged a minute after its client has left, and when the loop ends.
//
// All methods may be called from any goroutine and from any callback.
type HTTPRequest struct {
	loop *Loop
	via  exchange // what it came through
	head requestHead
	body []byte

	response atomic.Uint32 // a responseState; set with mu held
	mu       *sync.Mutex   // of via; guards the following

	stream     *bodyStream
	writer     *HTTPResponseWriter
	x          *requestExtra // see extra
	at         time.Duration // of the response, by clock
	pos        int64         // in the output: where the response begins and, once complete, ends
	delayed    bool          // the callback has returned before the response was complete
	last       bool          // the connection is not to be kept
	cut        bool          // nor to be ended in an orderly way
	untilClose bool          // the body ends with the connection
}

// responseState is how far the response to a request is.
type responseState uint32

const (
	responseNone     responseState = iota
	responseBegun                  // it is chosen; more of it follows
	responseComplete               // all of it is queued
	responseLost                   // the client cannot be answered any more; extra says why
)

func (r *HTTPRequest) state() responseState { return responseState(r.response.Load()) }

// setState changes the state. The caller holds r.mu.
func (r *HTTPRequest) setState(s responseState) { r.response.Store(uint32(s)) }

// over reports whether nothing of the response is to come.
func (r *HTTPRequest) over() bool { return r.state() >= responseComplete }

// isComplete reports whether all of the response is queued.
func (r *HTTPRequest) isComplete() bool { return r.state() == responseComplete }

// isLost reports whether the client cannot be answered any more.
func (r *HTTPRequest) isLost() bool { return r.state() == responseLost }

// begun reports whether a response was chosen, whatever has become of it. The caller
// holds r.mu.
func (r *HTTPRequest) begun() bool {
	return r.writer != nil || r.state() == responseBegun || r.isComplete()
}

// A requestExtra is what a request has that most requests do not need: those
// that are answered in the handler. It makes a request half as large.
type requestExtra struct {
	pending  handle      // registered while the answer is awaited after the callback
	headers  HTTPHeaders // made when they are asked for
	upgraded *Conn
	lost     error
	abort    error // to be told, if told is not set
	told     bool
	onAbort  func(err error)
	ctx      context.Context
	cancel   context.CancelCauseFunc
	ctxLasts bool // ctx ends with what makes the response, not with the response
	served   *servedResponse
	timer    *Timer // of ResponseTimeout
	left     *Timer // logs that the request is abandoned
}

// noExtra is what extra is read from where a request has none.
var noExtra requestExtra

// extra returns the rest of the request. The caller holds r.mu.
func (r *HTTPRequest) extra() *requestExtra {
	if r.x == nil {
		r.x = &requestExtra{}
	}
	return r.x
}

// peek is extra for those who change nothing. The caller holds r.mu.
func (r *HTTPRequest) peek() *requestExtra {
	if r.x == nil {
		return &noExtra
	}
	return r.x
}

// A requestHead is the head as it was sent, and what it says.
type requestHead struct {
	text string
	http1.Request
}

func (h *requestHead) method() string { return h.text[:h.MethodEnd] }
func (h *requestHead) uri() string    { return h.text[h.MethodEnd+1 : h.TargetEnd] }

// lines returns the fields, each with the end of its line.
func (h *requestHead) lines() string { return h.text[h.Fields : len(h.text)-len("\r\n")] }

// Method returns the method as it was sent. It may be
// unknown.
func (r *HTTPRequest) Method() string { return r.head.method() }

// URI returns the request target as it was sent, without decoding anything:
// path and query, "*", or what a client says to a proxy (RFC 9112 section 3.2).
func (r *HTTPRequest) URI() string { return r.head.uri() }

// Host returns the host that the request is for, with its port if one was sent:
// that of the target if the target has one, or else the Host field, which may be
// empty. [HTTPRequest.Header] returns the field in any case, but for a target with
// a host RFC 9112 section 3.2.2 has it ignored.
func (r *HTTPRequest) Host() string {
	switch uri := r.URI(); {
	case uri != "" && uri[0] == '/': // most of them
	case r.Method() == fasthttp.MethodConnect:
		return uri
	default:
		if host, _, ok := http1.CutAuthority(uri); ok {
			return host
		}
	}
	return r.Header("Host")
}

// Path returns the path of the target as it was sent: before "?", and after the
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

// Query returns what follows the first "?" of the target, as it was sent.
// [HTTPRequest.QueryValues] takes it apart.
func (r *HTTPRequest) Query() string {
	_, query, _ := strings.Cut(r.URI(), "?")
	return query
}

// Headers returns all fields as they were sent, in order.
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

// Header returns the value of the first field with that name, or "".
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

// Body returns the body, whatever the method; nil if there is none, or if it is
// taken with [HTTPRequest.OnBody] because of HTTPServerConfig.MaxInlineBody.
func (r *HTTPRequest) Body() []byte { return r.body }

// RemoteAddr returns the address of the client.
func (r *HTTPRequest) RemoteAddr() net.Addr { return r.via.client() }

// TLS returns the state of TLS, or nil if the request came in the clear.
func (r *HTTPRequest) TLS() *tls.ConnectionState { return r.via.secured() }

// Loop returns the loop of the request.
func (r *HTTPRequest) Loop() *Loop { return r.loop }

// Context returns a context that ends when the response has been written, when the
// client closes or resets the connection, and when the loop ends. In the handler of
// [TaskHandler] it ends with the task instead of with the response, and for a handler of
// [HTTPRequest.ServeHTTP] when that returns.
//
// A client that has closed its connection cannot be told from one that has only
// ended its own side and waits for the response. As in net/http, both end the
// context, with the cause io.EOF, and the response is sent all the same. With
// HTTPServerConfig.AllowHalfOpen neither does.
//
// In a server of net/http (see [HTTPHandler]) the context is derived from that of the
// http.Request, and so has its values, its deadline and its end.
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

// abortEnds reports whether a client that leaves with err ends the context.
func (r *HTTPRequest) abortEnds(err error) bool {
	return err != nil && !(err == io.EOF && r.via.settings().AllowHalfOpen)
}

// String returns a readable overview: the request line, the fields, and the body
// if it is text, or else its length.
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

// FastHTTP returns the request as one of package fasthttp, of which the caller
// can use the parsers: Header.Cookie, URI().QueryArgs, PostArgs, MultipartForm.
// Each call makes a new one, which belongs to the caller but shares the body.
func (r *HTTPRequest) FastHTTP() *fasthttp.Request {
	req := &fasthttp.Request{}
	br := bufio.NewReaderSize(strings.NewReader(r.head.text), len(r.head.text))
	if req.Header.Read(br) != nil { // its parser refuses some of what ours takes, an empty Host say
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

// OnAbort arranges for f to be called on the loop, at most once, if the client
// goes away before the answer is complete, a streamed one too: with an error that
// matches [ErrReset] if it reset the connection, with io.EOF if it ended its own
// side, which may be a half-close by a client that still waits: an answer is sent
// then. It is told within a second, usually within a millisecond, also if it was
// before OnAbort was called. A second call replaces f.
//
// Once HTTPServerConfig.MaxHeaderBytes of further requests have been received
// ahead, or while the body is being taken with OnBody and paused for as much,
// nothing is noticed until the answer is written.
func (r *HTTPRequest) OnAbort(f func(err error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.extra()
	x.onAbort = f
	if x.abort != nil && !x.told {
		r.loop.Post(r.tellAbort)
	}
}

// tellAbort runs on the loop.
func (r *HTTPRequest) tellAbort() {
	r.mu.Lock()
	x := r.extra()
	f, err := x.onAbort, x.abort
	if f == nil || x.told || r.isComplete() {
		r.mu.Unlock()
		return
	}
	x.told = true
	r.mu.Unlock()
	r.loop.call(func() { f(err) })
}

// aborted notes that the client has ended its side, or is gone.
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
		r.loop.Post(r.tellAbort)
	}
	if x.cancel != nil && r.abortEnds(err) {
		x.cancel(err)
	}
	if x.served != nil {
		x.served.turn.Broadcast()
	}
}

// watchAbandoned sees to it that a request which stays open is logged. The caller
// holds r.mu.
func (r *HTTPRequest) watchAbandoned() {
	if x := r.extra(); x.left == nil && !r.isComplete() {
		x.left = r.loop.AfterFunc(abandonedAfter, r.abandoned)
		x.left.Unref()
	}
}

// abandonedAfter is how long a request may stay open after its client has left,
// before that is logged.
const abandonedAfter = time.Minute

// abandoned is the callback of the timer that the client's leaving started.
func (r *HTTPRequest) abandoned() {
	r.loop.log(slog.LevelWarn, "a request is still open although its client left a while ago",
		"request", r.describe(), "since", abandonedAfter)
}

// lose ends a request that cannot be answered any more.
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

// settle is called once, when the request needs no answer any more. The caller
// holds r.mu.
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

// stopTimer ends the bound on the time of an answer. The caller holds r.mu.
func (r *HTTPRequest) stopTimer() {
	if t := r.peek().timer; t != nil {
		t.Stop()
	}
}

// keep reports whether the connection is to be kept after the answer. The caller
// holds r.mu.
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

// watched reports whether there is a context that has to end with r. The caller
// holds r.mu.
func (r *HTTPRequest) watched() bool {
	x := r.peek()
	return x.cancel != nil && !x.ctxLasts
}

// endLocked ends the context of r when all that can be written is written. The
// caller holds r.mu.
func (r *HTTPRequest) endLocked(err error) {
	if x := r.peek(); x.cancel != nil && !(x.ctxLasts && err == nil) {
		x.cancel(err)
	}
}

// httpRequestTask calls the handler with a request, which is registered if it is not
// answered then: a response in the handler costs nothing but itself.
type httpRequestTask HTTPRequest

func (t *httpRequestTask) run() {
	r := (*HTTPRequest)(t)
	if r.loop.ended.Load() {
		r.lose(ErrLoopClosed)
		return
	}
	defer r.handled() // the handler may call runtime.Goexit
	defer r.loop.caught(r.panicked)
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

// delay makes r one of the things that the loop has open. The caller holds r.mu.
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

// timedOut answers a request that the application did not.
func (r *HTTPRequest) timedOut() {
	if r.respondError(fasthttp.StatusServiceUnavailable) == nil {
		r.event(r.opError(os.ErrDeadlineExceeded))
	}
}

// panicked answers a request after a panic of its handler.
func (r *HTTPRequest) panicked(err error) {
	if r.respondError(fasthttp.StatusInternalServerError) == ErrHTTPResponded {
		r.mu.Lock()
		if !r.over() && r.writer != nil { // a stream: its end would look like a good one
			r.cutShort()
		}
		r.mu.Unlock()
	}
	r.event(err)
}

// event delivers what went wrong with r on our side. On the loop.
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
		r.loop.log(slog.LevelWarn, "a request was never answered", "request", r.describe())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loseLocked(ErrLoopClosed)
	r.loop.unregister(&r.extra().pending)
}

func (r *HTTPRequest) describe() string { return r.Method() + " " + r.URI() }

var _ fmt.Stringer = (*HTTPRequest)(nil)
