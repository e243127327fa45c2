package netcore

import (
	"fmt"
	"io"
	"syscall"

	"github.com/onloop/eventloop/internal/sockio"
)

// Only the connection's goroutine calls the methods in this file.

// Read waits until there is input and returns up to size bytes of it, in a buffer that the
// caller owns. It tries before it waits, and holds no buffer while it waits for a socket.
// Errors are ErrWoken, os.ErrDeadlineExceeded, io.EOF, and errors of the connection. After
// an error other than the first two there is no more input.
//
// Waiting is only safe after EAGAIN: the poller reports edges, and data and FIN that
// arrive together make one edge. The next message has often arrived by the time the last
// one was processed, and is then read without the poller. This gains more than an
// unsuccessful try costs (echo with 50 connections: 1.15 of a goroutine per connection,
// 1.08 with a FIN hint from TCP_INQ instead of the try; with 500 connections 1.08 against
// 1.00).
func (c *Conn) Read(size int) (*sockio.Buffer, error) {
	c.Own()
	return c.read(size, placeRead)
}

// ReadOrPark is Read for a connection that may be parked. If it is parked, the error is
// ErrParked.
func (c *Conn) ReadOrPark(size int) (*sockio.Buffer, error) {
	if c.chunks >= maxChunks {
		c.Own()
	}
	return c.read(size, placeRead|bitParkable)
}

func (c *Conn) read(size int, place uint32) (*sockio.Buffer, error) {
	r := c.run.Load()
	switch {
	case r.worker != nil:
		place = placeRunning // a worker tries and does not wait
	case place&bitParkable != 0:
		c.mayPark(r)
	}
	if !c.enter(place) {
		c.clearInterrupt()
		return nil, ErrWoken
	}
	r.size, r.err = size, nil
	var err error
	if c.rc != nil {
		err = c.rc.Read(r.try)
	} else {
		err = r.readForeign()
	}
	asked := c.place.Swap(placeRunning)&bitAsked != 0
	if b := r.buf; b != nil {
		r.buf = nil
		if r.worker != nil {
			c.chunks++
		}
		return b, nil
	}
	return nil, c.whyEnded(r, err, asked, wantInput)
}

// Watch waits until the connection fails, for example by a reset, and returns the reason.
// It reads nothing. With forEnd it also waits for the end of the peer's side, for which it
// returns io.EOF, although unread bytes may come before it. Other errors are ErrWoken and
// os.ErrDeadlineExceeded. If the connection is not a socket, Watch only waits for Wake.
func (c *Conn) Watch(forEnd bool) error {
	c.Own()
	return c.watch(forEnd, placeWatch)
}

// WatchOrPark is Watch for a connection that may be parked. If it is parked, the error is
// ErrParked.
func (c *Conn) WatchOrPark(forEnd bool) error { return c.watch(forEnd, placeWatch|bitParkable) }

func (c *Conn) watch(forEnd bool, place uint32) error {
	if c.rc == nil {
		c.Wait()
		return ErrWoken
	}
	r := c.run.Load()
	if r.worker != nil {
		place = placeRunning // a worker checks and does not wait
	} else if place&bitParkable != 0 {
		c.mayPark(r)
	}
	if !c.enter(place) {
		c.clearInterrupt()
		return ErrWoken
	}
	r.watch, r.forEnd, r.err = true, forEnd, nil
	err := c.rc.Read(r.try)
	r.watch = false
	asked := c.place.Swap(placeRunning)&bitAsked != 0
	var want uint32
	if forEnd {
		want = wantEnd
	}
	return c.whyEnded(r, err, asked, want)
}

