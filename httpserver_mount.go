package eventloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/sockio"
	"github.com/valyala/fasthttp"
)

// A mountExchange is the exchange of a request from a foreign server: net/http or fasthttp.
// The server's goroutine waits for the response and passes it to the server.
type mountExchange struct {
	loop     *Loop
	back     wakeChan      // wakes the server's goroutine
	req      *http.Request // nil unless the server is one of net/http
	canFlush bool          // the server can send parts of a response
	cfg      *HTTPServerConfig
	handle   func(r *HTTPRequest)
	body     *mountBody // nil unless the body is a stream
	remote   net.Addr
	local    net.Addr
	tls      *tls.ConnectionState

	mu       sync.Mutex      // guards the following fields, and the request
	response mountResponse   // set when the response begins
	served   *servedResponse // set if an http.Handler makes the response
	out      sockio.Queue    // output that the server's goroutine has not taken yet
	moving   int             // bytes that the goroutine has taken and not written yet
	ended    bool            // the server has the whole response
}

// mount returns the exchange of r, which must be from a foreign server.
func (r *HTTPRequest) mount() *mountExchange { return r.via.(*mountExchange) }

func (m *mountExchange) client() net.Addr              { return m.remote }
func (m *mountExchange) secured() *tls.ConnectionState { return m.tls }
func (m *mountExchange) settings() *HTTPServerConfig   { return m.cfg }
func (m *mountExchange) httpRequest() *http.Request    { return m.req }

// context returns the parent of the request's context. It need not end with the loop:
// the end of the loop ends the request, and with it the request's context.
func (m *mountExchange) context() context.Context {
	if m.req != nil {
		return m.req.Context()
	}
	return m.loop.ctx
}

func (m *mountExchange) handler() func(*HTTPRequest) { return m.handle }
func (m *mountExchange) mayUpgrade() bool            { return false }
func (m *mountExchange) deliverEvent(err error)      { m.event(nil, err) }
func (m *mountExchange) send(t task)                 { m.loop.Post(t.run) } // the goroutine may outlive the loop

func (m *mountExchange) event(_ *HTTPRequest, err error) {
	m.loop.count.errors.Add(1)
	m.loop.event(err, true)
}

func (m *mountExchange) wake() {
	m.back.notify()
	if b := m.body; b != nil {
		b.feed.notify()
	}
}

func (m *mountExchange) mayStream() error {
	if !m.canFlush {
		return errNoFlush
	}
	return nil
}

func (m *mountExchange) respond(_ *HTTPRequest, status int, headers HTTPHeaders, body []byte) {
	m.response = mountResponse{status: status, headers: slices.Clone(headers), body: bytes.Clone(body)}
}

func (m *mountExchange) open(_ *HTTPRequest, status int, headers HTTPHeaders, _ int64) (chunked bool) {
	m.response = mountResponse{status: status, headers: slices.Clone(headers)}
	return false // the server encodes the chunks
}

// serveHTTP runs the handler, unless the server is one of net/http. Then the server's
// goroutine runs it: see sendNet.
func (m *mountExchange) serveHTTP(r *HTTPRequest, s *servedResponse) {
	m.served = s
	if m.req == nil {
		s.start(m.local)
	}
	m.wake()
}

func (m *mountExchange) queue(p []byte) {
	m.loop.count.httpWritten.Add(uint64(len(p)))
	m.out.Append(p)
}

func (m *mountExchange) flush()                     { m.wake() }
func (m *mountExchange) pending(*HTTPRequest) int   { return m.out.Len() + m.moving }
func (m *mountExchange) completed(*HTTPRequest)     { m.wake() }
func (m *mountExchange) whenSent(*HTTPRequest) bool { return !m.ended }

func (m *mountExchange) lost(r *HTTPRequest) {
	m.abort(r)
	m.wake()
}

// abort discards the output that the server's goroutine has not taken yet.
func (m *mountExchange) abort(*HTTPRequest) {
	m.loop.count.httpDiscarded.Add(uint64(m.out.Len()))
	m.out.Reset()
}

