package netcore

import (
	"errors"
	"runtime"
	"time"
)

// ErrParked is returned by ReadOrPark and WatchOrPark when the connection no longer has a
// goroutine. The caller must return without accessing the connection. When the connection
// has work to do, Serve of the user is called on another goroutine.
var ErrParked = errors.New("netcore: parked")

// Start calls Serve of the user on a new goroutine, for the first time. If there is
// nothing to do yet, the connection is parked immediately. Most connections wait most of
// the time, and the runtime never frees the memory of goroutines. If each new connection
// kept its goroutine for a while, that memory would never be freed.
func (c *Conn) Start() {
	c.Disown()
	c.user.Go(c.user.Serve)
}

// Disown makes ReadOrPark or WatchOrPark park the connection as soon as there is nothing
// to do, instead of after a quiet time. It undoes Own. It runs on the connection's
// goroutine, which ends when the connection is parked.
func (c *Conn) Disown() {
	if r := c.run.Load(); r.worker == nil && c.parkable() {
		p := c.user.Poller()
		if r.list != nil {
			p.untrack(r)
		}
		r.worker = &worker{p: p, uncounted: true}
	}
}

// parkable reports whether the poller may wait in place of the goroutine. It runs on the
// connection's goroutine.
func (c *Conn) parkable() bool {
	return c.rc != nil && !c.staysAwake && c.user.Poller() != nil
}

// Own makes the calling goroutine belong to the connection, so that it may wait. If it was
// a worker of the poller, the poller starts another worker in its place. Methods that may
// wait call Own themselves. It runs on the connection's goroutine.
func (c *Conn) Own() {
	r := c.run.Load()
	if w := r.worker; w != nil {
		r.worker, c.chunks = nil, 0
		w.leave()
	}
}

// mayPark makes the sweeps of the poller check whether the connection is quiet. It runs on
// the connection's goroutine.
func (c *Conn) mayPark(r *runner) {
	if r.list == nil && c.parkable() {
		c.user.Poller().track(r)
	}
}

// WakeForDeadline makes a deadline effective that another goroutine has just set, while
// the connection's goroutine is in ReadOrPark or about to enter it. A goroutine that waits
// there notices the deadline by itself. A connection that is parked, or is being parked,
// must be woken.
func (c *Conn) WakeForDeadline() {
	if place := c.place.Load(); place&placeMask != placeRead || place&bitAsked != 0 {
		c.Wake()
	}
}

// stayAwake prevents the connection from being parked, for good. It runs on the
// connection's goroutine.
func (c *Conn) stayAwake() {
	c.Own()
	c.staysAwake = true
	if p := c.user.Poller(); p != nil {
		p.untrack(c.run.Load())
	}
}

// park parks the connection until an event in want. It returns ErrParked, or ErrWoken if
// the caller must continue as the connection's goroutine.
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

// leave parks the connection, unless it has been woken. The goroutine owns the connection
// until place is placeParked. From that moment another goroutine may resume it, so leave
// must not undo anything afterwards. A goroutine that finds placeLeaving makes this
// goroutine stay.
func (c *Conn) leave(p *Poller, r *runner) bool {
	if r.worker == nil {
		p.untrack(r)
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

// claim reports whether the caller must resume the connection, because it is parked. woken
// must be set before. A goroutine that is leaving stays.
func (c *Conn) claim() bool {
	return !c.place.CompareAndSwap(placeLeaving, placeRunning) && c.place.CompareAndSwap(placeParked, placeRunning)
}

// resume runs the connection, which the caller has claimed, on a worker or on a new
// goroutine. event means that an event of the peer is the reason.
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
	c.attachRunner(p, nil)
	c.user.Go(c.user.Serve)
}

// attachRunner gives the connection a runner, so that it can run on w or, if w is nil, on
// its own goroutine.
func (c *Conn) attachRunner(p *Poller, w *worker) {
	r := p.getRunner(c)
	c.Lock()
	if s := c.sec; s != nil && s.tls != nil {
		r.tls, r.sec = s.tls, s
	}
	c.Unlock()
	r.worker = w
	c.run.Store(r)
	c.woken.Store(false) // Serve checks all requests anyway
}

// getRunner returns a runner for c.
func (p *Poller) getRunner(c *Conn) *runner {
	r, _ := p.runners.Get().(*runner)
	if r == nil {
		return newRunner(c)
	}
	select {
	case <-r.wake: // sent for the previous connection of r
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

// A worker is a goroutine that runs connections, one after the other. It must not wait for
// one of them: Own first removes it from the workers of the poller.
type worker struct {
	p         *Poller
	uncounted bool // it is the first goroutine of a connection, and not counted in Poller.workers
	left      bool // it now belongs to a connection
}

// leave removes w from the workers of the poller. It runs on w.
func (w *worker) leave() {
	w.left = true
	if w.uncounted {
		return
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.p.workers--
	w.p.startWorker()
}

// enqueue queues c, which is no longer parked, for a worker.
func (p *Poller) enqueue(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatchLocked(c)
	if p.tokens == nil {
		p.tokens = make(chan struct{}, maxWorkers*runtime.GOMAXPROCS(0))
	}
	p.queue = append(p.queue, c)
	p.startWorker()
}

// startWorker wakes or starts a worker if the queue is not empty. The caller holds the
// lock.
func (p *Poller) startWorker() {
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

// work is the body of a worker's goroutine.
func (p *Poller) work() {
	w := &worker{p: p}
	ended := false
	defer func() {
		if !ended && !w.left {
			w.leave() // a callback of crypto/tls has called runtime.Goexit
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
			c.attachRunner(p, w)
			c.user.Serve()
		}
	}
}

// next takes a connection from the queue. If it returns nil, the worker must wait for a
// token, or end if ok is false.
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
