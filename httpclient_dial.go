package eventloop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	"golang.org/x/net/proxy"

	"github.com/onloop/eventloop/internal/httpconn"
)

// acquire returns a connection for the route: a kept one, or a new one. It holds
// a slot of the pool, which release gives back.
func (c *httpCall) acquire(r *httpRoute, times *HTTPTiming) (*httpconn.Conn, error) {
	conn, kept, waiter := c.client.pool.Get(r.key)
	if waiter != nil {
		began := time.Now()
		var err error
		if conn, err = c.wait(waiter); err != nil {
			return nil, err
		}
		times.Wait = time.Since(began)
	}
	if conn != nil {
		if (!kept || conn.Retire()) && conn.Alive() {
			return conn, nil
		}
		conn.Close()
	}
	return c.dialSlot(r, times)
}

// wait waits for a slot.
func (c *httpCall) wait(w *httpconn.Waiter) (*httpconn.Conn, error) {
	ctx := c.waitContext()
	select {
	case conn := <-w.Ready:
		return conn, nil
	case <-ctx.Done():
		c.client.pool.Abandon(w)
		return nil, contextError(ctx)
	}
}

// dialSlot connects in a slot that is taken, and gives the slot back if it fails.
func (c *httpCall) dialSlot(r *httpRoute, times *HTTPTiming) (*httpconn.Conn, error) {
	ok := false
	defer func() {
		if !ok { // failed, or Dial of the configuration panicked
			c.client.pool.Release(r.key)
		}
	}()
	nc, err := c.dial(r, times)
	if err != nil {
		return nil, err
	}
	ok = true
	conn := httpconn.New(nc, r.key)
	conn.CloseBy(c.loop.closeConn) // the pool closes it on the loop
	return conn, nil
}

// dial connects for the route, with everything that comes before the request.
func (c *httpCall) dial(r *httpRoute, times *HTTPTiming) (net.Conn, error) {
	ctx := c.waitContext()
	if d := c.client.cfg.ConnectTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	nc, err := c.connect(ctx, r, times)
	if err != nil {
		return nil, err
	}
	if r.proxy != nil && r.proxy.Scheme == "https" {
		if nc, err = c.handshake(ctx, nc, r.proxy.Hostname(), times); err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
	}
	switch {
	case r.socks:
		err = c.askSOCKS(ctx, nc, r.proxy)
	case r.tunnel():
		err = c.tunnel(ctx, nc, r)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	if c.target.u.Scheme == "https" {
		return c.handshake(ctx, nc, c.target.name, times)
	}
	return nc, nil
}

// connect connects to the server, or to the proxy.
func (c *httpCall) connect(ctx context.Context, r *httpRoute, times *HTTPTiming) (net.Conn, error) {
	began := time.Now()
	c.client.loop.count.dialed.Add(1)
	dial := c.client.cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.client.loop.dialContext(ctx, network, address, &ConnConfig{})
		}
	} else {
		c.client.loop.usesForeign.Store(true)
	}
	var lookup lookupTime
	nc, err := dial(context.WithValue(ctx, lookupTimeKey{}, &lookup), r.network, r.addr)
	switch {
	case err != nil:
	case nc == nil:
		err = fmt.Errorf("Dial returned %w", errNoConn)
	default:
		nc = guardConn(nc, c.client.loop.connPanicked)
	}
	if err != nil && r.proxy != nil {
		err = fmt.Errorf("proxy: %w", err)
	}
	times.Lookup = lookup.d
	times.Connect = time.Since(began) - lookup.d
	return nc, err
}

// A lookupTime is where the dialer leaves how long the lookup of a name took. It
// finds it in the context, under lookupTimeKey.
type lookupTime struct{ d time.Duration }

type lookupTimeKey struct{}

// recordLookup is called by the dialer when a lookup that began at that time has
// ended.
func recordLookup(ctx context.Context, began time.Time) {
	if t, ok := ctx.Value(lookupTimeKey{}).(*lookupTime); ok {
		t.d += time.Since(began)
	}
}

// handshake makes nc a TLS connection, or closes it.
func (c *httpCall) handshake(ctx context.Context, nc net.Conn, name string, times *HTTPTiming) (net.Conn, error) {
	began := time.Now()
	conf := c.client.cfg.TLS
	if conf.ServerName == "" {
		conf = conf.Clone()
		conf.ServerName = name
	}
	tc := tls.Client(nc, conf)
	ok := false
	defer func() {
		if !ok { // failed, or a callback of the tls.Config did not return
			nc.Close()
		}
	}()
	if err := tc.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = contextError(ctx) // not "use of closed connection"
		}
		return nil, err
	}
	ok = true
	times.TLS += time.Since(began)
	return tc, nil
}

// tunnel asks a proxy to connect to the target (RFC 9110 section 9.3.6).
func (c *httpCall) tunnel(ctx context.Context, nc net.Conn, r *httpRoute) error {
	conn := httpconn.New(nc, r.key)
	conn.Begin(time.Time{}, 0)
	stop := context.AfterFunc(ctx, conn.Interrupt)
	err := c.askTunnel(conn, r.proxy)
	if !stop() {
		return contextError(ctx)
	}
	if !conn.End() && err == nil {
		err = fmt.Errorf("%w: data before the tunnel", ErrHTTPMalformed)
	}
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

func (c *httpCall) askTunnel(conn *httpconn.Conn, u *url.URL) error {
	head := httpconn.GetHead("CONNECT", c.target.addr)
	defer head.Release()
	head.Add("Host", c.target.addr)
	head.Add("User-Agent", c.client.cfg.UserAgent)
	if u.User != nil {
		head.Add("Proxy-Authorization", basicAuth(u.User))
	}
	if err := head.Send(conn, nil); err != nil {
		return err
	}
	var res httpconn.Response
	if err := res.ReadHead(conn, "CONNECT", c.client.cfg.MaxHeaderBytes, nil); err != nil {
		return err
	}
	if res.Status < 200 || res.Status > 299 {
		return fmt.Errorf("CONNECT was answered by %d %s", res.Status, res.Reason)
	}
	return nil
}

// askSOCKS asks a SOCKS5 proxy to connect to the target (RFC 1928). The proxy
// resolves the name, as in net/http.
func (c *httpCall) askSOCKS(ctx context.Context, nc net.Conn, u *url.URL) error {
	var auth *proxy.Auth
	if u.User != nil {
		auth = &proxy.Auth{User: u.User.Username()}
		auth.Password, _ = u.User.Password()
	}
	dialer, err := proxy.SOCKS5("tcp", u.Host, auth, nil)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	// The connection itself is used afterwards: a wrapped one hides its descriptor.
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
