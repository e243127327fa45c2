package eventloop

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/valyala/fasthttp"
)

var (
	errStatus     = errors.New("eventloop: a response status must be from 200 to 999")
	errShortBody  = errors.New("eventloop: the body is shorter than its Content-Length")
	errLongBody   = errors.New("eventloop: the body is longer than its Content-Length")
	errNoUpgrade  = errors.New("eventloop: the request cannot be upgraded")
	errNoFlush    = fmt.Errorf("eventloop: the http.ResponseWriter cannot flush: %w", errors.ErrUnsupported)
	errBadLength  = fmt.Errorf("%w: malformed or conflicting Content-Length", ErrHTTPHeader)
	errUnfinished = errors.New("eventloop: the stream was aborted")
)

// Respond sends the response (http-response): it queues copies of the header fields and
// the body, and does not wait. Status is from 200 to 999. The fields keep their order and
// spelling. Date and Content-Length are added. Of Connection, only "close" and "upgrade"
// are honored. Transfer-Encoding is ignored. Content-Length is ignored except in
// responses without a body (to HEAD, and 304). The body is not sent with 204, 205 and
// 304, and to HEAD.
//
// A request has one response: a second call returns [ErrHTTPResponded]. If the client is
// known to have disconnected, Respond returns the reason, usually an error that matches
// [ErrReset]. An invalid status is an error, and invalid fields are an error that matches
// [ErrHTTPHeader]; the request can still get a response after either. If the client
// disconnects while the response is being sent, HTTPServerConfig.OnEvent is called.
func (r *HTTPRequest) Respond(status int, headers HTTPHeaders, body []byte) error {
	if err := checkResponse(status, headers); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin(); err != nil {
		return err
	}
	r.via.respond(r, status, headers, body)
	r.loop.count.responded(status)
	r.finish()
	return nil
}

func checkResponse(status int, headers HTTPHeaders) error {
	if status < 200 || status > 999 {
		return errStatus
	}
	return headers.validate()
}

// mayRespond returns an error if there is a response, or none is possible. The caller
// holds r.mu.
func (r *HTTPRequest) mayRespond() error {
	switch {
	case r.begun():
		return ErrHTTPResponded
	case r.isLost():
		return r.x.lost
	}
	return nil
}

// begin begins the response, unless mayRespond returns an error. The caller holds r.mu.
func (r *HTTPRequest) begin() error {
	if err := r.mayRespond(); err != nil {
		return err
	}
	r.setState(responseBegun)
	r.stopTimer()
	return nil
}

// finish completes the response. The caller holds r.mu.
func (r *HTTPRequest) finish() {
	r.setState(responseComplete)
	r.settle()
	if r.writer != nil || r.peek().served != nil {
		r.at = clock()
	}
	r.via.completed(r)
}

// cutShort ends a response that has begun and cannot be completed. The caller holds r.mu.
func (r *HTTPRequest) cutShort() {
	r.cut = true
	r.finish()
}

// bodyless reports whether a response to r with that status has no body, regardless of its
// header fields (RFC 9110 sections 6.4.1 and 15.3.6).
func (r *HTTPRequest) bodyless(status int) bool {
	return !bodyStatus(status) || r.Method() == fasthttp.MethodHead
}

// bodyStatus reports whether a response with that status may have a body.
func bodyStatus(status int) bool {
	return status != fasthttp.StatusNoContent && status != fasthttp.StatusNotModified && status != fasthttp.StatusResetContent
}

func appendStatusLine(b []byte, status int) []byte {
	if status == fasthttp.StatusOK {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, fasthttp.StatusMessage(status)...)
	return append(b, "\r\n"...)
}

// clockBase is the origin of clock. Times by clock have no date. Compared with a
// time.Time, they take less memory, and half the time to read.
var clockBase = time.Now()

// clock returns the time since clockBase.
func clock() time.Duration { return time.Since(clockBase) }

// A dateLine is the Date field of one second.
type dateLine struct {
	from, until time.Duration // of the clock
	line        string
}

var lastDate atomic.Pointer[dateLine]

// appendDate appends the Date field (RFC 9110 section 6.6.1). at is the current time by
// clock. The date is formatted once per second.
func appendDate(b []byte, at time.Duration) []byte {
	d := lastDate.Load()
	if d == nil || at < d.from || at >= d.until {
		now := time.Now()
		d = &dateLine{
			from:  at,
			until: at + time.Second - time.Duration(now.Nanosecond()),
			line:  "Date: " + now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n",
		}
		lastDate.Store(d)
	}
	return append(b, d.line...)
}

