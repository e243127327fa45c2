package eventloop

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"io"
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

// A guest is what a request has that came through a server that is not ours. The
// goroutine of that server waits for the answer, and takes it over.
type guest struct {
	loop     *Loop
	back     bell          // wakes the goroutine
	req      *http.Request // nil unless the server is one of net/http
	canFlush bool          // the server can send a part of an answer
	cfg      *HTTPServerConfig
	handle   func(r *HTTPRequest)
	body     *guestBody // nil unless the body is a stream
	remote   net.Addr
	local    net.Addr
	tls      *tls.ConnectionState

	mu     sync.Mutex      // guards the following, and the request
	answer guestAnswer     // set when the request is begun
	served *servedResponse // makes the answer
	out    sockio.Queue    // of the answer, not yet with the goroutine
	moving int             // bytes that it has taken and not written yet
	ended  bool            // the answer is with the server
}

// guest returns what r came through.
func (r *HTTPRequest) guest() *guest { return r.via.(*guest) }

func (g *guest) client() net.Addr              { return g.remote }
func (g *guest) secured() *tls.ConnectionState { return g.tls }
func (g *guest) settings() *HTTPServerConfig   { return g.cfg }
func (g *guest) httpRequest() *http.Request    { return g.req }

// context derives from that of the http.Request. The end of the loop ends the
// request, and so its context.
func (g *guest) context() context.Context {
	if g.req != nil {
		return g.req.Context()
	}
	return g.loop.ctx
}

func (g *guest) handler() func(*HTTPRequest) { return g.handle }
func (g *guest) mayUpgrade() bool            { return false }
func (g *guest) tell(err error)              { g.event(nil, err) }
func (g *guest) send(t task)                 { g.loop.Post(t.run) } // the goroutine may outlive the loop

func (g *guest) event(_ *HTTPRequest, err error) {
	g.loop.count.errors.Add(1)
	g.loop.event(err, true)
}

func (g *guest) wake() {
	g.back.ring()
	if b := g.body; b != nil {
		b.feed.ring()
	}
}

func (g *guest) mayStream() error {
	if !g.canFlush {
		return errNoFlush
	}
	return nil
}

func (g *guest) respond(_ *HTTPRequest, status int, headers HTTPHeaders, body []byte) {
	g.answer = guestAnswer{status: status, headers: slices.Clone(headers), body: bytes.Clone(body)}
}

func (g *guest) open(_ *HTTPRequest, status int, headers HTTPHeaders, _ int64) (chunked bool) {
	g.answer = guestAnswer{status: status, headers: slices.Clone(headers)}
	return false // the server does that
}

// serveHTTP leaves the handler to the server if that is one of net/http.
func (g *guest) serveHTTP(r *HTTPRequest, s *servedResponse) {
	g.served = s
	if g.req == nil {
		s.start(g.local)
	}
	g.wake()
}

func (g *guest) queue(p []byte) {
	g.loop.count.httpWritten.Add(uint64(len(p)))
	g.out.Append(p)
}

func (g *guest) flush()                     { g.wake() }
func (g *guest) pending(*HTTPRequest) int   { return g.out.Len() + g.moving }
func (g *guest) completed(*HTTPRequest)     { g.wake() }
func (g *guest) whenSent(*HTTPRequest) bool { return !g.ended }

func (g *guest) lost(r *HTTPRequest) {
	g.abort(r)
	g.wake()
}

// abort discards what the goroutine has not taken yet.
func (g *guest) abort(*HTTPRequest) {
	g.loop.count.httpDiscarded.Add(uint64(g.out.Len()))
	g.out.Reset()
}

// written is called by the goroutine when what it has taken is written.
func (g *guest) written(r *HTTPRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.moving = 0
	r.sent()
}

// over is called by the goroutine when it has given the answer to the server, or as much
// of it as that takes.
func (g *guest) over(r *HTTPRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.abort(r)
	g.ended = true
	r.endLocked(nil)
}

type guestAnswer struct {
	status  int
	headers HTTPHeaders
	body    []byte
}

// FastHTTPHandler returns a handler for an existing fasthttp server that hands
// each request to h on the loop, and waits for the answer. The request owns its
// data, as always.
//
// The server reads the body, writes the answer, and has its own limits; those of
// the loop are the defaults of [HTTPServerConfig], whose method of the same name
// sets them. It cannot tell of clients that go away, so OnAbort is only told when a
// streamed answer cannot be written. A stream of unknown length to a client of
// HTTP/1.0 takes its connection over, and ends it. Upgrade is not possible. A
// request that comes when the loop does not run, or that the loop did not answer
// when it ended, is answered with 503. FastHTTPHandler panics if h is nil.
func FastHTTPHandler(l *Loop, h func(r *HTTPRequest)) fasthttp.RequestHandler {
	return (&HTTPServerConfig{}).FastHTTPHandler(l, h)
}

