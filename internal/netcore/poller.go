package netcore

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Poller waits for connections that have been quiet for a while, so that these need no
// goroutine: they are parked. It has one descriptor for all of them, an epoll instance,
// which the runtime's poller watches like a socket. So one goroutine serves any number of
// parked connections. Connections are only parked on Linux.
//
// Ownership:
//
//   - Only the connection uses its descriptor, also to add it to the epoll instance. The
//     poller neither reads, nor writes, nor closes it.
//   - The goroutine that changes the place of a connection from parked to running, by one
//     compare-and-swap, owns the connection and resumes it. This is the poller's
//     goroutine for an event, the caller of Wake, or a sweep for a deadline. Only these
//     three resume a connection: the kernel does not report that a descriptor was closed,
//     and the deadline of a net.Conn wakes only goroutines that wait in it.
//   - An event carries the slot of its connection and the slot's generation, which changes
//     each time the connection is resumed. Neither the descriptor nor a pointer would be
//     enough: the system reuses a descriptor number while events of the previous
//     connection are still to be handled.
//
// One of a few workers runs a resumed connection until there is nothing left to read, and
// then parks it again. Only a connection that stays busy, or has to wait in the middle of
// an operation, gets its own goroutine: it keeps the worker, and another worker takes its
// place. So waking all connections at once does not create a goroutine for each of them,
// whose memory the runtime would keep.
//
// Locks: the poller's lock is taken last, except for the locks of deadlines (deadlineMu).
// No method of a user is called while it is held.
type Poller struct {
	runners sync.Pool
	wg      sync.WaitGroup // all goroutines
	ep      epoll          // set by open

	mu      sync.Mutex // guards the following
	queue   []*Conn    // connections for the workers
	head    int        // index of the first one in queue
	tokens  chan struct{}
	workers int
	idle    int // workers that wait on tokens and have not been sent one

	opened bool
	closed bool
	retry  time.Duration // when to try again after a failure, since epoch

	slots  []slot
	free   []int32 // indexes of slots without a connection
	parked int
	failed uint64
	shared int           // number of slots whose descriptor other code may close
	due    time.Duration // a lower bound of the deadlines of parked connections; 0: no deadlines

	awake   runnerList // connections that may be parked when they are quiet
	pace    int        // the interval of sweeps, in units of sweepEvery
	timer   *time.Timer
	alarm   time.Duration // when timer fires, 0 if it does not
	checked time.Duration // when shared descriptors were last checked
}

// A slot is the poller's record of a connection.
type slot struct {
	c        *Conn
	deadline time.Duration // for reading; 0: none
	gen      uint32
	armed    bool // parked and watched
	reads    bool // watched for input as well
	shared   bool
}

// The times that decide whether a connection is quiet. Tests shorten them, see Hasten.
var (
	sweepEvery = tunable(500 * time.Millisecond)
	// If two events come within busyWithin, the connection gets its own goroutine. A
	// worker costs some microseconds more per message.
	busyWithin = tunable(100 * time.Millisecond)
)

func tunable(d time.Duration) *atomic.Int64 {
	v := &atomic.Int64{}
	v.Store(int64(d))
	return v
}

// Hasten replaces sweepEvery and busyWithin for all pollers of the process, until undo is
// called. It is for tests.
func Hasten(every, busy time.Duration) (undo func()) {
	oldEvery, oldBusy := sweepEvery.Swap(int64(every)), busyWithin.Swap(int64(busy))
	return func() {
		sweepEvery.Store(oldEvery)
		busyWithin.Store(oldBusy)
	}
}

const (
	// quietSweeps is the number of sweeps in a row that must find a connection in the
	// same wait, after the sweep that first found it there.
	quietSweeps = 2

	// sweepMost is the maximum number of connections that one sweep checks, so that
	// parking them does not delay everything else. The next sweeps check the others.
	sweepMost = 256

	// slowest is the maximum of pace, which doubles while sweeps find nothing to do.
	slowest = 16

	// retryAfter is the time until parking is tried again after the kernel has refused
	// it.
	retryAfter = 10 * time.Second

	// maxWorkers is the maximum number of workers per processor. It is more than one,
	// because a worker may have to wait for room in the queue of the event loop.
	maxWorkers = 4

	// maxChunks is the maximum number of chunks that a worker reads for a connection
	// in a row.
	maxChunks = 2
)

