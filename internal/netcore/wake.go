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
	placeLeaving        // is about to go
	placeParked         // there is none

	placeMask = 7
)

// A handover is a place in the code where a connection changes hands.
type handover uint8

const (
	inWake  handover = iota // the connection was woken, but nothing has been told yet
	inLeave                 // the goroutine says that it leaves, and has not left yet
	inPark                  // the connection is watched, and its goroutine has not left yet
)

// Bits beside placeRead and placeWatch.
const (
	bitParkable uint32 = 8 << iota // the connection may be parked
	bitQuiet                       // the goroutine has been there since the last sweep
	bitAsked                       // and is to park the connection
)

// Wake makes the connection's goroutine look at its orders: the Read, Watch or Wait
// that it is in, or its next one, returns ErrWoken. Any number of calls before that
// count as one, so the goroutine has to look at every order each time.
func (c *Conn) Wake() {
	c.woken.Store(true)
	between(c, inWake)
	switch c.place.Load() & placeMask {
	case placeRead, placeWatch:
		c.poke(false)
	case placeWait, placeUntil:
		c.token()
	case placeLeaving, placeParked:
		if c.claim() {
			c.resume(false)
		}
	}
}

// token ends Wait, this one or the next.
func (c *Conn) token() {
	r := c.run.Load()
	if r == nil {
		return // it has been parked since
	}
	select {
	case r.wake <- struct{}{}:
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
	p := c.place.Load() & placeMask
	return p == placeRead || p == placeWatch
}

// wakeIn has a goroutine that is in Read woken in d, if nothing comes before. It
// returns false if the goroutine is elsewhere.
func (c *Conn) wakeIn(d time.Duration) bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	if c.poked || c.place.Load()&placeMask != placeRead {
		return false
	}
	c.alarm = true
	c.nc.SetReadDeadline(time.Now().Add(d))
	return true
}

// calm undoes poke and wakeIn, and reports which of them there was. On the goroutine.
func (c *Conn) calm() (poked, alarmed bool) {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	poked, alarmed = c.poked, c.alarm
	if !poked && !alarmed {
		return false, false
	}
	c.poked, c.alarm = false, false
	c.nc.SetReadDeadline(c.readDeadline())
	return poked, alarmed
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
	c.Own()
	r := c.run.Load()
	c.place.Store(placeWait)
	for !c.woken.Load() || !c.place.CompareAndSwap(placeWait, placeRunning) {
		<-r.wake
	}
	c.woken.Store(false)
}

// WaitOrPark is Wait for a connection that need not have a goroutine meanwhile. It
// returns false if it has none any more, as ErrParked says.
func (c *Conn) WaitOrPark() bool {
	r := c.run.Load()
	if r.worker == nil {
		c.Wait()
		return true
	}
	if !c.woken.Load() && c.leave(c.user.Poller(), r) {
		return false
	}
	c.woken.Store(false)
	return true
}

// Borrow makes the caller the connection's goroutine, until Return. It fails if the
// goroutine is not in Wait, and for connections that are no sockets or have TLS:
// there a read may not be interruptible, or run foreign code.
func (c *Conn) Borrow() bool {
	if c.rc == nil || !c.place.CompareAndSwap(placeWait, placeRunning) {
		return false
	}
	if c.run.Load().tls != nil {
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
	case <-c.run.Load().wake:
	case <-timer.C:
	}
	c.place.Store(placeRunning)
	c.woken.Store(false)
}

// SetReadDeadline bounds the waiting of Read and Watch. The zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	c.deadline = 0
	if !t.IsZero() {
		c.deadline = t.Sub(epoch)
	}
	if !c.poked {
		c.alarm = false
		c.nc.SetReadDeadline(t)
	}
}

// ReadDeadline returns what SetReadDeadline has set. On the goroutine.
func (c *Conn) ReadDeadline() time.Time { return c.readDeadline() }

func (c *Conn) readDeadline() time.Time {
	if c.deadline == 0 {
		return noDeadline
	}
	return epoch.Add(c.deadline)
}

// HearsDeadlines reports whether the goroutine can be got out of Read without
// closing the connection. As far as nc says: it may say so and do nothing. Any goroutine
// may call it, but only while no read deadline of the user's is set. The caller
// holds the lock.
func (c *Conn) HearsDeadlines() bool {
	c.pokeMu.Lock()
	defer c.pokeMu.Unlock()
	return c.poked || c.nc.SetReadDeadline(noDeadline) == nil
}
