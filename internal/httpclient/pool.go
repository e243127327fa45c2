package httpclient

import (
	"container/list"
	"sync"
	"time"
)

// A Key identifies connections that are interchangeable.
type Key struct {
	Scheme string // of the request: "http" or "https"
	Addr   string // host:port of the server; empty if each request names it to the proxy
	Proxy  string // URL of the proxy, with its password; empty: none
	Socket string // path of a unix socket
}

// A Pool keeps idle connections, limits the number of connections, and queues the requests
// that wait for one. All methods may be called from any goroutine.
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

// A host is the state of the pool for one Key.
type host struct {
	idle    []*Conn   // the most recently used one is last
	open    int       // slots taken: connections that are idle, in use, or being dialed
	waiting list.List // of Request
}

// idleLinks links the idle connections in the order in which they became idle.
type idleLinks struct{ next, prev *Conn }

// A Place is the position of a request in a queue of a Pool.
type Place struct {
	host *host
	elem *list.Element
}

// NewPool returns a pool with at most maxPerHost connections per host, at most maxIdle idle
// connections per host, and at most maxTotal idle connections to all hosts. It keeps an
// idle connection for lifetime. If lifetime is not positive, it keeps none.
func NewPool(maxPerHost, maxIdle, maxTotal int, lifetime time.Duration) *Pool {
	return &Pool{
		maxPerHost: maxPerHost, maxIdle: maxIdle, maxTotal: maxTotal, lifetime: lifetime,
		hosts: make(map[Key]*host),
	}
}

// Get assigns an idle connection of key to r if there is one. Then r begins, and m is
// written at once if it is not nil. If there is no idle connection but a free slot, Get
// takes the slot and returns true: the caller must dial. Otherwise r waits until Put or
// Release returns it, or Remove removes it.
func (p *Pool) Get(key Key, r Request, m *Message, deadline time.Time, silence time.Duration) (dial bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if h == nil {
		h = &host{}
		p.hosts[key] = h
	}
	if n := len(h.idle); n > 0 {
		c := h.idle[n-1]
		p.take(h, c, n-1)
		r.Attach(c)
		c.assign(r, m, deadline, silence)
		return false
	}
	m.Release()
	if h.open < p.maxPerHost {
		h.open++
		return true
	}
	*r.Place() = Place{host: h, elem: h.waiting.PushBack(r)}
	r.Queued()
	return false
}

// Remove takes r out of the queue, and reports whether it was there.
func (p *Pool) Remove(r Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	place := r.Place()
	if place.elem == nil {
		return false
	}
	place.host.waiting.Remove(place.elem)
	*place = Place{}
	r.Unqueued()
	return true
}

// next removes and returns the first waiting request, or nil if there is none. The pool is
// locked.
func (h *host) next() Request {
	e := h.waiting.Front()
	if e == nil {
		return nil
	}
	r := h.waiting.Remove(e).(Request)
	*r.Place() = Place{}
	r.Unqueued()
	return r
}

// Put returns a connection that can carry another request to the pool. If it returns a
// request, the connection must carry that request now. If kept is true, the connection is
// idle, and the caller must call Next. Otherwise the caller must close the connection and
// then release its slot.
func (p *Pool) Put(c *Conn, now time.Time) (next Request, kept bool) {
	life := p.lifetime
	if c.hint != 0 {
		// The server announced when it will close. Leave a second for a request to arrive,
		// so that the request does not cross the end of the stream.
		life = min(life, c.hint-time.Second)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || life <= 0 {
		return nil, false
	}
	h := p.hosts[*c.key]
	if next = h.next(); next != nil {
		next.Attach(c)
		return next, false
	}
	if p.maxIdle <= 0 || p.maxTotal <= 0 {
		return nil, false
	}
	c.setIdle(now.Add(life))
	h.idle = append(h.idle, c)
	p.link(c)
	if len(h.idle) > p.maxIdle {
		p.drop(h.idle[0])
	} else if p.idle > p.maxTotal {
		p.drop(p.oldest.next)
	}
	return nil, true
}

// Release frees the slot of a connection that was closed, or could not be dialed. If it
// returns a request, the caller keeps the slot and must dial for that request.
func (p *Pool) Release(key Key) (next Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[key]
	if next = h.next(); next == nil {
		p.freeSlot(key, h)
	}
	return next
}

// leave removes c and its slot if c is still idle.
func (p *Pool) leave(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.core.Lock()
	idle := c.state == connIdle
	c.core.Unlock()
	if idle {
		p.drop(c)
	}
	return idle
}

// freeSlot counts a slot of h as free. The pool is locked.
func (p *Pool) freeSlot(key Key, h *host) {
	if h.open--; h.open == 0 {
		delete(p.hosts, key)
	}
}

// link makes c the last idle connection. The pool is locked.
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

// take removes c, the i-th idle connection of h, from the idle connections. The pool is
// locked.
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

// drop removes an idle connection and its slot, and makes its goroutine close it. No request
// waits for the slot, because it would have gotten the connection. The pool is locked.
func (p *Pool) drop(c *Conn) {
	h := p.hosts[*c.key]
	for i := range h.idle {
		if h.idle[i] == c {
			p.take(h, c, i)
			p.freeSlot(*c.key, h)
			c.retire()
			return
		}
	}
}

// CloseIdle closes the idle connections.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.oldest.next != nil {
		p.drop(p.oldest.next)
	}
}

// Close closes the idle connections, and each busy connection when Put gets it. Requests
// continue to wait for slots.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.CloseIdle()
}

// Idle returns the number of idle connections.
func (p *Pool) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}