// written notes that the output which the server's goroutine has taken is written. That
// goroutine calls it.
func (m *mountExchange) written(r *HTTPRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moving = 0
	r.sent()
}

// over ends the exchange. The server's goroutine calls it after it has passed the
// response to the server, or as much of it as the server accepted.
func (m *mountExchange) over(r *HTTPRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.abort(r)
	m.ended = true
	r.endLocked(nil)
}

type mountResponse struct {
	status  int
	headers HTTPHeaders
	body    []byte
}

// FastHTTPHandler returns a handler for an existing fasthttp server. For each request,
// the handler calls h on the loop and waits for the response. As always, the request
// owns its data.
//
// The server reads the body, writes the response, and applies its own limits. The limits
// of the loop are the defaults of [HTTPServerConfig]; its method FastHTTPHandler sets
// others. The server does not report clients that disconnect, so OnAbort is called only
// if a streamed response cannot be written. A stream of unknown length to an HTTP/1.0
// client takes over the connection, and ends with it. Upgrade is not possible. The client
// gets a 503 if the loop is not running, before Run or after its end, or ends before it
// has responded. FastHTTPHandler panics if h is nil.
func FastHTTPHandler(l *Loop, h func(r *HTTPRequest)) fasthttp.RequestHandler {
	checkLoop(l)
	return (&HTTPServerConfig{}).FastHTTPHandler(l, h)
}

// FastHTTPHandler is like the function [FastHTTPHandler], with the ResponseTimeout,
// HighWater and MaxBuffered of cfg. It copies cfg. The ReadTimeout and WriteTimeout apply
// to streams of unknown length to HTTP/1.0 clients. MaxBodyBytes and MaxInlineBody apply
// if the server has set StreamRequestBody: read bodies longer than MaxInlineBody with
// [HTTPRequest.OnBody]. The other fields have no effect; the server has its own
// settings. Events go to Config.EventHandler.
func (cfg *HTTPServerConfig) FastHTTPHandler(l *Loop, h func(r *HTTPRequest)) fasthttp.RequestHandler {
	if h == nil {
		panic(errNilFunc)
	}
	cfg = cfg.withDefaults()
	return func(ctx *fasthttp.RequestCtx) {
		r := fastRequest(l, ctx)
		r.mount().cfg, r.mount().handle = cfg, h
		if err := r.takeFastBody(ctx); err != nil {
			refuseFast(ctx, refusalStatus(err))
			return
		}
		r.startBody()
		if !r.run(nil) {
			ctx.Response.Header.SetNoDefaultContentType(true)
			ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
			if r.mount().body != nil {
				ctx.SetConnectionClose()
			}
			r.stopBody()
			return
		}
		r.sendFast(ctx)
	}
}

// refuseFast responds with status and closes the connection. It does not call ctx.Error,
// which resets the server's settings for default header fields.
func refuseFast(ctx *fasthttp.RequestCtx, status int) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(http.StatusText(status))
	ctx.SetConnectionClose()
}

// fastRequest copies the request from ctx, which is valid only while the handler runs.
func fastRequest(l *Loop, ctx *fasthttp.RequestCtx) *HTTPRequest {
	var fields HTTPHeaders
	for name, value := range ctx.Request.Header.AllInOrder() {
		fields.Add(string(name), string(value))
	}
	r := newMountRequest(l, string(ctx.Method()), string(ctx.RequestURI()), ctx.Request.Header.IsHTTP11(), fields)
	r.head.Chunked = ctx.Request.Header.ContentLength() == -1
	r.mount().canFlush = true
	r.mount().local, r.mount().remote = ctx.LocalAddr(), ctx.RemoteAddr()
	r.mount().tls = ctx.TLSConnectionState()
	return r
}

