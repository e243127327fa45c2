package eventloop

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
	"github.com/onloop/eventloop/internal/sockio"
)

// An httpTrip is a request of a RoundTripper, from RoundTrip to the end of the response.
// Two parties share it: the goroutine of the connection reads the response, and the caller
// waits in RoundTrip and then reads the body. Either may be faster: a short response is
// over before RoundTrip returns.
type httpTrip struct {
	call   httpCall
	opts   HTTPOptions
	closer bodyCloser
	req    *http.Request
	conn   *httpclient.Conn // the connection after a 101, and otherwise nil
	cut    chan struct{}    // closed when conn is interrupted; guarded by call.mu
	done   chan struct{}    // closed at the end; nil unless Request.Cancel is watched

	mu       sync.Mutex  // guards the fields below
	waiters  tripWaiters // in RoundTrip or in Read
	res      *http.Response
	ready    bool          // RoundTrip may return res
	err      error         // the end of the response; io.EOF if it is complete, nil before the end
	over     bool          // the request has ended
	closed   bool          // Close was called
	paused   bool          // the goroutine of the connection waits for room
	room     chan struct{} // ends that wait; one slot
	body     sockio.Queue
	drained  int   // bytes of the body that arrived after Close
	left     int64 // bytes of the body that were not read from the connection; -1: unknown
	trailer  http1.Fields
	trailers http.Header // of HTTPClientConfig.Transport
}

// tripAhead limits how much of a body is read before the caller reads it.
const tripAhead = 256 << 10

// tripWaiters are the goroutines and tasks that wait for a change of an httpTrip.
type tripWaiters struct {
	sync.Cond
	tasks []waiter
}

// wait waits for wake. It suspends t or, if t is nil, blocks the calling goroutine. It
// returns an error if the context of t, or the loop, has ended. The caller holds the lock.
func (w *tripWaiters) wait(t *Task) error {
	if t == nil {
		w.Cond.Wait()
		return nil
	}
	seq, err := t.beginSuspend()
	if err != nil {
		return err
	}
	w.tasks = append(w.tasks, waiter{t: t, seq: seq})
	w.L.Unlock()
	defer w.L.Lock()
	return t.suspend()
}

// wake wakes all waiters. The caller holds the lock.
func (w *tripWaiters) wake() {
	w.Broadcast()
	for _, task := range w.tasks {
		task.t.wake(task.seq, nil) // no effect if the task no longer waits
	}
	clear(w.tasks)
	w.tasks = w.tasks[:0]
}

// await waits for the head of the response.
func (t *httpTrip) await(task *Task) (*http.Response, error) {
	res, err := t.awaitHead(task)
	if err != nil {
		t.call.abort(err) // no effect if the request has ended
	}
	return res, err
}

func (t *httpTrip) awaitHead(task *Task) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.ready && t.err == nil {
		if err := t.waiters.wait(task); err != nil && t.err == nil {
			t.closed = true
			return nil, err
		}
	}
	if t.res == nil {
		return nil, t.err
	}
	return t.res, nil
}

// receive reads the response, on the goroutine of the connection. If the whole response has
// arrived, receive leaves it to end to wake the caller, so that the caller wakes only once,
// and finds the connection free.
func (t *httpTrip) receive(conn *httpclient.Conn) error {
	resp := conn.Response()
	res := t.response(conn, resp)
	if resp.Status == http.StatusSwitchingProtocols {
		return t.relay(conn, resp, res)
	}
	if !t.respond(res) {
		return errOver
	}
	err := t.readBody(conn, resp)
	if err != io.EOF {
		return err
	}
	t.endBody(resp.Trailers(), nil)
	return nil
}

// respond sets the response to res. It returns false if the loop has abandoned the request:
// see abandon.
func (t *httpTrip) respond(res *http.Response) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.res, t.left = res, res.ContentLength
	return true
}

// endBody stores the trailer fields of a complete response.
func (t *httpTrip) endBody(fields http1.Fields, trailers http.Header) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trailer, t.trailers = fields, trailers
}

// readBody reads the body to its end, and returns the reason for the end.
func (t *httpTrip) readBody(conn *httpclient.Conn, resp *httpclient.Response) error {
	wait := false
	for {
		b, err := resp.ReadBuffer(wait)
		switch {
		case err == httpclient.ErrWait:
			t.publish()
			wait = true
		case err != nil:
			return err
		default:
			t.push(b)
		}
		if !t.awaitRoom(conn) {
			return t.whyEnded()
		}
	}
}