// An HTTPResponseWriter streams a response. Write queues data and never waits. The data is
// sent when the callback has returned, when Flush is called, or in the next turn of the
// loop. The request stays open, and keeps the loop alive, until Close.
//
// All methods may be called from any goroutine and from any callback.
type HTTPResponseWriter struct {
	r *HTTPRequest

	// Guarded by r.mu.
	length      int64 // the Content-Length, or -1
	written     int64
	chunked     bool
	drop        bool // the response has no body; writes are discarded
	posted      bool // a call of Flush is posted
	wrote       bool // bytes were written, or OnDrain was called, since onDrain last ran
	drainPosted bool // a call of callOnDrain is posted
	high        bool // HighWater was exceeded, and more than half of it is still pending
	onDrain     func()
}

// RespondStream begins a response and returns the writer for its body. If there is a
// Content-Length field, the body has that length; fields that differ are an error.
// Otherwise the body is sent in chunks, or to an HTTP/1.0 client until the connection is
// closed. The errors are those of Respond, and one that matches errors.ErrUnsupported if
// the request is from a foreign server that cannot send parts of a response. Then the
// request can still get a response.
//
// If the client disconnects meanwhile, OnAbort is called and the context of the request
// ends. Close a stream that the client only reads, such as server-sent events, when that
// happens, even if the error is io.EOF.
func (r *HTTPRequest) RespondStream(status int, headers HTTPHeaders) (*HTTPResponseWriter, error) {
	if err := checkResponse(status, headers); err != nil {
		return nil, err
	}
	length := int64(-1)
	for i, stated := range headers.Values("Content-Length") {
		n, ok := http1.ParseLength(stated)
		if !ok || i > 0 && n != length {
			return nil, errBadLength
		}
		length = n
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mayRespond(); err != nil {
		return nil, err
	}
	if err := r.via.mayStream(); err != nil {
		return nil, err
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	w := &HTTPResponseWriter{r: r, length: length, drop: r.bodyless(status), wrote: true} // open writes the head
	r.writer = w
	w.chunked = r.via.open(r, status, headers, length)
	r.loop.count.responded(status)
	w.schedule()
	return w, nil
}

// Write queues a copy of p and returns len(p). After Close it returns net.ErrClosed. If
// the client is known to have disconnected, it returns the reason. If more than
// HTTPServerConfig.MaxBuffered bytes would be pending, it writes nothing and returns
// [ErrBufferFull]. If p exceeds the Content-Length, it writes nothing and returns an
// error.
func (w *HTTPResponseWriter) Write(p []byte) (int, error) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	high, most := w.marks()
	switch {
	case r.isLost():
		return 0, r.x.lost
	case r.isComplete():
		return 0, net.ErrClosed
	case w.length >= 0 && int64(len(p)) > w.length-w.written:
		return 0, errLongBody
	case len(p) > most-w.buffered():
		return 0, ErrBufferFull
	}
	w.written += int64(len(p))
	if len(p) == 0 {
		return 0, nil
	}
	w.wrote = true
	if w.drop { // discarded data counts as sent
		w.checkDrain()
		return len(p), nil
	}
	if w.chunked {
		var space [24]byte
		r.via.queue(append(strconv.AppendInt(space[:0], int64(len(p)), 16), "\r\n"...))
		r.via.queue(p)
		r.via.queue([]byte("\r\n"))
	} else {
		r.via.queue(p)
	}
	w.high = w.high || w.buffered() > high
	if r.delayed && w.buffered() >= flushOver {
		r.via.flush()
	} else {
		w.schedule()
	}
	return len(p), nil
}

// flushOver is the amount of pending output that is sent without waiting for the next
// turn.
const flushOver = 16 << 10

// marks returns HighWater and MaxBuffered.
func (w *HTTPResponseWriter) marks() (high, most int) {
	cfg := w.r.via.settings()
	return cfg.HighWater, cfg.MaxBuffered
}

// schedule arranges for the output to be sent in the next turn, so that everything written
// in one callback leaves together. Before the handler has returned there is nothing to
// do: its end flushes the output. The caller holds r.mu.
func (w *HTTPResponseWriter) schedule() {
	if !w.posted && w.r.delayed {
		w.posted = true
		if w.r.loop.Post(w.Flush) != nil {
			w.r.via.flush()
		}
	}
}

// Flush sends the pending output now. It does not wait.
func (w *HTTPResponseWriter) Flush() {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.posted = false
	if !w.r.over() {
		w.r.via.flush()
	}
}

// Close completes the response. A second call returns net.ErrClosed. If the client is
// known to have disconnected, Close returns the reason. If the body is shorter than the
// Content-Length, Close returns an error and closes the connection, so that the client
// also notices.
func (w *HTTPResponseWriter) Close() error {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.isLost():
		return r.x.lost
	case r.isComplete():
		return net.ErrClosed
	case w.length > w.written && !w.drop:
		r.cutShort()
		return errShortBody
	}
	if w.chunked && !w.drop {
		r.via.queue([]byte("0\r\n\r\n"))
	}
	r.finish()
	return nil
}

