package netcore

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onloop/eventloop/internal/sockio"
)

// A secure is the TLS state of a connection: the net.Conn below crypto/tls, and the user's
// output that waits to be encrypted.
//
// Read of crypto/tls also writes alerts and replies to KeyUpdates, while it holds the lock
// that Write of crypto/tls needs. Therefore Write of this net.Conn never waits. It appends
// to the output of the connection, so no peer can block a reader, or the end of a
// connection, by not reading. The writer encrypts only output that it can write next.
type secure struct {
	c *Conn

	// Guarded by the lock of the connection.
	app         sockio.Queue // output to be encrypted
	clear       int          // bytes at the head of Conn.out that are plaintext
	sealed      int          // bytes of app that are encrypted and in Conn.out
	tls         *tls.Conn    // set after the handshake
	tailBytes   int          // bytes of the TLS layer that the kernel accepted after the user's last byte
	tailWrites  int          // the number of writes of these bytes
	mayBlock    bool         // Write may wait for a renegotiation
	handshaking bool         // a handshake is due or in progress
	open        bool         // Open was called after the handshake
	userSent    bool         // the kernel may hold output of the user that the peer has not received

	// Owned by the goroutine that reads from crypto/tls: the goroutine of Host.Aside in
	// Handshake, afterwards the connection's goroutine, and after Release the goroutine that
	// reads from the returned net.Conn. Read of crypto/tls holds a lock, so there is only
	// one. After a failed handshake the connection's goroutine does not use the fields,
	// because that of Aside may still run.
	bufferedOnly bool    // Read returns only bytes of early
	trying       bool    // Read is called within the runtime poller's call of tryFD
	sawEnd       bool    // the connection below has ended
	receivedData bool    // bytes for the user were received
	fd           uintptr // while trying
	early        []byte  // bytes that were read before TLS
	timeout      error   // the error that errAgain replaces

	lastReceived atomic.Int64 // when bytes last arrived, since epoch
	flooded      atomic.Bool
	stopped      atomic.Bool // Close was called, in a handshake
	released     atomic.Bool // after Release: a plain net.Conn
}

// Secure starts TLS. Output that was appended to Queue before is still sent in plaintext.
// Output that is appended from now on waits for Handshake and Open. The caller holds the
// lock.
func (c *Conn) Secure() {
	c.sec = &secure{c: c, handshaking: true, userSent: c.up, clear: c.out.Len()}
	c.paused = false
	c.start()
}

// Handshaking reports whether a handshake is due or in progress, or has failed. The
// caller holds the lock.
func (c *Conn) Handshaking() bool { return c.sec != nil && c.sec.tls == nil }

// Secured reports whether Secure was called. The caller holds the lock.
func (c *Conn) Secured() bool { return c.sec != nil }

// Handshake performs the TLS handshake after Secure. early contains the bytes that were
// already read. The handshake ends when ctx ends. The callbacks of conf run on a separate
// goroutine: they may panic or call runtime.Goexit, and a handshake needs a deep stack,
// which a goroutine keeps. If conf is nil, Handshake performs the handshake of the
// attached *tls.Conn.
//
// Call Open afterwards. After a failed handshake, the output contains the alert.
func (c *Conn) Handshake(ctx context.Context, conf *tls.Config, client bool, early []byte) error {
	c.Own()
	r, s := c.run.Load(), c.sec
	var t *tls.Conn
	switch {
	case conf == nil:
		t = c.nc.(*tls.Conn)
	case client:
		t = tls.Client(s, conf)
		c.Lock()
		s.mayBlock = conf.Renegotiation != tls.RenegotiateNever
		c.Unlock()
		if s.mayBlock {
			c.stayAwake() // Read may also wait
		}
	default:
		t = tls.Server(s, conf)
	}
	if s != nil {
		s.early = early
	}
	c.clearInterrupt() // crypto/tls cannot continue after a timeout in a handshake
	err := c.user.Aside(func() error { return t.HandshakeContext(ctx) })
	if s == nil {
		return err
	}
	c.clearInterrupt() // undoes the interrupt of Close
	c.Lock()
	defer c.Unlock()
	s.handshaking = false
	if err == nil {
		r.tls, r.sec = t, s
		s.tls = t
		// The peer has completed the handshake, so it has read everything before it.
		s.userSent, s.tailBytes, s.tailWrites = false, 0, 0
	}
	return err
}

// readTLS is Read of TLS. It returns a panic in a callback of the tls.Config as an error.
func (r *runner) readTLS(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, r.c.user.Recovered(v)
		}
	}()
	n, err = r.tls.Read(p)
	if n > 0 {
		r.sec.receivedData = true
	}
	// If a reply could not be written, crypto/tls cannot decrypt further input.
	if err != nil && r.sec.flooded.Load() {
		return n, ErrFlood
	}
	// crypto/tls accepts an end between two records as regular. If the peer has sent no
	// data, no data can be missing.
	if err == io.EOF && r.sec.sawEnd && r.sec.receivedData {
		err = ErrTruncated
	}
	return n, err
}

