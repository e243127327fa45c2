package eventloop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// ServeHTTP responds to the request with h, a handler for net/http: an http.ServeMux, an
// http.FileServer, httputil.ReverseProxy, pprof, promhttp. h runs on its own goroutine,
// not on the loop, and may block. ServeHTTP does not wait for it.
//
// The contract of h is that of net/http in every detail, because net/http itself makes
// the response: each request gets an http.Server that serves only this request. The
// http.ResponseWriter can flush, set deadlines and hijack the connection. Write waits
// while more than HTTPServerConfig.HighWater bytes are pending. The http.Request has all
// fields that net/http sets. Its body is [HTTPRequest.Body] or, if it is longer than
// HTTPServerConfig.MaxInlineBody, is read while it arrives. Its context ends when h
// returns, when the client disconnects, and when the loop ends.
//
// As in net/http, h runs at once, and waiting handlers never delay another handler. Only
// HTTPServerConfig.MaxConns limits their number, because the requests of a connection
// arrive one at a time. Config.MaxWork and HTTPServerConfig.ResponseTimeout do not apply;
// use http.TimeoutHandler to limit the time of h.
//
// A panic in h ends the connection, as in net/http, and is reported as an event of the
// request: an [*OpError] goes to HTTPServerConfig.OnEvent, or else to
// Config.EventHandler, and otherwise to the log, with or without CatchPanics. A panic
// with http.ErrAbortHandler is not reported. At the end of the loop, Run waits for h for
// Config.WorkGrace, and then names the request in its error; see [ErrWorkLeft].
//
// In a net/http server ([HTTPHandler]), that server calls h with its own
// http.ResponseWriter and on its own goroutine, for which Run does not wait. In a
// fasthttp server ([FastHTTPHandler]), h cannot hijack the connection, and informational
// responses are dropped.
//
// A connection that h hijacks belongs to h, even after the end of the loop. Until it is
// closed, it counts for HTTPServerConfig.MaxConns and MaxConnsPerIP.
//
// ServeHTTP counts as the response: afterwards, Respond and its variants return
// [ErrHTTPResponded]. ServeHTTP returns the same errors as they do, and an error if
// OnBody was called for a streamed body. ServeHTTP panics if h is nil.
func (r *HTTPRequest) ServeHTTP(h http.Handler) error {
	if h == nil {
		panic("eventloop: ServeHTTP needs a handler")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mayRespond(); err != nil {
		return err
	}
	if st := r.stream; st.reads() && st.asked {
		return errBodyTaken
	}
	if err := r.begin(); err != nil {
		return err
	}
	// Register the request before the handler's goroutine starts, so that it has its place
	// among the handles, and its name in an ordered loop.
	if !r.delayed {
		if r.delay(); r.over() {
			return ErrLoopClosed
		}
	}
	x := r.extra()
	x.ctxLasts = true
	x.served = &servedResponse{r: r, h: h}
	x.served.turn.L = r.mu
	if st := r.stream; st.reads() {
		st.asked, st.paused, st.taker = true, true, &x.served.turn
	}
	r.via.serveHTTP(r, x.served)
	return nil
}

// A servedResponse is a response that an http.Handler makes. An http.Server calls the
// handler. The servedResponse is the only connection of that server: Read returns the
// request as the client sent it, and Write gets the response.
type servedResponse struct {
	r      *HTTPRequest
	h      http.Handler
	local  net.Addr
	server http.Server
	over   chan struct{} // closed when the http.Server is done
	once   sync.Once     // closes over

	turn sync.Cond // wakes Read, Write and conn; its lock, that of r, guards the fields below

	in       []byte // bytes of the request that Read returns next
	buf      []byte // the buffer of in, for a streamed body
	bodyRead bool   // the whole body was put into in
	inChunk  bool   // in lacks the line end of its last chunk
	bare     bool   // Read returns only the body, without head and framing
	counted  bool   // the response was counted by its status
	aborted  bool   // the handler panicked
	read     lateness
	write    lateness
	hijacked bool
	nc       net.Conn // the hijacked connection; nil until adopt
}

// start serves the request on another goroutine. The caller holds r.mu.
func (s *servedResponse) start(local net.Addr) {
	s.local = local
	s.over = make(chan struct{})
	s.in = []byte(s.r.head.text)
	s.r.loop.goForeign("http.Handler of "+s.r.describe(), s.run)
}

func (s *servedResponse) run() {
	r := s.r
	ctx := context.WithValue(r.Context(), http.ServerContextKey, &s.server)
	s.server.Handler = http.HandlerFunc(s.call)
	s.server.Protocols = onlyHTTP1
	s.server.MaxHeaderBytes = 1 << 30 // our server has applied its own limit
	s.server.ErrorLog = log.New((*logWriter)(r.loop), "", 0)
	s.server.ConnContext = func(context.Context, net.Conn) context.Context { return ctx }
	s.server.ConnState = s.connState
	var nc net.Conn = servedConn{s}
	if state := r.TLS(); state != nil {
		nc = servedTLS{servedConn{s}, state}
	}
	s.server.Serve(&oneListener{nc})
	<-s.over
	r.mu.Lock()
	defer r.mu.Unlock()
	r.x.cancel(nil)
}

var onlyHTTP1 = func() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	return p
}()

