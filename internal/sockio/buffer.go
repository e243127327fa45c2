// Package sockio moves bytes between connections and buffers: pooled buffers
// that an idle connection does not hold, a queue of bytes to write, and reads
// and writes on a descriptor that never block.
package sockio

import "sync"

// MaxBuffer is the size of the largest buffer, and so of the largest read.
const MaxBuffer = 64 << 10

// sizes are those of the pooled buffers. Three are enough: small messages, what
// a page of output needs, and the most that one read of a fast peer gives.
var sizes = [...]int{4 << 10, 16 << 10, MaxBuffer}

var pools [len(sizes)]sync.Pool

// A Buffer holds the bytes data[r:w]. It belongs to one owner at a time, who
// gives it back with Release.
type Buffer struct {
	data []byte
	r, w int
	next *Buffer // in a Queue
}

// GetBuffer returns an empty buffer with room for size bytes, or for MaxBuffer
// bytes if size is more.
func GetBuffer(size int) *Buffer {
	class := classOf(size)
	if b, ok := pools[class].Get().(*Buffer); ok {
		return b
	}
	return &Buffer{data: make([]byte, sizes[class])}
}

func classOf(size int) int {
	for class, s := range sizes {
		if size <= s {
			return class
		}
	}
	return len(sizes) - 1
}

// Release gives the buffer back. Its bytes must not be used any more.
func (b *Buffer) Release() {
	b.r, b.w, b.next = 0, 0, nil
	pools[classOf(len(b.data))].Put(b)
}

// Bytes returns the bytes of the buffer, which are valid until Release.
func (b *Buffer) Bytes() []byte { return b.data[b.r:b.w] }

// Size returns how many bytes the buffer has room for when it is empty.
func (b *Buffer) Size() int { return len(b.data) }

// Len returns the number of bytes in the buffer.
func (b *Buffer) Len() int { return b.w - b.r }

// Room returns the free space behind the bytes; Fill says how much of it now
// holds bytes.
func (b *Buffer) Room() []byte { return b.data[b.w:] }

// Fill adds n bytes, which were stored in Room.
func (b *Buffer) Fill(n int) { b.w += n }

// Consume drops the first n bytes.
func (b *Buffer) Consume(n int) { b.r += n }

// MaxViews is the most views that one WriteFD takes. Sixteen of the largest
// buffers are more than the kernel buffers for a connection by default.
const MaxViews = 16

// A Queue holds bytes in order of arrival. The zero Queue is empty and holds no
// memory. It is not safe for concurrent use, with one exception: what Views
// returned may be read while Append adds more.
type Queue struct {
	head, tail *Buffer
	n          int
}

// Len returns the number of bytes.
func (q *Queue) Len() int { return q.n }

// Append copies p to the end.
func (q *Queue) Append(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if q.tail == nil || len(q.tail.Room()) == 0 {
			q.push(GetBuffer(len(p)))
		}
		n := copy(q.tail.Room(), p)
		q.tail.Fill(n)
		p = p[n:]
	}
}

// AppendString copies s to the end.
func (q *Queue) AppendString(s string) {
	q.n += len(s)
	for len(s) > 0 {
		if q.tail == nil || len(q.tail.Room()) == 0 {
			q.push(GetBuffer(len(s)))
		}
		n := copy(q.tail.Room(), s)
		q.tail.Fill(n)
		s = s[n:]
	}
}

// AppendBuffer moves b, which the queue owns from now on, to the end.
func (q *Queue) AppendBuffer(b *Buffer) {
	q.n += b.Len()
	q.push(b)
}

func (q *Queue) push(b *Buffer) {
	if q.tail == nil {
		q.head = b
	} else {
		q.tail.next = b
	}
	q.tail = b
}

// Views stores the first bytes of the queue in views, buffer by buffer, and
// returns how many views it filled. They are valid until Advance or Reset.
func (q *Queue) Views(views [][]byte) int {
	i := 0
	for b := q.head; b != nil && i < len(views); b = b.next {
		if b.Len() > 0 {
			views[i] = b.Bytes()
			i++
		}
	}
	return i
}

// Advance drops the first n bytes.
func (q *Queue) Advance(n int) {
	q.n -= n
	for q.head != nil {
		b := q.head
		take := min(n, b.Len())
		b.Consume(take)
		n -= take
		if b.Len() > 0 {
			return
		}
		if q.head = b.next; q.head == nil {
			q.tail = nil
		}
		b.Release()
	}
}

// Reset drops all bytes.
func (q *Queue) Reset() { q.Advance(q.n) }
