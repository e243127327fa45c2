package eventloop

import (
	"errors"
	"io"
	"net"
)

// Detach removes the connection from the loop and returns it as a net.Conn. It sends
// the pending output, ends the handle (OnClose is called), and then the future succeeds
// with the net.Conn. Reading from the net.Conn first returns the bytes that the loop
// read and did not deliver, starting with those returned by [Conn.Unread]. If the
// output cannot be sent, or the loop is stopped before the net.Conn was taken from the
// future, the connection is closed and the future fails. A net.Conn that was not taken
// does not keep the loop alive; if the loop ends by itself or by [Loop.Shutdown], the
// future still holds it.
//
// If the connection is not up, is being closed, is in the middle of StartTLS, or does
// not support deadlines, the future fails and the connection is unchanged.
func (c *Conn) Detach() *Future[net.Conn] {
	f := newFuture[net.Conn](c.loop, kindFuture)
	c.core.Lock()
	defer c.core.Unlock()
	if err := c.mayDetach(); err != nil {
		f.resolve(nil, c.opErrorLocked(OpDetach, err))
		return f
	}
	c.extra().detached = f
	c.facts |= factDetach
	c.life = lifeClosing
	c.quit.Store(true)
	c.core.SetStall(c.flushTime())
	c.interrupt()
	return f
}

// mayDetach returns an error if the connection cannot be detached. The caller holds the
// lock.
func (c *Conn) mayDetach() error {
	switch {
	case c.life >= lifeClosing:
		return net.ErrClosed
	case c.reasons.why() != nil || c.core.WriteError() != nil:
		return c.closedError()
	case c.life == lifeConnecting:
		return errNotUp
	case c.core.Handshaking():
		return errors.New("TLS is being started")
	case !c.core.SupportsDeadlines():
		return errNoDeadlines
	}
	return nil
}

// resolveDetach resolves the future of Detach.
func (cl *connLoop) resolveDetach(x *connExtra) {
	c := (*Conn)(cl)
	p := &prefixConn{}
	c.core.Lock()
	f, nc := x.detached, x.released
	p.rest, p.failure = x.unread, x.failure
	x.unread = nil
	c.core.Unlock()
	if b := c.chunk; b != nil {
		p.rest = append(p.rest, b.Bytes()...)
	}
	if x.next != nil {
		p.rest = append(p.rest, x.next.Bytes()...)
	}
	if nc == nil {
		f.fail(cl.endReason())
		return
	}
	if c.loop.ended.Load() {
		c.loop.closeConn(nc)
		f.fail(cl.endReason())
		return
	}
	nc = unguarded(nc)
	if c.reasons.read() != io.EOF { // the next Read of nc returns io.EOF again
		p.err = c.reasons.read()
	}
	if p.rest != nil || p.err != nil || p.failure != nil {
		p.Conn, nc = nc, p
	}
	if !f.resolveOwned(nc, c.loop.closeConn) {
		c.loop.closeConn(nc)
		f.fail(ErrLoopClosed)
	}
}

// A prefixConn is a net.Conn with bytes that were already read from it. Read returns
// them first.
type prefixConn struct {
	net.Conn
	rest    []byte
	err     error // returned after rest, or nil
	failure error // found while nothing was read, or nil; returned in place of io.EOF
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
	n, err := p.Conn.Read(b)
	if err == io.EOF && p.failure != nil {
		err = p.failure // a socket returns the error of a reset only once, and the loop got it
	}
	return n, err
}

// CloseWrite forwards to the connection below, so that half-close stays available.
func (p *prefixConn) CloseWrite() error {
	if cw, ok := p.Conn.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return errUnsupported
}
