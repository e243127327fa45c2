package eventloop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	"golang.org/x/net/proxy"

	"github.com/onloop/eventloop/internal/httpclient"
)

// dial opens a connection for the route, including proxies and TLS. It uses a separate
// goroutine, because Dial and the callbacks of TLS are code of the application, and because
// dialing would grow the stack of the connection's goroutine.
func (c *httpCall) dial() (conn *httpclient.Conn, err error) {
	conn = httpclient.NewConn((*httpHost)(c.client), &c.route.key)
	if err = aside(func() error { return c.dialConn(conn) }); err != nil {
		conn.Close()
		return nil, err
	}
	c.Attach(conn)
	return conn, nil
}

func (c *httpCall) dialConn(conn *httpclient.Conn) error {
	ctx := c.waitContext()
	if d := c.client.cfg.ConnectTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	r := c.route
	if err := c.attachConn(ctx, conn); err != nil {
		return err
	}
	if r.tunnel() {
		if err := c.tunnel(ctx, conn); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	if c.target.u.Scheme == "https" {
		return c.handshake(ctx, conn)
	}
	return nil
}

// attachConn connects conn to the server, or to the proxy.
func (c *httpCall) attachConn(ctx context.Context, conn *httpclient.Conn) error {
	r := c.route
	nc, err := c.connect(ctx)
	if err != nil {
		return err
	}
	ok := false
	defer func() {
		if !ok { // an error, or a callback of the tls.Config did not return
			nc.Close()
		}
	}()
	ours := c.client.cfg.Dial == nil
	if r.proxy != nil && r.proxy.Scheme == "https" {
		if nc, err = c.proxyHandshake(ctx, nc); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
	}
	if r.socks {
		if err := c.askSOCKS(ctx, nc); err != nil {
			return err
		}
	}
	ok = true
	conn.Attach(nc, ours)
	if c.target.u.Scheme != "https" || r.tunnel() {
		conn.Core().Open()
	}
	return nil
}

// connect dials the server, or the proxy, and records the time that it took.
func (c *httpCall) connect(ctx context.Context) (net.Conn, error) {
	r, times := c.route, &c.start().times
	began := time.Now()
	c.client.loop.count.dialed.Add(1)
	var lookup lookupTime
	nc, err := c.dialTo(context.WithValue(ctx, lookupTimeKey{}, &lookup), r.network, r.addr)
	if err != nil && r.proxy != nil {
		err = fmt.Errorf("proxy: %w", err)
	}
	times.Lookup = lookup.d
	times.Connect = time.Since(began) - lookup.d
	return nc, err
}

// dialTo dials address, with HTTPClientConfig.Dial if it is set.
func (c *httpCall) dialTo(ctx context.Context, network, address string) (net.Conn, error) {
	l := c.client.loop
	dial := c.client.cfg.Dial
	if dial == nil {
		return l.dialContext(ctx, network, address, &ConnConfig{})
	}
	nc, err := l.callDial(l.named(ctx, &c.handle), "HTTPClientConfig.Dial", dial, network, address)
	if err != nil {
		return nil, l.foreign(err)
	}
	return guardConn(nc, l.connPanicked), nil
}

// A lookupTime is the duration of a name lookup. The dialer finds the lookupTime in the
// context, under lookupTimeKey, and sets it.
type lookupTime struct{ d time.Duration }

type lookupTimeKey struct{}

// recordLookup adds the time since began to the lookupTime of ctx, if it has one. The dialer
// calls it at the end of a lookup.
func recordLookup(ctx context.Context, began time.Time) {
	if t, ok := ctx.Value(lookupTimeKey{}).(*lookupTime); ok {
		t.d += time.Since(began)
	}
}

// tlsConfig returns the TLS configuration for the server with the given name.
func (c *httpCall) tlsConfig(name string) *tls.Config {
	conf := c.client.cfg.TLS
	if conf.ServerName == "" {
		conf = conf.Clone()
		conf.ServerName = name
	}
	return conf
}

// handshake performs the TLS handshake with the server.
func (c *httpCall) handshake(ctx context.Context, conn *httpclient.Conn) error {
	began := time.Now()
	core := conn.Core()
	core.Lock()
	core.Secure()
	core.Unlock()
	if err := core.Handshake(ctx, c.tlsConfig(c.target.name), true, nil); err != nil {
		if ctx.Err() != nil {
			err = contextError(ctx) // err is only "use of closed connection"
		}
		return err
	}
	core.Open()
	c.start().times.TLS += time.Since(began)
	return nil
}

// proxyHandshake performs the TLS handshake with a proxy, and returns the TLS connection.
func (c *httpCall) proxyHandshake(ctx context.Context, nc net.Conn) (net.Conn, error) {
	began := time.Now()
	tc := tls.Client(nc, c.tlsConfig(c.route.proxy.Hostname()))
	if err := (*httpHost)(c.client).Aside(func() error { return tc.HandshakeContext(ctx) }); err != nil {
		if ctx.Err() != nil {
			err = contextError(ctx)
		}
		return nc, err
	}
	c.start().times.TLS += time.Since(began)
	return tc, nil
}

// tunnel makes a proxy connect to the target (RFC 9110 section 9.3.6).
func (c *httpCall) tunnel(ctx context.Context, conn *httpclient.Conn) error {
	conn.Begin(time.Time{}, 0)
	stop := context.AfterFunc(ctx, conn.Interrupt)
	err := c.askTunnel(conn, c.route.proxy)
	clean := conn.EndTunnel(err == nil)
	if !stop() {
		return contextError(ctx)
	}
	if err == nil && !clean {
		err = fmt.Errorf("%w: data before the tunnel", ErrHTTPMalformed)
	}
	return err
}

// askTunnel sends CONNECT to the proxy u and reads the response.
func (c *httpCall) askTunnel(conn *httpclient.Conn, u *url.URL) error {
	head := httpclient.GetHead("CONNECT", c.target.addr)
	defer head.Release()
	head.Add("Host", c.target.addr)
	head.Add("User-Agent", c.client.cfg.UserAgent)
	if u.User != nil {
		head.Add("Proxy-Authorization", basicAuth(u.User))
	}
	conn.Send(head.Message(nil), false)
	res := conn.Response()
	if err := res.ReadHead(conn, "CONNECT", c.client.cfg.MaxHeaderBytes, nil); err != nil {
		return err
	}
	if res.Status < 200 || res.Status > 299 {
		return refusal(res, true)
	}
	return nil
}

// askSOCKS makes a SOCKS5 proxy connect to the target (RFC 1928). The proxy resolves the name,
// as in net/http.
func (c *httpCall) askSOCKS(ctx context.Context, nc net.Conn) error {
	u := c.route.proxy
	var auth *proxy.Auth
	if u.User != nil {
		auth = &proxy.Auth{User: u.User.Username()}
		auth.Password, _ = u.User.Password()
	}
	dialer, err := proxy.SOCKS5("tcp", u.Host, auth, nil)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	// DialWithConn, because the connection that Dial returns would hide the descriptor of nc.
	socks := dialer.(interface {
		DialWithConn(ctx context.Context, nc net.Conn, network, address string) (net.Addr, error)
	})
	if _, err := socks.DialWithConn(ctx, nc, "tcp", c.target.addr); err != nil {
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}
