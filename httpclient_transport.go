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
)

// errTransport is the error of requests that need what a transport does not do.
var errTransport = errors.New("has no effect with HTTPClientConfig.Transport")

// transportConflict returns an error if a setting is made that would be ignored.
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

// checkTransport returns an error if the request needs what the transport of the
// configuration does not do.
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

// carry has the transport of the configuration carry the request. It is a goroutine.
func (c *httpCall) carry() {
	l := c.client.loop
	l.worksFor(&c.handle)
	end := requestEnd{err: errGoexit} // unless the transport returns
	defer func() {
		end.err = l.foreign(end.err)
		c.conclude(&end)
	}()
	if c.jar() != nil {
		if err := aside(func() error { c.loadCookies(); return nil }); err != nil {
			end.err = err
			return
		}
	}
	end.err = guard(func() error { return c.carryOn(&end) })
}

var errNothing = errors.New("the transport returned neither a response nor an error")

// carryOn sends the request and receives the response.
func (c *httpCall) carryOn(end *requestEnd) error {
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
	case ctx.Err() != nil: // which the transport may ignore
		if err == nil && res != nil {
			res.Body.Close()
		}
		return endedBy(ctx, ctx.Err())
	case err != nil:
		return err
	case res == nil:
		return errNothing
	case c.trip != nil:
		return c.trip.carried(res)
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

// netRequest returns the request as package net/http has it, and its bodies.
func (c *httpCall) netRequest() (*http.Request, *carriedBodies, error) {
	req := &http.Request{}
	if c.trip != nil {
		*req = *c.trip.req
	} else {
		c.fillRequest(req)
	}
	req = req.WithContext(c.waitContext())
	req.Body, req.GetBody, req.ContentLength = nil, nil, 0
	s := &carriedBodies{call: c, opts: *c.opts}
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
	// A transport may close BodyReader without having read it.
	req.Body, err = s.open(c.redirects > 0)
	return req, s, err
}

// fillRequest makes req the request of a Do.
func (c *httpCall) fillRequest(req *http.Request) {
	u := *c.target.u
	u.User = nil // it is in the fields
	h := make(http.Header)
	c.addFields(h, &httpRoute{})
	req.Method, req.URL, req.Host, req.Header = c.method, &u, h.Get("Host"), h
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	req.Close = c.close
	if _, named := h["User-Agent"]; !named {
		h["User-Agent"] = []string{""} // or package net/http sends its own
	}
	for _, name := range []string{"Host", "Connection", "Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(h, name)
	}
}

// carriedBodies are the bodies of a request that a transport carries: the one that it is
// given, and those that it gets by GetBody.
type carriedBodies struct {
	call    *httpCall
	opts    HTTPOptions // of the request when it was given to the transport
	trailer http.Header // of the http.Request, filled at the end of a body; or nil

	mu    sync.Mutex // guards the following, and trailer
	all   []*carriedBody
	ended bool
}

// A carriedBody is a body as a transport reads it. Close may come from any goroutine,
// and need not come at all.
type carriedBody struct {
	uploadBody
	of *carriedBodies
}

// open returns the body, from its beginning. If again is set it is not the first one.
func (s *carriedBodies) open(again bool) (io.ReadCloser, error) {
	b := &carriedBody{of: s}
	switch {
	case s.opts.BodyReader == nil:
		b.src, b.own = bytes.NewReader(s.opts.Body), true
	case !again:
		b.src, b.from = s.opts.BodyReader, &uploadSource{}
	default:
		b.from = &uploadSource{}
		if err := b.fetch(s.opts.GetBody); err != nil {
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
func (s *carriedBodies) getBody() (io.ReadCloser, error) { return s.open(true) }

// end ends all bodies. It closes what the transport has left open.
func (s *carriedBodies) end() {
	s.mu.Lock()
	s.ended = true
	all := s.all
	s.mu.Unlock()
	for _, b := range all {
		b.end()
	}
}

// fillTrailer gives the http.Request its trailer, or only the names in it.
func (s *carriedBodies) fillTrailer(values bool) {
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

// Read implements io.Reader.
func (b *carriedBody) Read(p []byte) (int, error) {
	n, err := b.uploadBody.Read(p)
	if err == io.EOF && b.of.trailer != nil {
		b.of.fillTrailer(true)
	}
	return n, err
}

// Close implements io.Closer.
func (b *carriedBody) Close() error {
	switch {
	case b.own:
	case b.fetched != nil:
		b.fetched.close()
	default:
		b.of.call.closeBody()
	}
	return nil
}

// end ends the body. What GetBody has returned is closed then, and a panic in its Close
// reported. BodyReader is closed with the request.
func (b *carriedBody) end() {
	b.uploadBody.end()
	f := b.fetched
	if f == nil {
		return
	}
	aside(func() error { f.close(); return nil }) // it may call runtime.Goexit
	if f.panic != nil {
		b.of.call.client.loop.strayEvent(f.panic)
	}
}

// headOf returns the head of res as text, for the parser. Neither the length of the body
// nor its coding on the wire mean anything any more.
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

// A boundBody is the body of a response of a transport until the request ends, which a
// transport may ignore.
type boundBody struct {
	ctx  context.Context
	body io.Reader
}

// Read implements io.Reader.
func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.ctx.Err() != nil {
		return 0, endedBy(b.ctx, b.ctx.Err())
	}
	return n, err
}

// carried receives the response of a transport for a RoundTripper.
func (t *httpTrip) carried(res *http.Response) error {
	own := *res
	own.Request = t.req
	if res.StatusCode == http.StatusSwitchingProtocols {
		if t.respond(&own) {
			return nil // the body is the connection, and belongs to the caller
		}
		return res.Body.Close()
	}
	defer res.Body.Close()
	conn, err := httpclient.FromReader("HTTP/1.1 200 \r\n\r\n", t.call.method, &boundBody{t.call.waitContext(), res.Body})
	if err != nil {
		return err
	}
	own.Trailer = res.Trailer.Clone() // the transport may change it meanwhile
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
