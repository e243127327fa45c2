package httpconn

import (
	"sync"
	"time"
)

// A Key tells which connections are as good as one another.
type Key struct {
	Scheme string // of the request: "http" or "https"
	Addr   string // host:port of the server; empty if the proxy is told in each request
	Proxy  string // URL of the proxy, with its password; empty: none
	Socket string // path of a unix socket
}

// A Pool keeps connections alive between requests and bounds how many there are.
// All methods may be called from any goroutine.
type Pool struct {
	maxPerHost int
	maxIdle    int // of a host
	maxTotal   int // idle, of all hosts
	lifetime   time.Duration

	mu     sync.Mutex // guards the following
	hosts  map[Key]*host
	oldest idleLinks // head of the list of all idle connections
	idle   int
	closed bool
}

// host is what the pool knows of one Key.
type host struct {
	idle    []*Conn // that last used is last
	open    int     // slots taken: connections that are idle, in use, or being dialled
	waiters []*Waiter
}

// idleLinks chain the idle connections in the order in which they became idle.
type idleLinks struct {
	next, prev *Conn
	until      time.Time
	kept       bool // there is a keeper
}

// A Waiter waits for a slot of its Key, in order of arrival.
type Waiter struct {
	Ready chan *Conn // gets, once, a connection, or nil for the right to dial
	key   Key
}

// NewPool returns a pool of at most maxPerHost connections to a host, of which
// maxIdle may be idle, and maxTotal idle ones altogether. A connection is idle
// for at most lifetime; if that is not positive none is kept.
func NewPool(maxPerHost, maxIdle, maxTotal int, lifetime time.Duration) *Pool {
	return &Pool{
		maxPerHost: maxPerHost, maxIdle: maxIdle, maxTotal: maxTotal, lifetime: lifetime,
		hosts: make(map[Key]*host),
	}
}

// Get takes a slot of key: with an idle connection if there is one, else with
// the right to dial. If all slots are taken it returns a Waiter instead, which
// must be waited for or abandoned. The slot is given back by Put or Release.
//
// The connection may be one that its server has closed: see Conn.Alive. If kept is
// true it has a keeper, which must be told to go: see Conn.Retire.
func (p *Pool) Get(key Key) (c *Conn, kept bool, w *Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if h == nil {
		h = &host{}
		p.hosts[key] = h
	}
	if n := len(h.idle); n > 0 {
		c = h.idle[n-1]
		kept = c.idle.kept
		p.take(h, c, n-1)
		return c, kept, nil
	}
	if h.open < p.maxPerHost {
		h.open++
		return nil, false, nil
	}
	w = &Waiter{Ready: make(chan *Conn, 1), key: key}
	h.waiters = append(h.waiters, w)
	return nil, false, w
}

// TakeKept takes a slot of key with an idle connection that has a keeper, to be
// given a request with Conn.Assign. It returns nil, and takes nothing, if the one
// that was used last is not such a connection.
func (p *Pool) TakeKept(key Key) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if h == nil || len(h.idle) == 0 {
		return nil
	}
	n := len(h.idle)
	c := h.idle[n-1]
	if !c.idle.kept {
		return nil
	}
	p.take(h, c, n-1)
	return c
}

// leave takes c and its slot away if c is idle still.
func (p *Pool) leave(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.idle.kept {
		return false
	}
	p.drop(c)
	return true
}