// FastHTTPHandler is the function of the same name with the ResponseTimeout, the
// HighWater and the MaxBuffered of cfg, which is copied, and its ReadTimeout and
// WriteTimeout for streams of unknown length to clients of HTTP/1.0. In a server with
// StreamRequestBody, MaxBodyBytes counts as well, and MaxInlineBody: longer bodies
// are taken with [HTTPRequest.OnBody]. The server decides about what the other
// fields say; events go to Config.EventHandler.
func (cfg *HTTPServerConfig) FastHTTPHandler(l *Loop, h func(r *HTTPRequest)) fasthttp.RequestHandler {
	if h == nil {
		panic(errNilFunc)
	}
	cfg = cfg.withDefaults()
	return func(ctx *fasthttp.RequestCtx) {
		r := fastRequest(l, ctx)
		r.guest().cfg, r.guest().handle = cfg, h
		if err := r.takeFastBody(ctx); err != nil {
			refuseFast(ctx, cmp.Or(bodyRefusal(err), http.StatusBadRequest))
			return
		}
		r.startBody()
		if !r.run(nil) {
			ctx.Response.Header.SetNoDefaultContentType(true)
			ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
			r.stopBody()
			return
		}
		r.answerFast(ctx)
	}
}

// refuseFast is ctx.Error and the end of the connection. ctx.Error itself resets what
// the server said about default fields.
func refuseFast(ctx *fasthttp.RequestCtx, status int) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(http.StatusText(status))
	ctx.SetConnectionClose()
}

// fastRequest copies what ctx has, which is only valid while the handler runs.
func fastRequest(l *Loop, ctx *fasthttp.RequestCtx) *HTTPRequest {
	var fields HTTPHeaders
	for name, value := range ctx.Request.Header.AllInOrder() {
		fields.Add(string(name), string(value))
	}
	r := guestRequest(l, string(ctx.Method()), string(ctx.RequestURI()), ctx.Request.Header.IsHTTP11(), fields)
	r.head.Chunked = ctx.Request.Header.ContentLength() == -1
	r.guest().canFlush = true
	r.guest().local, r.guest().remote = ctx.LocalAddr(), ctx.RemoteAddr()
	r.guest().tls = ctx.TLSConnectionState()
	return r
}

// takeFastBody takes the body of a request of fasthttp. One that the server streams
// is read here, even if the application gets it whole: fasthttp would read it
// without a bound, and return the text of an error as the body.
func (r *HTTPRequest) takeFastBody(ctx *fasthttp.RequestCtx) error {
	if !ctx.Request.IsBodyStream() {
		if body := ctx.Request.Body(); len(body) > 0 {
			r.body = slices.Clone(body)
		}
		return nil
	}
	src, length := io.Reader(fastBody{ctx.RequestBodyStream()}), int64(max(ctx.Request.Header.ContentLength(), -1))
	if most := r.guest().cfg.MaxBodyBytes; most > 0 {
		if length > most {
			return fasthttp.ErrBodyTooLarge
		}
		src = http.MaxBytesReader(nil, io.NopCloser(src), most)
	}
	return r.takeBody(src, length, func() { ctx.Conn().SetReadDeadline(longAgo) })
}

// fastBody is the body stream of a request of fasthttp. That returns io.EOF, too,
// when the connection ends between two chunks; only a field of it tells.
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

