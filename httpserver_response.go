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
	errStatus     = errors.New("eventloop: the status of an answer is from 200 to 999")
	errShortBody  = errors.New("eventloop: fewer bytes were written than Content-Length says")
	errLongBody   = errors.New("eventloop: more bytes than Content-Length says")
	errNoUpgrade  = errors.New("eventloop: the request asks for no upgrade that can be granted")
	errNoFlush    = fmt.Errorf("eventloop: the http.ResponseWriter cannot flush: %w", errors.ErrUnsupported)
	errBadLength  = fmt.Errorf("%w: Content-Length", ErrHTTPHeader)
	errUnfinished = errors.New("eventloop: the stream was cut")
)

// Respond answers the request (http-response): it queues copies of the fields and
// the body, and does not wait. Status is from 200 to 999. Fields keep their order
// and spelling. Date and Content-Length are added; of what is said about the
// connection only "close" and "upgrade" count, and Content-Length and
// Transfer-Encoding of the caller do not, but for answers without a body (to
// HEAD, and 304). With 204, 205 and 304, and to HEAD, the body is not sent.
//
// A request is answered once: after that Respond returns [ErrHTTPResponded]. If the
// client is known to be gone it returns why, an error that matches [ErrReset]
// most often; with an invalid status, or fields that match [ErrHTTPHeader], an error,
// and the request can still be answered. If the client disconnects while the
// response is being sent, HTTPServerConfig.OnEvent is called.
func (r *HTTPRequest) Respond(status int, headers HTTPHeaders, body []byte) error {
	if err := checkAnswer(status, headers); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin(); err != nil {
		return err
	}
	r.via.respond(r, status, headers, body)
	r.loop.count.answered(status)
	r.finish()
	return nil
}

func checkAnswer(status int, headers HTTPHeaders) error {
	if status < 200 || status > 999 {
		return errStatus
	}
	return headers.validate()
}

// begin chooses an answer. The caller holds r.mu.
func (r *HTTPRequest) begin() error {
	switch {
	case r.begun():
		return ErrHTTPResponded
	case r.isLost():
		return r.x.lost
	}
	r.setState(responseBegun)
	r.stopTimer()
	return nil
}

// finish says that the answer is complete. The caller holds r.mu.
func (r *HTTPRequest) finish() {
	r.setState(responseComplete)
	r.settle()
	if r.writer != nil || r.peek().served != nil {
		r.at = clock()
	}
	r.via.completed(r)
}

// cutShort ends an answer that has begun and cannot be completed. The caller
// holds r.mu.
func (r *HTTPRequest) cutShort() {
	r.cut = true
	r.finish()
}

// bodyless reports whether the answer has no body whatever is said about it (RFC
// 9110 sections 6.4.1 and 15.3.6).
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

// clockBase is what times are counted from that need no date: they take half the
// room, and half the time to read.
var clockBase = time.Now()

// clock returns the time since clockBase.
func clock() time.Duration { return time.Since(clockBase) }

// A dateLine is the Date field of one second.
type dateLine struct {
	from, until time.Duration // of the clock
	line        string
}

var lastDate atomic.Pointer[dateLine]

// appendDate appends the Date field (RFC 9110 section 6.6.1) for a time of the
// clock that has just been read. The date is formatted once per second.
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

// An HTTPResponseWriter is an answer that is sent while it is being made. What is
// written is queued and never waits; it leaves when the callback has returned,
// when Flush is called, or in the next turn of the loop. The request stays open,
// and keeps the loop alive, until Close.
//
// All methods may be called from any goroutine and from any callback.
type HTTPResponseWriter struct {
	r *HTTPRequest

	// Guarded by r.mu.
	length  int64 // of the body that was announced, or -1
	written int64
	chunked bool
	drop    bool // there is no body
	posted  bool // flush will come
	wrote   bool // bytes were written, or OnDrain was called, since onDrain last ran
	telling bool // tellDrained is queued
	high    bool // over the high-water mark, and half of it still there
	onDrain func()
}