// Abandon ends the wait of w. What it has got meanwhile goes to the next.
func (p *Pool) Abandon(w *Waiter) {
	p.mu.Lock()
	h := p.hosts[w.key]
	for i, o := range h.waiters {
		if o == w {
			h.waiters = append(h.waiters[:i], h.waiters[i+1:]...)
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	if c := <-w.Ready; c != nil {
		p.Put(c, time.Now())
	} else {
		p.Release(w.key)
	}
}

// Put gives back the slot of c, which is kept for the next request, or closed if
// that is not possible. It returns the time until which c is kept, zero if it is
// not.
func (p *Pool) Put(c *Conn, now time.Time) (until time.Time) { return p.put(c, now, false) }

// PutKept is Put by a keeper, which has to wait with the connection if it is kept:
// see Conn.Await.
func (p *Pool) PutKept(c *Conn, now time.Time) (until time.Time) { return p.put(c, now, true) }

func (p *Pool) put(c *Conn, now time.Time, kept bool) (until time.Time) {
	life := p.lifetime
	if c.hint > 0 {
		// The server says when it will close. A second for the request to get
		// there, so that it does not cross with the end.
		life = min(life, c.hint-time.Second)
	}
	p.mu.Lock()
	h := p.hosts[c.key]
	if p.closed || life <= 0 {
		p.mu.Unlock()
		c.Close()
		p.Release(c.key)
		return time.Time{}
	}
	if len(h.waiters) > 0 {
		h.next().Ready <- c
		p.mu.Unlock()
		return time.Time{}
	}
	c.idle.until = now.Add(life)
	until = c.idle.until
	c.idle.kept = kept
	h.idle = append(h.idle, c)
	p.link(c)
	var surplus *Conn
	if len(h.idle) > p.maxIdle {
		surplus = h.idle[0]
	} else if p.idle > p.maxTotal {
		surplus = p.oldest.next
	}
	if surplus != nil {
		p.drop(surplus)
	}
	p.mu.Unlock()
	if surplus != nil {
		surplus.Close()
	}
	return until
}

// SetKeepAlive says how long the server will keep c by its own account, zero if
// it did not say.
func (c *Conn) SetKeepAlive(d time.Duration) { c.hint = d }

// next takes the first waiter.
func (h *host) next() *Waiter {
	w := h.waiters[0]
	h.waiters[0] = nil
	h.waiters = h.waiters[1:]
	return w
}

// Release gives back the slot of a connection that was closed, or never came up.
func (p *Pool) Release(key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if len(h.waiters) > 0 {
		h.next().Ready <- nil // the slot goes on to the next
		return
	}
	p.freeSlot(key, h)
}

// freeSlot counts a slot of h as free. The caller holds p.mu.
func (p *Pool) freeSlot(key Key, h *host) {
	if h.open--; h.open == 0 {
		delete(p.hosts, key)
	}
}

// link makes c the last idle connection. The caller holds p.mu.
func (p *Pool) link(c *Conn) {
	p.idle++
	last := p.oldest.prev
	c.idle.prev, c.idle.next = last, nil
	if last == nil {
		p.oldest.next = c
	} else {
		last.idle.next = c
	}
	p.oldest.prev = c
}

// take takes c, the i-th idle connection of h, from among the idle ones. The
// caller holds p.mu.
func (p *Pool) take(h *host, c *Conn, i int) {
	copy(h.idle[i:], h.idle[i+1:])
	h.idle[len(h.idle)-1] = nil
	h.idle = h.idle[:len(h.idle)-1]
	p.idle--
	if c.idle.prev == nil {
		p.oldest.next = c.idle.next
	} else {
		c.idle.prev.idle.next = c.idle.next
	}
	if c.idle.next == nil {
		p.oldest.prev = c.idle.prev
	} else {
		c.idle.next.idle.prev = c.idle.prev
	}
	c.idle = idleLinks{}
}

// drop takes an idle connection and its slot away, and tells its keeper. The
// caller holds p.mu, and closes the connection.
func (p *Pool) drop(c *Conn) {
	if c.idle.kept {
		close(c.keeper.assigned)
	}
	h := p.hosts[c.key]
	for i := range h.idle {
		if h.idle[i] == c {
			p.take(h, c, i)
			p.freeSlot(c.key, h)
			return
		}
	}
}

// Expire closes the connections that have been idle for too long at now, and
// returns when the next one will have been, zero if there is none.
func (p *Pool) Expire(now time.Time) (next time.Time) { return p.expire(now, false) }

func (p *Pool) expire(now time.Time, all bool) (next time.Time) {
	p.mu.Lock()
	var expired []*Conn
	for c := p.oldest.next; c != nil; {
		following := c.idle.next
		if until := c.idle.until; all || !until.After(now) {
			p.drop(c)
			expired = append(expired, c)
		} else if next.IsZero() || until.Before(next) {
			next = until
		}
		c = following
	}
	p.mu.Unlock()
	for _, c := range expired {
		c.Close()
	}
	return next
}

// CloseIdle closes the connections that are idle.
func (p *Pool) CloseIdle() { p.expire(time.Time{}, true) }

// Close closes the connections that are idle, and those that are in use once they
// are put back. Waiters go on waiting for slots.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.CloseIdle()
}

// Idle returns how many connections are idle.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}
