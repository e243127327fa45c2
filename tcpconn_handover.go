package eventloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"

	"github.com/onloop/eventloop/internal/sockio"
)

// A tlsUpgrade is a StartTLS in progress.
type tlsUpgrade struct {
	conf *tls.Config
	done *Future[tls.ConnectionState]
	tc   *tls.Conn // set by the connection's goroutine
	err  error
}

// StartTLS turns the connection into a TLS connection, as the client if it was
// dialled, otherwise as the server (see ConnConfig.Server for adopted ones). What
// was written before is sent in the clear first; what is written after waits for
// the handshake. A client verifies the host that was dialled unless conf has a
// ServerName. The handshake is bounded as ConnConfig.ConnectTimeout says.
//
// The future tells the outcome. A failed handshake is an error of the connection
// too, which it ends. A connection that is not up yet, is closed, or has TLS
// already fails the future and lives on.
func (c *Conn) StartTLS(conf *tls.Config) *Future[tls.ConnectionState] {
	f := looseFuture[tls.ConnectionState](c.loop)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayUpgrade(conf); err != nil {
		f.resolve(tls.ConnectionState{}, &OpError{Op: "handshake", Net: c.network(), Addr: c.remote(), Err: err, Conn: c})
		return f
	}
	x := c.extra()
	x.upgrade = &tlsUpgrade{conf: conf, done: f}
	c.flags |= flagGate
	c.pauses.Store(c.pauses.Load() | orderUpgrade)
	c.kick()
	return f
}

// mayUpgrade says what is against StartTLS. The caller holds c.mu.
func (c *Conn) mayUpgrade(conf *tls.Config) error {
	_, has := c.nc.(*tls.Conn)
	switch {
	case conf == nil:
		return errors.New("nil tls.Config")
	case c.flags.has(flagClosing | flagShut):
		return net.ErrClosed
	case !c.flags.has(flagUp):
		return errors.New("not connected yet")
	case has || c.flags.has(flagGate):
		return errors.New("TLS was started already")
	}
	return nil
}

