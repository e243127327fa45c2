package netcore

// ExpectNoInput declares that the peer has no reason to send input before it receives
// output that is appended from now on. If input arrives nevertheless, the connection is
// cut before any of that output is written, so that the user can send it elsewhere: see
// NothingWritten. The caller holds the lock.
//
// For sockets this is exact: no writer starts while the goroutine may be reading
// unsolicited input, and a writer checks for input first. For any other net.Conn, input
// is noticed only when Read has returned.
func (c *Conn) ExpectNoInput() { c.expectsNoInput.Store(true) }

// NothingWritten reports whether nothing was written since ExpectNoInput. The caller
// holds the lock.
func (c *Conn) NothingWritten() bool { return c.expectsNoInput.Load() }

// HoldsInput reports whether TLS holds input that was received together with bytes already
// read, for example in the same record. A check of the socket does not find such input.
// HoldsInput drops part of it. It runs on the connection's goroutine.
func (c *Conn) HoldsInput() bool {
	r := c.run.Load()
	if r.tls == nil {
		return false
	}
	var p [1]byte
	r.sec.bufferedOnly = true
	n, err := r.readTLS(p[:])
	r.sec.bufferedOnly = false
	return n > 0 || err != errAgain
}

// blockWriters prevents writers from starting while the goroutine reads unsolicited
// input, and reports whether that was necessary. Other reads take no lock.
func (c *Conn) blockWriters() bool {
	if !c.expectsNoInput.Load() {
		return false
	}
	c.Lock()
	defer c.Unlock()
	c.writersBlocked = c.expectsNoInput.Load()
	return c.writersBlocked
}

// unblockWriters undoes blockWriters. got means that there was input, an end, or an error.
func (c *Conn) unblockWriters(got bool) {
	c.Lock()
	defer c.Unlock()
	c.writersBlocked = false
	c.cutIfUnsolicited(got)
	c.start()
}

// cutIfUnsolicited cuts the connection if got is true and the input is unsolicited. The
// caller holds the lock.
func (c *Conn) cutIfUnsolicited(got bool) {
	if !got || !c.expectsNoInput.Load() {
		return
	}
	c.cut = true
	if c.output == outputIdle {
		c.drop()
	}
}

// mayStartWriting is called by a writer before it writes. It cuts the connection and
// returns false if there is unsolicited input. The caller holds the lock.
func (c *Conn) mayStartWriting() bool {
	if !c.expectsNoInput.Load() || c.sec != nil && c.sec.sealed == 0 {
		return true // output of the TLS layer causes no response
	}
	if c.fd >= 0 && hasInput(uintptr(c.fd)) || c.fd < 0 && c.HasInput() {
		c.cut = true // the goroutine is about to read it
		c.Wake()
		return false
	}
	c.expectsNoInput.Store(false)
	return true
}
