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

	// Of the connection's goroutine, until it sends a tlsTask.
	early *sockio.Buffer // what was read already, or nil
	tc    *tls.Conn
	err   error
}

var errNotUp = errors.New("not connected yet")

var errNoDeadlines = errors.New("the connection does not support deadlines")

func (u *tlsUpgrade) dropEarly() {
	if u.early != nil {
		u.early.Release()
		u.early = nil
	}
}

// StartTLS turns the connection into a TLS connection: as the server if it was
// accepted, or adopted with ConnConfig.Server set, otherwise as the client. What
// was written before is sent in the clear first, even if writing is paused; what
// is written after waits for the handshake. A client verifies the host that was
// dialled unless conf has a ServerName. The handshake is bounded as
// ConnConfig.ConnectTimeout says.
//
// Call it in the callback that finds out that TLS is due, so that nothing of the
// handshake is taken for data.
//
// The future tells the outcome. A failed handshake is an error of the connection
// too, which it ends: the peer sees the alert of TLS and the end of the stream,
// and a reset only if it has sent more than was read. A connection that is not up
// yet, is closed, has TLS already or knows no deadlines fails the future and lives
// on.
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
	c.resumeWriting()
	c.kick()
	return f
}

// hearsDeadlines reports whether the connection can be got out of a Read without
// closing it. The caller holds c.mu.
func (c *Conn) hearsDeadlines() bool { return c.nc.SetReadDeadline(noDeadline) == nil }

// mayUpgrade says what is against StartTLS. The caller holds c.mu.
func (c *Conn) mayUpgrade(conf *tls.Config) error {
	_, has := c.nc.(*tls.Conn)
	switch {
	case conf == nil:
		return errors.New("nil tls.Config")
	case c.flags.has(flagClosing | flagShut):
		return net.ErrClosed
	case !c.flags.has(flagUp):
		return errNotUp
	case has || c.flags.has(flagGate):
		return errors.New("TLS was started already")
	case c.why != nil || c.werr != nil:
		return c.closedError()
	case !c.hearsDeadlines():
		return errNoDeadlines
	}
	return nil
}

// upgradeIfOrdered starts TLS on the connection's goroutine. It returns whether
// reading has ended, as it was told unless the handshake failed.
func (c *Conn) upgradeIfOrdered(ended bool) bool {
	if c.pauses.Load()&orderUpgrade == 0 {
		return ended
	}
	c.flush() // in the clear
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	c.pauses.Store(c.pauses.Load() &^ orderUpgrade)
	x := c.x.Load()
	u, nc := x.upgrade, c.nc
	stop := c.flags.has(flagClosing) && !c.owes()
	if !stop {
		x.cancel = cancel
		nc.SetReadDeadline(noDeadline) // after StartTLS's kick
	}
	c.mu.Unlock()
	if stop {
		u.dropEarly()
		return ended
	}
	if ended {
		u.err = io.EOF
	} else {
		if u.early != nil {
			nc = &prefixConn{Conn: nc, rest: bytes.Clone(u.early.Bytes())}
			u.dropEarly()
		}
		u.tc = tlsConn(nc, c.upgradeConfig(u.conf), c.isClient())
		u.err = c.shakeHandsAside(ctx, u.tc)
	}
	if u.err == nil {
		c.attach(u.tc, true, 0)
	}
	c.loop.send((*tlsTask)(c))
	c.openGate(u.err == nil)
	return ended || u.err != nil
}

// shakeHandsAside is shakeHands on a goroutine of its own. A callback of the
// tls.Config may call runtime.Goexit, and the connection's goroutine has to go on.
func (c *Conn) shakeHandsAside(ctx context.Context, tc *tls.Conn) error {
	done := make(chan error, 1)
	c.loop.wg.Go(func() {
		err := errGoexit // unless shakeHands returns
		defer func() { done <- err }()
		err = c.shakeHands(ctx, tc)
	})
	return <-done
}

// isClient reports which side of TLS is ours.
func (c *Conn) isClient() bool {
	return c.kind == kindConnOut || c.listener == nil && !c.cfg.Load().Server
}