// takeFastBody takes the body of a fasthttp request. If the server streams the body, it
// is read here, even if the application gets it whole: fasthttp would read it without a
// limit, and return the text of an error as the body.
func (r *HTTPRequest) takeFastBody(ctx *fasthttp.RequestCtx) error {
	if !ctx.Request.IsBodyStream() {
		if body := ctx.Request.Body(); len(body) > 0 {
			r.body = slices.Clone(body)
		}
		return nil
	}
	src, length := io.Reader(fastBody{ctx.RequestBodyStream()}), int64(max(ctx.Request.Header.ContentLength(), -1))
	if most := r.mount().cfg.MaxBodyBytes; most > 0 {
		if length > most {
			return bodyTooLarge(most)
		}
		src = http.MaxBytesReader(nil, io.NopCloser(src), most)
	}
	return r.takeBody(src, length, func() { ctx.Conn().SetReadDeadline(longAgo) })
}

// fastBody reads the body stream of a fasthttp request. The stream returns io.EOF even if
// the connection ends between two chunks. Only its unexported field eof shows the
// difference.
type fastBody struct{ io.Reader }

func (b fastBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		if v := reflect.ValueOf(b.Reader); v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
			if whole := v.Elem().FieldByName("eof"); whole.Kind() == reflect.Bool && !whole.Bool() {
				err = io.ErrUnexpectedEOF
			}
		}
	}
	return n, err
}

// newMountRequest returns a request from a foreign server.
func newMountRequest(l *Loop, method, uri string, http11 bool, fields HTTPHeaders) *HTTPRequest {
	var b strings.Builder
	version := " HTTP/1.1\r\n"
	if !http11 {
		version = " HTTP/1.0\r\n"
	}
	b.WriteString(method + " " + uri + version)
	start := b.Len()
	for _, f := range fields {
		b.WriteString(f.Name + ": " + f.Value + "\r\n")
	}
	b.WriteString("\r\n")
	m := &mountExchange{loop: l, back: newWakeChan()}
	return &HTTPRequest{
		loop: l,
		via:  m,
		mu:   &m.mu,
		x:    &requestExtra{headers: fields},
		head: requestHead{
			text: b.String(),
			Request: http1.Request{
				MethodEnd: int32(len(method)),
				TargetEnd: int32(len(method) + 1 + len(uri)),
				Fields:    int32(start),
				HTTP11:    http11,
			},
		},
	}
}

// run passes r to the loop and waits until a response has begun. It returns false if
// there will be none. gone is closed when the client disconnects; it is nil if the server
// does not report that.
func (r *HTTPRequest) run(gone <-chan struct{}) bool {
	r.loop.count.httpRequests.Add(1)
	err := r.loop.mayOpen() // Post would accept a task that waits for Run, which may never come
	if err == nil {
		err = r.loop.Post((*httpRequestTask)(r).run)
	}
	if err != nil {
		r.lose(ErrLoopClosed)
		return false
	}
	return r.waitMount(gone, func() bool {
		if m := r.mount(); m.served != nil {
			return m.req != nil || m.out.Len() > 0 || r.isComplete()
		}
		return r.begun()
	})
}

// waitMount waits until ready returns true, or the response is lost. It returns the last
// result of ready, which it calls with r.mu held. gone is closed when the client
// disconnects.
func (r *HTTPRequest) waitMount(gone <-chan struct{}, ready func() bool) bool {
	for {
		r.mu.Lock()
		ok, lost := ready(), r.isLost()
		r.mu.Unlock()
		if ok || lost {
			return ok
		}
		select {
		case <-r.mount().back:
		case <-r.loop.ctx.Done():
			r.lose(ErrLoopClosed)
		case <-gone:
			gone = nil
			r.aborted(r.whyCanceled())
		}
	}
}

// whyCanceled returns why the context of the http.Request has ended. net/http cancels it when
// the client disconnects, and does not give the cause.
func (r *HTTPRequest) whyCanceled() error {
	if cause := context.Cause(r.mount().req.Context()); cause != context.Canceled {
		return r.opError(cause) // a middleware of the application ended it
	}
	return io.EOF
}

