package eventloop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// RoundTripper returns the client as an [http.RoundTripper], for the Transport of an
// http.Client and for libraries that take one. Its requests use the settings, connections
// and statistics of c, except the settings MaxBodyBytes and Jar. Timeout limits a request
// until its body is read. InactivityTimeout also applies within a body: unlike with
// http.Transport, an event stream that is silent for a minute ends, unless
// InactivityTimeout says otherwise. The result also has the method CloseIdleConnections,
// which [http.Client.CloseIdleConnections] calls.
//
// RoundTrip may be called while the loop runs, from any goroutine and from any task of the
// loop. On a goroutine other than the loop's, it blocks. In a task, it suspends the task,
// and the loop continues. In a callback, which can do neither, it returns [ErrOnLoop] at
// once. The same applies to Read of the response body, regardless of the caller of
// RoundTrip; Close never waits. If the context of the task ends, RoundTrip ends the request
// and returns the cause of that context. Read also returns the cause instead of waiting,
// but the body stays open until Close. A library works in a task if it neither sleeps nor
// waits for its own goroutines.
//
// RoundTrip returns when the head of the response has arrived. It follows the contract of
// http.RoundTripper: it does not change the request, follows no redirects, neither sends
// nor stores cookies, adds no Authorization, and always closes the body of the request,
// possibly after it has returned, and never on the loop. It does not ask for compression,
// and never decompresses the body. Request.Cancel and GetBody are supported. A body that
// is an io.Seeker can also be sent again. The method CONNECT is an error. The hooks of
// package net/http/httptrace are not called: a net/http/httptrace.ClientTrace in the
// request's context has no effect.
//
// Up to 256 KB of the response body are read ahead; then the server has to wait. An open
// body is a pending request: it keeps the loop alive, and the end of the request's context
// ends it. Close before the end of the body closes the connection, unless the rest of the
// body is short and arrives at once. Read after Close returns http.ErrBodyReadAfterClose.
// The body of a response with status 101 (Switching Protocols) is an io.ReadWriteCloser
// for the connection. Neither the end of the request's context nor a timeout of the client
// ends it: it must be closed.
//
// A panic in Read or Close of the request's body is an error of RoundTrip. If there is a
// response already, a panic in Read before the end of the response is the error of the
// response body, and a panic in Close is reported like one in a callback: see
// [Config].CatchPanics.
//
// Errors are [*OpError] values, as with [HTTPClient.Do]. If the context has ended, the
// error matches the error of the context and its cause, and its Timeout method reports
// whether a deadline has passed. When the loop ends by force, RoundTrip and Read return
// [ErrLoopClosed].
func (c *HTTPClient) RoundTripper() http.RoundTripper { return (*roundTripper)(c) }

// A roundTripper is an HTTPClient as an http.RoundTripper.
type roundTripper HTTPClient

// CloseIdleConnections closes the idle connections.
func (rt *roundTripper) CloseIdleConnections() { (*HTTPClient)(rt).CloseIdle() }

// RoundTrip implements http.RoundTripper.
func (rt *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	c := (*HTTPClient)(rt)
	t := &httpTrip{req: req}
	t.init(c)
	task, err := c.loop.caller()
	onLoop := task != nil || err != nil
	if rerr := c.loop.register(&t.call.handle, &t.call, kindHTTPClient, false); rerr != nil {
		t.discard(onLoop)
		return nil, cmp.Or(err, rerr)
	}
	if err != nil {
		t.refuse(err, false)
		return nil, err
	}
	c.loop.count.httpSent.Add(1)
	t.send(task)
	return t.await(task)
}

// send sends the request, or ends it with an error.
func (t *httpTrip) send(task *Task) {
	err := errGoexit // until the methods of the context have returned
	sent, wait := false, task == nil
	defer func() {
		if !sent {
			t.refuse(err, wait)
		}
	}()
	if err = t.prepare(); err != nil {
		return
	}
	wait = false // from here on RoundTrip returns when the context ends
	if t.mayBeEmpty() {
		if err = t.probe(task); err != nil {
			return
		}
	}
	sent = true
	t.call.submit()
}

