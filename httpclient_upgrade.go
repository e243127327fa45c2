package eventloop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/onloop/eventloop/internal/http1"
	"github.com/onloop/eventloop/internal/httpclient"
)

// An HTTPStatusError reports a response that refused a connection: instead of the 101 of
// [HTTPClient.Upgrade], or of the tunnel that CONNECT requests from a proxy. The error of
// the future wraps it: use errors.As.
type HTTPStatusError struct {
	Proxy   bool        // the response is that of a proxy to CONNECT
	Status  int         // such as 407
	Reason  string      // such as "Proxy Authentication Required"; may be empty
	Headers HTTPHeaders // such as Proxy-Authenticate, with names in canonical case

	// Body is the beginning of the body: at most 4 KB, and no more than has arrived
	// within a second. It is not decompressed.
	Body []byte
}

func (e *HTTPStatusError) Error() string {
	what := "the request for an upgrade"
	if e.Proxy {
		what = "CONNECT"
	}
	return strings.TrimSpace(fmt.Sprintf("%s got the response %d %s", what, e.Status, e.Reason))
}

// Limits of HTTPStatusError.Body: size and time.
const (
	maxRefusal  = 4 << 10
	refusalTime = time.Second
)

// refusal returns resp as an error. The head of resp has been read.
func refusal(resp *httpclient.Response, proxy bool) error {
	return &HTTPStatusError{
		Proxy: proxy, Status: resp.Status, Reason: resp.Reason,
		Headers: headersOf(resp.Fields, resp.Fields.Count()),
		Body:    resp.Excerpt(maxRefusal, refusalTime),
	}
}

var (
	errNoProtocol = errors.New("upgrade without the field Upgrade")
	errHalfSent   = fmt.Errorf("%w: 101 before the request was sent", ErrHTTPMalformed)
)

// Upgrade sends a GET request that asks the server for another protocol, such as
// WebSocket. When the server agrees (101 Switching Protocols), the connection becomes a
// Conn of the loop. Upgrade is the counterpart of [HTTPRequest.Upgrade]. The headers must
// have the field Upgrade, which names the protocol; "Connection: Upgrade" is added. The
// schemes ws and wss mean http and https. With an HTTP proxy, Upgrade uses a tunnel for any
// scheme.
//
// The future succeeds with the Conn. The Conn has the callbacks and settings of cfg, like
// a dialed one; ConnConfig.TLS and Dial are ignored. The callbacks of the future run
// before OnConnect. Data that the server sent after the head of its response is the first
// input of the Conn. Until the response has arrived, ctx and the timeouts of the client
// apply, and from then on the timeouts of cfg.
//
// Any other response fails the future with an error that contains an [*HTTPStatusError].
// Redirects are not followed. A 101 whose Upgrade field names none of the requested
// protocols is an error that matches [ErrHTTPMalformed]. Other errors are those of Do.
//
// Use Do with [HTTPOptions.Upgrade] for another method, a body or a unix socket, and to
// see the headers of the response.
func (c *HTTPClient) Upgrade(ctx context.Context, url string, headers HTTPHeaders, cfg *ConnConfig) *Future[*Conn] {
	at := callSite()
	if cfg == nil {
		cfg = &ConnConfig{}
	}
	f := newFuture[*Conn](c.loop, kindFuture)
	opts := &HTTPOptions{Headers: headers, Upgrade: cfg, mustUpgrade: true}
	c.do(ctx, "GET", url, opts, at).observe(func(res *HTTPResponse, err error) {
		switch {
		case err == ErrLoopClosed:
			f.fail(err)
		case err != nil:
			f.resolveFrom(origin{kind: kindHTTPClient, at: at}, nil, err)
		default:
			f.resolve(res.Conn, nil)
		}
	})
	return f
}

// httpScheme returns url with the scheme http in place of ws, and https in place of wss.
func httpScheme(url string) string {
	scheme, rest, _ := strings.Cut(url, ":")
	switch strings.ToLower(scheme) {
	case "ws":
		return "http:" + rest
	case "wss":
		return "https:" + rest
	}
	return url
}

// checkSwitch returns an error if resp, a 101, does not switch to a requested protocol
// (RFC 9110 section 7.8): the two sides would not understand each other.
func (c *httpCall) checkSwitch(resp *httpclient.Response) error {
	got := resp.Fields.Get("Upgrade")
	var requested []string
	for _, value := range c.opts.Headers.Values("Upgrade") {
		for protocol := range strings.SplitSeq(value, ",") {
			if protocol = strings.TrimSpace(protocol); protocol != "" && http1.HasElement(got, protocol) {
				return nil
			}
		}
		requested = append(requested, value)
	}
	return fmt.Errorf("%w: 101 for the protocol %q, requested %q", ErrHTTPMalformed, got, strings.Join(requested, ", "))
}

// switches reports whether the connection becomes a Conn after res.
func (c *httpCall) switches(res *HTTPResponse) bool {
	return c.opts.Upgrade != nil && res.Status == 101
}

// A switched is a connection after a 101, until it is open as a Conn.
type switched struct {
	to   *Conn
	nc   net.Conn
	ours bool
}

// switchProtocols makes conn, whose request is over, a Conn that is not open yet: see
// begin. It takes ownership of conn.
func (c *httpCall) switchProtocols(conn *httpclient.Conn, end *requestEnd) error {
	nc, rest := conn.Release()
	if nc == nil {
		if err := conn.WriteError(); err != nil {
			return err
		}
		return errHalfSent // if the request was interrupted, that error takes precedence
	}
	l := c.client.loop
	conf := c.opts.Upgrade.withDefaults()
	conf.TLS = nil
	to, err := l.newConn(conf, kindConnOut, nil)
	if err != nil {
		l.closeConn(nc)
		return err
	}
	if isForeign(nc) {
		to.readerSide().setAddrs(nc.LocalAddr(), conn.RemoteAddr())
	}
	to.readerSide().giveBack(rest)
	end.res.Conn = to
	end.switched = &switched{to: to, nc: nc, ours: c.client.cfg.Dial == nil}
	return nil
}

// begin opens the Conn after the callbacks of the request's future have run, so that its
// own callbacks come later. If the loop ends, the future's callbacks do not run, and begin
// does not wait for them.
func (s *switched) begin() {
	l := s.to.loop
	ready := make(chan struct{})
	l.postFor(func() { close(ready) }, nil)
	l.wg.Add(1)
	go func() {
		select {
		case <-ready:
		case <-l.ctx.Done():
		}
		s.to.readerSide().adopted(s.nc, nil, true, s.ours)
	}()
}
