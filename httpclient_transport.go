package eventloop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
	"github.com/onloop/eventloop/internal/netcore"
)

// errTransport is the error for settings that a Transport does not support.
var errTransport = errors.New("has no effect with HTTPClientConfig.Transport")

// transportConflict returns an error if a setting would have no effect.
func (cfg *HTTPClientConfig) transportConflict() error {
	if cfg.Transport == nil {
		return nil
	}
	for _, setting := range []struct {
		name string
		made bool
	}{
		{"TLS", cfg.TLS != nil},
		{"ConnectTimeout", cfg.ConnectTimeout != 0},
		{"InactivityTimeout", cfg.InactivityTimeout != 0},
		{"IdleTimeout", cfg.IdleTimeout != 0},
		{"MaxConnsPerHost", cfg.MaxConnsPerHost != 0},
		{"MaxIdlePerHost", cfg.MaxIdlePerHost != 0},
		{"MaxIdle", cfg.MaxIdle != 0},
		{"MaxHeaderBytes", cfg.MaxHeaderBytes != 0},
		{"DisableKeepAlives", cfg.DisableKeepAlives},
		{"Proxy", cfg.Proxy != nil},
		{"Dial", cfg.Dial != nil},
	} {
		if setting.made {
			return fmt.Errorf("HTTPClientConfig.%s %w", setting.name, errTransport)
		}
	}
	return nil
}

// checkTransport returns an error if the client or the request has a setting that the
// Transport does not support.
func (c *httpCall) checkTransport() error {
	switch {
	case c.client.conflict != nil:
		return c.client.conflict
	case c.client.cfg.Transport == nil:
	case c.opts.UnixSocket != "":
		return fmt.Errorf("HTTPOptions.UnixSocket %w", errTransport)
	case c.opts.Upgrade != nil:
		return fmt.Errorf("HTTPOptions.Upgrade %w", errTransport)
	}
	return nil
}

// sendWithTransport sends the request with the Transport. It runs on its own goroutine.
func (c *httpCall) sendWithTransport() {
	l := c.client.loop
	l.worksFor(&c.handle)
	end := requestEnd{err: errGoexit} // unless the transport returns
	defer func() {
		end.err = l.foreign(end.err)
		c.conclude(&end)
	}()
	end.err = guard(func() error { return c.sendAndReceive(&end) })
}

var errNothing = errors.New("the transport returned neither a response nor an error")

// sendAndReceive sends the request and receives the response.
func (c *httpCall) sendAndReceive(end *requestEnd) error {
	req, bodies, err := c.netRequest()
	defer bodies.end()
	if err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	res, err := c.client.cfg.Transport.RoundTrip(req)
	if res != nil && res.Body == nil {
		res.Body = http.NoBody
	}
	ctx := req.Context()
	switch {
	case ctx.Err() != nil: // the transport may ignore the end of ctx
		if err == nil && res != nil {
			res.Body.Close()
		}
		return endedBy(ctx, ctx.Err())
	case err != nil:
		return err
	case res == nil:
		return errNothing
	case c.trip != nil:
		return c.trip.received(res)
	}
	defer res.Body.Close()
	conn, err := httpclient.FromReader(headOf(res), c.method, &boundBody{c.waitContext(), res.Body})
	if err != nil {
		return err
	}
	resp := conn.Response()
	resp.Proto = res.Proto
	end.res = c.response(conn, resp)
	end.res.TLS = res.TLS
	if err := c.storeCookies(resp); err != nil {
		return err
	}
	err = c.receive(conn, end)
	end.res.Trailers = fieldsOf(res.Trailer)
	return err
}

// netRequest returns the request as an http.Request, and its bodies.
func (c *httpCall) netRequest() (*http.Request, *transportBodies, error) {
	req := &http.Request{}
	if c.trip != nil {
		*req = *c.trip.req
	} else {
		c.fillRequest(req)
	}
	req = req.WithContext(c.waitContext())
	req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	s := &transportBodies{call: c, opts: *c.opts}
	if s.opts.BodyReader == nil && len(s.opts.Body) == 0 && c.length >= 0 {
		return req, s, nil
	}
	if len(s.opts.Trailers) > 0 {
		s.trailer = make(http.Header)
		s.fillTrailer(false)
		req.Trailer = s.trailer
	}
	if s.opts.BodyReader == nil || s.opts.GetBody != nil {
		req.GetBody = s.getBody
	}
	req.ContentLength = c.length
	var err error
	// After a redirect, use GetBody even if BodyReader was not read: the transport may have
	// closed it.
	req.Body, err = s.open(c.redirects > 0)
	return req, s, err
}

// fillRequest fills req from the arguments of Do.
func (c *httpCall) fillRequest(req *http.Request) {
	u := *c.target.u
	u.User = nil // the Authorization field has it
	h := make(http.Header)
	c.addFields(h, &httpRoute{})
	req.Method, req.URL, req.Host, req.Header = c.method, &u, h.Get("Host"), h
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	req.Close = c.close
	if _, named := h["User-Agent"]; !named {
		h["User-Agent"] = []string{""} // otherwise net/http sends its own
	}
	for _, name := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(h, name)
	}
}

// transportBodies are the bodies of a request that a Transport sends: the Body of the
// http.Request, and those that the transport gets from GetBody.
type transportBodies struct {
	call    *httpCall
	opts    HTTPOptions // of the request at the call of RoundTrip
	trailer http.Header // of the http.Request, filled at the end of a body; or nil

	mu    sync.Mutex // guards the fields below, and trailer
	all   []*transportBody
	ended bool
}

