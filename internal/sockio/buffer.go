// Package sockio moves bytes between connections and buffers. It has pooled buffers, which
// an idle connection does not hold, a queue of bytes to write, and reads and writes on a
// descriptor that never block.
package sockio

import "sync"

// MaxBuffer is the size of the largest buffer, and so of the largest read.
const MaxBuffer = 64 << 10

// sizes are the sizes of the pooled buffers. Three are enough: one for small messages, one
// for a page of output, and one for the largest read from a fast peer.
var sizes = [...]int{4 << 10, 16 << 10, MaxBuffer}

var pools [len(sizes)]sync.Pool

// A Buffer holds the bytes data[r:w]. It has one owner at a time. The last owner calls
// Release.
type Buffer struct {
	data []byte
	r, w int
	next *Buffer // in a Queue
}

// GetBuffer returns an empty buffer with room for at least size bytes, or for MaxBuffer
// bytes if size is larger.
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

// Release returns the buffer to its pool. Its bytes must not be used afterwards.
func (b *Buffer) Release() {
	b.r, b.w, b.next = 0, 0, nil
	pools[classOf(len(b.data))].Put(b)
}

// Bytes returns the bytes of the buffer, which are valid until Release.
func (b *Buffer) Bytes() []byte { return b.data[b.r:b.w] }

// Size returns the number of bytes that fit into the empty buffer.
func (b *Buffer) Size() int { return len(b.data) }

// Len returns the number of bytes in the buffer.
func (b *Buffer) Len() int { return b.w - b.r }

// Room returns the free space after the bytes. After storing bytes there, call Fill.
func (b *Buffer) Room() []byte { return b.data[b.w:] }

// Fill adds the first n bytes of Room to the bytes of the buffer.
func (b *Buffer) Fill(n int) { b.w += n }

// Consume drops the first n bytes.
func (b *Buffer) Consume(n int) { b.r += n }

// MaxViews is the maximum number of views of one WriteFD. Sixteen of the largest buffers
// are more than the kernel buffers for a connection by default.
const MaxViews = 16

// A Queue holds bytes in order of arrival. The zero Queue is empty and holds no memory. It
// is not safe for concurrent use, with one exception: the views that Views returned may be
// read while Append adds bytes.
type Queue struct {
	head, tail *Buffer
	n          int
}

// Len returns the number of bytes.
func (q *Queue) Len() int { return q.n }

// Append copies p to the end. It shares no generic function with AppendString: inlined in
// another package, that would move p to the heap, which costs each response of the HTTP
// server an allocation of 1 KB.
func (q *Queue) Append(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		n := copy(q.room(len(p)), p)
		q.tail.Fill(n)
		p = p[n:]
	}
}

// AppendString copies s to the end.
func (q *Queue) AppendString(s string) {
	q.n += len(s)
	for len(s) > 0 {
		n := copy(q.room(len(s)), s)
		q.tail.Fill(n)
		s = s[n:]
	}
}

// room returns the room of the last buffer, which is a new one for n bytes if there is none.
func (q *Queue) room(n int) []byte {
	if q.tail == nil || len(q.tail.Room()) == 0 {
		q.push(GetBuffer(n))
	}
	return q.tail.Room()
}

// AppendBuffer appends b without copying it. The queue owns b from now on.
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