// RespondStream answers the request with a body that is yet to be written: of the length
// that the Content-Length field says if there is one, otherwise in chunks, or to
// a client of HTTP/1.0 until the connection is closed. Errors are those of
// Respond, and one that matches errors.ErrUnsupported if the request came through a
// server that cannot send a part of a response; it can still be answered then.
//
// OnAbort tells of a client that goes away meanwhile, and the context of the
// request ends. A stream that the client only reads, such as server-sent
// events, should be closed then, also at io.EOF.
func (r *HTTPRequest) RespondStream(status int, headers HTTPHeaders) (*HTTPResponseWriter, error) {
	if err := checkAnswer(status, headers); err != nil {
		return nil, err
	}
	if err := r.via.mayStream(); err != nil {
		return nil, err
	}
	length := int64(-1)
	if stated, ok := headers.lookup("Content-Length"); ok {
		if length, ok = http1.ParseLength(stated); !ok {
			return nil, errBadLength
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin(); err != nil {
		return nil, err
	}
	w := &HTTPResponseWriter{r: r, length: length, drop: r.bodyless(status), wrote: true} // the header
	r.writer = w
	w.chunked = r.via.open(r, status, headers, length)
	r.loop.count.answered(status)
	w.schedule()
	return w, nil
}

// Write queues a copy of p and returns len(p). It returns net.ErrClosed after
// Close; why the client is gone if that is known; [ErrBufferFull], and takes
// nothing, if more than HTTPServerConfig.MaxBuffered bytes would be pending; and
// an error if p goes beyond the Content-Length.
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
	if w.drop { // which is as good as sent
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

// flushOver is how much output does not wait for the end of the turn.
const flushOver = 16 << 10

// marks returns HighWater and MaxBuffered.
func (w *HTTPResponseWriter) marks() (high, most int) {
	cfg := w.r.via.settings()
	return cfg.HighWater, cfg.MaxBuffered
}

// schedule has the output sent in the next turn, so that what one callback writes
// leaves together. The goroutine is woken by the end of the handler anyway. The
// caller holds r.mu.
func (w *HTTPResponseWriter) schedule() {
	if !w.posted && w.r.delayed {
		w.posted = true
		if w.r.loop.Post(w.Flush) != nil {
			w.r.via.flush()
		}
	}
}

// Flush has what was written sent now. It does not wait.
func (w *HTTPResponseWriter) Flush() {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.posted = false
	if !w.r.over() {
		w.r.via.flush()
	}
}

// Close ends the answer. It returns net.ErrClosed the second time, why the client
// is gone if that is known, and an error if the Content-Length was not reached: the
// connection is then closed so that the client notices, too.
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

// Abort ends the answer so that the client notices that it is not complete: the
// connection is closed. It returns why the client is gone if that is known, and
// net.ErrClosed after Close or Abort.
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

// OnDrain arranges for f to be called on the loop each time that all that was
// written, the header included, has been handed to the kernel, or to TLS, until Close:
// also if that was before OnDrain was called. So f is called at least once, and can
// write all of the body. A second call replaces f, and the new f is also called at least
// once. A response that has no body, such as one to HEAD, drops what is written, and f is
// called all the same.
func (w *HTTPResponseWriter) OnDrain(f func()) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.onDrain, w.wrote = f, true
	w.checkDrain()
}

// Buffered returns the number of bytes that are not with the kernel yet, those
// that frame the body included.
func (w *HTTPResponseWriter) Buffered() int {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.buffered()
}

func (w *HTTPResponseWriter) buffered() int { return w.r.via.pending(w.r) }

// NeedDrain reports whether more than HTTPServerConfig.HighWater bytes were
// pending, and half of it still are: a producer had better wait for OnDrain.
func (w *HTTPResponseWriter) NeedDrain() bool {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.checkHigh()
	return w.high
}

// checkHigh looks whether the output has fallen to half of the high-water mark. The
// caller holds r.mu.
func (w *HTTPResponseWriter) checkHigh() {
	if high, _ := w.marks(); w.high && w.buffered() <= high/2 {
		w.high = false
	}
}

// checkDrain arranges for OnDrain if it is due. A drain that finds no function
// stays due. The caller holds r.mu.
func (w *HTTPResponseWriter) checkDrain() {
	w.checkHigh()
	if w.wrote && w.buffered() == 0 && w.onDrain != nil && !w.r.over() && !w.telling {
		w.telling = true
		w.r.loop.Post(w.tellDrained)
	}
}

// tellDrained runs on the loop.
func (w *HTTPResponseWriter) tellDrained() {
	w.r.mu.Lock()
	f := w.onDrain
	w.telling = false
	due := f != nil && w.buffered() == 0 && !w.r.over()
	if due {
		w.wrote = false
	}
	w.r.mu.Unlock()
	if due {
		w.r.loop.call(f)
	}
}

// Upgrade answers the request with 101 Switching Protocols and makes the
// connection one of the loop, with the callbacks and settings of cfg, as if it
// had been accepted by a listener; OnConnect follows when the answer is sent. The
// headers are the application's part of the handshake, such as
// Sec-WebSocket-Accept; Upgrade is the protocol that the client asked for unless
// it is among them. With [Conn.NetConn] a WebSocket library that works on a
// net.Conn can be used in a task; examples/websocket decodes frames in OnData.
// ConnConfig.TLS is ignored: the connection keeps what it has.
//
// It is an error if the request does not ask for an upgrade (RFC 9110 section
// 7.8), or came through a server that is not ours; the request can still be
// answered then. Other errors are those of Respond.
func (r *HTTPRequest) Upgrade(headers HTTPHeaders, cfg *ConnConfig) (*Conn, error) {
	if err := headers.validate(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
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
	r.loop.count.answered(fasthttp.StatusSwitchingProtocols)
	r.finish()
	return nc, nil
}
