// Package fifo is a queue in chunks. Against a slice that grows, a burst costs no
// copying and leaves no large array to the collector, which took most of the time
// of a flood of posts (measured).
package fifo

const (
	chunkSize = 256
	maxSpare  = 16 // chunks that an empty queue keeps: a burst's memory is not held for ever
)

// A Queue holds values in order of arrival. The zero Queue is empty and holds no
// memory. It is not safe for concurrent use.
type Queue[T any] struct {
	head, tail *chunk[T] // nil at first; later at least one chunk
	n          int
	spare      *chunk[T]
	spares     int
}

// A chunk holds the values items[r:w].
type chunk[T any] struct {
	items [chunkSize]T
	r, w  int
	next  *chunk[T]
}

// Len returns the number of values.
func (q *Queue[T]) Len() int { return q.n }

// Push adds v at the end.
func (q *Queue[T]) Push(v T) {
	c := q.tail
	if c == nil || c.w == chunkSize {
		c = q.grow()
	}
	c.items[c.w] = v
	c.w++
	q.n++
}

// grow adds a chunk at the end and returns it.
func (q *Queue[T]) grow() *chunk[T] {
	c := q.spare
	if c == nil {
		c = new(chunk[T])
	} else {
		q.spare, c.next = c.next, nil
		q.spares--
	}
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	return c
}

// Pop removes and returns the first value. The queue must not be empty.
func (q *Queue[T]) Pop() T {
	c := q.head
	v := c.items[c.r]
	c.items[c.r] = *new(T) // let the collector have what it refers to
	c.r++
	q.n--
	if c.r == c.w {
		q.drop(c)
	}
	return v
}

// drop takes the first chunk, which is used up, out of the queue, unless it is
// the last too.
func (q *Queue[T]) drop(c *chunk[T]) {
	c.r, c.w = 0, 0
	if c == q.tail {
		return
	}
	q.head = c.next
	if q.spares == maxSpare {
		return
	}
	c.next, q.spare = q.spare, c
	q.spares++
}