// response returns the http.Response, with the values of the head.
func (t *httpTrip) response(conn *httpclient.Conn, r *httpclient.Response) *http.Response {
	res := &http.Response{
		Status:     strings.TrimSpace(strconv.Itoa(r.Status) + " " + r.Reason),
		StatusCode: r.Status,
		Proto:      r.Proto,
		ProtoMajor: 1,
		ProtoMinor: int(r.Proto[len(r.Proto)-1] - '0'),
		Header:     headerOf(r.Fields),
		Body:       (*tripBody)(t),
		Close:      !r.KeepAlive,
		Request:    t.req,
	}
	if res.ProtoMinor > 0 && slices.ContainsFunc(res.Header["Connection"], func(v string) bool { return http1.HasElement(v, "close") }) {
		delete(res.Header, "Connection") // as in net/http: res.Close has the information
	}
	res.ContentLength = r.Length
	switch {
	case r.Length == http1.LengthChunked:
		res.TransferEncoding = []string{"chunked"}
		delete(res.Header, "Transfer-Encoding")
		delete(res.Header, "Content-Length")
		res.Trailer = declaredTrailer(res.Header)
	case r.Length < 0:
		res.ContentLength = -1
	}
	if r.NoBody && t.call.method != "HEAD" {
		res.ContentLength = 0
	}
	if r.NoBody || r.Length == 0 {
		res.Body = http.NoBody
	}
	res.TLS = tlsState(conn)
	return res
}

// declaredTrailer removes the field Trailer from h, and returns the names in it.
func declaredTrailer(h http.Header) http.Header {
	values, ok := h["Trailer"]
	if !ok {
		return nil
	}
	delete(h, "Trailer")
	trailer := make(http.Header)
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "" {
				trailer[name] = nil
			}
		}
	}
	return trailer
}

// push adds b to the body that the caller can read.
func (t *httpTrip) push(b *sockio.Buffer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := b.Len()
	if t.left > 0 {
		t.left -= int64(n)
	}
	switch {
	case t.closed:
		t.drained += n
		b.Release()
		return
	case n >= b.Size()/2:
		t.body.AppendBuffer(b)
	default: // many small pieces share a buffer
		t.body.Append(b.Bytes())
		b.Release()
	}
	if t.ready { // otherwise the caller is woken later, with ready
		t.waiters.wake()
	}
}

// publish lets RoundTrip return.
func (t *httpTrip) publish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready = true
	t.waiters.wake()
}

// awaitRoom waits until there is room to read more of the body. It returns false if the
// request ends.
func (t *httpTrip) awaitRoom(conn *httpclient.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.drained <= tripDrain
	}
	if t.body.Len() < tripAhead {
		return true
	}
	t.ready = true
	t.waiters.wake()
	if !t.pause() {
		return false
	}
	conn.Renew()
	return true
}

// pause waits for resume, on the goroutine of the connection. It returns false if the
// request ends early. The caller holds the lock.
func (t *httpTrip) pause() bool {
	if t.room == nil {
		t.room = make(chan struct{}, 1)
	}
	t.paused = true
	ended := t.ended()
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-t.room:
		return true
	case <-ended:
		return false
	}
}

// resume ends pause. The caller holds the lock.
func (t *httpTrip) resume() {
	if t.paused {
		t.paused = false
		t.room <- struct{}{} // does not block: there is no pause after the end of the request
	}
}

// ended returns a channel that is closed when the request ends early.
func (t *httpTrip) ended() <-chan struct{} {
	if t.conn == nil {
		return t.call.waitContext().Done()
	}
	return t.cut
}

// whyEnded returns the reason why the request ends early. failure may replace it.
func (t *httpTrip) whyEnded() error {
	if t.conn == nil {
		return contextError(t.call.waitContext())
	}
	return errOver
}

// detach makes the request independent of its context and of Request.Cancel.
func (t *httpTrip) detach() {
	if t.call.releaseCtx != nil {
		t.call.releaseCtx()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unwatch()
}

// unwatch ends watchCancel. The caller holds the lock.
func (t *httpTrip) unwatch() {
	if t.done != nil {
		close(t.done)
		t.done = nil
	}
}

// end ends the request with err, and reports pe, a panic in Close of the request's body. If
// RoundTrip returns an error, pe is joined to it. Otherwise pe is an event of the loop: the
// response cannot report it, because its body may be empty, or closed before its end.
// Apart from that, end has no effect on the loop.
func (t *httpTrip) end(err error, pe *PanicError) {
	c := &t.call
	t.mu.Lock()
	defer t.mu.Unlock()
	if pe != nil {
		if t.over || t.closed || t.res != nil || err == ErrLoopClosed {
			c.client.loop.reportUnowned(pe)
		} else {
			err = errors.Join(err, c.opError(pe))
		}
	}
	if t.over {
		return
	}
	t.over = true
	if t.err == nil {
		t.err = cmp.Or(err, io.EOF)
	}
	t.unwatch()
	t.waiters.wake()
}

// A tripBody is the body of the response to an httpTrip.
type tripBody httpTrip

// Read implements io.Reader.
func (b *tripBody) Read(p []byte) (int, error) {
	t := (*httpTrip)(b)
	task, err := t.call.client.loop.caller()
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.closed:
			return 0, http.ErrBodyReadAfterClose
		case t.body.Len() > 0:
			n := t.take(p)
			if t.body.Len() <= tripAhead/2 {
				t.resume()
			}
			return n, nil
		case t.err != nil:
			t.mergeTrailer()
			return 0, t.err
		case len(p) == 0:
			return 0, nil
		}
		if err := t.waiters.wait(task); err != nil {
			return 0, err
		}
	}
}

