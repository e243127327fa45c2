package eventloop

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/onloop/eventloop/internal/coding"
	"github.com/onloop/eventloop/internal/httpclient"
	"github.com/onloop/eventloop/internal/sockio"
)

// An httpUpload sends the body of a request on its own goroutine while the connection's
// goroutine waits for the response. A server may respond before it has read the whole
// body, and then read no more.
type httpUpload struct {
	call    *httpCall
	conn    *httpclient.Conn
	body    *uploadBody
	before  *httpUpload // the last upload of the same body; nil if there was none
	again   bool        // the body has been read before
	getBody func() (io.ReadCloser, error)
	done    chan struct{}
	length  int64
	trailer httpclient.Trailer // of the body; or nil
	foreign *foreignCall       // the goroutine; nil if the body is own
	wait    chan struct{}      // closed when the server wants the body; nil: do not wait
	once    sync.Once          // closes wait
	over    chan struct{}      // closed when the exchange has ended
}

// expectTimeout is how long the body waits for "100 Continue". Servers that do not support
// it never send it.
const expectTimeout = time.Second

func newHTTPUpload(c *httpCall, conn *httpclient.Conn) *httpUpload {
	u := &httpUpload{call: c, conn: conn, length: c.length, over: make(chan struct{}), done: make(chan struct{})}
	if c.expect {
		u.wait = make(chan struct{})
	}
	if c.trip != nil {
		u.trailer = c.trip.sentTrailer
	} else if fields := c.opts.Trailers; len(fields) > 0 {
		u.trailer = func() ([]byte, error) { return trailerLines(fields) }
	}
	u.body = &uploadBody{src: c.opts.BodyReader}
	if u.body.src == nil {
		u.body.src, u.body.own = bytes.NewReader(c.opts.Body), true
		return u
	}
	u.getBody = c.opts.GetBody
	x := c.more()
	u.body.from = &x.source
	u.before, u.again, x.upload = x.upload, x.source.begun, u
	return u
}

// start starts the goroutine.
func (u *httpUpload) start() {
	l := u.call.client.loop
	if u.body.own {
		l.wg.Go(u.run)
	} else {
		u.foreign = l.goForeign(fmt.Sprintf("Read of a request body, %T", u.body.src), u.run)
	}
}

// end ends the upload. No Read of Body begins or runs after it, and no Read of BodyReader
// begins.
func (u *httpUpload) end() {
	close(u.over)
	if u.body.end(u.call) {
		u.call.client.loop.leave(u.foreign)
	}
	u.closeFetched()
}

// An uploadBody is a body whose reads can be stopped while the goroutine that sends it may
// be in the middle of a write.
type uploadBody struct {
	src     io.Reader
	own     bool          // src reads from Body, so a Read does not block
	from    *uploadSource // nil if own
	fetched *bodyCloser   // set if GetBody returned src

	mu      sync.Mutex // held while own is read; guards the following, and from during the upload
	ended   bool
	reading bool // a Read of src, which is not own, is in progress
}

func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errOver
	}
	if b.own {
		return b.src.Read(p)
	}
	b.from.begun, b.reading = true, true
	b.mu.Unlock()
	defer func() { // src may call runtime.Goexit
		b.mu.Lock()
		b.reading = false
	}()
	return b.src.Read(p)
}

// end stops the reads. It waits for a read of Body, but not for a read of BodyReader, which
// is interrupted by closing it, if it has a Close method. stuck means that closing does not
// interrupt the read in progress.
func (b *uploadBody) end(c *httpCall) (stuck bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if !b.reading || !isUninterruptible(b.src) {
		return false
	}
	closer := c.body // not nil, because src is a file
	if b.fetched != nil {
		closer = b.fetched
	}
	closer.stuck.Store(true)
	return true
}

// permit ends the wait for "100 Continue".
func (u *httpUpload) permit() {
	if u.wait != nil {
		u.once.Do(func() { close(u.wait) })
	}
}

// run is the goroutine. It ends when the body is sent, when the connection is closed, or
// when the reader fails. Closing the reader ends a Read that waits.
func (u *httpUpload) run() {
	defer u.leave()
	returned := false
	defer func() {
		if v := recover(); v != nil {
			u.fail(newPanicError(v))
		} else if !returned {
			u.fail(fmt.Errorf("request body: %w", errGoexit))
		}
	}()
	u.send()
	returned = true
}

// leave tells the next upload of the body that this one, and those before it, are over.
func (u *httpUpload) leave() {
	if u.before != nil {
		<-u.before.done
	}
	close(u.done)
}

// send sends the body, after the head was sent and the server wants the body.
func (u *httpUpload) send() {
	if u.conn.AwaitBegun() != nil || !u.mayBegin() {
		return
	}
	readErr := u.prepare()
	if readErr == nil {
		readErr, _ = httpclient.SendBody(u.conn, u.body, u.length, u.trailer)
	}
	u.closeSent()
	if readErr != nil {
		u.fail(fmt.Errorf("request body: %w", readErr))
	}
	// The reading side reports errors of the connection, together with a response that may
	// have arrived before.
}

// fail ends the request, unless the upload has been ended. In that case the response has
// arrived, the reader was closed because of it, and the connection may already serve the next
// request.
func (u *httpUpload) fail(err error) {
	u.body.mu.Lock()
	defer u.body.mu.Unlock()
	if !u.body.ended {
		u.call.interrupt(u.conn, err)
	}
}

// mayBegin waits until the server wants the body, or expectTimeout has passed. It returns
// false if the exchange has ended.
func (u *httpUpload) mayBegin() bool {
	if u.wait == nil {
		return true
	}
	t := time.NewTimer(expectTimeout)
	defer t.Stop()
	select {
	case <-u.wait:
		return true
	case <-t.C:
		u.permit()
		return true
	case <-u.over:
		return false
	}
}