// upgradeIfOrdered starts TLS on the connection's goroutine. It returns whether
// reading has ended, as it was told unless the handshake failed.
func (c *Conn) upgradeIfOrdered(ended bool) bool {
	if c.pauses.Load()&orderUpgrade == 0 || c.quit.Load() {
		return ended
	}
	c.flush() // in the clear
	c.mu.Lock()
	c.pauses.Store(c.pauses.Load() &^ orderUpgrade)
	u, nc := c.x.Load().upgrade, c.nc
	if !c.flags.has(flagClosing) {
		nc.SetReadDeadline(noDeadline) // after StartTLS's kick
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.x.Load().cancel = cancel
	stop := c.quit.Load()
	c.mu.Unlock()
	if stop {
		return ended
	}
	if ended {
		u.err = io.EOF
	} else {
		u.tc, u.err = c.shakeHands(ctx, nc, c.upgradeConfig(u.conf), c.isClient())
	}
	if u.err == nil {
		c.attach(u.tc, true)
	}
	c.loop.tasks <- (*tlsTask)(c)
	return ended || u.err != nil
}

func (c *Conn) isClient() bool {
	return c.kind == kindConnOut
}

func (c *Conn) upgradeConfig(conf *tls.Config) *tls.Config {
	if !c.isClient() {
		return conf
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return clientTLS(conf, c.remote())
}

// run lets the output go that waited for the handshake.
func (t *tlsTask) run() {
	c := (*Conn)(t)
	c.mu.Lock()
	x := c.x.Load()
	u := x.upgrade
	x.upgrade = nil
	if u.err == nil {
		c.flags &^= flagGate
		c.out, x.after = x.after, sockio.Queue{}
		c.startWriting()
	}
	c.mu.Unlock()
	if u.err != nil {
		err := c.opError("handshake", u.err)
		u.done.resolve(tls.ConnectionState{}, err)
		c.fail(err)
		return
	}
	u.done.resolve(u.tc.ConnectionState(), nil)
}

// Detach gives the connection back to the blocking world: it sends what was
// written, ends the handle (OnClose is called), and then succeeds with a
// net.Conn, which first gives what had been read and not delivered. A connection
// that is not up fails the future and lives on.
func (c *Conn) Detach() *Future[net.Conn] {
	f := newFuture[net.Conn](c.loop, kindFuture)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags.has(flagClosing) || !c.flags.has(flagUp) || c.flags.has(flagGate) {
		f.resolve(nil, &OpError{Op: "detach", Net: c.network(), Addr: c.remote(), Err: net.ErrClosed, Conn: c})
		return f
	}
	c.extra().detached = f
	c.flags |= flagClosing | flagDetach
	c.quit.Store(true)
	c.kick()
	return f
}

// handOut resolves Detach. rest is what had been read, or nil.
func (c *Conn) handOut(f *Future[net.Conn], rest *sockio.Buffer) {
	c.mu.Lock()
	nc, cut := c.nc, c.flags.has(flagCut)
	c.mu.Unlock()
	if cut || c.loop.ended.Load() {
		nc.Close()
		f.fail(c.endReason())
		return
	}
	if rest != nil {
		nc = &prefixConn{Conn: nc, rest: bytes.Clone(rest.Bytes())}
		rest.Release()
	}
	f.resolve(nc, nil)
}

// A prefixConn is a connection of which some bytes have been read already.
type prefixConn struct {
	net.Conn
	rest []byte
}

func (p *prefixConn) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// CloseWrite keeps the half-close of the connection within reach.
func (p *prefixConn) CloseWrite() error {
	if cw, ok := p.Conn.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return errUnsupported
}

// Pipe sends all that arrives on c from now on to dst, instead of to OnData,
// without copying it, and reads no faster than dst takes it. When the peer of c
// ends its side, dst.CloseWrite is called and the future succeeds with the number
// of bytes; then OnEvent gets io.EOF as usual. When c fails, dst is aborted and
// the future fails with the error. When dst closes first, the future fails with
// net.ErrClosed and OnData gets what arrives after that.
//
// Both connections must belong to the same loop. Two pipes, one in each
// direction, make a proxy.
func (c *Conn) Pipe(dst *Conn) *Future[int64] {
	f := looseFuture[int64](c.loop)
	if dst == nil || dst.loop != c.loop || dst == c {
		f.resolve(0, errors.New("eventloop: Pipe needs another connection of the same loop"))
		return f
	}
	p := &pipe{src: c, dst: dst, done: f}
	if err := c.loop.Post(p.start); err != nil {
		f.fail(err)
	}
	return f
}

// A pipe is the sink of its source. On the loop only.
type pipe struct {
	src, dst *Conn
	done     *Future[int64]
	n        int64
	over     bool
}

func (p *pipe) start() {
	p.src.mu.Lock()
	x, gone := p.src.extra(), p.src.flags.has(flagClosing)
	taken := x.sink != nil
	if !taken && !gone {
		x.sink = p
		p.src.claim()
	}
	p.src.mu.Unlock()
	switch {
	case gone:
		p.over = true
		p.done.resolve(0, net.ErrClosed)
		return
	case taken:
		p.over = true
		p.done.resolve(0, errors.New("eventloop: the connection's data is taken already"))
		return
	}
	p.dst.mu.Lock()
	p.dst.extra().onLow = p.room
	p.dst.mu.Unlock()
}

// room is called when dst has room again, and when it is closed.
func (p *pipe) room() {
	if p.dst.Closed() {
		p.finish(net.ErrClosed)
	}
	p.src.mu.Lock()
	p.src.clearPause(pausePipe)
	p.src.mu.Unlock()
}

// chunk moves b into the output of dst.
func (p *pipe) chunk(b *sockio.Buffer) {
	n, dst := b.Len(), p.dst
	dst.mu.Lock()
	if dst.beginWrite(0) != nil {
		dst.mu.Unlock()
		p.refused(b)
		return
	}
	dst.queue().AppendBuffer(b)
	dst.endWrite(n)
	p.n += int64(n)
	if dst.NeedDrain() {
		p.src.mu.Lock()
		p.src.setPause(pausePipe)
		p.src.mu.Unlock()
		if !dst.NeedDrain() { // it drained before we paused, and told nobody
			p.room()
		}
	}
	p.src.consumed()
}

// refused ends the pipe because dst takes nothing any more, and gives b to
// OnData.
func (p *pipe) refused(b *sockio.Buffer) {
	p.finish(net.ErrClosed)
	if f := p.src.cfg.Load().OnData; f != nil && !p.src.quit.Load() {
		p.src.callData(f, b.Bytes())
	}
	b.Release()
	p.src.consumed()
}

// end follows the end of src. It does not take the event from OnEvent.
func (p *pipe) end(err error) bool {
	if p.over {
		return false
	}
	if err == io.EOF {
		p.dst.CloseWrite()
		p.finish(nil)
	} else {
		p.dst.Abort()
		p.finish(err)
	}
	return false
}

func (p *pipe) finish(err error) {
	if p.over {
		return
	}
	p.over = true
	p.src.mu.Lock()
	p.src.extra().sink = nil
	p.src.mu.Unlock()
	p.dst.mu.Lock()
	p.dst.extra().onLow = nil
	p.dst.mu.Unlock()
	if err == ErrLoopClosed {
		p.done.fail(err)
		return
	}
	p.done.resolve(p.n, err)
}
