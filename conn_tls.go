package eventloop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
)

// A tlsUpgrade is a StartTLS in progress. The lock guards all fields except err.
type tlsUpgrade struct {
	conf  *tls.Config
	done  *Future[tls.ConnectionState]
	early []byte // bytes that were read and not delivered: the start of the handshake
	ready bool   // early is complete, except for a chunk that the dispatcher may still have
	err   error  // owned by the connection's goroutine until it sends a tlsTask
}

var errNotUp = errors.New("not connected yet")

var errNoDeadlines = errors.New("the connection does not support deadlines")

// StartTLS turns the connection into a TLS connection. It acts as the server if the
// connection was accepted, or adopted with ConnConfig.TLSServer set, otherwise as the
// client. Output written before StartTLS is sent in plaintext first, even if writing is
// paused. Output written after StartTLS waits for the handshake. A client verifies the
// host that was dialed, unless conf has a ServerName. ConnConfig.ConnectTimeout applies
// to the handshake together with the output that is sent before it.
//
// Bytes that were read and not delivered are the start of the handshake, in this order:
// bytes returned by [Conn.Unread], bytes that a stream has not read, and a chunk that
// was held or about to be delivered. The data of a running OnData call counts as
// delivered. If it contains bytes after the command that requests TLS, return them with
// Unread first: an attacker may have added plaintext bytes, which must not be mistaken
// for encrypted bytes.
//
// The future reports the result. Its callbacks, and tasks that wait for it, run before
// any data that arrives over TLS is delivered. A failed handshake is also an error of
// the connection and ends it. The peer then sees the TLS alert and the end of the
// stream; it sees a reset only if it sent more than was read. If the connection is not
// up yet, is closed, already uses TLS or does not support deadlines, the future fails
// and the connection is unchanged.
func (c *Conn) StartTLS(conf *tls.Config) *Future[tls.ConnectionState] {
	f := unregisteredFuture[tls.ConnectionState](c.loop)
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.mayUpgrade(conf); err != nil {
		f.resolve(tls.ConnectionState{}, c.opErrorLocked(OpHandshake, err))
		return f
	}
	x := c.extra()
	x.upgrade = &tlsUpgrade{conf: conf, done: f, early: x.unread}
	x.unread = nil
	c.unset(bitUnread)
	c.facts &^= factRest
	c.set(bitUpgrade)
	c.core.Secure()
	if c.loop.Post(c.loopSide().reclaim) != nil {
		x.upgrade.ready = true // the loop has ended and closes the connection
	}
	c.core.Wake()
	return f
}

// mayUpgrade returns an error if StartTLS is not possible. The caller holds the lock.
func (c *Conn) mayUpgrade(conf *tls.Config) error {
	_, has := c.core.NetConn().(*tls.Conn)
	switch {
	case conf == nil:
		return errors.New("nil tls.Config")
	case c.life >= lifeClosing || c.outputEnding():
		return net.ErrClosed
	case c.life == lifeConnecting:
		return errNotUp
	case has || c.core.Secured():
		return errors.New("TLS was already started")
	case c.reasons.why() != nil || c.core.WriteError() != nil:
		return c.closedError()
	case !c.core.SupportsDeadlines():
		return errNoDeadlines
	}
	return nil
}

// reclaim collects, for StartTLS, a chunk that is held or that a stream has not read. A
// chunk whose chunkTask has not run is collected by deliver. It runs on the loop.
func (cl *connLoop) reclaim() {
	c := (*Conn)(cl)
	s, _ := cl.sink().(*streamSink)
	c.core.Lock()
	u := c.x.Load().upgrade
	if u == nil {
		c.core.Unlock()
		return
	}
	u.ready = true
	if s != nil && s.buf != nil {
		c.chunk, s.buf = s.buf, nil
		c.facts |= factHeld
	}
	held := c.facts.has(factHeld)
	c.facts &^= factHeld
	c.unset(bitNoReader)
	c.core.Unlock()
	if held {
		cl.takeEarly()
	}
	c.core.Wake()
}

