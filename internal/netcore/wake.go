package netcore

import "time"

// Where a connection's goroutine is. It says so before it looks whether it was
// woken, and Wake does it the other way round: one of the two sees the other.
const (
	placeRunning uint32 = iota
	placeRead           // waits for the peer in Read
	placeWatch          // or in Watch
	placeWait           // waits in Wait
	placeUntil          // waits in WaitUntil
)

// Wake makes the connection's goroutine look at its orders: the Read, Watch or Wait
// that it is in, or its next one, returns ErrWoken. Any number of calls before that
// count as one, so the goroutine has to look at every order each time.
func (c *Conn) Wake() {
	c.woken.Store(true)
	switch c.place.Load() {
	case placeRead, placeWatch:
		c.poke(false)
	case placeWait, placeUntil:
		c.token()
	}
}

// token ends Wait, this one or the next.
func (c *Conn) token() {
	select {
	case c.run.wake <- struct{}{}:
	default:
	}
}

// poke interrupts the goroutine where it waits for the peer. Unless anywhere is
// set that is only in Read and Watch: it may have left them meanwhile.
func (c *Conn) poke(anywhere bool) {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if c.poked || !anywhere && !c.atSocket() {
		return
	}
	if c.nc.SetReadDeadline(longAgo) != nil && c.rc == nil {
		c.deaf = true
		return
	}
	c.poked = true
}

func (c *Conn) atSocket() bool {
	p := c.place.Load()
	return p == placeRead || p == placeWatch
}

// wakeIn has a goroutine that is in Read woken in d, if nothing comes before. It
// returns false if the goroutine is elsewhere.
func (c *Conn) wakeIn(d time.Duration) bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if c.poked || c.place.Load() != placeRead {
		return false
	}
	c.alarm = true
	c.nc.SetReadDeadline(time.Now().Add(d))
	return true
}

// calm undoes poke and wakeIn, and reports whether there was one. On the goroutine.
func (c *Conn) calm() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if !c.poked && !c.alarm {
		return false
	}
	c.poked, c.alarm = false, false
	c.nc.SetReadDeadline(c.run.deadline)
	return true
}

// enter says where the goroutine is going to wait. It returns false if the
// goroutine was woken, and then it is not to wait.
func (c *Conn) enter(place uint32) bool {
	c.place.Store(place)
	if c.woken.Load() && c.woken.Swap(false) {
		c.place.Store(placeRunning)
		return false
	}
	return true
}

// Wait waits for Wake, and until the goroutine's place is given back if it was
// borrowed.
func (c *Conn) Wait() {
	c.place.Store(placeWait)
	for !c.woken.Load() || !c.place.CompareAndSwap(placeWait, placeRunning) {
		<-c.run.wake
	}
	c.woken.Store(false)
}

// Borrow makes the caller the connection's goroutine, until Return. It fails if the
// goroutine is not in Wait, and for connections that are no sockets or have TLS:
// there a read may not be interruptible, or run foreign code.
func (c *Conn) Borrow() bool {
	if c.rc == nil || !c.place.CompareAndSwap(placeWait, placeRunning) {
		return false
	}
	if c.run.tls != nil {
		c.Return()
		return false
	}
	return true
}

// Return undoes Borrow. The goroutine looks at its orders.
func (c *Conn) Return() {
	c.place.Store(placeWait)
	c.Wake()
}

// WaitUntil is Wait that ends at t.
func (c *Conn) WaitUntil(t time.Time) {
	if !c.enter(placeUntil) {
		return
	}
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-c.run.wake:
	case <-timer.C:
	}
	c.place.Store(placeRunning)
	c.woken.Store(false)
}

// SetReadDeadline bounds the waiting of Read and Watch. The zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	c.run.deadline = t
	if !c.poked {
		c.alarm = false
		c.nc.SetReadDeadline(t)
	}
}

// ReadDeadline returns what SetReadDeadline has set. On the goroutine.
func (c *Conn) ReadDeadline() time.Time { return c.run.deadline }

// HearsDeadlines reports whether the goroutine can be got out of Read without
// closing the connection. As far as nc says: it may say so and do nothing. Anybody
// may call it, but only while no read deadline of the user's is set. The caller
// holds the lock.
func (c *Conn) HearsDeadlines() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	return c.poked || c.nc.SetReadDeadline(noDeadline) == nil
}