// whyEnded returns the reason why waiting for the peer ended without input. err is the
// error of the runtime's poller or of nc. asked means that a sweep has asked the goroutine
// to park the connection. If the connection may be parked, whyEnded parks it to wait for
// want.
func (c *Conn) whyEnded(r *runner, err error, asked bool, want uint32) error {
	if err == nil {
		err = r.err
	}
	if err == nil && r.worker != nil { // there is no input
		return c.park(r, want)
	}
	if !isTimeout(err) {
		return err // nil if a net.Conn has returned no bytes and no error
	}
	woken := c.woken.Swap(false)
	interrupted, alarmed := c.clearInterrupt()
	switch {
	case interrupted && asked && !woken && !alarmed:
		return c.park(r, want)
	case interrupted || alarmed || woken:
		return ErrWoken
	}
	return err // a deadline of the user, or of a wrapper around the connection
}

// tryFD is called by the runtime's poller when the descriptor may be ready. It returns
// false to wait, but not on a worker, which must not wait.
func (r *runner) tryFD(fd uintptr) (done bool) {
	if r.watch {
		why, failed := broken(fd, r.c.isShut())
		switch {
		case failed:
			r.err = why
		case r.forEnd && hasEnded(fd):
			r.err = io.EOF
		}
		return r.err != nil || r.worker != nil
	}
	alone := r.c.blockWriters()
	got := r.readNow(fd)
	if alone {
		r.c.unblockWriters(got)
	}
	return got || r.worker != nil
}

// readNow reads available input. It returns false if there is none.
func (r *runner) readNow(fd uintptr) bool {
	b := sockio.GetBuffer(r.size)
	room := b.Room()[:min(len(b.Room()), r.size)]
	var n int
	if r.tls != nil {
		r.sec.fd, r.sec.trying = fd, true
		n, r.err = r.readTLS(room)
		r.sec.trying = false
		if n == 0 && r.err == errAgain {
			r.err = nil
			b.Release()
			return false
		}
	} else {
		var errno syscall.Errno
		n, errno = readFD(fd, room)
		switch {
		case errno == syscall.EAGAIN:
			b.Release()
			return false
		case errno != 0:
			r.err = errno
		case n == 0:
			r.err = r.c.eofReason(fd)
		}
	}
	r.store(b, n)
	return true
}

// store keeps b with the n bytes that were read, or releases b if n is 0.
func (r *runner) store(b *sockio.Buffer, n int) {
	if n == 0 {
		b.Release()
		return
	}
	b.Fill(n)
	r.buf = b
}

// eofReason returns the reason why a read of fd returned the end of the stream. If a writer
// has already received the error of a reset, the reset looks like the end of the stream.
func (c *Conn) eofReason(fd uintptr) error {
	if !c.isShut() && wasReset(fd) {
		return syscall.ECONNRESET
	}
	return io.EOF
}

func (c *Conn) isShut() bool {
	c.Lock()
	defer c.Unlock()
	return c.shut
}

// readForeign reads through nc, or through TLS above it.
func (r *runner) readForeign() error {
	b := sockio.GetBuffer(r.size)
	room := b.Room()[:min(len(b.Room()), r.size)]
	var n int
	var err error
	if r.tls != nil {
		if n, err = r.readTLS(room); err == errAgain {
			err = r.sec.timeout
		}
	} else {
		n, err = r.c.foreignRead(room)
	}
	r.store(b, n)
	if r.c.blockWriters() {
		r.c.unblockWriters(n > 0 || err != nil && !isTimeout(err))
	}
	if n > 0 && err != nil && !isTimeout(err) {
		return nil // the next Read returns the error again
	}
	return err
}

// foreignRead is Read of nc. It returns a panic as an error.
func (c *Conn) foreignRead(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, c.user.Recovered(v)
		}
	}()
	n, err = c.nc.Read(p)
	return CheckCount("Read", c.nc, len(p), n, err)
}

// CheckCount returns n and err, the result of a method of foreign code for a buffer of size
// bytes. If n is not possible, it returns an error instead: n is used as an index, so it
// would cause a panic later, on another goroutine.
func CheckCount(method string, foreign any, size, n int, err error) (int, error) {
	if n < 0 || n > size {
		return 0, fmt.Errorf("eventloop: %s of %T returned an invalid count: %d for a buffer of %d bytes", method, foreign, n, size)
	}
	return n, err
}