// call calls the handler. If the handler panics, call panics with http.ErrAbortHandler, so
// that net/http ends the response but does not log the panic.
func (s *servedResponse) call(w http.ResponseWriter, req *http.Request) {
	defer s.r.loop.worksFor(&s.r.x.pending)()
	returned := false
	defer func() {
		v := recover()
		if !returned {
			s.abort(v)
		}
		if s.isHijacked() { // then the http.Server does not report the end
			s.finished()
		}
		if v != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	if !s.r.via.mayUpgrade() {
		w = noHijackWriter{w, http.NewResponseController(w)}
	}
	s.h.ServeHTTP(w, req)
	returned = true
}

// abort is called after the handler has panicked with v, or called Goexit.
func (s *servedResponse) abort(v any) {
	r := s.r
	r.mu.Lock()
	s.aborted = true
	r.mu.Unlock()
	var err error = errGoexit
	switch {
	case v == http.ErrAbortHandler:
		return
	case v != nil:
		err = newPanicError(v)
	}
	r.loop.postReport(func() { r.via.deliverEvent(r.opError(err)) })
}

func (s *servedResponse) isHijacked() bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.hijacked
}

func (s *servedResponse) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateIdle: // the http.Server waits for another request
		s.end(true)
	case http.StateHijacked:
		s.hijack()
	case http.StateClosed:
		s.finished()
	}
}

// finished is called when the handler has returned and the response is written.
func (s *servedResponse) finished() { s.once.Do(func() { close(s.over) }) }

// end completes the response. If keep is set, the connection may be kept.
func (s *servedResponse) end(keep bool) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	s.read.stop()
	s.write.stop()
	if !r.over() {
		r.last = r.last || !keep
		r.cut = r.cut || s.aborted
		r.finish()
	}
	s.turn.Broadcast()
}

// hijack ends the response so that the connection can be passed to the handler.
func (s *servedResponse) hijack() {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	s.hijacked = true
	if r.over() { // lost
		s.adopt(nil)
	} else {
		r.finish()
	}
}

// adopt sets the hijacked connection. nc is nil if the connection is closed. The caller
// holds r.mu.
func (s *servedResponse) adopt(nc net.Conn) {
	if nc == nil {
		nc, _ = net.Pipe()
		nc.Close()
	}
	s.nc = nc
	s.turn.Broadcast()
}

// Read returns the request, and then waits for the client to disconnect.
func (s *servedResponse) Read(p []byte) (int, error) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case s.read.late:
			return 0, os.ErrDeadlineExceeded
		case len(s.in) > 0:
			n := copy(p, s.in)
			s.in = s.in[n:]
			return n, nil
		case r.isLost():
			return 0, r.x.lost
		case r.over(), s.bodyRead && (s.bare || r.abortEnds(r.x.abort)):
			return 0, io.EOF
		}
		if more, err := s.fill(); err != nil {
			return 0, err
		} else if !more {
			s.turn.Wait()
		}
	}
}

