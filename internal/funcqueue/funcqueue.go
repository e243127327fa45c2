// Package funcqueue is a queue of callbacks for one consumer, a goroutine that
// takes all of them at once from time to time.
//
// Callbacks are stored in chunks, which circulate between the queue and the batches
// of the consumer. So a growing queue copies nothing, a queue that is emptied in
// time allocates nothing, and a burst leaves no large array behind.
package funcqueue

const (
	chunkSize = 63 // with the link, about a kilobyte
	maxSpare  = 64 // chunks that an empty queue keeps
)

// A Callback is an element of a queue. It is an interface and not a func, so that an
// object that has a callback can be queued itself: a closure would be one more
// allocation.
type Callback interface{ Call() }

// A Func is a function as a Callback. Both are one pointer, so the conversion allocates
// nothing.
type Func func()

// Call calls f.
func (f Func) Call() { f() }

type chunk struct {
	next      *chunk
	callbacks [chunkSize]Callback
}

// A Queue is filled by the producers. The zero Queue is empty. A Queue is not safe
// for concurrent use.
type Queue struct {
	head, tail *chunk // nil if empty
	used       int    // of tail
	n          int
	spare      *chunk // list
	spares     int
}

// Len returns the number of callbacks.
func (q *Queue) Len() int { return q.n }

// Push adds c to the end.
func (q *Queue) Push(c Callback) {
	if q.tail == nil || q.used == chunkSize {
		q.grow()
	}
	q.tail.callbacks[q.used] = c
	q.used++
	q.n++
}

func (q *Queue) grow() {
	c := q.spare
	if c == nil {
		c = new(chunk)
	} else {
		q.spare, c.next = c.next, nil
		q.spares--
	}
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail, q.used = c, 0
}

// A Batch holds the callbacks that the consumer has taken. The zero Batch is empty.
// It shares nothing with its queue, except during Take.
type Batch struct {
	head  *chunk
	used  int // of head
	n     int
	spent *chunk // list
}

// Len returns the number of callbacks that have not been popped.
func (b *Batch) Len() int { return b.n }

// Take moves all callbacks from q to b, which must be empty, and the spent chunks
// of b to q.
func (b *Batch) Take(q *Queue) {
	b.recycle(q)
	b.head, b.used, b.n = q.head, 0, q.n
	q.head, q.tail, q.used, q.n = nil, nil, 0, 0
}

func (b *Batch) recycle(q *Queue) {
	for c := b.spent; c != nil && q.spares < maxSpare; c = b.spent {
		b.spent = c.next
		c.next = q.spare
		q.spare = c
		q.spares++
	}
	b.spent = nil
}

// Pop removes and returns the first callback. The batch must not be empty.
func (b *Batch) Pop() Callback {
	c := b.head
	first := c.callbacks[b.used]
	c.callbacks[b.used] = nil
	b.used++
	if b.n--; b.used == chunkSize || b.n == 0 {
		b.head, b.used = c.next, 0
		c.next = b.spent
		b.spent = c
	}
	return first
}