// A transportBody is a body that a transport reads. The transport may call Close from any
// goroutine, or not at all.
type transportBody struct {
	uploadBody
	of *transportBodies
}

// open returns the body, from its beginning. If again is set, the body was opened before.
func (s *transportBodies) open(again bool) (io.ReadCloser, error) {
	b := &transportBody{of: s}
	switch {
	case s.opts.BodyReader == nil:
		b.src, b.own = bytes.NewReader(s.opts.Body), true
	case !again:
		b.src, b.from = s.opts.BodyReader, &uploadSource{}
	default:
		b.from = &uploadSource{}
		if err := b.fetch(s.call, s.opts.GetBody); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	ended := s.ended
	s.all = append(s.all, b)
	s.mu.Unlock()
	if ended {
		b.end()
		return nil, errOver
	}
	return b, nil
}

// getBody is GetBody of the http.Request.
func (s *transportBodies) getBody() (io.ReadCloser, error) { return s.open(true) }

// end ends all bodies.
func (s *transportBodies) end() {
	s.mu.Lock()
	s.ended = true
	all := s.all
	s.mu.Unlock()
	for _, b := range all {
		b.end()
	}
}

// fillTrailer sets the names in the trailer of the http.Request, and if values is set,
// their values.
func (s *transportBodies) fillTrailer(values bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.opts.Trailers {
		s.trailer[http.CanonicalHeaderKey(f.Name)] = nil
	}
	for _, f := range s.opts.Trailers {
		if values {
			s.trailer.Add(f.Name, f.Value)
		}
	}
}

// Read implements io.Reader. An error other than io.EOF ends the request at once. The
// transport may report it only in a Read of the response, for which the request may not
// wait for a long time, and may report only a consequence. A panic is an error, because the
// goroutine is not ours.
func (b *transportBody) Read(p []byte) (n int, err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, newPanicError(v)
		} else if !returned {
			err = errGoexit
		}
		switch {
		case err == io.EOF && b.of.trailer != nil:
			b.of.fillTrailer(true)
		case err != nil && err != io.EOF:
			b.fail(err)
		}
	}()
	n, err = b.uploadBody.Read(p)
	returned = true
	return n, err
}

// fail ends the request, unless the transport has closed the body or the request has ended.
func (b *transportBody) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.of.call.interrupt(nil, fmt.Errorf("request body: %w", err))
	}
}

// Close implements io.Closer.
func (b *transportBody) Close() error {
	b.uploadBody.end(b.of.call)
	switch {
	case b.own:
	case b.fetched != nil:
		b.fetched.close(b.of.call)
	default:
		b.of.call.closeBody()
	}
	return nil
}

// end ends the body. It closes a reader from GetBody, and reports a panic in that Close.
// BodyReader is closed with the request.
func (b *transportBody) end() {
	b.uploadBody.end(b.of.call)
	f := b.fetched
	if f == nil {
		return
	}
	f.close(b.of.call)
	if f.panicked() != nil {
		b.of.call.client.loop.reportUnowned(f.panicked())
	}
}

// headOf returns the head of res as text for the parser. Its Content-Length does not frame
// the body, and Transfer-Encoding is left out: FromReader reads the body until io.EOF.
func headOf(res *http.Response) string {
	var b strings.Builder
	reason := strings.TrimPrefix(res.Status, strconv.Itoa(res.StatusCode))
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", res.StatusCode, strings.TrimSpace(reason))
	for _, f := range sortedFields(res.Header) {
		if f.Name != "Transfer-Encoding" && f.Name != "Connection" {
			fmt.Fprintf(&b, "%s: %s\r\n", http.CanonicalHeaderKey(f.Name), f.Value)
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// A boundBody is the body of a response from a transport. Read fails after the end of the
// request, which the transport may ignore.
type boundBody struct {
	ctx  context.Context
	body io.Reader
}

// Read implements io.Reader.
func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	n, err = netcore.CheckCount("Read", b.body, len(p), n, err)
	if b.ctx.Err() != nil {
		return 0, endedBy(b.ctx, b.ctx.Err())
	}
	return n, err
}

// received takes the response from a transport for a RoundTripper.
func (t *httpTrip) received(res *http.Response) error {
	own := *res
	own.Request = t.req
	if res.StatusCode == http.StatusSwitchingProtocols {
		if t.respond(&own) {
			return nil // the body is the connection; it belongs to the caller
		}
		return res.Body.Close()
	}
	defer res.Body.Close()
	conn, err := httpclient.FromReader("HTTP/1.1 200 \r\n\r\n", t.call.method, &boundBody{t.call.waitContext(), res.Body})
	if err != nil {
		return err
	}
	own.Trailer = res.Trailer.Clone() // the transport may change it during the body
	if own.Body = (*tripBody)(t); res.Body == http.NoBody || t.call.method == "HEAD" {
		own.Body = http.NoBody
	}
	if !t.respond(&own) {
		return errOver
	}
	if own.Body == http.NoBody {
		return nil
	}
	if err = t.readBody(conn, conn.Response()); err != io.EOF {
		return err
	}
	t.endBody(http1.Fields{}, res.Trailer)
	return nil
}

// sortedFields returns the fields of h by name.
func sortedFields(h http.Header) HTTPHeaders {
	fields := fieldsOf(h)
	for _, name := range []string{"Content-Length", "Trailer"} {
		for _, value := range h[name] {
			fields.Add(name, value)
		}
	}
	return fields
}

// fieldAdder is an http.Header or an httpclient.Head.
type fieldAdder interface{ Add(name, value string) }
