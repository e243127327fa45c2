package netcore

// Unasked declares that the peer has no reason to send input before it receives output
// that is appended from now on. If input arrives nevertheless, the connection is cut
// before any of that output is written, so that the user can send it elsewhere: see
// Untouched. The caller holds the lock.
//
// For sockets this is exact: no writer starts while the goroutine may be reading unasked
// input, and a writer checks for input first. For any other net.Conn, input is noticed
// only when Read has returned.
func (c *Conn) Unasked() { c.unasked.Store(true) }

// Untouched reports whether nothing was written since Unasked. The caller holds the
// lock.
func (c *Conn) Untouched() bool { return c.unasked.Load() }

// Holds reports whether TLS holds input that was received together with bytes already
// read, for example in the same record. A check of the socket does not find such input.
// Holds drops part of it. It runs on the connection's goroutine.
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

// keepOut prevents writers from starting while the goroutine reads unasked input, and
// reports whether that was necessary. Other reads take no lock.
func (c *Conn) keepOut() bool {
	if !c.unasked.Load() {
		return false
	}
	c.Lock()
	defer c.Unlock()
	c.hearing = c.unasked.Load()
	return c.hearing
}

// letIn undoes keepOut. got means that there was input, an end, or an error.
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

// mayBegin is called by a writer before it writes. It cuts the connection and returns
// false if there is unasked input. The caller holds the lock.
func (c *Conn) mayBegin() bool {
	if !c.unasked.Load() || c.sec != nil && c.sec.sealed == 0 {
		return true // output of the TLS layer causes no response
	}
	if c.fd >= 0 && hasInput(uintptr(c.fd)) || c.fd < 0 && c.HasInput() {
		c.cut = true // the goroutine is about to read it
		c.Wake()
		return false
	}
	c.unasked.Store(false)
	return true
}
