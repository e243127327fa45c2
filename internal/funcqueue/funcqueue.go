// Package funcqueue is a queue of functions for one consumer, a goroutine that
// takes all of them at once from time to time.
//
// Functions are stored in chunks, which circulate between the queue and the batches of the
// consumer. So a growing queue copies nothing, a queue that is emptied regularly allocates
// nothing, and a burst leaves no large array behind.
package funcqueue

const (
	chunkSize = 127 // with the link, a kilobyte
	maxSpare  = 32  // chunks that an empty queue keeps
)

// A Callback is an element of a queue that is not a function: an object with a callback.
// Queuing it as a function would need a closure, which is an allocation. Functions are
// not queued as callbacks, because an interface makes a post a quarter slower (measured).
type Callback interface{ Call() }

// maxCallbacks is the capacity for callbacks that an empty queue keeps.
const maxCallbacks = 4096

type chunk struct {
	next  *chunk
	funcs [chunkSize]func()
}

// A Queue is filled by the producers. The zero Queue is empty. A Queue is not safe
// for concurrent use.
type Queue struct {
	head, tail *chunk // nil if empty
	used       int    // of tail
	n          int
	spare      *chunk // list
	spares     int
	callbacks  []Callback // each has a nil function in its place
}

// Len returns the number of functions and callbacks.
func (q *Queue) Len() int { return q.n }

// PushCallback adds c to the end.
func (q *Queue) PushCallback(c Callback) {
	q.Push(nil)
	q.callbacks = append(q.callbacks, c)
}

// Push adds f, which must not be nil, to the end.
func (q *Queue) Push(f func()) {
	if q.tail == nil || q.used == chunkSize {
		q.grow()
	}
	q.tail.funcs[q.used] = f
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

// A Batch holds the functions that the consumer has taken. The zero Batch is empty.
// It shares nothing with its queue, except during Take.
type Batch struct {
	head  *chunk
	used  int // of head
	n     int
	spent *chunk // list

	callbacks []Callback
	called    int // of callbacks
}

// Len returns the number of functions and callbacks that have not been popped.
func (b *Batch) Len() int { return b.n }

// Take moves everything from q to b, which must be empty, and the spent chunks of b to
// q.
func (b *Batch) Take(q *Queue) {
	b.recycle(q)
	if len(q.callbacks)+b.called > 0 {
		b.takeCallbacks(q)
	}
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

// takeCallbacks exchanges the callbacks of q and b, which have all been popped.
func (b *Batch) takeCallbacks(q *Queue) {
	spent := b.callbacks[:0]
	if cap(spent) > maxCallbacks {
		spent = nil
	}
	b.callbacks, q.callbacks, b.called = q.callbacks, spent, 0
}

// PopCallback returns the callback in whose place Pop has returned nil.
func (b *Batch) PopCallback() Callback {
	c := b.callbacks[b.called]
	b.callbacks[b.called] = nil
	b.called++
	return c
}

// Pop removes and returns the first function, or nil in the place of a callback: see
// PopCallback. The batch must not be empty.
func (b *Batch) Pop() func() {
	c := b.head
	f := c.funcs[b.used]
	c.funcs[b.used] = nil
	b.used++
	if b.n--; b.used == chunkSize || b.n == 0 {
		b.head, b.used = c.next, 0
		c.next = b.spent
		b.spent = c
	}
	return f
}