// fill puts more of the body into s.in, framed as the head announces. It reports whether
// it did. The caller holds r.mu.
func (s *servedResponse) fill() (more bool, err error) {
	r := s.r
	st := r.stream
	var piece []byte
	switch {
	case s.bodyRead:
		return false, nil
	case !st.reads():
		s.bodyRead, piece = true, r.body
	case st.held:
		// Do not read the next piece before the handler wants it, so that ReadTimeout limits
		// only the time that the handler waits.
		piece, st.held, st.paused = st.piece, false, true
		r.via.wake()
	case st.err != nil:
		return false, st.err
	case st.ended:
		s.bodyRead = true
	default:
		if st.paused {
			st.paused = false
			r.via.wake()
		}
		return false, nil
	}
	s.buf = s.appendPiece(s.buf[:0], piece)
	if s.bodyRead && s.isFramed() {
		s.buf = append(s.endChunk(s.buf), "0\r\n\r\n"...)
	}
	s.in = s.buf
	return true, nil
}

// isFramed reports whether Read returns the body in chunks.
func (s *servedResponse) isFramed() bool { return s.r.head.Chunked && !s.bare }

// appendPiece appends a piece of the body to b. It leaves the line end of the chunk to the
// next call: if the connection is hijacked, the rest of the client's chunk may follow.
func (s *servedResponse) appendPiece(b, piece []byte) []byte {
	if s.isFramed() && len(piece) > 0 {
		b = appendChunkSize(s.endChunk(b), int64(len(piece)))
		s.inChunk = true
	}
	return append(b, piece...)
}

func appendChunkSize(b []byte, n int64) []byte {
	return append(strconv.AppendInt(b, n, 16), "\r\n"...)
}

func (s *servedResponse) endChunk(b []byte) []byte {
	if s.inChunk {
		s.inChunk = false
		b = append(b, "\r\n"...)
	}
	return b
}

// takeUnread returns the part of the request that was read from the connection and that
// the handler has not read. The next bytes of the connection continue it.
func (s *servedResponse) takeUnread(c *httpConn) []byte {
	c.core.Lock()
	defer c.core.Unlock()
	unread := slices.Clone(s.in)
	s.in = nil
	st := s.r.stream
	switch {
	case s.bodyRead:
		return unread
	case !st.reads():
		s.fill()
		return append(unread, s.in...)
	case st.held:
		unread = s.appendPiece(unread, st.piece)
		st.held = false
	}
	c.consumePiece()
	unread = s.appendPiece(unread, st.first)
	st.first = nil
	if !s.isFramed() {
		return unread
	}
	switch body := &c.body; {
	case body.InChunk():
		unread = appendChunkSize(s.endChunk(unread), body.Left())
	case body.InTrailer():
		unread = append(s.endChunk(unread), "0\r\n"...)
	case body.Over():
		unread = append(s.endChunk(unread), "0\r\n\r\n"...)
	case !body.BehindChunk():
		unread = s.endChunk(unread)
	}
	return unread
}

// Write queues a part of the response, and waits while too much output is pending.
func (s *servedResponse) Write(p []byte) (n int, err error) {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stream.reads() && bytes.Equal(p, continueHead) {
		return len(p), nil // the body has been read already
	}
	s.count(p)
	for most := s.mostPending(); ; {
		room := most - r.via.pending(r)
		switch {
		case s.write.late:
			return n, os.ErrDeadlineExceeded
		case r.isLost():
			return n, r.x.lost
		case r.over():
			return n, net.ErrClosed
		case n == len(p):
			r.via.flush()
			return n, nil
		case room > 0:
			room = min(room, len(p)-n)
			r.via.queue(p[n : n+room])
			n += room
		default:
			r.via.flush()
			s.turn.Wait()
		}
	}
}

