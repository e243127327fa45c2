package netcore

import (
	"errors"
	"runtime"
	"time"
)

// ErrParked is returned by ReadOrPark and WatchOrPark when the connection has no
// goroutine any more: the caller has to return and must not touch it. Serve of the
// user is called, on another goroutine, when there is something to do.
var ErrParked = errors.New("netcore: parked")

// Start has Serve of the user called on a new goroutine, for the first time. If there
// is nothing to do yet the connection is parked at once: most connections wait most
// of the time, and the runtime never gives the memory of goroutines back, so those
// that all connections have when they are new would never be freed.
func (c *Conn) Start() {
	c.Disown()
	c.user.Go(c.user.Serve)
}

// Disown has the connection parked as soon as ReadOrPark or WatchOrPark finds nothing to
// do, instead of when it has been quiet for a while. It undoes Own. On the goroutine,
// which ends then.
func (c *Conn) Disown() {
	if r := c.run.Load(); r.worker == nil && c.parkable() {
		p := c.user.Poller()
		if r.list != nil {
			p.part(r)
		}
		r.worker = &worker{p: p, apart: true}
	}
}

// parkable reports whether the poller may wait in place of the goroutine. On the
// goroutine.
func (c *Conn) parkable() bool {
	return c.rc != nil && !c.staysAwake && c.user.Poller() != nil
}

// Own makes the caller a goroutine that belongs to the connection, and so may wait, if
// it is a worker of the poller, which starts another one in its stead. The methods
// that may wait call it themselves. On the goroutine.
func (c *Conn) Own() {
	r := c.run.Load()
	if w := r.worker; w != nil {
		r.worker, c.chunks = nil, 0
		w.leave()
	}
}

// mayPark has sweeps of the poller look whether the connection is quiet. On the
// goroutine.
func (c *Conn) mayPark(r *runner) {
	if r.list == nil && c.parkable() {
		c.user.Poller().join(r)
	}
}

// WakeForDeadline makes a deadline effective that another goroutine has just set for
// the connection's goroutine, which is in ReadOrPark or about to enter it. A goroutine
// that waits there sees the deadline by itself. One that is parked, or is being parked,
// has to be woken.
func (c *Conn) WakeForDeadline() {
	if place := c.place.Load(); place&placeMask != placeRead || place&bitAsked != 0 {
		c.Wake()
	}
}

// stayAwake has the connection never parked. On the goroutine.
func (c *Conn) stayAwake() {
	c.Own()
	c.staysAwake = true
	if p := c.user.Poller(); p != nil {
		p.part(c.run.Load())
	}
}

// park gives the goroutine up and has the poller wait for want. It returns ErrParked,
// or ErrWoken if the caller has to go on.
func (c *Conn) park(r *runner, want uint32) error {
	p := c.user.Poller()
	if !p.watch(c, want) {
		c.Own()
		return ErrWoken
	}
	between(c, inPark)
	if !c.leave(p, r) {
		p.unwatch(c)
		return ErrWoken
	}
	return ErrParked
}

// leave gives the goroutine up, unless the connection has been woken. The connection is
// the goroutine's until its place is parked, and then at once that of others: there is
// nothing to take back, which might have been run elsewhere meanwhile. Those who find it
// leaving have it stay.
func (c *Conn) leave(p *Poller, r *runner) bool {
	if r.worker == nil {
		p.part(r)
	}
	c.place.Store(placeLeaving)
	between(c, inLeave)
	c.run.Store(nil)
	if c.woken.Load() || !c.place.CompareAndSwap(placeLeaving, placeParked) {
		c.run.Store(r)
		c.place.Store(placeRunning)
		return false
	}
	p.putRunner(r)
	return true
}

// claim makes the caller the one that resumes the connection, if it is parked, after
// woken was set. It reports whether it is. A goroutine that is leaving stays.
func (c *Conn) claim() bool {
	return !c.place.CompareAndSwap(placeLeaving, placeRunning) && c.place.CompareAndSwap(placeParked, placeRunning)
}

// resume has a worker or a goroutine run the connection, which the caller has claimed.
// event says that the peer is the reason.
func (c *Conn) resume(event bool) {
	p := c.user.Poller()
	busy := false
	if event {
		c.chunks = 0
		now := uint32(time.Since(epoch) / time.Millisecond)
		busy = now-c.lastEvent < uint32(busyWithin.Load()/int64(time.Millisecond))
		c.lastEvent = now
	}
	if !busy {
		p.enqueue(c)
		return
	}
	p.unwatch(c)
	c.equip(p, nil)
	c.user.Go(c.user.Serve)
}

// equip gives the connection what it needs to run, on w or on a goroutine of its own.
func (c *Conn) equip(p *Poller, w *worker) {
	r := p.getRunner(c)
	c.Lock()
	if s := c.sec; s != nil && s.tls != nil {
		r.tls, r.sec = s.tls, s
	}
	c.Unlock()
	r.worker = w
	c.run.Store(r)
	c.woken.Store(false) // the user looks at everything anyway
}

// getRunner returns a runner for c.
func (p *Poller) getRunner(c *Conn) *runner {
	r, _ := p.runners.Get().(*runner)
	if r == nil {
		return newRunner(c)
	}
	select {
	case <-r.wake: // of the connection that had it last
	default:
	}
	r.c = c
	return r
}

// putRunner keeps r for another connection.
func (p *Poller) putRunner(r *runner) {
	r.c, r.tls, r.sec, r.worker = nil, nil, nil, nil
	p.runners.Put(r)
}

// A worker is a goroutine that runs connections, one after the other. None of them
// may have it wait: Own takes it out of the ranks first.
type worker struct {
	p     *Poller
	apart bool // it is the first goroutine of a connection, and never was in the ranks
	left  bool // it belongs to a connection now
}

// leave takes w out of the ranks. On w.
func (w *worker) leave() {
	w.left = true
	if w.apart {
		return
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.p.workers--
	w.p.staff()
}

// enqueue has a worker run c, which is not parked any more.
func (p *Poller) enqueue(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatchLocked(c)
	if p.tokens == nil {
		p.tokens = make(chan struct{}, maxWorkers*runtime.GOMAXPROCS(0))
	}
	p.queue = append(p.queue, c)
	p.staff()
}

// staff wakes or starts a worker if there is something to do. The caller holds the
// lock.
func (p *Poller) staff() {
	switch {
	case p.head == len(p.queue):
	case p.idle > 0:
		p.idle--
		p.tokens <- struct{}{} // has room: one slot per worker
	case p.workers < cap(p.tokens):
		p.workers++
		p.wg.Go(p.work)
	}
}

// work is a worker.
func (p *Poller) work() {
	w := &worker{p: p}
	ended := false
	defer func() {
		if !ended && !w.left {
			w.leave() // code that crypto/tls has called has ended the goroutine
		}
	}()
	for !w.left {
		c, ok := p.next()
		switch {
		case !ok:
			ended = true
			return
		case c == nil:
			<-p.tokens
		default:
			c.equip(p, w)
			c.user.Serve()
		}
	}
}

// next takes a connection from the queue. If there is none the worker is to wait for a
// token; ok is false if it is to end.
func (p *Poller) next() (c *Conn, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head == len(p.queue) {
		if p.closed {
			p.workers--
			return nil, false
		}
		p.idle++
		return nil, true
	}
	c = p.queue[p.head]
	p.queue[p.head] = nil
	if p.head++; p.head == len(p.queue) {
		p.head = 0
		if p.queue = p.queue[:0]; cap(p.queue) > 1024 {
			p.queue = nil
		}
	}
	return c, true
}