func (c *Conn) upgradeConfig(conf *tls.Config) *tls.Config {
	if c.kind != kindConnOut {
		return conf
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return clientTLS(conf, c.remote())
}

// openGate lets the output go that waited for the handshake. If it failed, there
// is no way to send it.
func (c *Conn) openGate(ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok {
		return // tlsTask ends the connection, and what waits with it
	}
	x := c.x.Load()
	c.flags &^= flagGate
	if !c.flags.has(flagCut) {
		c.out, x.after = x.after, sockio.Queue{}
	}
	c.startWriting()
}

// run tells the outcome of StartTLS.
func (t *tlsTask) run() {
	c := (*Conn)(t)
	u := c.x.Load().upgrade
	if u.err != nil {
		err := c.opError("handshake", u.err)
		c.failBy(err, flagCut) // a reset would take the alert away
		failWith(c, u.done, err)
	} else {
		c.heard()
		u.done.resolve(u.tc.ConnectionState(), nil)
	}
	c.mu.Lock()
	c.x.Load().upgrade = nil
	c.mu.Unlock()
}

// Detach gives the connection back to the blocking world: it sends what was
// written, ends the handle (OnClose is called), and then succeeds with a
// net.Conn, which first gives what had been read and not delivered. If it cannot
// be sent, or the loop is stopped before somebody has taken the net.Conn from the
// future, the connection is closed and the future fails.
// A connection that is not up, is being closed, is in the middle of StartTLS or
// knows no deadlines fails the future and lives on.
func (c *Conn) Detach() *Future[net.Conn] {
	f := newFuture[net.Conn](c.loop, kindFuture)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayDetach(); err != nil {
		f.resolve(nil, &OpError{Op: "detach", Net: c.network(), Addr: c.remote(), Err: err, Conn: c})
		return f
	}
	c.extra().detached = f
	c.flags |= flagClosing | flagDetach
	c.quit.Store(true)
	c.boundWrite()
	c.kick()
	return f
}

// mayDetach says what is against Detach. The caller holds c.mu.
func (c *Conn) mayDetach() error {
	switch {
	case c.flags.has(flagClosing):
		return net.ErrClosed
	case c.why != nil || c.werr != nil:
		return c.closedError()
	case !c.flags.has(flagUp):
		return errNotUp
	case c.flags.has(flagGate):
		return errors.New("TLS is being started")
	case !c.hearsDeadlines():
		return errNoDeadlines
	}
	return nil
}

// handOut resolves Detach. rest is what had been read, or nil.
func (c *Conn) handOut(f *Future[net.Conn], rest *sockio.Buffer) {
	p := &prefixConn{}
	if rest != nil {
		p.rest = bytes.Clone(rest.Bytes())
		rest.Release()
	}
	c.mu.Lock()
	nc, lost := c.nc, c.flags.has(flagCut) || c.werr != nil
	c.mu.Unlock()
	if lost || c.loop.ended.Load() {
		c.loop.closeConn(c.lowest())
		f.fail(c.endReason())
		return
	}
	nc = unguarded(nc)
	if c.readErr != io.EOF { // which can be read again
		p.err = c.readErr
	}
	if p.rest != nil || p.err != nil {
		p.Conn, nc = nc, p
	}
	if !f.resolveInCustody(nc, c.loop.closeConn) {
		c.loop.closeConn(nc)
		f.fail(ErrLoopClosed)
	}
}

// A prefixConn is a connection of which something has been read already.
type prefixConn struct {
	net.Conn
	rest []byte
	err  error // after rest, or nil
}

func (p *prefixConn) Read(b []byte) (int, error) {
	switch {
	case len(p.rest) > 0:
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	case p.err != nil:
		return 0, p.err
	}
	return p.Conn.Read(b)
}

// CloseWrite keeps the half-close of the connection within reach.
func (p *prefixConn) CloseWrite() error {
	if cw, ok := p.Conn.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return errUnsupported
}

// Pipe sends all that arrives on c from now on to dst, instead of to OnData,
// and reads no faster than dst takes it: no more is pending than HighWater or
// MaxBuffered of dst, whichever is less, and one read of each connection that is
// piped to it. When the peer of c ends its side, dst.CloseWrite is called (dst.Close
// if dst cannot do that), the future succeeds with the number of bytes, and OnEvent
// gets io.EOF as usual. When c fails or is
// closed otherwise, dst is aborted and the future fails with the error. When dst
// closes first, the future fails with net.ErrClosed and OnData gets what arrives
// after that.
//
// Both connections must belong to the same loop. Two pipes, one in each
// direction, make a proxy; set AllowHalfOpen on both connections, so that the end
// of one direction is not the end of the other.
func (c *Conn) Pipe(dst *Conn) *Future[int64] {
	f := looseFuture[int64](c.loop)
	if dst == nil || dst.loop != c.loop || dst == c {
		f.resolve(0, errors.New("eventloop: Pipe needs another connection of the same loop"))
		return f
	}
	p := &pipe{src: c, dst: dst, done: f}
	p.low = &onLow{p.room}
	// At once, because data may come before start is called.
	if err := p.take(); err != nil {
		f.resolve(0, err)
	} else if err := c.loop.Post(p.start); err != nil {
		f.fail(err)
	}
	return f
}

// A pipe is the sink of its source. Only on the loop, but for take.
type pipe struct {
	src, dst *Conn
	done     *Future[int64]
	low      *onLow // of dst
	n        int64
	over     bool
}

// take makes p the sink of its source.
func (p *pipe) take() error {
	src := p.src
	src.mu.Lock()
	defer src.mu.Unlock()
	switch x := src.extra(); {
	case src.flags.has(flagClosing):
		return net.ErrClosed
	case x.sink != nil:
		return errors.New("eventloop: the connection's data is taken already")
	}
	src.setSink(p)
	return nil
}

func (p *pipe) start() {
	if p.over {
		return
	}
	dst := p.dst
	dst.mu.Lock()
	x := dst.extra()
	x.onLow = append(x.onLow, p.low)
	dst.mu.Unlock()
	if dst.Closed() || !dst.NeedDrain() {
		p.room() // which nobody is going to tell
	}
}

// room is called when dst has room again, and when it is closed.
func (p *pipe) room() {
	if p.over {
		return
	}
	if p.dst.Closed() {
		p.finish(net.ErrClosed)
	}
	p.resume()
}

// resume lets the source read.
func (p *pipe) resume() {
	p.src.mu.Lock()
	p.src.clearPause(pausePipe)
	p.src.mu.Unlock()
}

// chunk moves b into the output of dst.
func (p *pipe) chunk(b *sockio.Buffer) {
	n, dst := b.Len(), p.dst
	dst.mu.Lock()
	// Over MaxBuffered it may be already: another source was quicker. What was read
	// is read.
	if err := dst.beginWrite(0); err != nil && err != ErrBufferFull {
		dst.mu.Unlock()
		p.refused(b)
		return
	}
	if n < len(b.Room())/4 {
		// Many small chunks must not hold a buffer each: they would be much more
		// memory than HighWater.
		dst.queue().Append(b.Bytes())
		b.Release()
	} else {
		dst.queue().AppendBuffer(b)
	}
	dst.endWrite(n)
	p.n += int64(n)
	if dst.NeedDrain() {
		p.src.mu.Lock()
		p.src.setPause(pausePipe)
		p.src.mu.Unlock()
		if !dst.NeedDrain() { // it drained before we paused, and told nobody
			p.resume()
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
	switch {
	case p.over:
	case err == io.EOF:
		if errors.Is(p.dst.CloseWrite(), errUnsupported) {
			p.dst.Close()
		}
		p.finish(nil)
	default:
		if p.src.failed {
			p.done.Then(nil) // it is an event of src: nobody else has to hear of it
		}
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
	p.src.setSink(nil)
	p.src.mu.Unlock()
	p.dst.mu.Lock()
	p.dst.extra().removeLow(p.low)
	p.dst.mu.Unlock()
	p.resume()
	if err == ErrLoopClosed {
		p.done.fail(err)
		return
	}
	p.done.resolve(p.n, err)
}
