// Package httpconn carries HTTP/1.1 requests over connections: the client's side
// of one connection at a time, with deadlines, interruption and bounds, and a
// pool of connections that are kept alive. The syntax of messages is read and
// written by fasthttp; see Response for what is added to it. It knows no loop.
package httpconn

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	// ErrMalformed is matched by the error of an answer that is no HTTP.
	ErrMalformed = errors.New("eventloop: malformed HTTP response")

	// ErrTooLarge is matched by the error of an answer over its bounds.
	ErrTooLarge = errors.New("eventloop: HTTP response too large")
)

// A Conn is the client's side of a connection. It belongs to one request at a
// time, between Begin and End, or to the pool. But for Interrupt, its methods
// are for the goroutine of the request; Write, FinishWriting and StopWriting may
// be for a second one.
type Conn struct {
	nc    net.Conn
	close func(nc net.Conn) // nil: Close of nc
	key   Key
	raw   syscall.RawConn // to look at the descriptor; nil if there is none
	uses  int             // requests begun
	idle  idleLinks       // guarded by the mutex of the pool
	hint  time.Duration   // how long the server keeps it, zero if not known
	alive aliveCheck

	keeper *keeper // nil if it never had one

	out     atomic.Int64 // bytes written for the request, before TLS
	in      int64        // bytes read, after TLS
	firstAt time.Time    // when the first of them came

	// Of the reading goroutine.
	br     *bufio.Reader
	prefix []byte // to be read before nc
	failed error  // why reading has ended
	slack  int    // bytes read since the body grew last
	parked error  // came with data: to be told by the next Read

	mu       sync.Mutex // guards the following
	cut      bool       // interrupted
	taken    bool       // from a keeper that waits
	writing  bool       // the silence of the peer is not its fault yet
	shut     bool       // writing is over
	deadline time.Time  // of the request
	silence  time.Duration
	readBy   time.Time // deadlines as set
	writeBy  time.Time
}

// New returns a Conn over nc, which is connected, and handshaken if it is TLS.
func New(nc net.Conn, key Key) *Conn {
	c := &Conn{nc: nc, key: key}
	under := nc
	if t, ok := nc.(*tls.Conn); ok {
		under = t.NetConn()
	}
	switch under.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := under.(syscall.Conn).SyscallConn(); err == nil {
			c.raw = raw
		}
	}
	return c
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Reused reports whether the present request is not the first.
func (c *Conn) Reused() bool { return c.uses > 1 }

// Answered reports whether any byte of an answer to the present request came.
func (c *Conn) Answered() bool { return c.in > 0 }

// Bytes returns how many bytes the present request has read and written.
func (c *Conn) Bytes() (in, out int64) { return c.in, c.out.Load() }

// FirstByte returns when the first byte of an answer came.
func (c *Conn) FirstByte() time.Time { return c.firstAt }

// readers holds the buffers of connections in use. Those that are kept alive
// have none.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readerSize) }}

const readerSize = 4 << 10

// Begin takes the connection into use. The request ends at deadline, and when no
// byte came or could be sent for as long as silence, or up to an eighth more; zero
// means never.
func (c *Conn) Begin(deadline time.Time, silence time.Duration) {
	c.uses++
	c.in, c.slack = 0, 0
	c.out.Store(0)
	c.takeReader()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.silence = deadline, silence
	c.writing, c.shut = false, false
}

// End takes the connection out of use and reports whether it may be used again:
// nothing failed and nothing is left in it.
func (c *Conn) End() bool {
	if c.br == nil {
		return false
	}
	clean := c.br.Buffered() == 0 && len(c.prefix) == 0 && c.failed == nil && c.parked == nil
	c.releaseReader()
	c.prefix = nil
	if k := c.keeper; k != nil {
		k.mu.Lock()
		k.begun = false
		k.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = false
	return clean && !c.cut && !c.writing && !c.shut
}

// Close closes the connection. What is written and read after fails.
func (c *Conn) Close() {
	if c.close != nil {
		c.close(c.nc)
	} else {
		c.nc.Close()
	}
}

// CloseBy has Close call f, for connections whose own Close may wait.
func (c *Conn) CloseBy(f func(nc net.Conn)) { c.close = f }

// past is a deadline that has passed, for ever.
var past = time.Unix(1, 0)

// Interrupt makes all reading and writing fail, now and later. Any goroutine may
// call it.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	if c.nc.SetDeadline(past) != nil {
		c.Close() // it knows no deadlines
	}
}