// guestRequest returns a request that did not come through a server of ours.
func guestRequest(l *Loop, method, uri string, http11 bool, fields HTTPHeaders) *HTTPRequest {
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
	g := &guest{loop: l, back: newBell()}
	return &HTTPRequest{
		loop: l,
		via:  g,
		mu:   &g.mu,
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

// run hands r to the loop and waits until an answer has begun. It returns false
// if there will be none. gone ends when the client does, if that is known.
func (r *HTTPRequest) run(gone <-chan struct{}) bool {
	r.loop.count.httpRequests.Add(1)
	if err := r.loop.Post((*httpRequestTask)(r).run); err != nil {
		r.lose(ErrLoopClosed)
		return false
	}
	return r.waitGuest(gone, func() bool {
		if g := r.guest(); g.served != nil {
			return g.req != nil || g.out.Len() > 0 || r.isComplete()
		}
		return r.begun()
	})
}

// waitGuest waits until ready says so, which is called with r.mu held, or there
// is nothing to wait for. gone ends when the client does.
func (r *HTTPRequest) waitGuest(gone <-chan struct{}, ready func() bool) bool {
	for {
		r.mu.Lock()
		ok, lost := ready(), r.isLost()
		r.mu.Unlock()
		if ok || lost {
			return ok
		}
		select {
		case <-r.guest().back:
		case <-r.loop.ctx.Done():
			r.lose(ErrLoopClosed)
		case <-gone:
			gone = nil
			r.aborted(r.whyGone())
		}
	}
}

// whyGone returns why the context of the http.Request has ended. net/http cancels it
// when the client is gone, and does not say how.
func (r *HTTPRequest) whyGone() error {
	if cause := context.Cause(r.guest().req.Context()); cause != context.Canceled {
		return r.opError(cause) // a middleware of the application has ended it
	}
	return io.EOF
}

// answerFast gives the answer to the server of ctx.
func (r *HTTPRequest) answerFast(ctx *fasthttp.RequestCtx) {
	r.mu.Lock()
	a, w, served := r.guest().answer, r.writer, r.guest().served
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
		r.guest().over(r)
	case w.drop: // what is written is dropped
		r.sizeFast(ctx, int(w.length))
		r.stopBody()
		r.guest().over(r)
	case w.length < 0 && !r.head.HTTP11:
		r.streamUntilClose(ctx, &guestReader{r})
	default:
		if r.isPumping() {
			ctx.SetConnectionClose() // else fasthttp looks at the body while it is read
		}
		ctx.Response.ImmediateHeaderFlush = true
		ctx.SetBodyStream(&guestReader{r}, int(w.length))
	}
}

// sizeFast says the length of the body that a response without a body would have
// had, if it is known, and how it would have been sent if it is negative.
func (r *HTTPRequest) sizeFast(ctx *fasthttp.RequestCtx, length int) {
	ctx.Response.SkipBody = true
	h, stated := &ctx.Response.Header, r.guest().answer.headers.Get("Content-Length")
	n, ok := http1.ParseLength(stated)
	switch {
	case r.guest().answer.status == fasthttp.StatusResetContent:
		h.SetContentLength(0)
	case ok && n <= math.MaxInt:
		h.SetContentLength(int(n))
		h.Set("Content-Length", stated) // with 304 the other does nothing
	case r.Method() != fasthttp.MethodHead, length == 0:
	case length < 0 && !r.head.HTTP11:
		ctx.SetConnectionClose()
	default:
		h.SetContentLength(length) // negative: in chunks
	}
}

// streamUntilClose sends a stream of unknown length to a client of HTTP/1.0, which
// ends with the connection. fasthttp would send chunks, so it gives the connection
// away.
func (r *HTTPRequest) streamUntilClose(ctx *fasthttp.RequestCtx, body io.ReadCloser) {
	h := &ctx.Response.Header
	h.SetContentLength(-2) // none
	h.SetConnectionClose()
	head := bytes.Clone(h.Header())
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(nc net.Conn) {
		if h, ok := nc.(interface{ UnsafeConn() net.Conn }); ok {
			nc = h.UnsafeConn()
		}
		if r.guest().body != nil { // Hijack has taken the deadline away
			nc.SetReadDeadline(deadlineAt(after(r.guest().cfg.ReadTimeout)))
		}
		defer body.Close()
		if err := r.copyBody(nc, head, body); err == errUnfinished {
			hangUp(nc)
		} else if err != nil {
			r.lose(r.opError(err))
		}
	})
}

// hangUp closes a connection with a reset and, under TLS, without close_notify,
// since a proper end would end the body. On a unix socket, which knows no reset,
// there is nothing that the client could notice.
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
		nc.SetWriteDeadline(deadlineAt(after(r.guest().cfg.WriteTimeout)))
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

// A guestReader reads what is written to the HTTPResponseWriter of a request. Read is
// called by the server's goroutine.
type guestReader struct{ r *HTTPRequest }