// sendFast passes the response to the fasthttp server of ctx.
func (r *HTTPRequest) sendFast(ctx *fasthttp.RequestCtx) {
	r.mu.Lock()
	a, w, served := r.mount().response, r.writer, r.mount().served
	r.mu.Unlock()
	ctx.Response.Header.SetNoDefaultContentType(true)
	if served != nil {
		r.serveFast(ctx)
		return
	}
	ctx.SetStatusCode(a.status)
	for _, f := range a.headers {
		switch {
		case http1.EqualFold(f.Name, "Content-Length"), http1.EqualFold(f.Name, "Transfer-Encoding"):
		case http1.EqualFold(f.Name, "Connection"):
			if (HTTPHeaders{f}).hasToken("Connection", "close") {
				ctx.SetConnectionClose()
			}
		default:
			ctx.Response.Header.Add(f.Name, f.Value)
		}
	}
	switch {
	case w == nil:
		if r.bodyIsLeft() {
			ctx.SetConnectionClose()
		}
		if r.bodyless(a.status) {
			r.sizeFast(ctx, len(a.body))
		} else {
			ctx.Response.SetBodyRaw(a.body)
		}
		r.stopBody()
		r.mount().over(r)
	case w.drop: // the response has no body; writes are discarded
		r.sizeFast(ctx, int(w.length))
		r.stopBody()
		r.mount().over(r)
	case w.length < 0 && !r.head.HTTP11:
		r.streamUntilClose(ctx, &mountReader{r})
	default:
		if r.isPumping() {
			ctx.SetConnectionClose() // otherwise fasthttp touches the body while we read it
		}
		ctx.Response.ImmediateHeaderFlush = true
		ctx.SetBodyStream(&mountReader{r}, int(w.length))
	}
}

// sizeFast sets the fields that frame the body, in a response without a body. They are
// those that the body would have had: length bytes or, if length is negative, chunks, or
// for an HTTP/1.0 client the end of the connection.
func (r *HTTPRequest) sizeFast(ctx *fasthttp.RequestCtx, length int) {
	ctx.Response.SkipBody = true
	h, stated := &ctx.Response.Header, r.mount().response.headers.Get("Content-Length")
	n, ok := http1.ParseLength(stated)
	switch {
	case r.mount().response.status == fasthttp.StatusResetContent:
		h.SetContentLength(0)
	case ok && n <= math.MaxInt:
		h.SetContentLength(int(n))
		h.Set("Content-Length", stated) // with 304, SetContentLength has no effect
	case r.Method() != fasthttp.MethodHead, length == 0:
	case length < 0 && !r.head.HTTP11:
		ctx.SetConnectionClose()
	default:
		h.SetContentLength(length) // -1 means chunked
	}
}

// streamUntilClose sends a stream of unknown length to an HTTP/1.0 client: the end of the
// connection ends the stream. It hijacks the connection because fasthttp would send
// chunks.
func (r *HTTPRequest) streamUntilClose(ctx *fasthttp.RequestCtx, body io.ReadCloser) {
	h := &ctx.Response.Header
	h.SetContentLength(-2) // neither Content-Length nor chunked
	h.SetConnectionClose()
	head := bytes.Clone(h.Header())
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(nc net.Conn) {
		if h, ok := nc.(interface{ UnsafeConn() net.Conn }); ok {
			nc = h.UnsafeConn()
		}
		if r.mount().body != nil { // Hijack has cleared the deadline
			nc.SetReadDeadline(deadlineAt(after(r.mount().cfg.ReadTimeout)))
		}
		defer body.Close()
		if err := r.copyBody(nc, head, body); err == errUnfinished {
			hangUp(nc)
		} else if err != nil {
			r.lose(r.opError(err))
		}
	})
}

// hangUp closes a connection with a reset, and with TLS without close_notify, because an
// orderly end would end the body. Unix sockets have no reset, so there the client cannot
// notice that the body is incomplete.
func hangUp(nc net.Conn) {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	if t, ok := nc.(interface{ SetLinger(sec int) error }); ok {
		t.SetLinger(0)
	}
	nc.Close()
}

// copyBody sends head and body to nc.
func (r *HTTPRequest) copyBody(nc net.Conn, head []byte, body io.Reader) error {
	buf := sockio.GetBuffer(sockio.MaxBuffer)
	defer buf.Release()
	for piece := head; ; {
		nc.SetWriteDeadline(deadlineAt(after(r.mount().cfg.WriteTimeout)))
		if _, err := nc.Write(piece); err != nil {
			return err
		}
		n, err := body.Read(buf.Room())
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		piece = buf.Room()[:n]
	}
}