// take moves bytes of the body to p. The caller holds the lock.
func (t *httpTrip) take(p []byte) (n int) {
	var views [sockio.MaxViews][]byte
	for _, v := range views[:t.body.Views(views[:])] {
		n += copy(p[n:], v)
	}
	t.body.Advance(n)
	return n
}

// mergeTrailer adds the trailer fields to the response. The caller holds the lock.
func (t *httpTrip) mergeTrailer() {
	fields := t.trailers
	if t.trailer != (http1.Fields{}) {
		fields = headerOf(t.trailer)
	}
	if t.err != io.EOF || len(fields) == 0 {
		return
	}
	t.trailer, t.trailers = http1.Fields{}, nil
	if t.res.Trailer == nil {
		t.res.Trailer = fields
		return
	}
	for name, values := range fields {
		t.res.Trailer[name] = values
	}
}

// Limits of reading the rest of a body after Close: reading a short rest is cheaper than a
// new connection.
const (
	tripDrain     = 8 << 10
	tripDrainTime = 50 * time.Millisecond
)

// Close implements io.Closer. It does not wait.
func (b *tripBody) Close() error {
	t := (*httpTrip)(b)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.body.Reset()
	t.resume()
	t.waiters.wake()
	over, long := t.over, t.left > tripDrain || t.res.Close && t.conn == nil
	t.mu.Unlock()
	switch c := &t.call; {
	case over:
	case long:
		c.abort(http.ErrBodyReadAfterClose)
	default:
		if t.conn != nil {
			t.conn.CloseWrite()
		}
		t.detach() // http.Client ends the context after Close
		c.setRef(false)
		time.AfterFunc(tripDrainTime, func() { c.abort(http.ErrBodyReadAfterClose) })
	}
	return nil
}

// A tripStream is the body of a response with status 101: the connection itself.
type tripStream struct {
	*tripBody
	writing sync.Mutex // held during a Write
}

// relay lets the caller read from the connection and write to it, until Close.
func (t *httpTrip) relay(conn *httpclient.Conn, resp *httpclient.Response, res *http.Response) error {
	conn.Upgrade()
	resp.Upgrade()
	t.detach()
	t.call.mu.Lock()
	t.cut = make(chan struct{})
	if t.call.cause != nil {
		close(t.cut)
	}
	t.call.mu.Unlock()
	res.Body = &tripStream{tripBody: (*tripBody)(t)}
	t.conn = conn
	if !t.respond(res) {
		return errOver
	}
	t.publish()
	err := t.readBody(conn, resp)
	if err != io.EOF {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = io.EOF // the caller may continue to write
	t.waiters.wake()
	for !t.closed && t.pause() { // Read also calls resume
	}
	return errOver
}

// Write implements io.Writer. It returns when the kernel has taken all of p. In a task whose
// context ends, it returns 0 while the write continues: how much was sent is unknown.
func (s *tripStream) Write(p []byte) (int, error) {
	t := (*httpTrip)(s.tripBody)
	l := t.call.client.loop
	task, err := l.caller()
	if err != nil {
		return 0, err
	}
	if task == nil {
		return s.write(p)
	}
	own := bytes.Clone(p) // the task may be interrupted
	f := unregisteredFuture[int](l)
	l.wg.Go(func() {
		n, err := s.write(own)
		f.resolve(n, err)
	})
	return f.Await(task)
}

// write writes p on the calling goroutine, and may block. It returns the number of bytes
// that the kernel has taken, without those of the last piece that it takes while the
// connection ends.
func (s *tripStream) write(p []byte) (n int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	t := (*httpTrip)(s.tripBody)
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	err = t.conn.AwaitRoom()
	_, before := t.conn.Bytes()
	for n < len(p) && err == nil {
		m := min(len(p)-n, sockio.MaxBuffer)
		if err = t.conn.Write(p[n:n+m], false); err == nil {
			n += m
			err = t.conn.AwaitRoom()
		}
	}
	if err == nil {
		return n, nil
	}
	_, after := t.conn.Bytes()
	return min(n, int(after-before)), t.writeError(err)
}

// writeError returns the error of a Write that failed with err.
func (t *httpTrip) writeError(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == os.ErrDeadlineExceeded { // the request is ending; wait for its error
		for !t.closed && !t.over {
			t.waiters.Wait()
		}
	}
	switch {
	case t.closed:
		return net.ErrClosed
	case t.err != nil && t.err != io.EOF:
		return t.err
	}
	return t.call.failure(err)
}
