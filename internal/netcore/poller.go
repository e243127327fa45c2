package netcore

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Poller waits in the place of connections that have been quiet for a while, so
// that these need no goroutine: they are parked. It has one descriptor for all of
// them, an epoll instance, which the poller of the runtime watches as it watches
// sockets; so there is one goroutine for any number of parked connections. On other
// systems than Linux nothing is ever parked.
//
// Who owns what:
//
//   - A connection alone uses its descriptor, also to have it watched. The poller
//     neither reads, nor writes, nor closes it.
//   - The goroutine that turns the place of a connection from parked to running, by
//     one compare-and-swap, owns the connection: the goroutine of the poller for an
//     event, the caller of Wake for an order, a sweep for a deadline. It has the
//     connection resumed. Nothing but these three resumes a
//     connection: the kernel says nothing of a descriptor that is closed, and the
//     deadlines of a net.Conn wake only those who wait in it.
//   - Events are known by the slot of their connection and by its generation, which
//     changes each time the connection is resumed. Neither the descriptor nor a
//     pointer would do: a number is used again while events of its last connection
//     are still to be handled.
//
// A connection that is resumed is run by one of a few workers, until there is nothing
// more to be read, and then it is parked again. Only one that goes on, or has to wait
// in the middle of something, has a goroutine of its own: the worker, which another
// one takes the place of. So if all connections are woken at once there are not as
// many goroutines, whose memory the runtime would keep.
//
// Locks: that of the poller is taken last but for those of deadlines (pokeMu). No
// user is called with it.
type Poller struct {
	runners sync.Pool
	wg      sync.WaitGroup // all goroutines
	ep      epoll          // set by open

	mu      sync.Mutex // guards the following
	queue   []*Conn    // to be run by workers
	head    int        // first one in queue
	tokens  chan struct{}
	workers int
	idle    int // workers that wait on tokens and have none coming

	opened bool
	closed bool
	retry  time.Duration // when to try again after a failure, since epoch

	slots  []slot
	free   []int32 // indexes of slots without a connection
	parked int
	failed uint64
	shared int           // slots whose descriptor others may close
	due    time.Duration // no deadline of a parked connection is earlier; 0: there is none

	awake   runnerList // those that may be parked when they are quiet
	pace    int        // how many times sweepEvery lies between two sweeps
	timer   *time.Timer
	alarm   time.Duration // when timer fires, 0 if it does not
	checked time.Duration // when shared descriptors were last looked at
}

// A slot is what the poller knows of a connection.
type slot struct {
	c        *Conn
	deadline time.Duration // for reading; 0: none
	gen      uint32
	armed    bool // parked and watched
	reads    bool // for input, too
	shared   bool
}

// What makes a connection quiet. Variables because tests do not wait so long.
var (
	sweepEvery = tunable(500 * time.Millisecond)
	// busyWithin is how soon after another an event gives a connection a goroutine
	// of its own. A worker costs some microseconds a message more.
	busyWithin = tunable(100 * time.Millisecond)
)

func tunable(d time.Duration) *atomic.Int64 {
	v := &atomic.Int64{}
	v.Store(int64(d))
	return v
}

// Hasten makes all pollers of the process sweep at other intervals, and take
// connections for busy by another measure, until undo is called. It is for tests.
func Hasten(every, busy time.Duration) (undo func()) {
	oldEvery, oldBusy := sweepEvery.Swap(int64(every)), busyWithin.Swap(int64(busy))
	return func() {
		sweepEvery.Store(oldEvery)
		busyWithin.Store(oldBusy)
	}
}

const (
	// quietSweeps is how many sweeps in a row must find a connection in the same
	// wait after the one that found it there first.
	quietSweeps = 2

	// sweepMost is how many connections one sweep looks at. Of more, sweeps look at
	// a part each, so that parking them does not hold up everything else.
	sweepMost = 256

	// slowest is by how much sweeps slow down while they find nothing to do.
	slowest = 16

	// retryAfter is when parking is tried again after the kernel has refused it.
	retryAfter = 10 * time.Second

	// maxWorkers is how many workers there are for each processor. One may have to
	// wait for room in the queue of the event loop.
	maxWorkers = 4

	// maxChunks is how many reads in a row a worker does for a connection.
	maxChunks = 2
)

// Parked returns how many connections are parked.
func (p *Poller) Parked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parked
}

// Failed returns how many times the kernel has refused to watch a connection, which
// kept its goroutine then.
func (p *Poller) Failed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Close ends the goroutines of the poller, which must have no connection any more.
func (p *Poller) Close() {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for ; p.idle > 0; p.idle-- {
		p.tokens <- struct{}{}
	}
	opened := p.opened
	p.mu.Unlock()
	if opened {
		p.ep.close()
	}
	p.wg.Wait()
}

// open makes the epoll instance and starts the goroutine, the first time. The caller
// holds the lock.
func (p *Poller) open() bool {
	if p.opened {
		return true
	}
	if p.ep.open() != nil {
		return false
	}
	p.opened = true
	p.wg.Go(p.wait)
	return true
}