// count counts the response by its status. p is the beginning of the head.
func (s *servedResponse) count(p []byte) {
	if s.counted || len(p) < len("HTTP/1.1 200") {
		return
	}
	status, _ := strconv.Atoi(string(p[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
	if s.counted = status >= 200 || status == http.StatusSwitchingProtocols; s.counted {
		s.r.loop.count.responded(status)
	}
}

// mostPending returns how many bytes may be pending.
func (s *servedResponse) mostPending() int {
	cfg := s.r.via.settings()
	return max(1, min(cfg.HighWater, cfg.MaxBuffered))
}

// sent is called when output has been sent. The caller holds r.mu.
func (s *servedResponse) sent() {
	if s.r.via.pending(s.r) <= s.mostPending()/2 {
		s.turn.Broadcast()
	}
}

func (s *servedResponse) Close() error         { s.end(false); return nil }
func (s *servedResponse) CloseWrite() error    { return s.Close() }
func (s *servedResponse) LocalAddr() net.Addr  { return s.local }
func (s *servedResponse) RemoteAddr() net.Addr { return s.r.RemoteAddr() }

func (s *servedResponse) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *servedResponse) SetReadDeadline(t time.Time) error  { return s.setDeadline(&s.read, t) }
func (s *servedResponse) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.write, t) }

func (s *servedResponse) setDeadline(d *lateness, t time.Time) error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	d.stop()
	left := time.Until(t)
	switch d.late = !t.IsZero() && left <= 0; {
	case d.late:
		s.turn.Broadcast()
	case !t.IsZero():
		var timer *time.Timer
		timer = time.AfterFunc(left, func() {
			s.r.mu.Lock()
			defer s.r.mu.Unlock()
			if d.timer == timer {
				d.late = true
				s.turn.Broadcast()
			}
		})
		d.timer = timer
	}
	return nil
}

// A lateness is the deadline for one direction.
type lateness struct {
	timer *time.Timer
	late  bool
}

func (d *lateness) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// A servedConn is the net.Conn of the http.Server: the servedResponse, and after a hijack
// the connection itself.
type servedConn struct{ s *servedResponse }

// conn returns the net.Conn behind c. After a hijack it waits for adopt.
func (c servedConn) conn() net.Conn {
	s := c.s
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	for s.hijacked && s.nc == nil {
		s.turn.Wait()
	}
	if s.nc != nil {
		return s.nc
	}
	return s
}

func (c servedConn) Read(p []byte) (int, error)         { return c.conn().Read(p) }
func (c servedConn) Write(p []byte) (int, error)        { return c.conn().Write(p) }
func (c servedConn) Close() error                       { return c.conn().Close() }
func (c servedConn) LocalAddr() net.Addr                { return c.s.LocalAddr() }
func (c servedConn) RemoteAddr() net.Addr               { return c.s.RemoteAddr() }
func (c servedConn) SetDeadline(t time.Time) error      { return c.conn().SetDeadline(t) }
func (c servedConn) SetReadDeadline(t time.Time) error  { return c.conn().SetReadDeadline(t) }
func (c servedConn) SetWriteDeadline(t time.Time) error { return c.conn().SetWriteDeadline(t) }

// CloseWrite half-closes the connection if it can.
func (c servedConn) CloseWrite() error {
	if cw, ok := c.conn().(closeWriter); ok {
		return cw.CloseWrite()
	}
	return errUnsupported
}

// A servedTLS is a servedConn with the TLS state, for net/http.
type servedTLS struct {
	servedConn
	state *tls.ConnectionState
}

func (c servedTLS) ConnectionState() tls.ConnectionState { return *c.state }

// A oneListener accepts one connection.
type oneListener struct{ conn net.Conn }

func (ln *oneListener) Accept() (nc net.Conn, err error) {
	if nc, ln.conn = ln.conn, nil; nc == nil {
		err = net.ErrClosed
	}
	return nc, err
}

func (ln *oneListener) Close() error   { return nil }
func (ln *oneListener) Addr() net.Addr { return noAddr{} }

// A hijackedConn counts for the limits of the server until it is closed.
type hijackedConn struct {
	prefixConn
	once sync.Once
	left func()
}

func (c *hijackedConn) Close() error {
	defer c.once.Do(c.left)
	return c.Conn.Close()
}

