package netcore

import (
	"io"
	"syscall"

	"github.com/onloop/eventloop/internal/sockio"
)

// The methods in this file are for the connection's goroutine only.

// Read waits until there is input and returns up to size bytes of it, in a buffer
// that the caller owns. It tries before it waits, and holds no buffer while it
// waits for a socket. Errors are ErrWoken, os.ErrDeadlineExceeded, io.EOF, and those
// of the connection; after an error other than the first two there is no more input.
//
// Waiting is only safe after EAGAIN: the poller reports edges, and data and FIN that
// arrived together make one edge. The next message is often there by the time the
// last one was dealt with, and is then read without going through the poller, which
// is worth more than the vain try costs (echo with 50 connections: 1.15 of a
// goroutine per connection, 1.08 with a FIN hint from TCP_INQ instead of the try;
// with 500 1.08 against 1.00).
func (c *Conn) Read(size int) (*sockio.Buffer, error) {
	c.Own()
	return c.read(size, placeRead)
}

// ReadOrPark is Read for a connection that need not have a goroutine meanwhile. If
// it is parked the error is ErrParked.
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
		place = placeRunning // it only tries
	case place&bitParkable != 0:
		c.mayPark(r)
	}
	if !c.enter(place) {
		c.calm()
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

// Watch waits until the connection fails, by a reset for example, without reading
// anything, and returns why. With forEnd it also waits for the end of the peer's
// side, which is io.EOF, though bytes may come before it. Other errors are ErrWoken
// and os.ErrDeadlineExceeded. If the connection is no socket it only waits to be
// woken.
func (c *Conn) Watch(forEnd bool) error {
	c.Own()
	return c.watch(forEnd, placeWatch)
}

// WatchOrPark is Watch for a connection that need not have a goroutine meanwhile. If
// it is parked the error is ErrParked.
func (c *Conn) WatchOrPark(forEnd bool) error { return c.watch(forEnd, placeWatch|bitParkable) }

func (c *Conn) watch(forEnd bool, place uint32) error {
	if c.rc == nil {
		c.Wait()
		return ErrWoken
	}
	r := c.run.Load()
	if r.worker != nil {
		place = placeRunning // it only looks
	} else if place&bitParkable != 0 {
		c.mayPark(r)
	}
	if !c.enter(place) {
		c.calm()
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

// whyEnded returns why waiting for the peer ended without input. err is what the
// poller of the runtime or nc said; asked says that a sweep has asked for the
// goroutine. The connection is parked, to wait for want, if it may be.
func (c *Conn) whyEnded(r *runner, err error, asked bool, want uint32) error {
	if err == nil {
		err = r.err
	}
	if err == nil && r.worker != nil { // nothing is there
		return c.park(r, want)
	}
	if !isTimeout(err) {
		return err // nil if a net.Conn has returned no bytes and no error
	}
	woken := c.woken.Swap(false)
	poked, alarmed := c.calm()
	switch {
	case poked && asked && !woken && !alarmed:
		return c.park(r, want)
	case poked || alarmed || woken:
		return ErrWoken
	}
	return err // a deadline of the user's, or of a wrapper around the connection
}

// tryFD is called by the poller of the runtime when something may have happened; it
// returns false to wait, which a worker must not do.
func (r *runner) tryFD(fd uintptr) (done bool) {
	if r.watch {
		why, failed := broken(fd, r.c.isShut())
		switch {
		case failed:
			r.err = why
		case r.forEnd && sockio.HasEnded(fd):
			r.err = io.EOF
		}
		return r.err != nil || r.worker != nil
	}
	alone := r.c.keepOut()
	got := r.readNow(fd)
	if alone {
		r.c.letIn(got)
	}
	return got || r.worker != nil
}

// readNow reads what is there. It returns false if there is nothing.
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
			r.err = r.c.endOf(fd)
		}
	}
	r.took(b, n)
	return true
}

// took keeps the n bytes that were read into b.
func (r *runner) took(b *sockio.Buffer, n int) {
	if n == 0 {
		b.Release()
		return
	}
	b.Fill(n)
	r.buf = b
}

// endOf returns why reading fd found the end of the stream. A reset that a writer
// has met before looks like one.
func (c *Conn) endOf(fd uintptr) error {
	if !c.isShut() && sockio.WasReset(fd) {
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
	r.took(b, n)
	if r.c.keepOut() {
		r.c.letIn(n > 0 || err != nil && !isTimeout(err))
	}
	if n > 0 && err != nil && !isTimeout(err) {
		return nil // it comes again
	}
	return err
}

// foreignRead is Read of nc, whose panics are errors.
func (c *Conn) foreignRead(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, c.user.Recovered(v)
		}
	}()
	return c.nc.Read(p)
}