func (g *guestReader) Read(p []byte) (int, error) {
	r := g.r
	n := 0
	r.guest().written(r)
	ok := r.waitGuest(nil, func() bool {
		n = r.takeGuest(p)
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

// Close is called at the end, or when the server cannot write any more.
func (g *guestReader) Close() error {
	r := g.r
	r.lose(r.opError(io.ErrClosedPipe)) // no more than a note if it is complete
	r.stopBody()
	r.guest().over(r)
	return nil
}

// takeGuest moves output to p. The caller holds r.mu.
func (r *HTTPRequest) takeGuest(p []byte) int {
	var views [1][]byte
	g := r.guest()
	if g.out.Views(views[:]) == 0 {
		return 0
	}
	n := copy(p, views[0])
	g.out.Advance(n)
	r.loop.count.httpBytesOut.Add(uint64(n))
	g.moving = n
	return n
}

func (r *HTTPRequest) isCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

// HTTPHandler returns a handler for an existing net/http server that hands each
// request to h on the loop, and waits for the response. The request owns its data,
// as always; its body is read by the server's goroutine before, up to 4 MB.
// [HTTPServerConfig.HTTPHandler] sets other limits. HTTPHandler panics if h is nil.
//
// What net/http and its middleware know of the request stays within reach:
// [HTTPRequest.Context] has the values and the deadline of the http.Request's context,
// [HTTPRequest.PathValue] what an http.ServeMux matched, and [HTTPRequest.HTTP]
// returns the http.Request itself.
//
// A client that is gone ends the context of the request, and is told to OnAbort as
// io.EOF: net/http does not say how it left. RespondStream returns an error that matches
// errors.ErrUnsupported if the http.ResponseWriter, of a middleware say, cannot
// flush. Upgrade is not possible. A request that comes when the loop does not run, or
// that the loop did not answer when it ended, is answered with 503. So end a service in
// this order: the server by its Shutdown, the loop, and what both use, such as a
// database.
func HTTPHandler(l *Loop, h func(r *HTTPRequest)) http.Handler {
	return (&HTTPServerConfig{}).HTTPHandler(l, h)
}

// HTTPHandler is the function of the same name with the ResponseTimeout, the
// WriteTimeout, the MaxBodyBytes, the MaxInlineBody, the HighWater and the
// MaxBuffered of cfg, which is copied. Bodies longer than MaxInlineBody are taken
// with [HTTPRequest.OnBody]; while one is read, nothing is noticed of a client
// that goes but the end of the body. What the other fields say is the business of
// the server; events go to Config.EventHandler.
func (cfg *HTTPServerConfig) HTTPHandler(l *Loop, h func(r *HTTPRequest)) http.Handler {
	if h == nil {
		panic(errNilFunc)
	}
	cfg = cfg.withDefaults()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r, err := netRequest(l, cfg, w, req)
		if err != nil {
			status := cmp.Or(bodyRefusal(err), http.StatusBadRequest)
			http.Error(w, http.StatusText(status), status)
			return
		}
		if r.guest().body != nil {
			http.NewResponseController(w).EnableFullDuplex()
			r.startBody()
			defer r.stopBody()
		}
		r.guest().handle = h
		if !r.run(req.Context().Done()) {
			http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
			return
		}
		r.answerNet(w, req)
	})
}

// netRequest copies what req has. net/http keeps fields in a map, so only the
// order of the values of a name is known; the names are sorted.
func netRequest(l *Loop, cfg *HTTPServerConfig, w http.ResponseWriter, req *http.Request) (*HTTPRequest, error) {
	src := req.Body
	if cfg.MaxBodyBytes > 0 {
		if req.ContentLength > cfg.MaxBodyBytes {
			return nil, fasthttp.ErrBodyTooLarge
		}
		src = http.MaxBytesReader(w, src, cfg.MaxBodyBytes)
	}
	fields := HTTPHeaders{{"Host", req.Host}}
	names := make([]string, 0, len(req.Header))
	for name := range req.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range req.Header[name] {
			fields.Add(name, value)
		}
	}
	uri := req.RequestURI
	if uri == "" { // not from a server, but from a test
		uri = req.URL.RequestURI()
	}
	r := guestRequest(l, req.Method, uri, req.ProtoAtLeast(1, 1), fields)
	r.guest().req = req
	r.guest().canFlush = canFlush(w)
	r.guest().cfg = cfg
	r.guest().remote = stringAddr(req.RemoteAddr)
	r.guest().tls = req.TLS
	err := r.takeBody(src, req.ContentLength, func() {
		if http.NewResponseController(w).SetReadDeadline(soon()) != nil {
			req.Body.Close()
		}
	})
	return r, err
}

// canFlush reports whether [http.ResponseController.Flush] works with w. To try it
// would send the head.
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

// bodyIsLeft reports whether the answer comes before the end of a body that is a
// stream.
func (r *HTTPRequest) bodyIsLeft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bodyLeft()
}

// stringAddr is an address of which only the text is known.
type stringAddr string

func (a stringAddr) Network() string { return "tcp" }
func (a stringAddr) String() string  { return string(a) }

func (r *HTTPRequest) answerNet(w http.ResponseWriter, req *http.Request) {
	defer r.guest().over(r)
	r.mu.Lock()
	a, streamed, served := r.guest().answer, r.writer != nil, r.guest().served
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
			rc.Flush() // stopBody may take a while
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
		r.waitGuest(gone, func() bool {
			n = r.takeGuest(buf.Room())
			return n > 0 || r.isComplete()
		})
		if n == 0 {
			break
		}
		rc.SetWriteDeadline(deadlineAt(after(r.guest().cfg.WriteTimeout)))
		_, err := w.Write(buf.Room()[:n])
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			r.lose(r.opError(err))
			return
		}
		r.guest().written(r)
	}
	r.mu.Lock()
	cut := r.cut || r.isLost()
	r.mu.Unlock()
	if cut {
		panic(http.ErrAbortHandler) // so that the client notices
	}
}