// wrote accounts for n bytes that the kernel has accepted. own of them are plaintext of
// the user. The caller holds the connection's lock.
func (s *secure) wrote(n, own int) {
	switch {
	case own > 0 || s.sealed > 0:
		s.userSent, s.tailBytes, s.tailWrites = true, 0, 0
	case n > 0:
		s.tailBytes += n
		s.tailWrites++
	}
}

// maxSeal is the number of bytes that the writer encrypts at a time.
const maxSeal = 64 << 10

// seal encrypts the next piece of output. The caller holds the connection's lock,
// which is released meanwhile.
func (s *secure) seal() {
	c := s.c
	var space [sockio.MaxViews][]byte
	views := space[:s.app.Views(space[:])]
	c.Unlock()
	n, err := 0, error(nil)
	for _, v := range views {
		if n >= maxSeal || err != nil {
			break
		}
		var m int
		m, err = s.write(v[:min(len(v), maxSeal-n)])
		n += m
	}
	c.Lock()
	s.app.Advance(n)
	s.sealed += n
	if err != nil {
		c.fail(err)
	}
}

// write encrypts p. It returns a panic in a callback of the tls.Config as an error.
func (s *secure) write(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, s.c.user.Recovered(v)
		}
	}()
	return s.tls.Write(p)
}

// errAgain means that there is no input. crypto/tls can continue after it, because it is a
// temporary error.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "netcore: nothing to read" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

type truncated struct{}

func (truncated) Error() string { return "tls: the connection ended without close_notify" }
func (truncated) Unwrap() error { return io.ErrUnexpectedEOF }

// Read is called by crypto/tls to read from the connection below.
func (s *secure) Read(p []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(p, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	if s.bufferedOnly {
		return 0, errAgain
	}
	n, err := s.readBelow(p)
	switch {
	case s.flooded.Load():
		return 0, ErrFlood
	case n > 0:
		s.lastReceived.Store(int64(time.Since(epoch)))
		return n, nil
	case err == io.EOF:
		s.sawEnd = true
	case s.released.Load():
	case s.stopped.Load() && isTimeout(err):
		return 0, net.ErrClosed
	case isTimeout(err):
		s.timeout = err
		return 0, errAgain
	}
	return n, err
}

func (s *secure) readBelow(p []byte) (int, error) {
	c := s.c
	if c.rc == nil {
		return c.foreignRead(p)
	}
	if s.trying {
		n, errno := readFD(s.fd, p)
		switch {
		case errno == syscall.EAGAIN:
			return 0, errAgain
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, c.eofReason(s.fd)
		}
		return n, nil
	}
	n, end := 0, error(nil)
	err := c.rc.Read(func(fd uintptr) bool {
		var errno syscall.Errno
		n, errno = readFD(fd, p)
		switch {
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			end = errno
		case n == 0:
			end = c.eofReason(fd)
		}
		return true
	})
	if err == nil {
		err = end
	}
	return n, err
}

// maxReplies is the maximum size of the output that Read of crypto/tls may cause. Without
// it, a peer that sends KeyUpdates and never reads would fill the memory.
const maxReplies = 64 << 10

// Write is called by crypto/tls. It appends p to the output of the connection.
func (s *secure) Write(p []byte) (int, error) {
	c := s.c
	if s.released.Load() {
		return c.nc.Write(p)
	}
	c.Lock()
	defer c.Unlock()
	switch {
	case c.cut:
		return 0, net.ErrClosed
	case c.failed():
		return 0, c.x.werr
	case !s.handshaking && c.out.Len()+len(p) > 2*maxSeal+maxReplies: // a record has overhead
		s.flooded.Store(true)
		return 0, ErrFlood
	}
	c.out.Append(p)
	c.start()
	return len(p), nil
}

// Close is called by crypto/tls when the context of a handshake ends.
func (s *secure) Close() error {
	c := s.c
	if s.released.Load() {
		return c.nc.Close()
	}
	s.stopped.Store(true)
	c.interrupt(true)
	c.Lock()
	defer c.Unlock()
	c.hangUpIfStuck()
	if c.slow() != nil && c.rc == nil {
		c.watchForeign(time.Duration(stuckTime.Load()))
	}
	return nil
}

func (s *secure) LocalAddr() net.Addr  { return s.c.nc.LocalAddr() }
func (s *secure) RemoteAddr() net.Addr { return s.c.nc.RemoteAddr() }

func (s *secure) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// crypto/tls sets deadlines for close_notify. They have no effect until Release, because
// Write never waits.

func (s *secure) SetReadDeadline(t time.Time) error {
	if s.released.Load() {
		return s.c.nc.SetReadDeadline(t)
	}
	return nil
}

func (s *secure) SetWriteDeadline(t time.Time) error {
	if s.released.Load() {
		return s.c.nc.SetWriteDeadline(t)
	}
	return nil
}