// Parked returns the number of parked connections.
func (p *Poller) Parked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.parked
}

// Failed returns how often the kernel has refused to watch a connection, which then kept
// its goroutine.
func (p *Poller) Failed() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// Close ends the goroutines of the poller. All its connections must have ended before.
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

// open creates the epoll instance and starts the poller's goroutine, on the first call.
// The caller holds the lock.
func (p *Poller) open() bool {
	if p.opened {
		return true
	}
	if epollOpen(&p.ep) != nil {
		return false
	}
	p.opened = true
	p.wg.Go(p.wait)
	return true
}

// wait is the body of the poller's goroutine.
func (p *Poller) wait() {
	var events [128]event
	for {
		n, ok := p.ep.wait(events[:])
		if !ok {
			return
		}
		for _, e := range events[:n] {
			p.handleEvent(e)
		}
	}
}

// An event is an event of a parked connection.
type event struct{ slot, gen uint32 }

// handleEvent resumes the connection of an event, unless it was already resumed.
func (p *Poller) handleEvent(e event) {
	p.mu.Lock()
	var c *Conn
	if i := int(e.slot); i < len(p.slots) && p.slots[i].gen == e.gen && p.slots[i].armed {
		c = p.slots[i].c
	}
	p.mu.Unlock()
	if c == nil {
		return // the event is late or a duplicate
	}
	c.woken.Store(true) // as in Wake
	between(c, inWake)
	if c.claim() {
		c.resume(true)
	}
}

// watch starts to watch c for events, until unwatch. It returns false if c must keep its
// goroutine. It runs on the goroutine of c.
func (p *Poller) watch(c *Conn, want uint32) bool {
	now := time.Since(epoch)
	c.deadlineMu.Lock()
	deadline := c.deadline
	c.deadlineMu.Unlock()
	p.mu.Lock()
	if !p.mayWatch(deadline, now) {
		p.mu.Unlock()
		return false
	}
	known := c.slot >= 0
	if !known {
		p.assignSlot(c)
	}
	s := &p.slots[c.slot]
	s.armed, s.reads, s.deadline = true, want&wantInput != 0, deadline
	e := event{uint32(c.slot), s.gen}
	p.parked++
	if d := s.deadline; d != 0 && (p.due == 0 || d < p.due) {
		p.due = d
		p.scheduleSweep(now, d-resumeLead())
	}
	if s.shared {
		p.scheduleSweep(now, now+checkEvery)
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
		p.freeSlot(c)
	}
	p.failed++
	p.retry = now + retryAfter
	return false
}

// bound makes sure that c is woken at the time at, or earlier. It returns false if c is
// not parked and watched for input.
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
		p.scheduleSweep(now, at-resumeLead())
	}
	return true
}

// mayWatch reports whether a connection with a deadline can be parked. The caller
// holds the lock.
func (p *Poller) mayWatch(deadline, now time.Duration) bool {
	switch {
	case p.closed || now < p.retry:
		return false
	case deadline != 0 && deadline < now+2*resumeLead():
		return false // too soon: c would be resumed almost immediately
	case !p.open():
		p.failed++
		p.retry = now + retryAfter
		return false
	}
	return true
}

