package resolver

import "time"

// lru is a cache of a bounded number of answers; it evicts the least recently used
// one. It has no goroutine: an expired answer is removed when it is looked up, or
// evicted.
//
// It is not safe for concurrent use.
type lru struct {
	max     int
	entries map[key]*lruEntry
	root    lruEntry // of a ring; root.next is the most recently used
}

type lruEntry struct {
	key        key
	ans        *answer
	expires    time.Time
	prev, next *lruEntry
}

// newLRU returns a cache for up to size answers, or for none if size is negative.
func newLRU(size int) lru {
	return lru{max: max(size, 0), entries: make(map[key]*lruEntry)}
}

// get returns the answer to k. If there is none, or if it has expired, ok is false.
// get removes an expired answer.
func (c *lru) get(k key, now time.Time) (ans *answer, ok bool) {
	e := c.entries[k]
	if e == nil {
		return nil, false
	}
	if !now.Before(e.expires) {
		c.remove(e)
		return e.ans, false
	}
	c.unlink(e)
	c.pushFront(e)
	return e.ans, true
}

func (c *lru) put(k key, ans *answer, expires time.Time) {
	if c.max == 0 {
		return
	}
	if e := c.entries[k]; e != nil {
		c.remove(e)
	}
	for len(c.entries) >= c.max {
		c.remove(c.root.prev)
	}
	e := &lruEntry{key: k, ans: ans, expires: expires}
	c.entries[k] = e
	c.pushFront(e)
}

func (c *lru) clear() {
	clear(c.entries)
	c.root.next, c.root.prev = nil, nil
}

func (c *lru) len() int { return len(c.entries) }

func (c *lru) remove(e *lruEntry) {
	delete(c.entries, e.key)
	c.unlink(e)
}

func (c *lru) unlink(e *lruEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
}

// pushFront links e in as the most recently used entry. The ring is initialized on
// first use, because a ring in a copied value would still point to the original.
func (c *lru) pushFront(e *lruEntry) {
	if c.root.next == nil {
		c.root.next, c.root.prev = &c.root, &c.root
	}
	e.prev, e.next = &c.root, c.root.next
	e.prev.next, e.next.prev = e, e
}
