package netcore

import "time"

// Where a connection's goroutine is. It says so before it looks whether it was
// woken, and Wake does it the other way round: one of the two sees the other.
const (
	placeRunning uint32 = iota
	placeSocket         // waits for the peer
	placeWait           // waits in Wait
)

// Wake makes the connection's goroutine look at its orders: the Read, Watch or Wait
// that it is in, or its next one, returns ErrWoken. Any number of calls before that
// count as one, so the goroutine has to look at every order each time.
func (c *Conn) Wake() {
	c.woken.Store(true)
	switch c.place.Load() {
	case placeSocket:
		c.poke(false)
	case placeWait:
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
	if c.poked || !anywhere && c.place.Load() != placeSocket {
		return
	}
	if c.nc.SetReadDeadline(longAgo) != nil && c.rc == nil {
		c.deaf = true
		return
	}
	c.poked = true
}

// calm undoes poke, and reports whether there was one. On the goroutine.
func (c *Conn) calm() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if !c.poked {
		return false
	}
	c.poked = false
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

// Wait waits for Wake. It may return without one.
func (c *Conn) Wait() {
	if c.enter(placeWait) {
		<-c.run.wake
		c.left()
	}
}

// WaitUntil is Wait that ends at t.
func (c *Conn) WaitUntil(t time.Time) {
	if !c.enter(placeWait) {
		return
	}
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-c.run.wake:
	case <-timer.C:
	}
	c.left()
}

func (c *Conn) left() {
	c.place.Store(placeRunning)
	c.woken.Store(false)
}

// SetReadDeadline bounds the waiting of Read and Watch. The zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	c.run.deadline = t
	if !c.poked {
		c.nc.SetReadDeadline(t)
	}
}

// HearsDeadlines reports whether the goroutine can be got out of Read without
// closing the connection. As far as nc says: it may say so and do nothing. Anybody
// may call it, but only while no read deadline of the user's is set. The caller
// holds the lock.
func (c *Conn) HearsDeadlines() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	return c.poked || c.nc.SetReadDeadline(noDeadline) == nil
}