// assignSlot gives c a slot. The caller holds the lock.
func (p *Poller) assignSlot(c *Conn) {
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

// freeSlot frees the slot of c. The caller holds the lock.
func (p *Poller) freeSlot(c *Conn) {
	s := &p.slots[c.slot]
	if s.shared {
		p.shared--
	}
	*s = slot{gen: s.gen + 1}
	p.free = append(p.free, c.slot)
	c.slot = -1
}

// unwatch invalidates all events of c that have not been handled. The goroutine that
// resumed c calls it.
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

// forget removes c from the poller before its descriptor is closed or released. If the
// descriptor has a duplicate, for example in a child process, the kernel would otherwise
// continue to watch it. It runs on the goroutine of c.
func (p *Poller) forget(c *Conn) {
	p.untrack(c.run.Load())
	if c.slot < 0 {
		return
	}
	c.unwatchFD(&p.ep)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freeSlot(c)
}

// resumeLead is how long before its deadline a parked connection is resumed. It waits for
// the rest of the time in a goroutine, so that the deadline is exact.
func resumeLead() time.Duration { return time.Duration(sweepEvery.Load()) }

// checkEvery is the interval at which the poller checks parked connections whose
// descriptor other code may close: there is no event when it is closed.
const checkEvery = time.Second

// track makes sweeps check the connection of r. It runs on the connection's goroutine.
func (p *Poller) track(r *runner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || r.list != nil {
		return
	}
	p.awake.add(r)
	r.quiet, p.pace = 0, 1
	now := time.Since(epoch)
	p.scheduleSweep(now, now+time.Duration(sweepEvery.Load()))
}

// untrack undoes track. It runs on the connection's goroutine.
func (p *Poller) untrack(r *runner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.list != nil {
		p.awake.remove(r)
	}
}

// scheduleSweep schedules a sweep for the time at, unless one comes earlier. The caller
// holds the lock.
func (p *Poller) scheduleSweep(now, at time.Duration) {
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

// sweep finds connections that have become quiet, and parked connections with a deadline
// or a closed descriptor, which the kernel does not report.
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

// sweepAwake asks quiet connections to park themselves. The caller holds the lock.
func (p *Poller) sweepAwake(now time.Duration) {
	n := min(p.awake.len, sweepMost)
	if n == 0 {
		return
	}
	changed := false
	for range n {
		r := p.awake.next()
		changed = r.checkQuiet(now >= p.retry) || changed
	}
	if p.pace = min(2*p.pace, slowest); changed {
		p.pace = 1
	}
	every := time.Duration(sweepEvery.Load()) * time.Duration(p.pace)
	p.scheduleSweep(now, now+every*time.Duration(n)/time.Duration(p.awake.len))
}

// checkQuiet asks the connection to park itself if it is quiet and mayPark is set. It
// reports whether the connection has been active since the last sweep, or is about to be
// parked.
func (r *runner) checkQuiet(mayPark bool) (changed bool) {
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
		c.interrupt(false)
	}
	return true
}

// sweepParked returns the parked connections whose deadline is near, or whose descriptor
// was closed by other code. The caller holds the lock.
func (p *Poller) sweepParked(now time.Duration) (late []*Conn) {
	check := p.shared > 0 && now >= p.checked+checkEvery
	by := now + resumeLead()
	if check || p.due != 0 && p.due <= by {
		late = p.dueBy(by, check)
	}
	if check {
		p.checked = now
	}
	if p.due != 0 {
		p.scheduleSweep(now, p.due-resumeLead())
	}
	if p.shared > 0 {
		p.scheduleSweep(now, p.checked+checkEvery)
	}
	return late
}

// dueBy returns the parked connections whose deadline is not after by, and with check
// those whose descriptor is closed. It sets due. The caller holds the lock.
func (p *Poller) dueBy(by time.Duration, check bool) (late []*Conn) {
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

// next returns the first runner and makes it the last.
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

// watchFD adds the descriptor to ep, or watches it again. It runs on the connection's
// goroutine.
func (c *Conn) watchFD(ep *epoll, first bool, want uint32, e event) (errno syscall.Errno) {
	errno = syscall.EBADF
	c.control(func(fd uintptr) { errno = epollSet(ep, fd, first, want, e) })
	return errno
}

func (c *Conn) unwatchFD(ep *epoll) {
	c.control(func(fd uintptr) { epollDel(ep, fd) })
}