// A mountReader reads the output of a request's HTTPResponseWriter. The server's
// goroutine calls Read.
type mountReader struct{ r *HTTPRequest }

func (b *mountReader) Read(p []byte) (int, error) {
	r := b.r
	n := 0
	r.mount().written(r)
	ok := r.waitMount(nil, func() bool {
		n = r.takeOutput(p)
		return n > 0 || r.isComplete()
	})
	switch {
	case n > 0:
		return n, nil
	case !ok || r.isCut():
		return 0, errUnfinished
	}
	return 0, io.EOF
}

// Close ends the exchange. The server calls it after io.EOF, or when it can no longer
// write.
func (b *mountReader) Close() error {
	r := b.r
	r.lose(r.opError(io.ErrClosedPipe)) // a complete response is not lost
	r.stopBody()
	r.mount().over(r)
	return nil
}

// takeOutput moves output to p. The caller holds r.mu.
func (r *HTTPRequest) takeOutput(p []byte) int {
	var views [1][]byte
	m := r.mount()
	if m.out.Views(views[:]) == 0 {
		return 0
	}
	n := copy(p, views[0])
	m.out.Advance(n)
	r.loop.count.httpBytesOut.Add(uint64(n))
	m.moving = n
	return n
}

func (r *HTTPRequest) isCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

// HTTPHandler returns a handler for an existing net/http server. For each request, the
// handler calls h on the loop and waits for the response. As always, the request owns its
// data. The server's goroutine reads the body before it calls h, up to 4 MB.
// [HTTPServerConfig.HTTPHandler] sets other limits. HTTPHandler panics if h is nil.
//
// The data of net/http and its middleware stays available: [HTTPRequest.Context] has the
// values and the deadline of the http.Request's context, [HTTPRequest.PathValue] returns
// what an http.ServeMux matched, and [HTTPRequest.HTTP] returns the http.Request itself.
//
// If the client disconnects, the context of the request ends, and OnAbort gets io.EOF:
// net/http does not give the cause. RespondStream returns an error that matches
// errors.ErrUnsupported if the http.ResponseWriter, perhaps that of a middleware,
// cannot flush. Upgrade is not possible. The client gets a 503 if the loop is not
// running, before Run or after its end, or ends before it has responded. So shut down a
// service in this order: first the server with its Shutdown, then the loop, then
// resources that both use, such as a database.
func HTTPHandler(l *Loop, h func(r *HTTPRequest)) http.Handler {
	checkLoop(l)
	return (&HTTPServerConfig{}).HTTPHandler(l, h)
}

// HTTPHandler is like the function [HTTPHandler], with the ResponseTimeout, WriteTimeout,
// MaxBodyBytes, MaxInlineBody, HighWater and MaxBuffered of cfg. It copies cfg. Read
// bodies longer than MaxInlineBody with [HTTPRequest.OnBody]. While such a body is being
// read, a disconnect shows only as the end of the body. The other fields have no effect;
// the server has its own settings. Events go to Config.EventHandler.
func (cfg *HTTPServerConfig) HTTPHandler(l *Loop, h func(r *HTTPRequest)) http.Handler {
	if h == nil {
		panic(errNilFunc)
	}
	cfg = cfg.withDefaults()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r, err := netRequest(l, cfg, w, req)
		if err != nil {
			status := refusalStatus(err)
			http.Error(w, http.StatusText(status), status)
			return
		}
		if r.mount().body != nil {
			http.NewResponseController(w).EnableFullDuplex()
			r.startBody()
			defer r.stopBody()
		}
		r.mount().handle = h
		if !r.run(req.Context().Done()) {
			if r.mount().body != nil { // net/http must not read on: the rest of the body is unread
				w.Header().Set("Connection", "close")
			}
			http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
			return
		}
		r.sendNet(w, req)
	})
}