// takeEarly appends the chunk to the start of the handshake. It runs on the loop.
func (cl *connLoop) takeEarly() {
	c := (*Conn)(cl)
	c.core.Lock()
	if u := c.x.Load().upgrade; u != nil {
		u.early = append(u.early, c.chunk.Bytes()...)
	}
	c.core.Unlock()
	c.chunk.Release()
	c.chunk = nil
	cl.consumed()
}

// upgrade starts TLS on the connection's goroutine, once all bytes that were read before
// StartTLS have been collected.
func (cr *connReader) upgrade() {
	c := (*Conn)(cr)
	c.core.Lock()
	u := c.x.Load().upgrade
	if !u.ready || c.holding.Load() {
		c.core.Unlock()
		c.core.Wait()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.x.Load().cancel = cancel
	c.unset(bitUpgrade)
	stop := c.life >= lifeClosing && !c.closeDeferred()
	c.core.Unlock()
	if stop {
		return
	}
	conf, client := u.conf, cr.isClient()
	if c.kind == kindConnOut {
		conf = clientTLS(conf, c.x.Load().address)
	}
	u.err = cr.handshake(ctx, conf, client, u.early)
	if u.err != nil {
		c.over, c.endSent = true, true
		c.core.Lock()
		if c.life >= lifeClosing && c.pending() == 0 {
			c.core.Cut(false) // do not wait to send part of a handshake
		}
		c.core.Unlock()
	}
	c.loop.send((*tlsTask)(c))
	if u.err == nil {
		c.core.Open()
	}
}

// isClient reports whether c is the client in TLS.
func (cr *connReader) isClient() bool {
	c := (*Conn)(cr)
	return c.kind == kindConnOut || c.listener == nil && !c.cfg.Load().TLSServer
}

// clientTLS returns conf, with the host of address as ServerName if it has none. The
// name is sent to the server even if the certificate is not verified.
func clientTLS(conf *tls.Config, address string) *tls.Config {
	if conf.ServerName != "" {
		return conf
	}
	conf = conf.Clone()
	if host, _, err := net.SplitHostPort(address); err == nil {
		conf.ServerName = host
	}
	return conf
}

// handshake performs a TLS handshake within its timeout.
func (cr *connReader) handshake(ctx context.Context, conf *tls.Config, client bool, early []byte) error {
	c := (*Conn)(cr)
	ctx, cancel := cr.handshakeContext(ctx)
	defer cancel()
	err := c.core.Handshake(ctx, conf, client, early)
	if err != nil && ctx.Err() != nil && !isUncaught(err) {
		err = contextError(ctx) // instead of "use of closed connection"
	}
	return err
}

// handshakeContext returns ctx with the timeout of a handshake, see
// ConnConfig.ConnectTimeout.
func (cr *connReader) handshakeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	c := (*Conn)(cr)
	cfg := c.cfg.Load()
	d := cfg.ConnectTimeout
	if d == 0 {
		d = cfg.ReadTimeout
	}
	if d == 0 {
		d = handshakeTimeout
	}
	if d < 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// A tlsTask reports that StartTLS has succeeded or failed.
type tlsTask Conn

func (t *tlsTask) run() {
	c := (*Conn)(t)
	c.core.Lock()
	x := c.x.Load()
	u := x.upgrade
	if u.err == nil {
		x.upgrade = nil
		c.armReadTimer()
		u.done.resolve(c.core.TLS().ConnectionState(), nil)
		c.loopSide().gate()
		c.core.Unlock()
		return
	}
	c.core.Unlock()
	err := c.opError(OpHandshake, u.err)
	how := closeSealed // a reset would discard the alert
	if errors.Is(err, ErrTimeout) {
		how = closeCut
	}
	c.loopSide().fail(err, how)
	failWith(c, u.done, err)
	c.core.Lock()
	defer c.core.Unlock()
	x.upgrade = nil
	c.dropUnsealed()
	c.interrupt() // Close has deferred it, see closeDeferred
}
