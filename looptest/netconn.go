package looptest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A netConn is one end of a connection of a Net. All fields except n are guarded by n.mu.
type netConn struct {
	n             *Net
	local, remote netAddr
	peer          *netConn
	out           *flow
	changed       sync.Cond

	open   bool   // the connection is established
	in     []byte // data that has arrived and is unread
	eof    bool   // the peer's end of stream has arrived
	err    error  // why the connection failed, for example ECONNRESET
	shut   bool   // this end has sent its end of stream
	closed bool
	dead   bool // the host has crashed
	linger bool // SetLinger(0) was called: Close sends a reset

	readBy, writeBy netDeadline
}

// A netDeadline wakes the waiting goroutines when it has passed.
type netDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *netDeadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set changes the deadline. The caller holds n.mu.
func (d *netDeadline) set(c *netConn, at time.Time) {
	d.at = at
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			c.n.mu.Lock()
			defer c.n.mu.Unlock()
			c.changed.Broadcast()
		})
	}
	c.changed.Broadcast()
}

func (c *netConn) LocalAddr() net.Addr  { return c.local }
func (c *netConn) RemoteAddr() net.Addr { return c.remote }

func (c *netConn) opError(op string, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *netConn) Read(p []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readBy.over():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in) > 0 && !c.dead:
			n := copy(p, c.in)
			if c.in = c.in[n:]; len(c.in) == 0 {
				c.in = nil
			}
			c.peer.changed.Broadcast() // there is room
			return n, nil
		case c.err != nil:
			return 0, c.opError("read", c.err)
		case c.eof:
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

func (c *netConn) Write(p []byte) (written int, err error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	defer c.n.wakeUp()
	for {
		switch {
		case c.closed:
			return written, c.opError("write", net.ErrClosed)
		case c.writeBy.over():
			return written, c.opError("write", os.ErrDeadlineExceeded)
		case c.err != nil:
			return written, c.opError("write", c.err)
		case c.shut:
			return written, c.opError("write", syscall.EPIPE)
		case len(p) == 0:
			return written, nil
		}
		if room := c.out.window - c.out.bytes - len(c.peer.in); room > 0 {
			n := min(room, len(p))
			c.out.send(p[:n])
			written += n
			p = p[n:]
			c.n.wakeUp()
			continue
		}
		c.changed.Wait()
	}
}

// CloseWrite sends the end of the stream.
func (c *netConn) CloseWrite() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch {
	case c.closed:
		return c.opError("shutdown", net.ErrClosed)
	case c.err != nil:
		return c.opError("shutdown", c.err)
	}
	c.sendEnd()
	return nil
}

// sendEnd sends the end of the stream, once. The caller holds n.mu.
func (c *netConn) sendEnd() {
	if !c.shut {
		c.shut = true
		c.out.push(segment{kind: segmentFIN}, 0)
		c.n.wakeUp()
	}
}

// Close closes the connection. It sends a reset if input is unread or after SetLinger(0),
// and otherwise the end of the stream after the written data.
func (c *netConn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	switch {
	case c.err != nil:
		c.forget()
	case len(c.in) > 0 || c.linger:
		c.abort()
	default:
		c.sendEnd()
		c.forget()
	}
	return nil
}

// SetLinger is like that of net.TCPConn, but only zero has an effect.
func (c *netConn) SetLinger(sec int) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.linger = sec == 0
	return nil
}

// abort closes this end and resets the peer. The caller holds n.mu.
func (c *netConn) abort() {
	c.sendReset()
	c.forget()
}

// sendReset sends a reset after the segments in flight. The caller holds n.mu.
func (c *netConn) sendReset() {
	c.out.push(segment{kind: segmentRST}, 0)
	c.n.wakeUp()
}

// forget closes this end. The caller holds n.mu.
func (c *netConn) forget() {
	c.closed = true
	c.in = nil
	delete(c.n.conns, c)
	c.readBy.set(c, time.Time{})
	c.writeBy.set(c, time.Time{})
	c.peer.changed.Broadcast()
}

// fail ends both directions of this end with err. The caller holds n.mu.
func (c *netConn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.out.drop()
	c.changed.Broadcast()
}

// drop discards the segments in flight. The caller holds n.mu.
func (f *flow) drop() { f.segments, f.bytes, f.since = nil, 0, 0 }

func (c *netConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *netConn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

func (c *netConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *netConn) setDeadline(d *netDeadline, t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.opError("set deadline", net.ErrClosed)
	}
	d.set(c, t)
	return nil
}