// A noHijackWriter is an http.ResponseWriter without Hijack.
type noHijackWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w noHijackWriter) Flush()                             { w.rc.Flush() }
func (w noHijackWriter) FlushError() error                  { return w.rc.Flush() }
func (w noHijackWriter) EnableFullDuplex() error            { return w.rc.EnableFullDuplex() }
func (w noHijackWriter) SetReadDeadline(t time.Time) error  { return w.rc.SetReadDeadline(t) }
func (w noHijackWriter) SetWriteDeadline(t time.Time) error { return w.rc.SetWriteDeadline(t) }
func (w noHijackWriter) WriteString(s string) (int, error) {
	return io.WriteString(w.ResponseWriter, s)
}
func (w noHijackWriter) ReadFrom(src io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, src) }

// serveNet calls the handler with the http.ResponseWriter of the foreign net/http server.
func (s *servedResponse) serveNet(w http.ResponseWriter, req *http.Request) {
	r := s.r
	ctx := r.Context()
	defer context.AfterFunc(req.Context(), func() { r.aborted(r.whyCanceled()) })()
	defer r.x.cancel(nil)
	defer s.end(true)
	req = req.WithContext(ctx)
	if len(r.body) > 0 || r.stream != nil {
		s.bare = true
		req.Body = &handlerBody{s: s}
	}
	s.h.ServeHTTP(w, req)
}

// A handlerBody is the body of a request from a foreign net/http server, in place of the
// body of that server, which the mountBody reads.
type handlerBody struct {
	s      *servedResponse
	closed atomic.Bool
}

func (b *handlerBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.s.Read(p)
}

func (b *handlerBody) Close() error {
	b.closed.Store(true)
	return nil
}

// serveFast passes the handler's response to the fasthttp server of ctx.
func (r *HTTPRequest) serveFast(ctx *fasthttp.RequestCtx) {
	out := &mountReader{r}
	resp, err := readFinal(bufio.NewReader(out), r.Method())
	if err != nil {
		refuseFast(ctx, http.StatusServiceUnavailable)
		out.Close()
		return
	}
	h := &ctx.Response.Header
	ctx.SetStatusCode(resp.StatusCode)
	for name, values := range resp.Header {
		for _, v := range values {
			if name != "Content-Length" && name != "Connection" {
				h.Add(name, v)
			}
		}
	}
	for name := range resp.Trailer {
		h.AddTrailer(name)
	}
	if resp.Close || r.isPumping() {
		ctx.SetConnectionClose()
	}
	body := &fastBodyOut{resp: resp, out: out, h: h}
	switch stated := resp.Header.Get("Content-Length"); {
	case r.bodyless(resp.StatusCode):
		ctx.Response.SkipBody = true
		if stated != "" {
			h.SetContentLength(int(resp.ContentLength))
			h.Set("Content-Length", stated)
		}
		io.Copy(io.Discard, out)
		out.Close()
	case resp.ContentLength < 0 && !r.head.HTTP11:
		r.streamUntilClose(ctx, body)
	default:
		ctx.Response.ImmediateHeaderFlush = true
		ctx.SetBodyStream(body, int(resp.ContentLength))
	}
}

// readFinal reads the final response, and skips informational ones.
func readFinal(br *bufio.Reader, method string) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
}

// A fastBodyOut is the body of a response. At its end it passes the trailers to fasthttp.
type fastBodyOut struct {
	resp  *http.Response
	out   *mountReader
	h     *fasthttp.ResponseHeader
	whole bool
}

func (b *fastBodyOut) Read(p []byte) (int, error) {
	n, err := b.resp.Body.Read(p)
	if err == io.EOF {
		b.whole = true
		for name, values := range b.resp.Trailer {
			b.h.AddTrailer(name)
			b.h.Set(name, strings.Join(values, ", "))
		}
	}
	return n, err
}

// Close waits for the end of the handler's output if the whole body was read. If not,
// fasthttp could not send it.
func (b *fastBodyOut) Close() error {
	if b.whole {
		io.Copy(io.Discard, b.out)
	}
	return b.out.Close()
}

// A logWriter logs the messages of net/http, for example about a superfluous WriteHeader.
type logWriter Loop

func (w *logWriter) Write(p []byte) (int, error) {
	(*Loop)(w).log(slog.LevelWarn, strings.TrimSpace(string(p)))
	return len(p), nil
}
