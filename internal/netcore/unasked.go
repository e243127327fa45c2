package netcore

import "github.com/onloop/eventloop/internal/sockio"

// Unasked says that the peer has no reason to send anything before it has received
// output that is appended from now on. If it has, the connection is cut before any
// of that output is written, so that the user can send it elsewhere: see Untouched.
// The caller holds the lock.
//
// For sockets that is exact: while unasked input may be in the hands of the
// goroutine no writer begins, and a writer looks for input first. What a net.Conn of
// another kind has received is only known once Read has returned.
func (c *Conn) Unasked() { c.unasked.Store(true) }

// Untouched reports whether nothing was written since Unasked. The caller holds the
// lock.
func (c *Conn) Untouched() bool { return c.unasked.Load() }

// Holds reports whether TLS holds input that came with what was read, for example in
// the same record, and that nothing which looks at the socket can see. Some of it is
// lost then. On the goroutine.
func (c *Conn) Holds() bool {
	r := c.run.Load()
	if r.tls == nil {
		return false
	}
	var p [1]byte
	r.sec.dry = true
	n, err := r.readTLS(p[:])
	r.sec.dry = false
	return n > 0 || err != errAgain
}

// keepOut keeps writers from beginning while the goroutine reads unasked input, and
// reports whether that was necessary. It costs other reads no lock.
func (c *Conn) keepOut() bool {
	if !c.unasked.Load() {
		return false
	}
	c.Lock()
	defer c.Unlock()
	c.hearing = c.unasked.Load()
	return c.hearing
}

// letIn undoes keepOut. got says that there was input, an end, or an error.
func (c *Conn) letIn(got bool) {
	c.Lock()
	defer c.Unlock()
	c.hearing = false
	c.heardUnasked(got)
	c.start()
}

// heardUnasked cuts the connection if got is true and the input is unasked. The
// caller holds the lock.
func (c *Conn) heardUnasked(got bool) {
	if !got || !c.unasked.Load() {
		return
	}
	c.cut = true
	if c.output == outputIdle {
		c.drop()
	}
}

// mayBegin is asked by a writer before it writes. The caller holds the lock.
func (c *Conn) mayBegin() bool {
	if !c.unasked.Load() || c.sec != nil && c.sec.sealed == 0 {
		return true // the latter is output of TLS itself, which has no response
	}
	if c.fd >= 0 && !sockio.Quiet(uintptr(c.fd)) || c.fd < 0 && c.HasInput() {
		c.cut = true // the goroutine is about to read it
		c.Wake()
		return false
	}
	c.unasked.Store(false)
	return true
}