// wait is the goroutine.
func (p *Poller) wait() {
	var events [128]event
	for {
		n, ok := p.ep.wait(events[:])
		if !ok {
			return
		}
		for _, e := range events[:n] {
			p.happened(e)
		}
	}
}

// An event says that something has happened to a parked connection.
type event struct{ slot, gen uint32 }

// happened resumes the connection of an event, unless it was resumed otherwise.
func (p *Poller) happened(e event) {
	p.mu.Lock()
	var c *Conn
	if i := int(e.slot); i < len(p.slots) && p.slots[i].gen == e.gen && p.slots[i].armed {
		c = p.slots[i].c
	}
	p.mu.Unlock()
	if c == nil {
		return // late, or twice
	}
	c.woken.Store(true) // as in Wake
	between(c, inWake)
	if c.claim() {
		c.resume(true)
	}
}

// watch has the poller wait for events of c, until unwatch. It returns false if c is
// to keep its goroutine. On the goroutine of c.
func (p *Poller) watch(c *Conn, want uint32) bool {
	now := time.Since(epoch)
	c.pokeMu.Lock()
	deadline := c.deadline
	c.pokeMu.Unlock()
	p.mu.Lock()
	if !p.mayWatch(deadline, now) {
		p.mu.Unlock()
		return false
	}
	known := c.slot >= 0
	if !known {
		p.place(c)
	}
	s := &p.slots[c.slot]
	s.armed, s.reads, s.deadline = true, want&wantInput != 0, deadline
	e := event{uint32(c.slot), s.gen}
	p.parked++
	if d := s.deadline; d != 0 && (p.due == 0 || d < p.due) {
		p.due = d
		p.soon(now, d-early())
	}
	if s.shared {
		p.soon(now, now+checkEvery)
	}
	p.mu.Unlock()
	errno := c.watchFD(&p.ep, !known, want, e)
	if errno == 0 {
		return true
	}
	p.unwatch(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !known {
		p.remove(c)
	}
	p.failed++
	p.retry = now + retryAfter
	return false
}

// bound has c woken at the time at, or earlier. It returns false if c is not parked,
// waiting for input.
func (p *Poller) bound(c *Conn, at time.Duration) bool {
	now := time.Since(epoch)
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.slot < 0 || !p.slots[c.slot].armed || !p.slots[c.slot].reads {
		return false
	}
	s := &p.slots[c.slot]
	if s.deadline == 0 || at < s.deadline {
		s.deadline = at
	}
	if p.due == 0 || at < p.due {
		p.due = at
		p.soon(now, at-early())
	}
	return true
}

// mayWatch reports whether a connection with a deadline can be parked. The caller
// holds the lock.
func (p *Poller) mayWatch(deadline, now time.Duration) bool {
	switch {
	case p.closed || now < p.retry:
		return false
	case deadline != 0 && deadline < now+2*early():
		return false // not worth it
	case !p.open():
		p.failed++
		p.retry = now + retryAfter
		return false
	}
	return true
}

// place gives c a slot. The caller holds the lock.
func (p *Poller) place(c *Conn) {
	if n := len(p.free); n > 0 {
		c.slot = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		c.slot = int32(len(p.slots))
		p.slots = append(p.slots, slot{})
	}
	s := &p.slots[c.slot]
	s.c, s.shared = c, c.fd < 0
	if s.shared {
		p.shared++
	}
}

// remove takes the slot of c away. The caller holds the lock.
func (p *Poller) remove(c *Conn) {
	s := &p.slots[c.slot]
	if s.shared {
		p.shared--
	}
	*s = slot{gen: s.gen + 1}
	p.free = append(p.free, c.slot)
	c.slot = -1
}

// unwatch makes events of c that come from now on, or are on their way, those of the
// past. By the one who has resumed c.
func (p *Poller) unwatch(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatchLocked(c)
}

// unwatchLocked is unwatch for callers that hold the lock.
func (p *Poller) unwatchLocked(c *Conn) {
	if c.slot < 0 {
		return
	}
	if s := &p.slots[c.slot]; s.armed {
		s.armed = false
		s.gen++
		p.parked--
	}
}

// forget is for a connection whose descriptor is about to be closed or handed out. The
// kernel would go on watching one that has a duplicate, in a child process for
// example. On the goroutine of c.
func (p *Poller) forget(c *Conn) {
	p.part(c.run.Load())
	if c.slot < 0 {
		return
	}
	c.unwatchFD(&p.ep)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

// early is how long before its deadline a parked connection is resumed. What is left
// of the time it waits for in a goroutine, and then it is exact.
func early() time.Duration { return time.Duration(sweepEvery.Load()) }

// checkEvery is how often the poller looks whether the descriptors of parked
// connections that do not belong to us alone were closed: of that there is no event.
const checkEvery = time.Second

// join has sweeps look at the connection of r. On its goroutine.
func (p *Poller) join(r *runner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || r.list != nil {
		return
	}
	p.awake.add(r)
	r.quiet, p.pace = 0, 1
	now := time.Since(epoch)
	p.soon(now, now+time.Duration(sweepEvery.Load()))
}

// part undoes join. On the goroutine of the connection.
func (p *Poller) part(r *runner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.list != nil {
		p.awake.remove(r)
	}
}

// soon has a sweep come at the time at, or earlier. The caller holds the lock.
func (p *Poller) soon(now, at time.Duration) {
	if p.alarm != 0 && p.alarm <= at {
		return
	}
	p.alarm = max(at, 1)
	if p.timer == nil {
		p.timer = time.AfterFunc(at-now, p.sweep)
	} else {
		p.timer.Reset(at - now)
	}
}

// sweep looks which connections have become quiet, and at what the kernel does not
// report of parked ones.
func (p *Poller) sweep() {
	now := time.Since(epoch)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.alarm = 0
	p.sweepAwake(now)
	late := p.sweepParked(now)
	p.mu.Unlock()
	for _, c := range late {
		c.Wake()
	}
}

// sweepAwake asks connections that are quiet to park themselves. The caller holds the
// lock.
func (p *Poller) sweepAwake(now time.Duration) {
	n := min(p.awake.len, sweepMost)
	if n == 0 {
		return
	}
	changed := false
	for range n {
		r := p.awake.next()
		changed = r.look(now >= p.retry) || changed
	}
	if p.pace = min(2*p.pace, slowest); changed {
		p.pace = 1
	}
	every := time.Duration(sweepEvery.Load()) * time.Duration(p.pace)
	p.soon(now, now+every*time.Duration(n)/time.Duration(p.awake.len))
}

// look reports whether the connection has done anything since the last sweep, or is
// on its way to be parked.
func (r *runner) look(mayPark bool) (changed bool) {
	c := r.c
	place := c.place.Load()
	switch {
	case place == placeRunning || place&bitAsked != 0:
		return true
	case place&bitParkable == 0:
		return false
	case place&bitQuiet == 0:
		r.quiet = 0
		c.place.CompareAndSwap(place, place|bitQuiet)
		return true
	}
	if r.quiet++; r.quiet < quietSweeps || !mayPark {
		return r.quiet <= quietSweeps
	}
	if c.place.CompareAndSwap(place, place|bitAsked) {
		c.poke(false)
	}
	return true
}

// sweepParked returns the parked connections whose deadline comes, or whose
// descriptor other code may have closed. The caller holds the lock.
func (p *Poller) sweepParked(now time.Duration) (late []*Conn) {
	check := p.shared > 0 && now >= p.checked+checkEvery
	by := now + early()
	if check || p.due != 0 && p.due <= by {
		late = p.lateBy(by, check)
	}
	if check {
		p.checked = now
	}
	if p.due != 0 {
		p.soon(now, p.due-early())
	}
	if p.shared > 0 {
		p.soon(now, p.checked+checkEvery)
	}
	return late
}

// lateBy returns the parked connections whose deadline is not after by, and with check
// those whose descriptor is closed. It sets due. The caller holds the lock.
func (p *Poller) lateBy(by time.Duration, check bool) (late []*Conn) {
	p.due = 0
	for i := range p.slots {
		switch s := &p.slots[i]; {
		case !s.armed:
		case s.deadline != 0 && s.deadline <= by, check && s.shared && !s.c.control(func(uintptr) {}):
			late = append(late, s.c)
		case s.deadline != 0 && (p.due == 0 || s.deadline < p.due):
			p.due = s.deadline
		}
	}
	return late
}

// A runnerList is a ring of runners.
type runnerList struct {
	first *runner
	len   int
}

// next returns the first one, which becomes the last.
func (l *runnerList) next() *runner {
	r := l.first
	l.first = r.after
	return r
}

func (l *runnerList) add(r *runner) {
	r.list = l
	if l.len++; l.len == 1 {
		l.first, r.after, r.before = r, r, r
		return
	}
	r.after, r.before = l.first, l.first.before
	r.before.after, r.after.before = r, r
}

func (l *runnerList) remove(r *runner) {
	if l.len--; l.len == 0 {
		l.first = nil
	} else if l.first == r {
		l.first = r.after
	}
	r.before.after, r.after.before = r.after, r.before
	r.list, r.after, r.before = nil, nil, nil
}

// watchFD has ep watch the descriptor. On the goroutine.
func (c *Conn) watchFD(ep *epoll, first bool, want uint32, e event) (errno syscall.Errno) {
	errno = syscall.EBADF
	c.control(func(fd uintptr) { errno = epollSet(ep, fd, first, want, e) })
	return errno
}

func (c *Conn) unwatchFD(ep *epoll) {
	c.control(func(fd uintptr) { epollDel(ep, fd) })
}