// refuse ends a request that is not sent. If wait is set, refuse returns after it has closed
// the body. Close may block, so wait must not be set on the loop.
func (t *httpTrip) refuse(err error, wait bool) {
	defer t.call.finish(nil, err) // Close may call runtime.Goexit
	if wait {
		t.call.closeBody()
	}
}

// discard closes the body of a request that the loop did not accept. If the caller is not on
// the loop, a panic in Close goes to the caller, because the ended loop cannot report it.
func (t *httpTrip) discard(onLoop bool) {
	switch body := t.req.Body; {
	case body == nil:
	case !onLoop:
		body.Close()
	case t.call.body != nil:
		go t.call.closeUnused()
	}
}

var (
	errNoURL   = errors.New("nil Request.URL")
	errNilBody = errors.New("nil Request.Body")
	errNilData = errors.New("nil pointer")
)

// init makes t a request of c that is not prepared yet.
func (t *httpTrip) init(c *HTTPClient) {
	t.waiters.L = &t.mu
	call := &t.call
	call.client, call.ctx, call.trip = c, t.req.Context(), t
	call.opts, call.begun = &t.opts, time.Now()
	if body := t.req.Body; body != nil && body != http.NoBody {
		call.body = &t.closer
		t.closer.body = body
	}
}

// prepare checks the request. It runs in RoundTrip.
func (t *httpTrip) prepare() error {
	c, req := &t.call, t.req
	if req.URL == nil {
		return errNoURL
	}
	place, err := c.client.placeOf(req.URL)
	if err != nil {
		return err
	}
	c.target, c.route = &place.target, place.route
	c.method = cmp.Or(req.Method, "GET")
	if t.opts.Host, err = hostOf(req); err != nil {
		return err
	}
	t.opts.Headers = fieldsOf(req.Header)
	c.length = req.ContentLength
	switch {
	case req.Body == nil && c.length != 0:
		return fmt.Errorf("Request.ContentLength=%d with %w", c.length, errNilBody)
	case c.body == nil:
		c.length = 0
	case c.length <= 0 || len(req.TransferEncoding) > 0 && req.TransferEncoding[0] == "chunked":
		c.length = -1 // unknown
	}
	if err := t.announceTrailer(); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.close = c.close || req.Close
	if c.ctx.Err() != nil {
		return endedBy(c.ctx, c.ctx.Err())
	}
	if err := t.takeBody(); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	c.watch()
	//lint:ignore SA1019 net/http obeys Cancel, and so does every RoundTripper
	if req.Cancel != nil {
		t.done = make(chan struct{})
		done := t.done
		c.loop.wg.Go(func() { t.watchCancel(done) })
	}
	return nil
}

// hostOf returns the value of the field Host, or "" for the host of the URL.
func hostOf(req *http.Request) (string, error) {
	host := req.Host
	if host == "" || host == req.URL.Host || isASCII(host) {
		if host == req.URL.Host {
			host = ""
		}
		return host, nil
	}
	name, port, found := strings.Cut(host, ":")
	name, err := asciiHost(name)
	if found {
		name += ":" + port
	}
	return name, err
}

