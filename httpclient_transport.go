package eventloop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

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
	req, body := c.netRequest()
	if body != nil {
		defer body.end()
	}
	res, err := c.client.cfg.Transport.RoundTrip(req)
	switch {
	case err != nil:
		if ctx := c.waitContext(); ctx.Err() != nil {
			return endedBy(ctx, ctx.Err())
		}
		return err
	case res == nil:
		return errNothing
	}
	if res.Body == nil {
		res.Body = http.NoBody
	}
	if c.trip != nil {
		return c.trip.carried(res)
	}
	defer res.Body.Close()
	conn, err := httpclient.FromReader(headOf(res), c.method, res.Body)
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

// netRequest returns the request as package net/http has it, and its body, nil if there
// is none.
func (c *httpCall) netRequest() (*http.Request, *carriedBody) {
	req := &http.Request{}
	if c.trip != nil {
		*req = *c.trip.req
	} else {
		c.fillRequest(req)
	}
	req = req.WithContext(c.waitContext())
	b := &carriedBody{call: c}
	switch {
	case c.opts.BodyReader != nil:
		b.uploadBody = uploadBody{src: c.opts.BodyReader, from: &c.more().source}
	case len(c.opts.Body) > 0 || c.length < 0:
		b.uploadBody = uploadBody{src: bytes.NewReader(c.opts.Body), own: true}
	default:
		req.Body = nil
		return req, nil
	}
	req.Body, req.ContentLength = b, c.length
	if len(c.opts.Trailers) > 0 {
		b.trailer = make(http.Header)
		for _, f := range c.opts.Trailers {
			b.trailer[http.CanonicalHeaderKey(f.Name)] = nil
		}
		req.Trailer = b.trailer
	}
	return req, b
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

// A carriedBody is the body of a request as a transport reads it. Close may come from
// any goroutine, and need not come at all.
type carriedBody struct {
	uploadBody
	call    *httpCall
	trailer http.Header // of the request, filled at the end of the body; or nil
}

// Read implements io.Reader.
func (b *carriedBody) Read(p []byte) (int, error) {
	n, err := b.uploadBody.Read(p)
	if err == io.EOF && b.trailer != nil {
		for _, f := range b.call.opts.Trailers {
			b.trailer.Add(f.Name, f.Value)
		}
		b.trailer = nil
	}
	return n, err
}

// Close implements io.Closer.
func (b *carriedBody) Close() error {
	if !b.own {
		b.call.closeBody()
	}
	return nil
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

// carried receives the response of a transport for a RoundTripper.
func (t *httpTrip) carried(res *http.Response) error {
	own := *res
	own.Request = t.req
	t.res = &own
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil // the body is the connection, and belongs to the caller
	}
	defer res.Body.Close()
	conn, err := httpclient.FromReader("HTTP/1.1 200 \r\n\r\n", t.call.method, res.Body)
	if err != nil {
		return err
	}
	own.Body, t.left = (*tripBody)(t), res.ContentLength
	own.Trailer = res.Trailer.Clone() // the transport may change it meanwhile
	if res.Body == http.NoBody || t.call.method == "HEAD" {
		own.Body = http.NoBody
		return nil
	}
	err = t.readBody(conn, conn.Response())
	if err != io.EOF {
		return err
	}
	t.trailers = res.Trailer
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