// Interrupted reports whether Interrupt was called.
func (c *Conn) Interrupted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// by returns the deadline of an operation that begins now: set, if that will do.
// The caller holds c.mu.
//
// The end of the request is met exactly. The silence of the peer may last an
// eighth longer: so a deadline serves for many operations, where setting one costs
// more than parsing a head does.
func (c *Conn) by(set time.Time, silence time.Duration) time.Time {
	if silence <= 0 {
		return c.deadline
	}
	return c.byAt(time.Now(), set, silence)
}

// byAt is by at that time.
func (c *Conn) byAt(now, set time.Time, silence time.Duration) time.Time {
	if silence <= 0 {
		return c.deadline
	}
	if left := set.Sub(now); c.deadline.IsZero() && left >= silence && left <= silence+silence/8 {
		return set
	}
	t := now.Add(silence + silence/8)
	if !c.deadline.IsZero() && c.deadline.Before(t) {
		t = c.deadline
	}
	return t
}

// armRead sets the deadline of the next read.
func (c *Conn) armRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return os.ErrDeadlineExceeded
	}
	silence := c.silence
	if c.writing {
		silence = 0 // the peer may wait for the rest of the request
	}
	t := c.by(c.readBy, silence)
	if t.Equal(c.readBy) {
		return nil
	}
	c.readBy = t
	c.nc.SetReadDeadline(t) // an error is that of a closed connection: reading says more
	return nil
}

// armWrite sets the deadline of the next write.
func (c *Conn) armWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut || c.shut {
		return os.ErrDeadlineExceeded
	}
	t := c.by(c.writeBy, c.silence)
	if t.Equal(c.writeBy) {
		return nil
	}
	c.writeBy = t
	c.nc.SetWriteDeadline(t)
	return nil
}

// maxPiece bounds a single write, so that the silence of the peer is measured by
// the piece, and not by the whole body.
const maxPiece = 64 << 10

// Write sends p, within the deadlines of the request.
func (c *Conn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		if err = c.armWrite(); err != nil {
			break
		}
		var m int
		m, err = c.nc.Write(p[:min(len(p), maxPiece)])
		n += m
		p = p[m:]
	}
	c.out.Add(int64(n))
	return n, err
}

// BeginWriting says that the request will be sent while the answer is waited for.
func (c *Conn) BeginWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = true
}

// FinishWriting says that the request is sent: from now on the peer owes an
// answer.
func (c *Conn) FinishWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if c.cut || c.silence <= 0 {
		return
	}
	c.readBy = c.by(time.Time{}, c.silence)
	c.nc.SetReadDeadline(c.readBy) // also of the read that is waiting
}

// StopWriting makes writing fail, now and later. Reading goes on, but the
// connection will not be used again.
func (c *Conn) StopWriting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	c.nc.SetWriteDeadline(past)
}

// maxSlack bounds what an answer may consist of besides its head and its body:
// chunk sizes and their extensions. A server that sends nothing else would keep
// the connection busy for ever.
const maxSlack = 64 << 10

var errSlack = errors.New("endless framing")

// reader is the connection as its buffer reads it.
type reader Conn

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	c := (*Conn)(r)
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	if c.failed == nil {
		c.failed = c.parked
	}
	if c.failed != nil {
		return 0, c.failed
	}
	if c.slack > max(maxSlack, 4*c.br.Size()) {
		c.failed = errSlack
		return 0, c.failed
	}
	if c.keeper != nil && c.keeper.waiting {
		return c.readNow(p)
	}
	if c.failed = c.armRead(); c.failed != nil {
		return 0, c.failed
	}
	n, err := c.nc.Read(p)
	c.received(n)
	if len(p) <= c.br.Size() { // more goes past the buffer: body
		c.slack += n
	}
	if n > 0 {
		// The error is told when the data does not suffice, and only then: so
		// whoever sees failed knows that something is missing.
		c.parked = err
		return n, nil
	}
	c.failed = err
	return 0, err
}

// received counts n bytes that were read.
func (c *Conn) received(n int) {
	if c.in == 0 {
		c.firstAt = time.Now()
	}
	c.in += int64(n)
}

// cause returns the error of an answer that ended too early, or was wrong: what
// happened to the connection comes before what the parser made of it.
func (c *Conn) cause(err error) error {
	switch {
	case c.failed == errSlack:
		return tooLarge(errSlack.Error())
	case c.failed == io.EOF:
		return io.ErrUnexpectedEOF
	case c.failed != nil:
		return c.failed
	}
	return malformed(err)
}