// fieldsOf returns h in the order in which net/http sends it, without the fields that the
// caller must not send.
func fieldsOf(h http.Header) HTTPHeaders {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	if n == 0 {
		return nil
	}
	fields := make(HTTPHeaders, 0, n)
	for name, values := range h {
		if framesMessage(name) {
			continue
		}
		for _, value := range values {
			fields = append(fields, HTTPHeader{name, textproto.TrimString(value)})
		}
	}
	slices.SortStableFunc(fields, func(a, b HTTPHeader) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// framesMessage reports whether a field names the host of a message or frames its body. It
// ignores the case of name, because servers do.
func framesMessage(name string) bool {
	switch len(name) {
	case len("Host"):
		return http1.EqualFold(name, "Host")
	case len("Trailer"):
		return http1.EqualFold(name, "Trailer")
	case len("Content-Length"):
		return http1.EqualFold(name, "Content-Length")
	case len("Transfer-Encoding"):
		return http1.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

// announceTrailer adds the field that names the trailer fields of the request.
func (t *httpTrip) announceTrailer() error {
	if len(t.req.Trailer) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(t.req.Trailer))
	for _, name := range names {
		if !http1.IsToken(name) {
			return fmt.Errorf("%w: trailer name %q", ErrHTTPHeader, name)
		}
		switch http.CanonicalHeaderKey(name) {
		case "Transfer-Encoding", "Trailer", "Content-Length":
			return fmt.Errorf("%w: %s in the trailer", ErrHTTPHeader, name)
		}
	}
	if err := fieldsOf(t.req.Trailer).validate(); err != nil || t.call.length >= 0 {
		return err // without chunks there is no trailer, as in net/http
	}
	t.opts.Headers = append(HTTPHeaders{{"Trailer", strings.Join(names, ",")}}, t.opts.Headers...)
	return nil
}

// sentTrailer returns the trailer section of the request. It is called at the end of the
// body.
func (t *httpTrip) sentTrailer() ([]byte, error) {
	fields := fieldsOf(t.req.Trailer)
	if err := fields.validate(); err != nil {
		return nil, err
	}
	return fields.appendTo(nil), nil
}

// saysClose reports whether the request needs an additional "Connection: close".
func (t *httpTrip) saysClose() bool {
	h := t.opts.Headers
	return !h.hasToken("Connection", "close") && !h.hasToken("Connection", "upgrade")
}

// address returns the URL without its password, for messages.
func (t *httpTrip) address() string {
	if t.req.URL == nil {
		return ""
	}
	return t.req.URL.Redacted()
}

// takeBody makes the body the BodyReader of the request. If the body is short and in memory,
// takeBody reads it, so that it is sent together with the head, without a goroutine.
func (t *httpTrip) takeBody() error {
	c := &t.call
	if c.body == nil {
		return nil
	}
	body := t.req.Body
	if isNilBody(unwrapped(body)) {
		return errNilData
	}
	if c.length > 0 && httpclient.Inline(int(min(c.length, 1<<20))) && !c.expect && isInMemory(body) {
		t.opts.Body = make([]byte, c.length)
		if _, err := io.ReadFull(body, t.opts.Body); err == io.ErrUnexpectedEOF || err == io.EOF {
			return ErrHTTPBodyLength
		} else if err != nil {
			return err
		}
		if n, _ := body.Read(make([]byte, 1)); n > 0 {
			return ErrHTTPBodyLength
		}
		body.Close() // has no effect
		c.body = nil
		return nil
	}
	t.opts.BodyReader, t.opts.GetBody = body, t.req.GetBody
	return nil
}

// The types of the readers that io.NopCloser returns.
var nopCloserTypes = [...]reflect.Type{
	reflect.TypeOf(io.NopCloser(nil)),
	reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{})),
}

// unwrapped returns the reader inside a reader from io.NopCloser, or inside a probedBody.
func unwrapped(body io.Reader) io.Reader {
	if b, ok := body.(*probedBody); ok {
		body = b.src
	}
	if t := reflect.TypeOf(body); t == nopCloserTypes[0] || t == nopCloserTypes[1] {
		body, _ = reflect.ValueOf(body).Field(0).Interface().(io.Reader)
	}
	return body
}

// isInMemory reports whether Read and Close of body never block.
func isInMemory(body io.Reader) bool {
	switch unwrapped(body).(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// watchCancel ends the request when Request.Cancel is closed.
func (t *httpTrip) watchCancel(done chan struct{}) {
	select {
	//lint:ignore SA1019 net/http obeys Cancel, and so does every RoundTripper
	case <-t.req.Cancel:
		t.call.abort(context.Canceled)
	case <-done:
	}
}

// release unregisters the handle.
func (t *httpTrip) release() { t.call.loop.unregisterAside(&t.call.handle) }

// finish ends the request. If the body is not closed yet, another goroutine closes it,
// because Close may block.
func (t *httpTrip) finish(err error) {
	c := &t.call
	if p, ok := t.opts.BodyReader.(*probedBody); ok {
		p.leave()
	}
	b := c.body
	if b != nil && b.state.Load() != bodyClosed {
		t.end(err, nil)
		c.loop.wg.Go(func() {
			defer t.release() // Close may call runtime.Goexit
			c.closeUnused()
		})
		return
	}
	var pe *PanicError
	if b != nil {
		pe = b.panicked()
	}
	t.release()
	t.end(err, pe)
}

// placeOf is like place, for the URL of an http.Request, which may change afterwards.
func (c *HTTPClient) placeOf(u *url.URL) (*httpPlace, error) {
	if p := c.lastTrip.Load(); p != nil && *p.target.u == *u {
		return p, nil
	}
	own := *u
	p := &httpPlace{}
	var err error
	if p.target, err = newTarget(&own); err != nil {
		return nil, err
	}
	if u.Opaque != "" {
		p.target.uri = own.RequestURI()
		if !isURI(p.target.uri) {
			return nil, fmt.Errorf("opaque part %q of the URL is not valid", u.Opaque)
		}
	}
	p.findRoute(c)
	c.lastTrip.Store(p)
	return p, nil
}

// headerOf returns the fields of a response as an http.Header.
func headerOf(fields http1.Fields) http.Header {
	n := fields.Count()
	h := make(http.Header, n)
	values := make([]string, n)
	for name, value, ok := fields.Next(); ok; name, value, ok = fields.Next() {
		if old := h[name]; old != nil || len(values) == 0 {
			h[name] = append(old, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	return h
}

// probeTime is how long the head of a request waits for the first byte of its body.
const probeTime = 200 * time.Millisecond

// mayBeEmpty reports whether to probe the body before the head is sent: its length is
// unknown, and the method usually has no body. An empty body should not be sent in chunks.
// Package net/http does the same.
func (t *httpTrip) mayBeEmpty() bool {
	if t.call.length >= 0 || t.opts.BodyReader == nil || len(t.req.TransferEncoding) > 0 {
		return false
	}
	switch t.call.method {
	case "GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND", "SEARCH":
		return true
	}
	return false
}

// probe waits for the first byte or the end of the body, for probeTime at most. It returns
// an error if the request ends meanwhile.
func (t *httpTrip) probe(task *Task) error {
	c := &t.call
	b := &probedBody{call: c, src: t.opts.BodyReader, first: unregisteredFuture[int](c.loop)}
	t.opts.BodyReader = b
	b.foreign = c.loop.goForeign(fmt.Sprintf("Read of a request body, %T", b.src), b.probe)
	ctx := c.waitContext()
	stop := context.AfterFunc(ctx, func() { b.first.finish(futureClosed, 0, errOver) })
	defer stop()
	var err error
	if task != nil {
		_, err = b.first.AwaitTimeout(task, probeTime)
	} else {
		patience, cancel := context.WithTimeout(ctx, probeTime)
		_, err = b.first.Wait(patience)
		cancel()
	}
	if err == io.EOF {
		c.length, c.expect = 0, false
		t.opts.BodyReader, t.opts.GetBody = nil, nil
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return nil
}

// A probedBody is a body whose first byte is read by a separate goroutine.
type probedBody struct {
	call    *httpCall
	src     io.Reader
	first   *Future[int] // the result of that Read
	byte    [1]byte
	taken   bool         // Read has returned the result of first
	read    atomic.Bool  // the first byte, or the end, was read
	foreign *foreignCall // the goroutine
}

// probe is the goroutine. It closes an empty body. Close is code of the application, so it
// must not run on the goroutine of RoundTrip, which may be the loop's.
func (b *probedBody) probe() {
	if b.look() == io.EOF {
		b.call.closeBody()
	}
}

// look reads the first byte. It returns the error of that Read if there was no byte.
func (b *probedBody) look() (err error) {
	n, err := 0, errGoexit // until Read has returned
	defer func() {
		b.read.Store(true)
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
		b.first.finish(futureClosed, n, err)
	}()
	if n, err = b.src.Read(b.byte[:]); n > 0 {
		err = nil // the next Read returns it again
	}
	return err
}

// leave makes the loop end without waiting for the goroutine, if closing the body does not
// interrupt its Read.
func (b *probedBody) leave() {
	if !b.read.Load() && isUninterruptible(b) {
		b.call.body.stuck.Store(true)
		b.call.loop.leave(b.foreign)
	}
}

// Read implements io.Reader.
func (b *probedBody) Read(p []byte) (int, error) {
	if b.taken || len(p) == 0 {
		return b.src.Read(p)
	}
	<-b.first.Done()
	b.taken = true
	n, err := b.first.Result()
	return copy(p, b.byte[:n]), err
}