// netRequest copies req. net/http keeps header fields in a map, so only the order of the
// values of one name is known. netRequest sorts the names.
func netRequest(l *Loop, cfg *HTTPServerConfig, w http.ResponseWriter, req *http.Request) (*HTTPRequest, error) {
	src := req.Body
	if cfg.MaxBodyBytes > 0 {
		if req.ContentLength > cfg.MaxBodyBytes {
			return nil, bodyTooLarge(cfg.MaxBodyBytes)
		}
		src = http.MaxBytesReader(w, src, cfg.MaxBodyBytes)
	}
	fields := HTTPHeaders{{"Host", req.Host}}
	for _, name := range slices.Sorted(maps.Keys(req.Header)) {
		for _, value := range req.Header[name] {
			fields.Add(name, value)
		}
	}
	uri := req.RequestURI
	if uri == "" { // a test made req, not a server
		uri = req.URL.RequestURI()
	}
	r := newMountRequest(l, req.Method, uri, req.ProtoAtLeast(1, 1), fields)
	r.mount().req = req
	r.mount().canFlush = canFlush(w)
	r.mount().cfg = cfg
	r.mount().remote = stringAddr(req.RemoteAddr)
	r.mount().tls = req.TLS
	err := r.takeBody(src, req.ContentLength, func() {
		if http.NewResponseController(w).SetReadDeadline(soon()) != nil {
			req.Body.Close()
		}
	})
	return r, err
}

// canFlush reports whether [http.ResponseController.Flush] works with w. It cannot just
// try, because Flush sends the head.
func canFlush(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case interface{ FlushError() error }, http.Flusher:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// bodyIsLeft is bodyLeft for callers that do not hold r.mu.
func (r *HTTPRequest) bodyIsLeft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bodyLeft()
}

// A stringAddr is an address that is known only as text.
type stringAddr string

func (a stringAddr) Network() string { return "tcp" }
func (a stringAddr) String() string  { return string(a) }

// sendNet passes the response to the net/http server of w.
func (r *HTTPRequest) sendNet(w http.ResponseWriter, req *http.Request) {
	defer r.mount().over(r)
	r.mu.Lock()
	a, streamed, served := r.mount().response, r.writer != nil, r.mount().served
	r.mu.Unlock()
	if served != nil {
		served.serveNet(w, req)
		return
	}
	for _, f := range a.headers {
		if !http1.EqualFold(f.Name, "Transfer-Encoding") && (streamed || r.bodyless(a.status) || !http1.EqualFold(f.Name, "Content-Length")) {
			w.Header().Add(f.Name, f.Value)
		}
	}
	if stated := w.Header().Values("Content-Length"); len(stated) > 1 { // the first field counts
		w.Header().Set("Content-Length", stated[0])
	}
	sized := !r.bodyless(a.status) || r.Method() == http.MethodHead && bodyStatus(a.status) &&
		len(a.body) > 0 && w.Header().Get("Content-Length") == ""
	if !streamed && sized {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	left := r.bodyIsLeft()
	if left {
		w.Header().Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	rc := http.NewResponseController(w)
	if !streamed {
		if !r.bodyless(a.status) {
			w.Write(a.body)
		}
		if left {
			rc.Flush() // stopBody, which follows, may take a while
		}
		return
	}
	if err := rc.Flush(); err != nil {
		r.lose(r.opError(err))
		return
	}
	buf := sockio.GetBuffer(sockio.MaxBuffer)
	defer buf.Release()
	gone := req.Context().Done()
	for {
		n := 0
		r.waitMount(gone, func() bool {
			n = r.takeOutput(buf.Room())
			return n > 0 || r.isComplete()
		})
		if n == 0 {
			break
		}
		rc.SetWriteDeadline(deadlineAt(after(r.mount().cfg.WriteTimeout)))
		_, err := w.Write(buf.Room()[:n])
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			r.lose(r.opError(err))
			return
		}
		r.mount().written(r)
	}
	r.mu.Lock()
	cut := r.cut || r.isLost()
	r.mu.Unlock()
	if cut {
		panic(http.ErrAbortHandler) // the client must notice that the response is incomplete
	}
}