// An httpStream passes a response to OnResponse, and then its body to OnBody, piece by
// piece. The dispatcher has one piece at a time.
type httpStream struct {
	call  *httpCall
	conn  *httpclient.Conn
	res   *HTTPResponse
	chunk *sockio.Buffer // the piece for the dispatcher; nil: the head
	back  chan struct{}  // the dispatcher is done with chunk; one slot
	again chan struct{}  // reading was resumed; one slot
	panic *PanicError    // of OnResponse or OnBody

	mu     sync.Mutex // guards the fields below
	paused bool
	held   bool // the dispatcher left chunk until reading is resumed
	over   bool // OnBody must not be called again
}

// PauseReading stops OnBody and, soon after, the reading of the body, so that the server
// has to wait. If it is called on the loop, OnBody is not called afterwards. The total
// timeout of the request continues. Without OnBody it has no effect.
func (r *HTTPResponse) PauseReading() {
	if s := r.stream; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pause(true)
	}
}

// ResumeReading undoes PauseReading.
func (r *HTTPResponse) ResumeReading() {
	s := r.stream
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause(false)
	if s.held {
		s.held = false
		s.again <- struct{}{} // empty: it was filled once for each held chunk
	}
}

// pause pauses reading or resumes it. InactivityTimeout does not run during a pause. The
// caller holds the lock.
func (s *httpStream) pause(paused bool) {
	if s.paused == paused {
		return
	}
	s.paused = paused
	c := s.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Hold(paused)
	}
}

// stream calls OnResponse, and reads the body, for OnBody if there is one.
func (c *httpCall) stream(res *HTTPResponse, conn *httpclient.Conn) error {
	s := &httpStream{
		call: c, conn: conn, res: res,
		back: make(chan struct{}, 1), again: make(chan struct{}, 1),
	}
	res.stream = s
	resp := conn.Response()
	var body io.Reader
	if c.opts.OnBody != nil {
		body = c.decoder(res, resp) // changes the headers
	}
	if c.opts.OnResponse != nil && !s.hand(nil) {
		return s.failure()
	}
	if body == nil {
		return c.readBody(res, resp)
	}
	return s.readPieces(body)
}

// readPieces passes the body to OnBody.
func (s *httpStream) readPieces(body io.Reader) error {
	size := 4 << 10
	for {
		b := sockio.GetBuffer(size)
		n, err := body.Read(b.Room())
		b.Fill(n)
		if len(b.Room()) == 0 {
			size = sockio.MaxBuffer // the body arrives fast
		}
		if n > 0 && !s.hand(b) {
			b.Release()
			return s.failure()
		}
		b.Release()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// decoder returns the body for OnBody, decompressed if need be. Then it also removes
// Content-Encoding and Content-Length from res.Headers.
func (c *httpCall) decoder(res *HTTPResponse, resp *httpclient.Response) io.Reader {
	if !c.decodes() || resp.NoBody || codingOf(res, "gzip") == "" {
		return resp
	}
	decoded(res)
	coded := &lastError{r: resp}
	return &gunzip{coded: coded, data: coding.NewGunzip(coded)}
}

// gunzip decompresses gzip, and distinguishes errors of the connection from errors of the
// coding.
type gunzip struct {
	coded *lastError
	data  *coding.Gunzip
}

func (g *gunzip) Read(p []byte) (n int, err error) {
	n, err = g.data.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case g.coded.err != nil && g.coded.err != io.EOF:
		return n, g.coded.err
	}
	return n, fmt.Errorf("%w: Content-Encoding gzip: %v", ErrHTTPMalformed, err)
}

// A lastError stores the error of a reader that is read through another reader.
type lastError struct {
	r   io.Reader
	err error
}

func (e *lastError) Read(p []byte) (n int, err error) {
	n, err = e.r.Read(p)
	if err != nil {
		e.err = err
	}
	return n, err
}

// hand passes b to OnBody, or the head to OnResponse if b is nil, and waits until the
// callback has returned. It returns false if the request ends.
func (s *httpStream) hand(b *sockio.Buffer) bool {
	defer s.conn.Renew()
	l := s.call.client.loop
	ended := s.call.waitContext().Done()
	s.chunk = b
	for {
		l.send(s)
		select {
		case <-s.back:
			return s.panic == nil
		case <-s.again:
			continue
		case <-ended:
		}
		s.mu.Lock()
		s.over = true
		held := s.held
		s.held = false
		s.mu.Unlock()
		if held {
			return false
		}
		select {
		case <-s.back: // the dispatcher still had the chunk
		case <-s.again: // the chunk was held, and reading was resumed
		}
		return false
	}
}

// failure returns the reason why hand returned false.
func (s *httpStream) failure() error {
	if s.panic != nil {
		return s.panic
	}
	return contextError(s.call.waitContext())
}

// run calls OnResponse or OnBody. On the loop.
func (s *httpStream) run() {
	s.mu.Lock()
	if s.paused && !s.over {
		s.held = true
		s.mu.Unlock()
		return
	}
	over := s.over
	s.mu.Unlock()
	defer func() { s.back <- struct{}{} }()
	if over || s.call.client.loop.ended.Load() || s.call.ctx.Err() != nil {
		return
	}
	defer s.call.client.loop.caught(func(err error) { s.panic, _ = err.(*PanicError) })
	if s.chunk == nil {
		s.call.opts.OnResponse(s.res)
	} else {
		s.call.opts.OnBody(s.res, s.chunk.Bytes())
	}
}