// Abort ends the response and closes the connection, so that the client notices that the
// response is incomplete. If the client is known to have disconnected, Abort returns the
// reason. After Close or Abort it returns net.ErrClosed.
func (w *HTTPResponseWriter) Abort() error {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	switch {
	case w.r.isLost():
		return w.r.x.lost
	case w.r.over():
		return net.ErrClosed
	}
	w.r.via.abort(w.r)
	w.r.cutShort()
	return nil
}

// OnDrain sets f to be called on the loop each time the kernel, or TLS, has taken
// everything that was written, including the head, until Close. f is also called if that
// happened before OnDrain was called. So f is called at least once, and can write the
// whole body. A second call replaces f, and the new f is also called at least once. A
// response without a body, such as one to HEAD, discards what is written, and f is called
// as usual.
func (w *HTTPResponseWriter) OnDrain(f func()) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.onDrain, w.wrote = f, true
	w.checkDrain()
}

// Buffered returns the number of bytes that the kernel has not taken yet, including the
// framing of the body.
func (w *HTTPResponseWriter) Buffered() int {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.buffered()
}

func (w *HTTPResponseWriter) buffered() int { return w.r.via.pending(w.r) }

// NeedDrain reports whether more than HTTPServerConfig.HighWater bytes were pending, and
// more than half of HighWater still are. Then a producer should wait for OnDrain.
func (w *HTTPResponseWriter) NeedDrain() bool {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.checkHigh()
	return w.high
}

// checkHigh clears high when the pending output has fallen to half of HighWater. The caller
// holds r.mu.
func (w *HTTPResponseWriter) checkHigh() {
	if high, _ := w.marks(); w.high && w.buffered() <= high/2 {
		w.high = false
	}
}

// checkDrain posts the call of OnDrain's function if it is due. If no function is set, the
// call stays due. The caller holds r.mu.
func (w *HTTPResponseWriter) checkDrain() {
	w.checkHigh()
	if w.wrote && w.buffered() == 0 && w.onDrain != nil && !w.r.over() && !w.drainPosted {
		w.drainPosted = true
		w.r.loop.Post(w.callOnDrain)
	}
}

// callOnDrain calls the function of OnDrain, on the loop.
func (w *HTTPResponseWriter) callOnDrain() {
	w.r.mu.Lock()
	f := w.onDrain
	w.drainPosted = false
	due := f != nil && w.buffered() == 0 && !w.r.over()
	if due {
		w.wrote = false
	}
	w.r.mu.Unlock()
	if due {
		w.r.call(f)
	}
}

// Upgrade responds with 101 Switching Protocols and turns the connection into a Conn of
// the loop, with the callbacks and settings of cfg, as if a listener had accepted it.
// OnConnect is called when the response is sent. The headers are the application's part
// of the handshake, such as Sec-WebSocket-Accept. If they have no Upgrade field, Upgrade
// adds one with the protocol that the client requested. To use a WebSocket library that
// works on a net.Conn, run it in a task with [Conn.NetConn]; examples/websocket decodes
// frames in OnData. ConnConfig.TLS is ignored: if the connection uses TLS, it continues
// to.
//
// Upgrade returns an error if the request does not ask for an upgrade (RFC 9110 section
// 7.8), or is from a foreign server. Then the request can still get a response. Other
// errors are those of Respond.
func (r *HTTPRequest) Upgrade(headers HTTPHeaders, cfg *ConnConfig) (*Conn, error) {
	if err := headers.validate(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.mayRespond(); err != nil {
		return nil, err
	}
	protocol := r.Header("Upgrade")
	if !r.via.mayUpgrade() || !r.head.HTTP11 || !r.head.Upgrade || protocol == "" || r.stream != nil {
		return nil, errNoUpgrade
	}
	if err := r.begin(); err != nil {
		return nil, err
	}
	conf := cfg.acceptedDefaults()
	conf.TLS = nil
	nc, err := r.loop.newConn(conf, kindConnIn, nil)
	if err != nil {
		r.setState(responseNone)
		return nil, err
	}
	fields := slices.Clone(headers)
	if _, ok := fields.lookup("Upgrade"); !ok {
		fields.Add("Upgrade", protocol)
	}
	fields.Set("Connection", "Upgrade")
	r.via.open(r, fasthttp.StatusSwitchingProtocols, fields, 0)
	r.extra().upgraded = nc
	r.loop.count.responded(fasthttp.StatusSwitchingProtocols)
	r.finish()
	return nc, nil
}
