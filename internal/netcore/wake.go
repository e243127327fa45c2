package netcore

import "time"

// The place of a connection's goroutine. The goroutine stores its place, then loads woken.
// Wake stores woken, then loads the place. One of them always sees the other.
const (
	placeRunning uint32 = iota
	placeRead           // waits for the peer in Read
	placeWatch          // waits for the peer in Watch
	placeWait           // waits in Wait
	placeUntil          // waits in WaitUntil
	placeLeaving        // is about to park the connection
	placeParked         // there is no goroutine

	placeMask = 7
)

// A handover is a point in the code where a connection changes its owner.
type handover uint8

const (
	inWake  handover = iota // woken is set, but the goroutine is not notified yet
	inLeave                 // the place is placeLeaving, and the connection is not parked yet
	inPark                  // the connection is watched, and the goroutine has not left yet
)

// Bits added to placeRead and placeWatch.
const (
	bitParkable uint32 = 8 << iota // the connection may be parked
	bitQuiet                       // the goroutine has been there since the last sweep
	bitAsked                       // a sweep has asked the goroutine to park the connection
)

// Wake makes the connection's goroutine check its requests: the current Read, Watch or
// Wait, or the next one, returns ErrWoken. Several calls before that count as one, so the
// goroutine must check all requests each time.
func (c *Conn) Wake() {
	c.woken.Store(true)
	between(c, inWake)
	switch c.place.Load() & placeMask {
	case placeRead, placeWatch:
		c.interrupt(false)
	case placeWait, placeUntil:
		c.endWait()
	case placeLeaving, placeParked:
		if c.claim() {
			c.resume(false)
		}
	}
}

// endWait ends the current Wait, or the next one.
func (c *Conn) endWait() {
	r := c.run.Load()
	if r == nil {
		return // the connection has been parked in the meantime
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// interrupt ends the goroutine's wait for the peer. Unless anywhere is set, it does so
// only in Read and Watch, which the goroutine may have left in the meantime.
func (c *Conn) interrupt(anywhere bool) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if c.interrupted || !anywhere && !c.atSocket() {
		return
	}
	if c.nc.SetReadDeadline(longAgo) != nil && c.rc == nil {
		c.ignoresDeadlines = true
		return
	}
	c.interrupted = true
}

func (c *Conn) atSocket() bool {
	p := c.place.Load() & placeMask
	return p == placeRead || p == placeWatch
}

// wakeIn wakes a goroutine in Read after d, unless input comes first. It returns false if
// the goroutine is not in Read.
func (c *Conn) wakeIn(d time.Duration) bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if c.interrupted || c.place.Load()&placeMask != placeRead {
		return false
	}
	c.alarm = true
	c.nc.SetReadDeadline(time.Now().Add(d))
	return true
}

// clearInterrupt undoes interrupt and wakeIn, and reports which of them was called. It
// runs on the connection's goroutine.
func (c *Conn) clearInterrupt() (interrupted, alarmed bool) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	interrupted, alarmed = c.interrupted, c.alarm
	if !interrupted && !alarmed {
		return false, false
	}
	c.interrupted, c.alarm = false, false
	c.nc.SetReadDeadline(c.readDeadline())
	return interrupted, alarmed
}

// enter stores the place where the goroutine is about to wait. It returns false if the
// goroutine was woken and must not wait.
func (c *Conn) enter(place uint32) bool {
	c.place.Store(place)
	if c.woken.Load() && c.woken.Swap(false) {
		c.place.Store(placeRunning)
		return false
	}
	return true
}

// Wait waits for Wake. If Borrow was called meanwhile, it also waits for Return.
func (c *Conn) Wait() {
	c.Own()
	r := c.run.Load()
	c.place.Store(placeWait)
	for !c.woken.Load() || !c.place.CompareAndSwap(placeWait, placeRunning) {
		<-r.wake
	}
	c.woken.Store(false)
}

// WaitOrPark is Wait for a connection that may be parked. It returns false if the
// connection is parked; see ErrParked.
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

// Borrow makes the calling goroutine the connection's goroutine, until Return. It returns
// false if the connection's goroutine is not in Wait, or if the connection is not a socket
// or has TLS: then a read may not be interruptible, or may run foreign code.
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

// Return undoes Borrow. The connection's goroutine checks its requests.
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

// SetReadDeadline limits the waits of Read and Watch. The zero time means no limit.
func (c *Conn) SetReadDeadline(t time.Time) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.deadline = 0
	if !t.IsZero() {
		c.deadline = t.Sub(epoch)
	}
	if !c.interrupted {
		c.alarm = false
		c.nc.SetReadDeadline(t)
	}
}

// ReadDeadline returns the deadline that SetReadDeadline set. It runs on the connection's
// goroutine.
func (c *Conn) ReadDeadline() time.Time { return c.readDeadline() }

func (c *Conn) readDeadline() time.Time {
	if c.deadline == 0 {
		return noDeadline
	}
	return epoch.Add(c.deadline)
}

// SupportsDeadlines reports whether a deadline can interrupt Read, according to nc: its
// SetReadDeadline may return nil and have no effect. Any goroutine may call
// SupportsDeadlines, but only while the user has set no read deadline. The caller holds the
// lock.
func (c *Conn) SupportsDeadlines() bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.interrupted || c.nc.SetReadDeadline(noDeadline) == nil
}
